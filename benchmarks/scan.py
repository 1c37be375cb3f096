"""What `purify scan` and `purify clean` take: time of the whole command, and memory beside the size of the model.

    .venv/bin/python benchmarks/scan.py       # some minutes on 2 cores; writes results/benchmarks/scan.csv

MiniLM is the suspect of the book's first chapter, as `purify attack` delivers it. The BERT-base-sized model has random
weights, and a drift of the size that fine-tuning leaves: what a scan takes does not depend on what it finds. Each
command runs in a process of its own, with 64 clean examples; medians of the repetitions. Memory is the peak of resident
pages less those after a scan of a tiny model, in units of the weights in fp32; file pages that are mapped count.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from noted import noted, write
from transformers import BertConfig, BertForSequenceClassification, BertModel

from purify import load_plm, load_task
from purify.attacks import ATTACKS
from purify.grid import Cell, Store, Suspect
from purify.grid.delivery import deliver
from purify.plm import save_checkpoint

PEAK = """
import sys
import psutil
from purify.case import open_case
from purify.grid.environment import _peak_mib, forget_peak
from purify.rows import read_rows
from purify.scanning import scan

def work(suspect, clean, data):
    case = open_case(suspect, clean)
    scan(case, read_rows(data, case.labels))

*tiny, data, suspect, clean = sys.argv[1:]
work(*tiny, data)
before = psutil.Process().memory_info().rss / 2**20
forget_peak()
work(suspect, clean, data)
print(_peak_mib() - before)
"""


def drifted(folder: Path, labels: tuple[str, ...], **sizes: int) -> int:
    """Write a clean BERT, and a classifier that drifted away from it; return how many weights it has.

    Args:
        folder: Gets ``clean`` and ``suspect``.
        labels: Names of the classes.
        sizes: Of its config; by default those of BERT-base.
    """
    torch.manual_seed(0)
    tokenizer = load_plm().tokenizer
    clean = BertModel(BertConfig(**sizes))
    save_checkpoint(clean, tokenizer, folder / "clean")
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model = BertForSequenceClassification(BertConfig(**names, **sizes))
    model.bert.load_state_dict(
        {key: value + 1e-4 * torch.randn_like(value) for key, value in clean.state_dict().items()}
    )
    save_checkpoint(model, tokenizer, folder / "suspect")
    return sum(value.numel() for value in model.parameters())


def timed(*words: str) -> float:
    """Run ``purify`` with these words and return the seconds that it took."""
    started = time.perf_counter()
    command = [sys.executable, "-c", "from purify.cli import main; main()", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run all, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--train", type=int, default=1000, help="of the suspect")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/scan.csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        task = load_task("docstrings", clean_per_class=16)
        names = [task.task.labels[label] for label in task.clean["label"]]
        data = root / "clean.csv"
        pd.DataFrame({"text": list(task.clean["text"]), "label": names}).to_csv(data, index=False)
        base = drifted(root / "base", task.task.labels)
        drifted(root / "tiny", task.task.labels, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        cell = Cell(Suspect("docstrings", ATTACKS.named("BadWord"), train=options.train), validation=8, test=8)
        deliver(cell, Store.default(), root / "minilm")
        common = {
            "MiniLM": (root / "minilm", "bundled"),
            "BERT-base-sized": (root / "base" / "suspect", root / "base" / "clean"),
        }
        rows = [{"what": "`purify --help`", "seconds": [timed("--help") for _ in range(options.repetitions)]}]
        for name, (suspect, clean) in common.items():
            given = (str(suspect), "--clean", str(clean), "--data", str(data))
            scans = [timed("scan", *given) for _ in range(options.repetitions)]
            weights = base if name != "MiniLM" else load_plm().model.num_parameters()
            places = (root / "tiny" / "suspect", root / "tiny" / "clean", data, suspect, clean)
            peak = float(subprocess.check_output([sys.executable, "-c", PEAK, *map(str, places)], text=True))
            rows.append({"what": f"scan, {name}", "seconds": scans, "memory": round(peak * 2**20 / (4 * weights), 2)})
        cleans = [
            timed("clean", str(root / "minilm"), "--data", str(data), "-o", str(root / f"out{i}"))
            for i in range(options.repetitions)
        ]
        rows.append({"what": "clean, MiniLM", "seconds": cleans})
    frame = pd.DataFrame(rows)
    frame["seconds"] = [round(statistics.median(values), 2) for values in frame["seconds"]]
    frame = noted(frame, options.repetitions)
    write(frame, options.output, markdown)
    sys.stdout.write(markdown(frame))


def markdown(frame: pd.DataFrame) -> str:
    """Return the table of the book."""
    lines = ["| | seconds | peak memory / weights in fp32 |", "| --- | --- | --- |"]
    for row in frame.itertuples(index=False):
        memory = "" if pd.isna(row.memory) else f"{row.memory:.2f}"
        lines.append(f"| {row.what} | {row.seconds:.1f} | {memory} |")
    one = frame.iloc[0]
    note = f"Medians of {one['repetitions']}; {one['device']}, {one['cores']} cores, {one['precision']}, "
    return "\n".join([*lines, "", f"{note}torch {one['torch']}, {one['day']}.", ""])


if __name__ == "__main__":
    main()
