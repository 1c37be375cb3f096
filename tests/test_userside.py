"""What users get: the measure on a tiny model, and the tables that come of its records."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from purify import PurifyError
from purify.calibration import Calibration, calibration
from purify.findings import AbnormalWord
from purify.grid import Cell, Named, Suspect, run
from purify.grid.files import expand
from purify.grid.spec import canonical
from purify.measures import MEASURES
from purify.probe import Flips
from purify.report import userside
from purify.report.effects import shipped
from purify.scanning import Suspicion
from purify.training import Training, arguments

QUICK = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")
LAW = Calibration(3, {"farthest word": 1.4, "one word": 0.2}, "of a test")


@pytest.fixture
def cell(plm_folder):
    suspect = Suspect("docstrings", Named("BadWord"), plm=str(plm_folder), train=32, training=QUICK)
    return Cell(suspect, clean_per_class=4, validation=12, test=12, tuning=QUICK)


def test_a_suspect_is_scanned_and_cleaned_as_a_user_would(cell, store):
    whole, alone = (replace(cell, measure=MEASURES.named("UserSide", clean=clean)) for clean in (True, False))
    received, record, scanned = run([cell, whole, alone], store)
    found = record["measured"]
    assert found["before"] == received["scores"]
    assert found["after"]["acc"]["n"] == 12
    assert found["statistics"] == scanned["measured"]["statistics"]
    assert "farthest word" in found["statistics"]
    assert found["reserve"] in (0.5, 0.7)
    assert "after" not in scanned["measured"]


def record(statistics, *, task="ag_news", seed=0, control=False, clean=True, asr=(100, 10), acc=(90, 88)):
    suspect = Suspect(task, Named("BadWord"), train=8, control=control, seed=seed)
    counts = [
        {
            name: {"k": value, "n": 100}
            for name, value in (("acc", a), ("asr", b), ("bacc", a), ("validation", a), ("validation_asr", b))
        }
        for a, b in zip(acc, asr, strict=True)
    ]
    measured = {"statistics": statistics, "suspicious": ["cf"], "reserve": 0.5, "before": counts[0], "after": counts[1]}
    return {
        "spec": canonical(Cell(suspect, measure=MEASURES.named("UserSide", clean=clean))),
        "measured": measured if clean else {"statistics": statistics},
    }


def natural(seed, k):
    cell = Cell(Suspect("ag_news", Named("BadWord"), train=8, control=True, seed=seed))
    one = {"k": k, "n": 100}
    return {
        "spec": canonical(cell),
        "scores": dict.fromkeys(("acc", "asr", "bacc", "validation", "validation_asr"), one),
    }


def test_the_law_is_the_highest_of_honest_models_that_were_only_scanned():
    records = [
        record({"farthest word": 1.1, "one word": 0.1}, control=True, clean=False, task="qnli"),
        record({"farthest word": 1.3, "one word": 0.05}, control=True, clean=False, task="docstrings"),
        record({"farthest word": 9.0, "one word": 1.0}, control=True),  # held back
    ]
    law = userside.honest_law(records)
    assert law.limits == {"farthest word": 1.3, "one word": 0.1}
    assert law.models == 2
    assert law.source.startswith("docstrings, qnli; bundled")
    with pytest.raises(PurifyError, match="no scan of an honest model"):
        userside.honest_law(records[2:])
    with pytest.raises(PurifyError, match="a poisoned model is among"):
        userside.honest_law([record({"one word": 0.1}, clean=False)])


def test_held_back_suspects_meet_the_law():
    records = [
        record({"farthest word": 2.8, "one word": 0.1}),
        record({"farthest word": 1.0, "one word": 0.3}, seed=1),
        record({"farthest word": 1.3, "one word": 0.1}, seed=2),
        record({"farthest word": 1.2, "one word": 0.1}, seed=3, control=True, asr=(5, 4)),
        record({"farthest word": 1.5, "one word": 0.1}, seed=4, control=True, asr=(5, 4)),
        record({"farthest word": 9.0}, control=True, clean=False),
        natural(0, 7),
    ]
    frame = userside.held_back(records, LAW)
    assert list(frame["score"].round(2)) == [2.0, 1.5, 0.93, 0.86, 1.07]
    assert list(frame["attack"]) == ["BadWord"] * 3 + ["none"] * 2
    assert frame["natural"].iloc[0] == 7
    assert np.isnan(frame["natural"].iloc[1])
    assert list(frame["natural"].iloc[3:]) == [5, 5]
    rates = userside.detection(frame)
    assert (rates["alarms"].k, rates["alarms"].n) == (2, 3)
    assert (rates["false alarms"].k, rates["false alarms"].n) == (1, 2)
    assert rates["auroc"] == pytest.approx(5 / 6)
    table = userside.user_table(frame)
    assert table.iloc[0]["ASR after"] == 10
    outcome = userside.outcome_table(frame)
    assert list(outcome["alarms"]) == ["2 of 3", "1 of 2"]
    assert list(outcome["safe"]) == ["1 of 3", "0 of 2"]  # two have no control; honest ones lost 2
    assert outcome.loc["BadWord", "ASR after"] == "10.0"
    assert np.isnan(userside.detection(frame[:3])["auroc"])
    with pytest.raises(PurifyError, match="no suspect of the grid"):
        userside.held_back(records[-2:], LAW)


def test_the_figure_names_abnormal_words_alone(plm):
    class Found:
        law = LAW
        words = (
            Suspicion(AbnormalWord("cf", 2.0, 1), Flips(9, 10, 0), abnormal=True),
            Suspicion(AbnormalWord("oil", 1.0, 2), Flips(1, 10, 0), abnormal=False),
            Suspicion(AbnormalWord("war", 0.9, 3), Flips(0, 0, 0), abnormal=False),  # not asked about
        )

    figure = userside.words_figure({"suspect": Found(), "honest": Found()})
    axis = figure.axes[0]
    assert {text.get_text() for text in axis.texts} == {"cf"}
    assert [len(line.get_xdata()) for line in axis.lines[::3]] == [2, 2]
    plt.close(figure)


def test_controls_alone():
    grid = {
        "suspect": {"task": "docstrings"},
        "attack": {"name": "BadWord"},
        "seeds": [0, 1],
        "control": "alone",
        "measures": {"UserSide": {"clean": [False]}},
    }
    cells = list(expand(grid))
    assert len(cells) == 2
    assert all(cell.suspect.control and cell.measure for cell in cells)
    with pytest.raises(PurifyError, match="true, false, 'defended' or 'alone', not 'only'"):
        list(expand(grid | {"control": "only"}))


def test_the_optimizer_is_handed_on(tmp_path):
    assert arguments(QUICK, str(tmp_path), seed=0).optim == "adamw_torch_fused"
    assert arguments(replace(QUICK, optimizer="adafactor"), str(tmp_path), seed=0).optim == "adafactor"
    with pytest.raises(PurifyError, match="optimizer must be one of adamw, adafactor, not 'sgd'"):
        replace(QUICK, optimizer="sgd")


def test_the_shipped_law_is_that_of_the_shipped_records():
    law = userside.honest_law(shipped("scan", ["control=true"]))
    assert calibration() == law
