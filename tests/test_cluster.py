"""The Dask engine, on real local clusters."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import end, grid_run, table

from purify import PurifyError
from purify.grid import Store

pytestmark = pytest.mark.slow


def test_a_local_cluster_survives_the_death_of_a_worker_in_the_middle_of_a_cell(wanted, tmp_path):
    store = Store(tmp_path / "store")
    run = grid_run(store.root, "--workers", "2")
    hashes = {path.stem for path in (tmp_path / "store" / "records").glob("*")}
    killed = None
    while killed is None and run.poll() is None:
        suspects = (store.folder / "suspects").names()
        for key, holder in store.leases.holders().items():
            if suspects and key not in suspects | hashes:  # a cell, after its suspect was trained
                killed = key
                os.kill(holder["pid"], signal.SIGKILL)
                break
        time.sleep(0.005)
    assert killed
    code, said = end(run)
    assert code == 0, said
    assert table(store, tmp_path / "export.csv") == wanted


def test_a_cluster_that_is_joined_does_the_same(wanted, tmp_path):
    dask = [shutil.which("dask", path=Path(sys.executable).parent)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    port = address.rpartition(":")[2]
    scheduler = subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"], **quiet)
    worker = subprocess.Popen([*dask, "worker", address, "--nthreads", "2", "--resources", "GPU=1"], **quiet)
    try:
        assert end(grid_run(tmp_path / "store", "--scheduler", address))[0] == 0
        assert table(Store(tmp_path / "store"), tmp_path / "export.csv") == wanted
        # The scheduler dies in the middle of another run: one sentence, and what was finished is kept.
        run = grid_run(tmp_path / "other", "--scheduler", address)
        while not (Store(tmp_path / "other").folder / "suspects").names():
            time.sleep(0.1)
        scheduler.kill()
        code, said = end(run)
        assert code == 2
        assert "the Dask scheduler went away: run the same command again, what was finished is kept" in said
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
    assert end(grid_run(tmp_path / "other"))[0] == 0
    assert table(Store(tmp_path / "other"), tmp_path / "other.csv") == wanted


def test_a_dead_scheduler_address_is_told_in_one_sentence(tmp_path):
    code, said = end(grid_run(tmp_path, "--scheduler", "tcp://127.0.0.1:9"))
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith("error: no Dask scheduler answers at tcp://127.0.0.1:9: start one with 'dask scheduler'")
    assert not (tmp_path / "records").exists()


def test_engines_exclude_each_other():
    from purify.cli_grid import _engine

    with pytest.raises(PurifyError, match="exclude each other"):
        _engine(1, 1, "", 0)


def test_a_worker_remembers_what_it_has_seen_of_leases():
    """A silent runner elsewhere is told by two looks at its lease; each job brings a store of its own."""
    from purify.grid.cluster import _this_process

    assert _this_process(Store("a", ("b",))) is _this_process(Store("a", ("b",)))
