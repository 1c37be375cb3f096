"""Workers as Slurm jobs: a Dask cluster by dask-jobqueue."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from purify.errors import PurifyError
from purify.grid.cluster import KEEP_MEMORY, quiet
from purify.grid.store import STORE
from purify.tasks import DATA_DIR

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

_PASSED_ON = (STORE, DATA_DIR, "HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME")
"""Environment variables that the workers must share with the process that starts them."""


@dataclass(frozen=True)
class Jobs:
    """The Slurm jobs that the workers run in; each job is one worker.

    Attributes:
        count: So many at a time, until all work is done.
        cores: Processors of a job, and threads of its worker.
        memory: Of a job, such as "16GB".
        walltime: Of a job, "HH:MM:SS"; what a job that runs out of it was at is done by another one.
        gpus: GPUs of a job: 0 or 1.
        partition: Where it is queued; the cluster's default if empty.
        account: Whom it is charged to; the user's default if empty.
        interface: Network interface that the nodes reach each other by; the first one if empty.
        options: More ``#SBATCH`` options, such as "--constraint=a100".
        logs: Folder for what the jobs print, on the shared file system; Slurm notes there that a job was cancelled,
            since that is how workers end when all is done.
    """

    count: int = 4
    cores: int = 4
    memory: str = "16GB"
    walltime: str = "08:00:00"
    gpus: int = 0
    partition: str = ""
    account: str = ""
    interface: str = ""
    options: tuple[str, ...] = ()
    logs: str = ""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.count < 1 or self.cores < 1:
            raise PurifyError(f"at least one job of one core is needed, not {self.count} of {self.cores}")
        if self.gpus not in (0, 1):
            raise PurifyError(f"a worker uses one GPU or none, not {self.gpus}: ask for more jobs instead")


@contextmanager
def slurm_cluster(jobs: Jobs) -> Iterator["SLURMCluster"]:
    """Start a scheduler in this process for workers that will be Slurm jobs, until the ``with`` block ends.

    The node that this runs on must be reachable from the others; the environment and the store must be on a file
    system that they share (or the store on a URL).

    Raises:
        PurifyError: dask-jobqueue is not installed, or there is no such network interface.
    """
    try:
        from dask_jobqueue import SLURMCluster  # noqa: PLC0415
    except ImportError as error:
        raise PurifyError("dask-jobqueue is not installed: pip install 'dask-jobqueue>=0.9'") from error
    quiet()
    environ = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | KEEP_MEMORY
    try:
        cluster = SLURMCluster(
            cores=jobs.cores,
            processes=1,
            memory=jobs.memory,
            walltime=jobs.walltime,
            queue=jobs.partition or None,
            account=jobs.account or None,
            interface=jobs.interface or None,
            python=sys.executable,
            log_directory=jobs.logs or None,
            job_extra_directives=[*(["--gres=gpu:1"] if jobs.gpus else []), *jobs.options],
            job_script_prologue=[f"export {name}={value!r}" for name, value in environ.items()],
            worker_extra_args=[*(["--resources", "GPU=1"] if jobs.gpus else []), "--memory-limit", "0"],
            scheduler_options={"dashboard": False},
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise PurifyError(f"the Slurm workers cannot be set up: {error}") from error
    with cluster:
        yield cluster


def submit(cluster: "SLURMCluster", jobs: Jobs) -> None:
    """Submit the jobs, and another one for each that ends early.

    Raises:
        PurifyError: there is no Slurm here.
    """
    if not shutil.which("sbatch"):
        raise PurifyError("there is no command 'sbatch' here: call this where Slurm jobs are submitted from")
    logging.getLogger("distributed.deploy").setLevel(logging.WARNING)  # what sbatch refuses is said there
    cluster.adapt(minimum_jobs=jobs.count, maximum_jobs=jobs.count)
