"""What Fine-purifying costs beside plain fine-tuning on the same few clean examples.

    .venv/bin/python benchmarks/purifying.py       # about 5 minutes on 2 cores; writes results/benchmarks/purifying.csv

The suspect is that of the book's first chapter (trained if the store lacks it), with 64 clean examples. Fine-tuning
alone and Fine-purifying, Fisher included, are timed in one run, interleaved, medians of the repetitions; then once a
sweep over ten reserve ratios, which computes the Fisher once.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from noted import noted, write

from purify import grid
from purify.budget import FINE_TUNING
from purify.defenses import FinePurifying, FineTuning
from purify.plm import load_plm
from purify.resources import Resources

RATIOS = tuple(step / 10 for step in range(10))


def timed(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Run all, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--train", type=int, default=1000, help="of the suspect")
    parser.add_argument("--epochs", type=int, default=FINE_TUNING.epochs, help="of the fine-tuning")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/purifying.csv"))
    options = parser.parse_args()
    cell = grid.Cell(
        grid.Suspect("docstrings", grid.Named("BadWord"), train=options.train),
        validation=300,
        test=600,
        tuning=replace(FINE_TUNING, epochs=options.epochs),
    )
    suspect, plm = grid.suspect_model(cell, grid.Store.default()), load_plm()
    clean = grid.splits_of(cell).clean

    def fresh() -> Resources:
        return Resources(suspect, plm, clean, cell.tuning)

    work: dict[str, Callable[[], object]] = {
        "fine-tuning": lambda: FineTuning().apply(fresh()),
        "the Fisher alone": lambda: fresh().fisher,
        "Fine-purifying (Fisher, reset, fine-tuning)": lambda: FinePurifying().apply(fresh()),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.repetitions):
        for name, call in work.items():
            times[name].append(timed(call))
    rows = [{"what": name, "seconds": round(statistics.median(values), 2)} for name, values in times.items()]
    shared = fresh()
    sweep = timed(lambda: [FinePurifying(reserve=ratio).apply(shared) for ratio in RATIOS])
    rows.append({"what": "the same for each of ten ρ, the Fisher shared", "seconds": round(sweep / len(RATIOS), 2)})
    frame = pd.DataFrame(rows)
    frame["of fine-tuning"] = (frame["seconds"] / frame["seconds"].iloc[0]).round(2)
    frame = noted(frame, options.repetitions)
    write(frame, options.output, markdown)
    sys.stdout.write(markdown(frame))


def markdown(frame: pd.DataFrame) -> str:
    """Return the table of the book."""
    lines = ["| | seconds | of fine-tuning |", "| --- | --- | --- |"]
    lines += [f"| {row.what} | {row.seconds:.2f} | {row[2]:.2f}× |" for row in frame.itertuples(index=False)]
    one = frame.iloc[0]
    note = f"Medians of {one['repetitions']}, interleaved; {one['device']}, {one['cores']} cores, {one['precision']}, "
    return "\n".join([*lines, "", f"{note}torch {one['torch']}, {one['day']}.", ""])


if __name__ == "__main__":
    main()
