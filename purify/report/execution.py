"""Run the experiments and the notebooks of the book, as far as their inputs changed, several at a time."""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil

from purify.grid.folder import write_whole
from purify.grid.monitor import Monitor
from purify.grid.processes import local_processes, threads_per_worker
from purify.grid.runner import Options, in_process
from purify.grid.schedule import Schedule
from purify.grid.store import Store
from purify.report.inputs import changed, inputs_of, with_text_of
from purify.report.notebooks import resolve, run_notebook

_MEMORY = 3 << 30
"""Bytes that a process may need."""


class Job(NamedTuple):
    """A notebook to run.

    Attributes:
        notebook: The notebook.
        parameters: Those that it is run with.
        copy: The executed copy.
    """

    notebook: Path
    parameters: Mapping[str, Any]
    copy: Path


def say(message: str) -> None:
    """Tell what is being done, on standard error."""
    print(message, file=sys.stderr, flush=True)


def workers_here() -> int:
    """Return how many processes to share the work among: up to four, each with a core and `_MEMORY` to itself.

    Two processes with a thread each train faster than one with two threads. A GPU is not shared.
    """
    import torch  # noqa: PLC0415  (slow to load, and not needed where nothing changed)

    if torch.cuda.is_available():
        return 1
    return int(max(1, min(4, threads_per_worker(1), psutil.virtual_memory().available // _MEMORY)))


def in_processes(schedule: Schedule, store: Store, options: Options, monitor: Monitor) -> None:
    """The engine of `purify.grid.run` with as many processes as suit this machine."""
    workers = workers_here()
    engine = local_processes(workers, threads_per_worker(workers)) if workers > 1 else in_process
    engine(schedule, store, options, monitor)


def run_changed(jobs: Sequence[Job]) -> None:
    """Run the notebooks whose inputs changed, several at a time, and say why.

    A chapter needs none of another: what several need has been stored by the grid, or is made under a lease.

    Raises:
        PurifyError: one fails; those that run beside it are finished, no other is begun.
    """
    reasons = {job.notebook.stem: why for job in jobs if (why := reason(*job))}
    for why in dict.fromkeys(reasons.values()):
        say(f"to run, {why}: {', '.join(name for name, own in reasons.items() if own == why)}")
    stale = [job for job in reversed(jobs) if job.notebook.stem in reasons]  # the last chapters take longest
    if not stale:
        return
    workers = workers_here()
    context = multiprocessing.get_context("spawn")
    threads = threads_per_worker(workers)
    with ProcessPoolExecutor(workers, context, initializer=_set_threads, initargs=(threads,)) as pool:
        runs = {pool.submit(run_traced, *job): job for job in stale}
        try:
            for number, done in enumerate(as_completed(runs), start=1):
                done.result()
                say(f"[{number}/{len(runs)}] {runs[done].notebook.name}")
        finally:
            pool.shutdown(cancel_futures=True)


def _set_threads(threads: int) -> None:
    """Say how many threads the kernels that this process starts may use."""
    os.environ["OMP_NUM_THREADS"] = str(threads)


def run_if_changed(notebook: Path, parameters: Mapping[str, Any], copy: Path) -> bool:
    """Run a notebook unless its executed copy came from the same inputs; say whether it ran."""
    if not reason(notebook, parameters, copy):
        return False
    run_traced(notebook, parameters, copy)
    return True


def reason(notebook: Path, parameters: Mapping[str, Any], copy: Path) -> str:
    """Return why a notebook has to run again, "" if its executed copy is that of its present inputs.

    Where only its text changed, the copy gets the new text.
    """
    inputs = _inputs_beside(copy)
    if not (copy.is_file() and inputs.is_file()):
        return "not run before"
    different = changed(notebook, resolve(notebook, parameters), json.loads(inputs.read_text(encoding="utf-8")))
    if not different:
        _refresh(notebook, copy)
        return ""
    return f"{different[0]} changed" + (f", and {len(different) - 1} more" if different[1:] else "")


def run_traced(notebook: Path, parameters: Mapping[str, Any], copy: Path) -> None:
    """Run a notebook, and keep the hashes of its inputs beside the executed copy, once that is whole.

    Raises:
        PurifyError: as `run_notebook`.
    """
    inputs = _inputs_beside(copy)
    inputs.unlink(missing_ok=True)
    given = resolve(notebook, parameters)
    before, started = inputs_of(notebook, given, ()), time.time()
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace.json"
        run_notebook(notebook, parameters, copy, trace)
        read = json.loads(trace.read_text(encoding="utf-8"))
    _refresh(notebook, copy)  # so that the copy is the same the next time, if nothing changes
    found = inputs_of(notebook, given, read, before=started) | before
    write_whole(inputs, lambda path: path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8"))


def _refresh(notebook: Path, copy: Path) -> None:
    """Give an executed copy the present text of its notebook."""
    present = with_text_of(notebook, nbformat.read(copy, as_version=4))
    write_whole(copy, lambda path: nbformat.write(present, path))


def _inputs_beside(copy: Path) -> Path:
    return copy.with_suffix(".inputs.json")
