import json
import multiprocessing
import os
import signal
import time

import pytest

from purify.grid.folder import Folder
from purify.grid.lease import Leases, machine


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> Folder:
    return Folder(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-{os.urandom(4).hex()}")


def test_a_lease_is_held_by_one_and_free_afterwards(folder):
    ours, theirs = Leases(folder), Leases(folder)
    with ours.acquire("x"):
        assert theirs.acquire("x") is None
        assert list(theirs.holders()) == ["x"]
        assert theirs.holders()["x"]["pid"] == os.getpid()
        with theirs.acquire("y"):
            pass
    assert theirs.holders() == {}
    with theirs.acquire("x"):
        assert ours.acquire("x") is None
    assert folder.names() == set()


def test_a_lease_is_given_back_when_the_work_fails(folder):
    leases = Leases(folder)

    def work():
        with leases.acquire("x"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert folder.names() == set()


def of_another_machine(folder, beat=0):
    folder.write("x.3", json.dumps({"host": "h", "machine": "other", "pid": 1, "started": 0.0, "beat": beat}).encode())


def test_a_silent_runner_elsewhere_loses_its_lease_after_a_while(folder):
    now = 0.0
    leases = Leases(folder, ttl=60, clock=lambda: now)
    of_another_machine(folder)
    assert leases.acquire("x") is None
    now = 59
    of_another_machine(folder, beat=1)  # a sign of life
    assert leases.acquire("x") is None
    now = 118
    assert leases.acquire("x") is None
    now = 120
    with leases.acquire("x") as lease:
        assert lease.generation == 4
        assert folder.names() == {"x.4"}


def test_what_a_killed_runner_left_half_written_is_taken_over(folder):
    now = 0.0
    leases = Leases(folder, ttl=60, clock=lambda: now)
    folder.write("x.1", b'{"host"')
    assert leases.acquire("x") is None
    now = 61
    with leases.acquire("x"):
        assert folder.names() == {"x.2"}


def test_a_holder_gives_signs_of_life(folder):
    with Leases(folder, ttl=0.04).acquire("x"):
        deadline = time.monotonic() + 30
        while json.loads(folder.read("x.1"))["beat"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_who_lost_its_lease_leaves_that_of_the_next_alone(folder):
    with Leases(folder).acquire("x"):
        folder.delete("x.1")
        of_another_machine(folder)
    assert folder.names() == {"x.3"}


def _hold(url, ready):
    with Leases(Folder(url)).acquire("x"):
        ready.set()
        time.sleep(60)


def test_a_killed_runner_here_loses_its_lease_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(60)
    leases = Leases(Folder(str(tmp_path)))
    assert leases.acquire("x") is None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert leases.holders() == {}
    assert leases.clear() == ["x"]
    with leases.acquire("x"):
        pass


def _race(url, start, end, wins):
    leases = Leases(Folder(url))
    start.wait()
    for number in range(100):
        lease = leases.acquire(f"job{number}")
        if lease:
            wins.put(number)  # and it is never given back
    end.wait(timeout=120)


def test_of_many_that_try_one_succeeds(tmp_path):
    """Some of the leases belong to a dead runner: their takeover is a race as well."""
    folder = Folder(str(tmp_path))
    dead = {"host": "h", "machine": machine(), "pid": 2**22 - 1, "started": 0.0}
    for number in range(0, 100, 2):
        folder.write(f"job{number}.1", json.dumps(dead).encode())
    context = multiprocessing.get_context("spawn")
    start, end, wins = context.Event(), context.Barrier(4), context.Queue()
    team = [context.Process(target=_race, args=(str(tmp_path), start, end, wins)) for _ in range(4)]
    for process in team:
        process.start()
    start.set()
    won = sorted(wins.get(timeout=60) for _ in range(100))
    for process in team:
        process.join()
    assert [process.exitcode for process in team] == [0] * 4
    assert won == list(range(100))
    assert wins.empty()
