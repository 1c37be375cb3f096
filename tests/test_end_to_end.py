"""The claim of the book in small, on the real bundled model and corpus."""

from dataclasses import replace

import pytest

from purify import load_plm, purify
from purify.grid import Cell, Named, Store, Suspect, run, splits_of, suspect_model, variants
from purify.report.tables import AS_RECEIVED, as_frame

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def cell():
    return Cell(Suspect("docstrings", Named("BadWord"), train=600), validation=100, test=300)


def test_the_backdoor_is_planted_survives_fine_tuning_and_is_purified(cell, store):
    defenses = {"FineTuning": None, "FinePurifying": {"reserve": [0.2]}}
    scores = as_frame(run(variants(cell, defenses), store)).set_index("defense")
    assert scores.loc[AS_RECEIVED, "acc"] > 60
    assert scores.loc[AS_RECEIVED, "asr"] > 90
    assert scores.loc["FineTuning", "asr"] > 90
    assert scores.loc["FinePurifying", "asr"] < 60
    assert scores.loc["FinePurifying", "acc"] > 50


def test_a_detector_tells_triggered_inputs_from_clean_ones(cell, store):
    (record,) = run([replace(cell, defense=Named("STRIP"))], store)
    assert record["detection"]["auroc"] > 0.9
    (received,) = run([cell], store)
    assert record["scores"]["asr"]["k"] < received["scores"]["asr"]["k"] / 2


def test_the_trigger_is_found_in_the_word_embeddings(cell, store):
    found = purify(suspect_model(cell, store), "bundled", splits_of(cell).clean, fine_tune=False).abnormal
    assert found[0].word == "cf"


def test_a_model_that_is_not_poisoned_is_left_within_the_accepted_drop(cell, store):
    """And nothing abnormal is found in it."""
    control = replace(cell, suspect=cell.suspect.as_control)
    rows, model = splits_of(control), suspect_model(control, store)
    ratios = [0.4, 0.6, 0.8, 1.0]
    result = purify(model, load_plm(), rows.clean, reserve=ratios, validation=rows.validation, max_drop=5)
    (received,) = run([control], store)
    counts = received["scores"]["validation"]
    assert result.validation[result.reserve] >= 100 * counts["k"] / counts["n"] - 5
    assert result.abnormal == ()
