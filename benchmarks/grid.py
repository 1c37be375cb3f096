"""What the grid costs: workers against one, Dask's share, and planning at scale.

    .venv/bin/python benchmarks/grid.py            # about 10 minutes on 2 cores; writes results/benchmarks/grid.csv

All ratios are of runs in one call, interleaved, medians of the repetitions. Throughput is counted from the fourth cell
that is done to the last, so that starting Python, torch and the workers, and loading what the cells share, is not part
of it; suspects and Fishers are made before. Times of commands include all of that.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import yaml
from noted import noted, write
from transformers import BertConfig, BertModel

from purify.attacks import ATTACKS
from purify.budget import Training
from purify.defenses import DEFENSES
from purify.grid import Cell, Store, Suspect, load_grid
from purify.grid.cluster import dask_cluster
from purify.grid.plan import plan
from purify.grid.processes import local_processes, pin
from purify.grid.runner import Engine, Options, execute, in_process
from purify.grid.schedule import Job, Outcome, Schedule, State
from purify.grid.spec import fingerprint
from purify.grid.upkeep import status
from purify.home import BUNDLED, location

QUICK = Training(epochs=1)
SCALE = 100_000
WARM = 4
"""So many cells are done before the clock starts."""


class Clock:
    """Takes the place of the monitor and notes when cells are done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def show(self, schedule: Schedule, job: Job, outcome: Outcome | None = None) -> None:
        """Note the time when a cell is done."""
        if job.kind == "score" and outcome and outcome.state is State.DONE:
            self.times.append(time.perf_counter())

    def seconds_per_cell(self) -> float:
        """The time between two cells that are done, once every worker has loaded what the cells share."""
        times = self.times[WARM - 1 :]
        return (times[-1] - times[0]) / (len(times) - 1)


def seconds_per_cell(cells: list[Cell], root: Path, engine: Engine, threads: int) -> float:
    """Run the cells with an engine, after everything before them was made, and forget their records."""
    store = Store(root)
    pin(threads)
    clock = Clock()
    schedule = Schedule(cells, store)
    engine(schedule, store, Options(), clock)  # type: ignore[arg-type]
    assert not schedule.failed, schedule.failed
    shutil.rmtree(root / "records")
    return clock.seconds_per_cell()


def prepared(cells: list[Cell], root: Path) -> list[Cell]:
    """Make the suspects and Fishers, and return the cells."""
    execute([cells[0], cells[-1]], Store(root))
    shutil.rmtree(root / "records")
    return cells


