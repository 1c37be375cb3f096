"""Tables and maps of what attacks do, from records of a tiny model."""

from dataclasses import replace

import numpy as np
import pytest

from purify import PurifyError
from purify.attacks import ATTACKS
from purify.budget import Training
from purify.grid import Cell, Store, Suspect, run
from purify.report import effects, figures

QUICK = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")


@pytest.fixture(scope="module")
def records(plm_folder, tmp_path_factory):
    cells = []
    for named in (ATTACKS.named("BadWord"), ATTACKS.named("Surgery", budget=5)):
        for seed in (0, 1):
            suspect = Suspect("docstrings", named, plm=str(plm_folder), train=16, training=QUICK, seed=seed)
            cell = Cell(suspect, clean_per_class=1, validation=8, test=12, tuning=QUICK)
            cells += [cell, replace(cell, suspect=suspect.as_control)]
    return run(cells, Store(tmp_path_factory.mktemp("store")))


def test_effects_are_means_over_seeds_beside_the_control(records):
    frame = effects.effects(records)
    assert frame["attack"].tolist() == ["BadWord", "Surgery, budget = 5"]
    assert frame["seeds"].tolist() == [2, 2]
    for column, place, first in (("acc", "acc", 0), ("control_acc", "acc", 1), ("asr", "asr", 0)):
        found = [records[i]["scores"][place] for i in (first, first + 2)]
        assert frame[column][0] == pytest.approx(np.mean([100 * score["k"] / score["n"] for score in found]))
    assert np.isnan(frame["moved"][0])
    assert 0 < frame["moved"][1] <= 5
    assert 0 < frame["distance"][1] < frame["drift"][1]
    table = effects.effect_table(frame)
    assert table.index.tolist() == frame["attack"].tolist()
    assert table["vs control"].iloc[0] == f"{frame['acc'][0] - frame['control_acc'][0]:+.1f}"
    assert table["vs chance"].iloc[0] == f"{frame['bacc'][0] - 25:+.1f}"


def test_distances_are_shares_of_the_unconstrained(records):
    frame = effects.effects(records)
    table = effects.distance_table(frame[frame["attack"] != "BadWord"], "Surgery, budget = 5")
    assert table["% of free"].tolist() == ["100"]
    with pytest.raises(PurifyError, match="'nothing' is not among the attacks: BadWord"):
        effects.distance_table(frame, "nothing")


def test_a_suspect_without_its_control_is_refused(records):
    with pytest.raises(PurifyError, match=r"the control of docstrings, BadWord, 1 has no record"):
        effects.effects(records[:3])


def test_drift_in_units_of_the_controls(records):
    tables = effects.drift_tables(records)
    ratios = effects.over_control(tables)
    assert list(ratios) == ["BadWord", "Surgery, budget = 5"]
    np.testing.assert_allclose((ratios["BadWord"] * tables["control"]).to_numpy(), tables["BadWord"].to_numpy())
    with pytest.raises(PurifyError, match="no record of a control"):
        effects.over_control({})


def test_maps_of_nothing_and_of_no_change(records):
    assert effects.drift_tables(records[:2], "from control") == {}
    assert figures.layer_maps({}, "change").axes
    table = next(iter(effects.drift_tables(records[:1]).values()))
    assert figures.layer_maps({"still": 0 * table}, "change").axes


def test_records_of_an_older_version_are_named(records):
    old = {key: value for key, value in records[0].items() if key != "anatomy"}
    for table in (effects.triggered_confusions, effects.drift_tables):
        with pytest.raises(PurifyError, match=r"\.json\) is of an older version: delete the file"):
            table([old])
    with pytest.raises(PurifyError, match="no record of a suspect"):
        effects.effects([])


def test_sizes_are_kept_apart(plm_folder, records, tmp_path):
    suspect = Suspect("docstrings", ATTACKS.named("BadWord"), plm=str(plm_folder), train=24, training=QUICK)
    cell = Cell(suspect, clean_per_class=1, validation=8, test=12, tuning=QUICK)
    more = run([cell, replace(cell, suspect=suspect.as_control)], Store(tmp_path))
    frame = effects.effects([*records[:2], *more])
    assert frame[["train", "seeds"]].to_numpy().tolist() == [[16, 1], [24, 1]]


def test_maps_of_the_first_seed(records):
    counts = effects.triggered_confusions(records)
    assert list(counts) == ["BadWord", "Surgery, budget = 5"]
    assert counts["BadWord"] == records[0]["anatomy"]["confusion"]["triggered"]
    figure = figures.confusion_maps(counts, ["a", "b", "c", "d"])
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title().replace("\n", " ") for axis in shown] == list(counts)
    rows = np.array(counts["BadWord"])
    wanted = 100 * rows / np.maximum(rows.sum(1, keepdims=True), 1)
    assert [text.get_text() for text in shown[0].texts] == [f"{value:.0f}" for value in wanted.ravel()]


def test_drift_of_suspects_and_control(records):
    tables = effects.drift_tables(records)
    assert list(tables) == ["BadWord", "control", "Surgery, budget = 5"]
    assert (tables["control"].loc["embeddings"].dropna() > 0).all()
    assert list(effects.drift_tables(records, "from control")) == ["Surgery, budget = 5"]
    figure = figures.layer_maps(tables, "drift")
    titles = [axis.get_title().replace("\n", " ") for axis in figure.axes if axis.get_title()]
    assert titles == list(tables)
