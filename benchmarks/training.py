"""What the training of a suspect costs, and what makes it fast.

    .venv/bin/python benchmarks/training.py        # about 10 minutes on 2 cores; writes results/benchmarks/training.csv

The settings are added one by one to what a plain script does. All are timed in one run, interleaved, medians of the
repetitions, over the same rows. At last the whole training of one suspect, as the library does it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from noted import noted, write
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer

from purify.attacks import BadWord, Means
from purify.budget import Training
from purify.plm import CleanPLM, load_plm
from purify.tasks import Splits, load_task
from purify.training import arguments, encode

ROWS = 640
"""At most so many rows are timed with each setting."""
LENGTH = 64

PLAIN = {"train_sampling_strategy": "random", "bf16": False, "optim": "adamw_torch"}
SETTINGS: dict[str, tuple[bool, dict[str, Any]]] = {
    "all inputs padded to 64 tokens, fp32": (True, PLAIN),
    "+ padded to the longest of the batch": (False, PLAIN),
    "+ batches of like length": (False, {"bf16": False, "optim": "adamw_torch"}),
    "+ bf16 autocast, if the processor multiplies faster in it": (False, {"optim": "adamw_torch"}),
    "+ fused AdamW (as in purify)": (False, {}),
}


def seconds(padded: bool, changes: dict[str, Any], plm: CleanPLM, task: Splits) -> float:
    """Time one pass over the rows."""
    training = Training(epochs=1, max_length=LENGTH)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": LENGTH} if padded else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            plm.classifier(len(task.task.labels), seed=0),
            arguments(training, folder, seed=0, **changes),
            data_collator=DataCollatorWithPadding(plm.tokenizer, **padding),
            train_dataset=encode(task.train.select(range(min(ROWS, len(task.train)))), plm.tokenizer, LENGTH),
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def main() -> None:
    """Run all, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--task", default="ag_news", help="needs its rows: PURIFY_DATA_DIR, or the hub")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/training.csv"))
    options = parser.parse_args()
    plm, task = load_plm(), load_task(options.task, train=options.train)
    timed = min(ROWS, options.train)
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(options.repetitions):
        for name, (padded, changes) in SETTINGS.items():
            times[name].append(seconds(padded, changes, plm, task))
            print(f"  {name}: {timed / times[name][-1]:.1f} examples/s", file=sys.stderr)
    rows = [{"what": name, "examples": timed, "seconds": statistics.median(values)} for name, values in times.items()]
    attack, budget = BadWord(), Training(max_length=LENGTH)
    started = time.perf_counter()
    attack.train(Means(plm.classifier(len(task.task.labels), seed=0), task.train, plm, budget))
    examples = round(options.train * (1 + attack.ratio)) * budget.epochs
    what = f"BadWord, whole: {options.train} rows and {attack.ratio:.0%} copies, {budget.epochs} epochs"
    rows.append({"what": what, "examples": examples, "seconds": time.perf_counter() - started})
    frame = noted(pd.DataFrame(rows).assign(task=options.task), options.repetitions)
    frame["examples_per_second"] = frame["examples"] / frame["seconds"]
    write(frame.round(3), options.output, markdown)
    print(frame[["what", "seconds", "examples_per_second"]].round(1).to_string(index=False))


def markdown(frame: pd.DataFrame) -> str:
    """Return the table as the book shows it."""
    first = frame["examples_per_second"].iloc[0]
    lines = ["| training MiniLM | examples/s | speed | seconds |", "| --- | --- | --- | --- |"]
    for row in frame.itertuples():
        speed = row.examples_per_second
        lines.append(f"| {row.what} | {speed:.0f} | {speed / first:.2f} | {row.seconds:.0f} |")
    one = frame.iloc[0]
    return "\n".join(lines) + (
        f"\n\n{one.task}, batches of 32, at most {LENGTH} tokens; {one.device}, {one.cores} cores, torch {one.torch}; "
        f"medians of {one.repetitions}, interleaved in one run; the last row once. "
        f"By `benchmarks/training.py`, {one.day}.\n"
    )


if __name__ == "__main__":
    main()