def defended(suspect: Suspect, count: int, **sizes: int) -> list[Cell]:
    """Return cells of one suspect that differ in ρ."""
    base = Cell(suspect, tuning=QUICK, **sizes)
    names = ("FineMixing", "FinePurifying")
    ratios = [(i + 1) / (count // 2 + 2) for i in range(count // 2)]
    return [replace(base, defense=DEFENSES.named(name, reserve=ratio)) for name in names for ratio in ratios]


def workers(folder: Path, repetitions: int) -> dict[str, float]:
    """Seconds per cell of the bundled model, by engine."""
    suspect = Suspect("docstrings", ATTACKS.named("BadWord"), train=200, training=Training(epochs=1))
    cells = prepared(defended(suspect, 20, clean_per_class=2, validation=16, test=16), folder)
    engines: dict[str, tuple[Engine, int]] = {
        "1 worker, 1 thread": (in_process, 1),
        "1 worker, 2 threads": (in_process, 2),
        "2 Dask workers, 1 thread each": (dask_cluster(threads=1, workers=2), 1),
        "2 processes, 1 thread each": (local_processes(2, threads=1), 1),
    }
    return medians(cells, folder, engines, repetitions)


def overhead(folder: Path, repetitions: int) -> dict[str, float]:
    """Seconds per cell of a tiny model, in process and on one Dask worker."""
    plm = folder / "plm"
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    BertModel(BertConfig(vocab_size=30522, max_position_embeddings=128, **sizes)).save_pretrained(plm)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(Path(location(BUNDLED)) / name, plm)
    suspect = Suspect("docstrings", ATTACKS.named("BadWord"), plm=str(plm), train=16, training=Training(epochs=1))
    cells = prepared(defended(suspect, 40, clean_per_class=1, validation=8, test=8), folder / "store")
    engines: dict[str, tuple[Engine, int]] = {
        "in process": (in_process, 1),
        "1 Dask worker": (dask_cluster(threads=1, workers=1), 1),
    }
    return medians(cells, folder / "store", engines, repetitions)


def medians(
    cells: list[Cell], root: Path, engines: dict[str, tuple[Engine, int]], repetitions: int
) -> dict[str, float]:
    """Median seconds per cell of each engine, repetitions interleaved."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repetitions):
        for name, (engine, threads) in engines.items():
            times[name].append(seconds_per_cell(cells, root, engine, threads))
            print(f"  {name}: {times[name][-1]:.3f} s per cell", file=sys.stderr)
    return {name: statistics.median(values) for name, values in times.items()}


def scale(folder: Path, repetitions: int) -> dict[str, float]:
    """Seconds for a grid of 100,000 cells, half of which have a record."""
    file = folder / "large.yml"
    grid = {
        "suspect": {"task": ["ag_news", "imdb", "qqp", "qnli"]},
        "attack": [{"name": name} for name in ("BadWord", "BadSent", "BiasWord", "BiasSent")],
        "seeds": list(range(125)),
        "defenses": {"FineMixing": {"reserve": [i / 50 for i in range(49)]}},
    }
    file.write_text(yaml.safe_dump(grid), encoding="utf-8")
    cells = load_grid(file)
    assert len(cells) == SCALE
    store = Store(folder / "store")
    records = folder / "store" / "records"
    records.mkdir(parents=True)
    for cell in cells[: SCALE // 2]:
        (records / f"{fingerprint(cell)}.json").write_bytes(b"{}")
    command = [sys.executable, "-c", "from purify.cli import main; main()", "grid"]
    place = [str(file), "--store", str(store.root), "--records", str(records)]
    timed = {
        "read and plan, in Python": lambda: plan(load_grid(file), store),
        "status, in Python": lambda: status(store, cells),
        "read the grid and status, in Python": lambda: status(store, load_grid(file)),
        "purify grid plan": lambda: subprocess.run([*command, "plan", *place], check=True, stdout=subprocess.DEVNULL),
        "purify grid status": lambda: subprocess.run([*command, "status", *place], check=True, capture_output=True),
    }
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repetitions):
        for name, action in timed.items():
            started = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Run all, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/grid.csv"))
    parser.add_argument("--only", choices=["workers", "overhead", "scale"])
    options = parser.parse_args()
    rows = []
    for part in (scale, overhead, workers):
        if options.only in (None, part.__name__):
            print(f"{part.__name__}: {part.__doc__}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                found = part(Path(folder), options.repetitions)
            first = next(iter(found.values()))
            rows += [
                {"part": part.__name__, "what": name, "seconds": round(value, 4), "speed": round(first / value, 2)}
                for name, value in found.items()
            ]
    frame = noted(pd.DataFrame(rows), options.repetitions)
    write(frame, options.output, markdown)
    print(frame[["part", "what", "seconds", "speed"]].to_string(index=False))


PARTS = {
    "scale": "A grid of 100,000 cells, half of them done",
    "overhead": "One cell of a tiny model: what Dask adds",
    "workers": "One cell of the bundled model, by engine",
}


def markdown(frame: pd.DataFrame) -> str:
    """Return the table as the book shows it."""
    lines = ["| what | seconds | speed |", "| --- | --- | --- |"]
    for part, rows in frame.groupby("part", sort=False):
        lines.append(f"| **{PARTS[str(part)]}** | | |")
        scale = part == "scale"
        lines += [f"| {r.what} | {r.seconds:.3f} | {'' if scale else f'{r.speed:.2f}'} |" for r in rows.itertuples()]
    one = frame.iloc[0]
    return "\n".join(lines) + (
        f"\n\n{one.device}, {one.cores} cores, torch {one.torch}, {one.precision}; medians of {one.repetitions}, "
        f"interleaved in one run; speed relative to the first row of each part. By `benchmarks/grid.py`, {one.day}.\n"
    )


if __name__ == "__main__":
    main()
