"""A grid that is killed again and again ends as one that was left alone."""

import random
import shutil
import signal
import subprocess
import time

import pytest
from runs import SMOKE, end, grid_run, table

from purify.grid import Store, load_grid
from purify.grid.upkeep import verify

pytestmark = pytest.mark.slow
KILLS = 20


def test_twenty_kills_change_nothing(wanted, tmp_path):
    """SIGKILL at random moments; whenever the grid gets finished in spite of it, it is compared and begun anew."""
    chance = random.Random(0)
    store = Store(tmp_path / "store")
    cells = len(load_grid(SMOKE))
    started = time.monotonic()
    assert end(grid_run(tmp_path / "timed"))[0] == 0
    whole = time.monotonic() - started
    kills, finished, before = 0, 0, set()
    while kills < KILLS or finished == 0:
        run = grid_run(store.root)
        try:
            run.communicate(timeout=chance.uniform(0, whole / 2) if kills < KILLS else None)
            assert run.returncode == 0
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.communicate()
            kills += 1
        assert before <= store.recorded()  # no record is ever lost
        before = store.recorded()
        damaged = [where for where, fault in verify(store) if fault]
        assert damaged == []
        if run.returncode == 0:
            assert len(before) == cells
            assert table(store, tmp_path / "export.csv") == wanted
            finished += 1
            shutil.rmtree(store.root)
            before = set()
    print(f"{kills} kills, {finished} grids finished in spite of them")


def test_two_runners_at_once_change_nothing(wanted, tmp_path):
    runs = [grid_run(tmp_path / "store") for _ in range(2)]
    for run in runs:
        code, said = end(run)
        assert code == 0, said
    assert len(Store(tmp_path / "store").recorded()) == len(load_grid(SMOKE))
    assert table(Store(tmp_path / "store"), tmp_path / "export.csv") == wanted
