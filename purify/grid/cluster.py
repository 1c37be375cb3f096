"""The engine of Dask: a local cluster of processes, or any cluster whose scheduler can be reached."""

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from purify import progress
from purify.errors import DiskFullError, PurifyError
from purify.grid.lease import POLL
from purify.grid.monitor import Monitor
from purify.grid.processes import pin
from purify.grid.runner import Engine, Options, record_failure, work
from purify.grid.schedule import Job, Outcome, Schedule, State
from purify.grid.store import Store

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""A worker with several threads still does one job at a time: seeds and thread counts belong to the process."""

KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""Environment for workers: Dask lets them give memory back at every turn, which made a cell take a third longer."""

_CONNECT_SECONDS = 10


def dask_cluster(*, threads: int, workers: int = 0, scheduler: str = "") -> Engine:
    """Return the engine that does the jobs on Dask workers.

    Args:
        threads: Of each worker.
        workers: Start a local cluster of so many processes.
        scheduler: Or join the cluster of this scheduler, such as ``tcp://10.0.0.1:8786``; its workers need this
            package and must reach the store under the same path or URL.

    Where workers have the resource ``GPU``, each job claims one; a local cluster gives every worker a GPU if there
    are any.
    """

    def engine(schedule: Schedule, store: Store, options: Options, monitor: Monitor) -> None:
        with _client(workers, scheduler) as (client, gpus), client.as_current(), _telling_lost_schedulers():
            _drive(client, schedule, (store, options, threads, gpus), monitor)

    return engine


def quiet() -> None:
    """Let Dask speak of errors only: the monitor tells how a run goes."""
    logging.getLogger("distributed").setLevel(logging.ERROR)


@contextmanager
def _client(workers: int, scheduler: str) -> Iterator[tuple["Client", int]]:
    try:
        import dask.config  # noqa: PLC0415
        from distributed import Client, LocalCluster  # noqa: PLC0415
    except ImportError as error:
        raise PurifyError("Dask is not installed: pip install 'distributed>=2026.1'") from error
    quiet()
    if scheduler:
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise PurifyError(
                f"no Dask scheduler answers at {scheduler}: start one with 'dask scheduler', or correct the address"
            ) from error
        with client:
            yield client, 0
        return
    import torch  # noqa: PLC0415

    gpus = torch.cuda.device_count()
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": {}}),  # see KEEP_MEMORY
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # the models' memory is not Dask's to manage
            dashboard_address=None,
            resources={"GPU": 1} if gpus else None,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, gpus


@contextmanager
def _telling_lost_schedulers() -> Iterator[None]:
    from distributed.comm import CommClosedError  # noqa: PLC0415

    try:
        yield
    except (CancelledError, asyncio.CancelledError, CommClosedError) as error:
        raise PurifyError(
            "the Dask scheduler went away: run the same command again, what was finished is kept"
        ) from error


def _drive(client: "Client", schedule: Schedule, how: tuple[Store, Options, int, int], monitor: Monitor) -> None:
    from distributed import wait  # noqa: PLC0415

    flying: dict[Any, Job] = {}
    places, looked, told = 0, 0.0, False
    resources: dict[str, float] | None = None
    while not schedule.finished:
        if client.status not in ("running", "connecting"):
            raise CancelledError
        if time.monotonic() - looked > 1:  # workers come and go
            known = client.scheduler_info(n_workers=-1)["workers"].values()
            places, looked = len(known), time.monotonic()
            monitor.workers = places  # each has another job in its queue, so that it need not wait for this process
            if not places and not told:
                told = True
                log.warning("waiting for a Dask worker: what is to be run begins as soon as there is one")
            resources = {"GPU": 1} if any(worker["resources"].get("GPU") for worker in known) else None
        while len(flying) < 2 * places and (job := schedule.take()):
            key = f"{job.kind}-{job.key}-{uuid.uuid4().hex[:6]}"
            flying[client.submit(_task, job, *how, key=key, pure=False, resources=resources)] = job
            monitor.show(schedule, job)
        finished = []
        if flying:
            with suppress(TimeoutError):
                finished = list(wait(list(flying), timeout=POLL, return_when="FIRST_COMPLETED").done)
        else:
            time.sleep(POLL)
        if not finished:
            schedule.retry_busy()
        for future in finished:
            job = flying.pop(future)
            outcome = _outcome(future, job, how[0])
            schedule.finish(job, outcome)
            monitor.show(schedule, job, outcome)


def _outcome(future: Any, job: Job, store: Store) -> Outcome:
    """What became of a job; a worker that died of it is a failure of the job."""
    from distributed import KilledWorker  # noqa: PLC0415

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, DiskFullError | CancelledError | asyncio.CancelledError):
        raise error
    what = "it killed several workers" if isinstance(error, KilledWorker) else f"{error!r}"
    record_failure(job, store, what)
    return Outcome(State.FAILED, what)


def _task(job: Job, store: Store, options: Options, threads: int, gpus: int) -> Outcome:
    """Do a job in a worker."""
    from distributed import get_worker  # noqa: PLC0415

    with _ONE_AT_A_TIME:
        if gpus:
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(int(get_worker().name) % gpus))
        progress.silence()
        pin(threads)
        return work(job, _this_process(store), options)


@cache
def _this_process(store: Store) -> Store:
    """One store per process: what it has seen of a silent runner's lease must outlast a single job."""
    return store
