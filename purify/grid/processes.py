"""The engine of local processes: runners that share nothing but the store."""

import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.context import SpawnProcess

from purify import progress
from purify.errors import DiskFullError
from purify.grid.monitor import Monitor
from purify.grid.runner import Engine, Options, in_process, record_failure
from purify.grid.schedule import Outcome, Schedule, State
from purify.grid.spec import Cell
from purify.grid.store import Store

DEATHS = 2
"""So many workers may die of a stage before it counts as failed."""

_DIED = "workers died of it, perhaps for want of memory"

_LOOK = 1.0
_DISK_FULL = 3


def threads_per_worker(workers: int) -> int:
    """Share the processors that this process may use among workers."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // workers)


def pin(threads: int) -> None:
    """Use so many threads in this process."""
    import torch  # noqa: PLC0415  (only where work is done)

    torch.set_num_threads(threads)


def local_processes(workers: int, threads: int) -> Engine:
    """Return the engine that runs ``workers`` processes with ``threads`` threads each.

    One that dies loses its leases, so that the others take over what it was at, and is replaced. A stage that two
    workers died of has failed.
    """

    def engine(schedule: Schedule, store: Store, options: Options, monitor: Monitor) -> None:
        cells = [job.cell for job in schedule.remaining.values() if job.kind == "score"]
        for job in schedule.remaining.values():
            store.forget_failure(job.stage)  # so that what fails now is not tried by every worker
        own = replace(options, retry=False)

        def start() -> SpawnProcess:
            process = multiprocessing.get_context("spawn").Process(
                target=_worker, args=(cells, store, own, threads), daemon=True
            )
            process.start()
            return process

        team = [start() for _ in range(workers)]
        deaths: Counter[str] = Counter()
        while team:
            time.sleep(_LOOK)
            for process in [one for one in team if not one.is_alive()]:
                team.remove(process)
                if process.exitcode == _DISK_FULL:
                    raise DiskFullError(f"no space is left for {store.root}: free some and run the same command again")
                if process.exitcode:
                    at = store.leases.of(process.pid or 0) & schedule.remaining.keys()
                    deaths.update(at or [""])
                    for key in at:
                        if deaths[key] == DEATHS:
                            record_failure(schedule.remaining[key], store, f"{DEATHS} {_DIED}")
                    if deaths[""] < DEATHS * workers:
                        team.append(start())
            for job in schedule.observe(store):  # after the look at the team: what the dead have done counts
                monitor.show(schedule, job, Outcome(State.DONE))
        for job in list(schedule.remaining.values()):
            failure = store.failure(job.stage)
            if failure:
                outcome = Outcome(State.FAILED, failure["error"])
                schedule.finish(job, outcome)
                monitor.show(schedule, job, outcome)

    return engine


def _worker(cells: Sequence[Cell], store: Store, options: Options, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress.silence()
    pin(threads)
    try:
        in_process(Schedule(cells, store), store, options, None)
    except DiskFullError:
        sys.exit(_DISK_FULL)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
