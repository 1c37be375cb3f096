from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from purify import PurifyError
from purify.defenses import DEFENSES, FAMILIES
from purify.grid import Cell, Suspect
from purify.grid.spec import canonical
from purify.registry import Named
from purify.report import comparison, figures, protocol
from purify.report.tables import AS_RECEIVED, ONE_SUSPECT, as_frame

BASE = Cell(Suspect("docstrings", Named("BadWord"), train=48), validation=24, test=40)


def record(cell, acc, asr, validation, **further):
    counts = {"acc": (acc, 1000), "asr": (asr, 100), "bacc": (50, 100), "validation": (validation, 100)}
    scores = {name: {"k": k, "n": n} for name, (k, n) in counts.items()}
    scores["validation_asr"] = {"k": asr, "n": 100}
    return {"spec": canonical(cell), "scores": scores, "seconds": 10.0, **further}


def with_defense(name, seed=0, **parameters):
    suspect = replace(BASE.suspect, seed=seed)
    return replace(BASE, suspect=suspect, defense=DEFENSES.named(name, **parameters))


@pytest.fixture
def frame():
    """Two suspects. Validation accuracy 90 as received; a cautious ρ costs 4 points, a generous one none."""
    records = []
    for seed in (0, 1):
        records += [
            record(replace(BASE, suspect=replace(BASE.suspect, seed=seed)), 900, 100, 90),
            record(with_defense("FineTuning", seed), 900, 100, 90),
            record(with_defense("FineMixing", seed, reserve=0.2), 850, 10 + seed, 86),
            record(with_defense("FineMixing", seed, reserve=0.4), 900, 60, 90),
            record(with_defense("FinePurifying", seed, reserve=0.3), 860, 4, 86),
            record(with_defense("FinePurifying", seed, reserve=0.6), 900, 80, 90),
        ]
    return as_frame(records)


def test_the_area_is_the_mean_asr_over_the_accepted_drop(frame):
    area = comparison.areas(frame).set_index(["defense", "seed"])["area"]
    grid = np.linspace(0, 10, 21)
    expected = np.mean([4 if drop >= 4 else 80 for drop in grid])
    assert area["FinePurifying", 0] == pytest.approx(expected)
    assert area["FineTuning", 1] == 100
    assert AS_RECEIVED not in area.index.get_level_values(0)


def test_the_area_of_those_who_develop_uses_validation_rows(frame):
    frame = frame.assign(validation_asr=frame["asr"] / 2)
    assert comparison.areas(frame, "validation_asr")["area"].to_numpy() == pytest.approx(
        comparison.areas(frame)["area"].to_numpy() / 2
    )


def test_the_safest_comes_first_and_the_smallest_threshold_says_who_met_it(frame):
    table = comparison.safety_table(frame)
    assert list(table.index) == ["FineMixing", "FinePurifying", "FineTuning"]
    assert table.loc["FinePurifying", "≤ 5"] == "4.0"
    assert table.loc["FinePurifying", "≤ 1"] == "80.0"
    assert table.loc["FineMixing", "≤ 10"] == "10.5"
    assert set(table["met"]) == {"2 of 2"}


def test_methods_are_compared_on_the_same_suspects(frame):
    table = protocol.differences_table(protocol.at_drops(frame), "FinePurifying", ["FineMixing", "NotThere"])
    assert set(table["compared with"]) == {"FineMixing"}
    row = table.loc["5"]
    assert row["difference in ASR"].startswith("-6.5 [")
    assert row["lower on"] == "2 of 2"
    assert table.loc["1", "difference in ASR"] == "+20.0 [+20.0, +20.0]"
    alone = frame[~((frame["defense"] == "FineMixing") & (frame["seed"] == 1))]
    alone = protocol.differences_table(protocol.at_drops(alone), "FinePurifying", ["FineMixing"])
    assert alone.loc["5", "lower on"] == "1 of 1"


def test_every_defense_stands_in_the_table_of_what_it_must_know():
    table = comparison.knowledge_table()
    assert list(table.index) == list(DEFENSES.classes)
    assert table.loc["FineTuning", "PLM"] == ""
    assert table.loc["FineMixing", "PLM"] == "yes"
    assert table.loc["STRIP", "inputs"] == "yes"
    assert table.loc["STRIP", "result"] == "guard"
    assert table.loc["KeywordRemoval", "training"] == "yes"
    assert set(table["family"]) == set(FAMILIES)


def detected(name, auroc):
    point = {"k": 5, "n": 100}
    at = {"frr": 0.05, "rejected clean": point, "rejected triggered": {"k": 80, "n": 100}, "asr": {"k": 20, "n": 100}}
    detection = {"auroc": auroc, "set": at, "curve": [at, at | {"asr": {"k": 10, "n": 100}}]}
    return record(with_defense(name), 850, 20, 86, detection=detection, stages={"purify": 2.0, "evaluate": 8.0})


def test_what_a_detector_did():
    records = [record(BASE, 900, 99, 90), detected("STRIP", 0.9), detected("RAP", 0.7)]
    table = comparison.detection_table(records).set_index("detector")
    assert table.loc["STRIP", ["AUROC", "FRR", "caught", "ASR before", "ASR"]].tolist() == [0.9, 5, 80, 99, 20]
    curves = comparison.detection_curves(records)
    assert curves["asr"].tolist() == [20, 10, 20, 10]
    assert comparison.guard_cost(records).loc["RAP"].tolist() == [2.0, 8.0]
    figure = figures.rejection_curves(curves)
    assert [line.get_label() for line in figure.axes[0].lines] == ["STRIP", "RAP"]


def test_cost_is_also_given_in_units_of_fine_tuning(frame):
    frame.loc[frame["defense"] == "FinePurifying", "seconds"] = 12.0
    assert comparison.cost_table(frame).loc["FinePurifying", "of fine-tuning"] == "1.20×"


def test_one_panel_per_family(frame):
    chosen = comparison.at_drops(frame).assign(paid=1.0)
    assert set(chosen["ΔACC"]) == set(comparison.DROPS)
    figure = figures.pareto(chosen, {"mixing": ["FineMixing"], "purifying": ["FinePurifying"], "none": []})
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in drawn] == ["mixing", "purifying", "none"]
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == ["FineMixing"]


def test_defenses_as_they_are_written_on_a_page():
    cells = comparison.page_cells(BASE, ["FinePruning reserve=0.4 frozen=false", "STRIP"])
    assert cells[0] == BASE
    assert dict(cells[1].defense.parameters) == {"reserve": 0.4, "frozen": False}
    assert cells[2].defense == Named("STRIP")
    with pytest.raises(PurifyError, match="unknown defense 'Finemix'"):
        comparison.page_cells(BASE, ["Finemix"])
    weights = replace(BASE, suspect=replace(BASE.suspect, attack=Named("EmbeddingPoisoning")))
    with pytest.raises(
        PurifyError, match="needs the training data, but EmbeddingPoisoning is an attack on the weights"
    ):
        comparison.page_cells(weights, ["ModerateFitting"])


def test_what_is_shipped_can_be_compared():
    """The records of the grid ``defenses``, with every suspect as received beside its defenses."""
    shipped = comparison.shipped_frame(["defenses"], ["fine-tuning"], ["task=ag_news", "attack=BadWord"])
    assert set(shipped["defense"]) == {AS_RECEIVED, "FineTuning"}
    assert not shipped.duplicated([*ONE_SUSPECT, "defense"]).any()
    assert isinstance(comparison.control_table("defenses"), pd.DataFrame)
