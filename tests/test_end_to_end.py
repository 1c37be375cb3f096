"""The claim of the book in small, on the real bundled model and corpus."""

from dataclasses import replace

import pytest

from purify.grid import Cell, Named, Store, Suspect, run, variants
from purify.report.tables import AS_RECEIVED, CONTROL, as_frame, at_drop

pytestmark = pytest.mark.slow


def test_the_backdoor_is_planted_survives_fine_tuning_and_is_purified(tmp_path):
    suspect = Suspect("docstrings", Named.of("BadWord"), train=800)
    cell = Cell(suspect, validation=200, test=300)
    control = replace(cell, suspect=replace(suspect, control=True))
    defenses = {"FineTuning": None, "FinePurifying": {"reserve": [0.4, 0.5, 0.6, 0.7]}}
    store = Store(tmp_path, (tmp_path / "records",))
    frame = as_frame(run([*variants(cell, defenses), control], store))
    scores = at_drop(frame, 5).set_index("defense")
    assert scores.loc[AS_RECEIVED, "asr"] > 90
    assert scores.loc[CONTROL, "asr"] < 20
    assert scores.loc["FineTuning", "asr"] > 90
    assert scores.loc["FinePurifying", "asr"] < 60
    assert scores.loc["FinePurifying", "acc"] > scores.loc[AS_RECEIVED, "acc"] - 10
