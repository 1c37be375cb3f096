"""The command line of the grids: ``purify grid …``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from purify.errors import PurifyError

if TYPE_CHECKING:
    from purify.grid.runner import Engine, Options
    from purify.grid.spec import Cell
    from purify.grid.store import Store

app = typer.Typer(help="Run grids of experiments, and look after what they leave.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The grid file (YAML), for example book/grids/companion.yml.")]
Files = Annotated[list[Path] | None, typer.Argument(help="Grid files.")]
Where = Annotated[
    str | None, typer.Option("--store", help="Folder or URL of the store (default: $PURIFY_STORE, else .purify).")
]
Records = Annotated[
    Path | None, typer.Option(help="Folder of records, instead of the store's own and the shipped ones.")
]
Log = Annotated[
    Path | None, typer.Option("--log", help="File that progress is appended to (default: grid.log in a local store).")
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=VALUE",
        help="Only cells of this task, plm, attack, seed, defense, measure or hash; repeatable.",
    ),
]

_SHOWN = 200
_COLUMNS = ["task", "attack", "seed", "defense", "reserve", "max_drop", "acc", "asr", "bacc", "validation", "seconds"]


def _say(text: str) -> None:
    Console().print(escape(text), highlight=False, soft_wrap=True)


def _store(root: str | None, records: Path | None) -> "Store":
    from purify.grid.store import Store

    return Store.default(records, root)


def _cells(file: Path, only: list[str] | None) -> "list[Cell]":
    from purify.grid.files import load_grid, select

    return select(load_grid(file), only or [])


@app.command()
def plan(
    file: File,
    store: Where = None,
    records: Records = None,
    only: Only = None,
    keep_models: Annotated[bool, typer.Option(help="Count the cleaned checkpoints too.")] = False,
    every: Annotated[bool, typer.Option("--all", help=f"List all cells, not just the first {_SHOWN}.")] = False,
) -> None:
    """Print the cells of a grid, what is done already, and an estimate of time and disk for the rest."""
    from purify.grid.checks import unavailable
    from purify.grid.plan import plan as make_plan
    from purify.grid.spec import fingerprint

    made = make_plan(_cells(file, only), _store(store, records), keep_models=keep_models)
    listed = list(made.cells.items())[: None if every else _SHOWN]
    _say("\n".join(f"{'done' if done else 'to do':5} {fingerprint(cell)}  {cell}" for cell, done in listed))
    if len(listed) < len(made.cells):
        _say(f"… and {len(made.cells) - len(listed)} more (--all lists them)")
    left = len(made.cells) - made.done
    _say(f"\n{len(made.cells)} cells: {made.done} done, {left} to do")
    if left:
        basis = "from results in the store" if made.measured else "the store has nothing to go by: a guess"
        _say(f"to train: {made.suspects} suspects; to compute: {made.fishers} Fishers")
        _say(f"time: about {_duration(made.seconds)} on one worker ({basis}); disk: about {decimal(made.disk)}")
        for sentence in unavailable([cell for cell, done in made.cells.items() if not done]):
            _say(f"cannot run here: {sentence}")


@app.command()
def run(
    file: File,
    store: Where = None,
    records: Records = None,
    only: Only = None,
    processes: Annotated[int, typer.Option(min=0, help="Local processes that share the store.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Workers of a local Dask cluster.")] = 0,
    scheduler: Annotated[str, typer.Option(help="Join the Dask cluster of this scheduler: tcp://host:8786.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="Threads per worker (default: processors / workers).")] = 0,
    keep_models: Annotated[bool, typer.Option(help="Keep the cleaned checkpoints when they have been scored.")] = False,
    log: Log = None,
) -> None:
    """Run the cells that the store lacks, and print the scores of all; status 1 if a cell failed.

    Killed and started again, it goes on where it was. Started several times on one store, the runners share the work.
    """
    from purify.grid.runner import Options

    engine = _engine(processes, workers, scheduler, threads)
    cells, place = _cells(file, only), _store(store, records)
    _run(cells, place, engine, Options(keep_models, log=log), elsewhere=bool(scheduler))


@app.command()
def slurm(
    file: File,
    store: Where = None,
    records: Records = None,
    only: Only = None,
    jobs: Annotated[int, typer.Option(help="So many jobs at a time; each is one worker.")] = 4,
    cores: Annotated[int, typer.Option(help="Processors per job.")] = 4,
    memory: Annotated[str, typer.Option(help="Memory per job.")] = "16GB",
    walltime: Annotated[str, typer.Option(help="Time limit of a job, HH:MM:SS.")] = "08:00:00",
    gpus: Annotated[int, typer.Option(help="GPUs per job: 0 or 1.")] = 0,
    partition: Annotated[str, typer.Option(help="Slurm's partition.")] = "",
    account: Annotated[str, typer.Option(help="Slurm's account.")] = "",
    interface: Annotated[str, typer.Option(help="Network interface between the nodes, such as ib0.")] = "",
    option: Annotated[list[str] | None, typer.Option(help="Another #SBATCH option; repeatable.")] = None,
    log: Log = None,
    show: Annotated[bool, typer.Option("--show", help="Only print the job script.")] = False,
) -> None:
    """Run a grid with workers that are Slurm jobs; call it on a login node, and leave it running (tmux, nohup)."""
    from purify.grid.cluster import dask_cluster
    from purify.grid.runner import Options
    from purify.grid.slurm import Jobs, slurm_cluster, submit

    place, cells = _store(store, records), _cells(file, only)
    logs = str((place.folder.local or Path()) / "slurm")
    wanted = Jobs(jobs, cores, memory, walltime, gpus, partition, account, interface, tuple(option or ()), logs)
    with slurm_cluster(wanted) as cluster:
        if show:
            _say(cluster.job_script())
            return
        engine = dask_cluster(threads=cores, scheduler=cluster.scheduler_address)
        submit(cluster, wanted)
        _say(f"the jobs print to {logs}")
        _run(cells, place, engine, Options(log=log), elsewhere=True)


def _run(cells: "list[Cell]", store: "Store", engine: "Engine", options: "Options", *, elsewhere: bool) -> None:
    from purify.grid.runner import execute
    from purify.grid.store import records_of
    from purify.report.tables import as_frame

    report = execute(cells, store, engine=engine, options=options, elsewhere=elsewhere)
    found = [record for record in records_of(cells, store) if "scores" in record]
    if found:
        _say(as_frame(found[:_SHOWN])[_COLUMNS].round(1).to_string(index=False))
    if len(found) > _SHOWN:
        _say(f"… and {len(found) - _SHOWN} more: 'purify grid export' writes all")
    for cell, error in report.failed.items():
        _say(f"failed: {cell}: {error}")
    if report.failed:
        _say(f"{len(report.failed)} of {report.total} cells failed; 'purify grid status --tracebacks' tells more")
        sys.exit(1)


def _engine(processes: int, workers: int, scheduler: str, threads: int) -> "Engine":
    if sum(map(bool, (processes, workers, scheduler))) > 1:
        raise PurifyError("--processes, --workers and --scheduler exclude each other: give one of them")
    from purify.grid.processes import local_processes, pin, threads_per_worker
    from purify.grid.runner import in_process

    threads = threads or threads_per_worker(1 if scheduler else max(processes, workers, 1))
    if processes:
        return local_processes(processes, threads)
    if workers or scheduler:
        from purify.grid.cluster import dask_cluster

        return dask_cluster(threads=threads, workers=workers, scheduler=scheduler)
    pin(threads)
    return in_process


@app.command()
def status(
    file: Annotated[Path | None, typer.Argument(help="A grid file; without it, the whole store.")] = None,
    store: Where = None,
    records: Records = None,
    only: Only = None,
    tracebacks: Annotated[bool, typer.Option(help="Show where each failure came from.")] = False,
) -> None:
    """Say how many cells are done, running and failed."""
    from purify.grid.upkeep import status as look

    now = look(_store(store, records), _cells(file, only) if file else None)
    _say(f"{now.done} of {now.total} cells done, {len(now.running)} stages running, {len(now.failed)} failed")
    for key, holder in now.running.items():
        _say(f"running {key} on {holder['host']}, process {holder['pid']}")
    for key, failure in now.failed.items():
        _say(f"failed  {key} {failure['what']}: {failure['error']} ({failure['when']}, {failure['host']})")
        if tracebacks:
            _say(failure["traceback"])


@app.command()
def verify(store: Where = None, records: Records = None) -> None:
    """Check every record and checkpoint of a store; status 1 if one is damaged (the next run makes it again)."""
    from purify.grid.upkeep import verify as check
    from purify.progress import bar

    place = _store(store, records)
    looked_at = list(bar(check(place), desc="verifying", unit="file"))
    faults = [f"{where} is damaged: {fault}" for where, fault in looked_at if fault]
    _say(
        "\n".join([*faults, f"{len(looked_at) - len(faults)} records and checkpoints are sound, {len(faults)} damaged"])
    )
    if faults:
        sys.exit(1)


@app.command()
def gc(
    files: Files = None,
    store: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete what was set aside or left unfinished; with grid files, also checkpoints that their cells do not need.

    Records are never deleted.
    """
    from purify.grid.upkeep import rubbish

    place = _store(store, None)
    wanted = [cell for file in files for cell in _cells(file, None)] if files else None
    found = list(rubbish(place, wanted))
    for item in found:
        _say(f"{item.folder}/{item.name} ({item.reason}, {decimal(item.size)})")
        if not dry_run:
            item.folder.delete(item.name)
    dead = [] if dry_run else place.leases.clear()
    freed = decimal(sum(item.size for item in found))
    _say(f"{'would free' if dry_run else 'freed'} {freed}; {len(dead)} leases of dead runners cleared")


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .csv or .parquet.")],
    file: Annotated[Path | None, typer.Argument(help="A grid file; without it, all records.")] = None,
    store: Where = None,
    records: Records = None,
    only: Only = None,
) -> None:
    """Write one tidy table, a row per record: specification, scores with n, and where they come from."""
    from purify.report.export import export_records

    count = export_records(_store(store, records), _cells(file, only) if file else None, output)
    _say(f"{count} records: {output}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
