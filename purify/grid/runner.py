"""The runner: do the jobs of a schedule, here or elsewhere, and say how it goes."""

import logging
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from purify.errors import DiskFullError, PurifyError
from purify.grid.checks import other_rows, refuse_unavailable
from purify.grid.lease import POLL
from purify.grid.monitor import Monitor
from purify.grid.schedule import Job, Outcome, Schedule, State
from purify.grid.spec import Cell, fingerprint
from purify.grid.store import Record, Store, records_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How the jobs of a grid are done.

    Attributes:
        keep_models: Keep the cleaned checkpoints when they have been scored.
        retry: Try again what failed before.
        log: File that progress is appended to; by default ``grid.log`` in the store, if that is local.
    """

    keep_models: bool = False
    retry: bool = True
    log: Path | None = None


@dataclass(frozen=True)
class Report:
    """What became of the cells of a grid.

    Attributes:
        total: How many there are.
        failed: Cell -> the error it ended with, in one line; the store has the tracebacks.
    """

    total: int
    failed: dict[Cell, str] = field(default_factory=dict)


Engine = Callable[[Schedule, Store, Options, Monitor], None]
"""Does all jobs of a schedule."""


def work(job: Job, store: Store, options: Options) -> Outcome:
    """Do a job, unless another runner is at it; a failure is recorded with its traceback.

    Raises:
        DiskFullError: no space is left; nothing more can be done.
    """
    from purify.grid import stages  # noqa: PLC0415  (torch is needed only where the work is done)

    started = time.perf_counter()
    if not options.retry and (failure := store.failure(job.stage)):
        return Outcome(State.FAILED, failure["error"])
    try:
        if job.kind == "score":
            found: object = stages.score(job.cell, store, wait=False, keep_models=options.keep_models)
        else:
            found = {"attack": stages.attack, "fisher": stages.fisher}[job.kind](job.cell, store, wait=False)
    except DiskFullError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        reason = reason if isinstance(error, PurifyError) else f"{type(error).__name__}: {reason}"
        record_failure(job, store, reason, traceback.format_exc())
        return Outcome(State.FAILED, reason)
    if found is None:
        return Outcome(State.BUSY)
    store.forget_failure(job.stage)
    return Outcome(State.DONE, seconds=time.perf_counter() - started)


def record_failure(job: Job, store: Store, error: str, trace: str = "") -> None:
    """Write down that a job failed.

    Raises:
        DiskFullError: no space is left.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    failure = {"what": str(job), "error": error, "traceback": trace, "when": when, "host": socket.gethostname()}
    store.put_failure(job.stage, failure)


def in_process(schedule: Schedule, store: Store, options: Options, monitor: Monitor | None) -> None:
    """Do one job after the other in this process."""
    while not schedule.finished:
        job = schedule.take()
        if job is None:
            time.sleep(POLL)
            schedule.retry_busy()
            continue
        if monitor:
            monitor.show(schedule, job)
        outcome = work(job, store, options)
        schedule.finish(job, outcome)
        if monitor:
            monitor.show(schedule, job, outcome)


def execute(
    cells: Sequence[Cell],
    store: Store,
    *,
    engine: Engine = in_process,
    options: Options | None = None,
    elsewhere: bool = False,
) -> Report:
    """Run the cells that the store lacks; a cell that fails is recorded, and the others go on.

    A run that is killed and started again repeats only the stages it was in. Several may share one store, on one
    machine or on several: no stage is done twice at the same time.

    Args:
        cells: What is wanted.
        store: Where records and checkpoints are kept.
        engine: Who does the jobs.
        options: How.
        elsewhere: Whether the jobs are done on other machines than this one.

    Raises:
        PurifyError: something that the cells need is not on this machine, which is to do the jobs.
        DiskFullError: no space is left; what was finished is kept.
    """
    options = options or Options()
    store.check()
    schedule = Schedule(cells, store)
    for sentence in other_rows(schedule.origins):
        log.warning(sentence)
    if not schedule.finished:
        if not elsewhere:
            refuse_unavailable([job.cell for job in schedule.remaining.values()])
        with Monitor(schedule, store, options.log) as monitor:
            engine(schedule, store, options, monitor)
        recorded = store.recorded()
        for cell in cells:
            if cell not in schedule.failed and fingerprint(cell) not in recorded:
                schedule.failed[cell] = f"it has no record in {store.root}, although no worker told of a failure"
    return Report(len(cells), schedule.failed)


def run(cells: Sequence[Cell], store: Store, *, engine: Engine = in_process) -> list[Record]:
    """Run the cells that the store lacks, by default in this process, and return the records of all, in order.

    Raises:
        PurifyError: as `execute`; also if a cell fails.
    """
    report = execute(cells, store, engine=engine)
    if report.failed:
        cell, error = next(iter(report.failed.items()))
        raise PurifyError(f"{len(report.failed)} of {report.total} cells failed; the first is {cell}: {error}")
    return records_of(cells, store)
