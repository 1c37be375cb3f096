"""Several runners on one store, on a tiny model."""

import multiprocessing
import subprocess
import sys
import threading

import psutil
import pytest
from runs import table

from purify.grid import Store, execute, load_grid, run
from purify.grid.processes import local_processes
from purify.grid.spec import fingerprint

SPY = """
import sys, torch
from pathlib import Path
from purify.grid import Store, bench, execute, load_grid, stages
from purify.grid.spec import fingerprint
torch.set_num_threads(1)
original = bench.once
def spy(stage, store, find, make, wait):
    def made():
        with open(sys.argv[3], "a") as file:
            file.write(fingerprint(stage) + "\\n")
        make()
    return original(stage, store, find, made, wait)
stages.once = bench.once = spy
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


@pytest.fixture
def killer():
    """Start a thread that kills whoever holds a lease of a store, if it wants to; return the list of the killed."""
    over = threading.Event()

    def start(store, wants):
        killed = []

        def watch():
            while not over.wait(0.01):
                for key, holder in store.leases.holders().items():
                    if holder["pid"] not in killed and wants(key, killed):
                        killed.append(holder["pid"])
                        psutil.Process(holder["pid"]).kill()

        threading.Thread(target=watch, daemon=True).start()
        return killed

    yield start
    over.set()


def test_a_worker_process_that_is_killed_is_replaced(expected, tmp_path, killer):
    """Two workers are killed, in the middle of whatever they are at."""
    cells, wanted = expected
    shared = Store(tmp_path / "shared")
    hit = set()

    def wants(key, killed):
        new = len(killed) < 2 and key not in hit  # not twice at one stage, which would then have failed
        hit.update({key} if new else ())
        return new

    killed = killer(shared, wants)
    report = execute(cells, shared, engine=local_processes(2, threads=1))
    assert len(killed) == 2
    assert report.failed == {}
    assert table(shared, tmp_path / "shared.csv") == wanted


def test_what_workers_die_of_fails_and_the_rest_goes_on(grid_file, tmp_path, killer):
    cells = load_grid(grid_file)
    shared = Store(tmp_path / "shared")
    deadly = cells[0].suspect
    killed = killer(shared, lambda key, killed: key == fingerprint(deadly))
    report = execute(cells, shared, engine=local_processes(2, threads=1))
    assert len(killed) >= 2
    assert set(report.failed) == {cell for cell in cells if cell.suspect == deadly}
    assert all("2 workers died of it, perhaps for want of memory" in error for error in report.failed.values())
    assert len(shared.recorded()) == len(cells) - len(report.failed)
