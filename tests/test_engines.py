"""Several runners on one store, on a tiny model."""

import multiprocessing
import subprocess
import sys
import threading
import time

import psutil
import pytest
from runs import table

from purify.grid import Store, execute, load_grid, run
from purify.grid.processes import local_processes
from purify.grid.spec import fingerprint

SPY = """
import sys, torch
from pathlib import Path
from purify.grid import Store, execute, load_grid, stages
from purify.grid.spec import fingerprint
torch.set_num_threads(1)
original = stages._once
def spy(stage, store, find, make, wait):
    def made():
        with open(sys.argv[3], "a") as file:
            file.write(fingerprint(stage) + "\\n")
        make()
    return original(stage, store, find, made, wait)
stages._once = spy
sys.exit(len(execute(load_grid(Path(sys.argv[1])), Store(sys.argv[2])).failed))
"""


@pytest.fixture
def expected(grid_file, store, tmp_path):
    """The export of an uninterrupted run in one process with one thread."""
    cells = load_grid(grid_file)
    run(cells, store)
    return cells, table(store, tmp_path / "expected.csv")


def test_two_runners_on_one_store_share_the_work(grid_file, expected, tmp_path):
    """No stage is made twice, and the result is that of one."""
    cells, wanted = expected
    made = tmp_path / "made"
    command = [sys.executable, "-c", SPY, str(grid_file), str(tmp_path / "shared"), str(made)]
    runners = [subprocess.Popen(command) for _ in range(2)]
    assert [runner.wait() for runner in runners] == [0, 0]
    stages = made.read_text().split()
    assert len(stages) == len(set(stages))
    assert {fingerprint(cell) for cell in cells} <= set(stages)
    assert table(Store(tmp_path / "shared"), tmp_path / "shared.csv") == wanted


def test_local_processes_do_the_same_as_one(expected, tmp_path, monkeypatch):
    cells, wanted = expected
    shared = Store(tmp_path / "shared")
    report = execute(cells, shared, engine=local_processes(2, threads=1))
    assert report.failed == {}
    assert table(shared, tmp_path / "shared.csv") == wanted
    assert multiprocessing.active_children() == []


def test_a_worker_process_that_is_killed_is_replaced(expected, tmp_path):
    """All workers are killed once, in the middle of whatever they are at."""
    cells, wanted = expected
    shared = Store(tmp_path / "shared")
    killed = []

    def kill():
        while len(killed) < 2:
            for holder in shared.leases.holders().values():
                if holder["pid"] not in killed:
                    psutil.Process(holder["pid"]).kill()
                    killed.append(holder["pid"])
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    report = execute(cells, shared, engine=local_processes(2, threads=1))
    assert len(killed) == 2
    assert report.failed == {}
    assert table(shared, tmp_path / "shared.csv") == wanted
