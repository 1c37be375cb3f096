"""The claim of the book in small, on the real bundled model and corpus."""

import pytest

from purify.grid import Cell, Named, Store, Suspect, run, variants
from purify.report.tables import AS_RECEIVED, as_frame

pytestmark = pytest.mark.slow


def test_the_backdoor_is_planted_survives_fine_tuning_and_is_purified(tmp_path):
    cell = Cell(Suspect("docstrings", Named("BadWord"), train=600), validation=100, test=300)
    defenses = {"FineTuning": None, "FinePurifying": {"reserve": [0.2]}}
    store = Store(tmp_path)
    scores = as_frame(run(variants(cell, defenses), store)).set_index("defense")
    assert scores.loc[AS_RECEIVED, "acc"] > 60
    assert scores.loc[AS_RECEIVED, "asr"] > 90
    assert scores.loc["FineTuning", "asr"] > 90
    assert scores.loc["FinePurifying", "asr"] < 60
    assert scores.loc["FinePurifying", "acc"] > 50
