"""The diagonal Fisher: time and memory against an ordinary forward and backward pass, and against other libraries.

    .venv/bin/python -m pip install -e '.[peers]'  # once, for the peers; without them their rows are left out
    .venv/bin/python -m pip uninstall torchvision  # a peer brings it, of another torch perhaps; nothing here needs it
    .venv/bin/python benchmarks/fisher.py          # about an hour on 2 cores; killed and restarted, it goes on

Within a row all methods take turns in one process, and medians are shown. Times are per example: peers, which cost the
same for every example, get fewer of them than this project, whose set-up at the first batch is part of its time.
Memory is the peak on top of the loaded model, of one process per method.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fisher_methods import METHODS, MODELS, Batch, minilm, ordinary, random_batches, verdicts

from purify import fisher_diagonal
from purify.fisher._plan import make_plan
from purify.grid.environment import environment
from purify.hardware import device
from purify.plm import load_plm
from purify.report import benchmarks as report
from purify.report.figures import style
from purify.tasks import load_task
from purify.training import batches as sorted_batches

Row = dict[str, Any]

OWN = ("ordinary", "purify")
PEERS = ("loop over examples", "vmap(grad)", "Opacus")
# model, tokens, batch size, batches, examples for peers, methods, repetitions
CELLS = [
    ("MiniLM-L6", 64, 32, 8, 32, (*OWN, "purify, bf16", *PEERS), 5),
    ("MiniLM-L6", 128, 32, 8, 32, (*OWN, *PEERS), 5),
    ("BERT-base", 64, 32, 8, 4, (*OWN, *PEERS), 5),
    ("BERT-base", 128, 32, 4, 4, (*OWN, *PEERS), 5),
    ("MiniLM-L6", 32, 32, 8, 32, (*OWN, "purify, bf16", *PEERS), 5),
    ("MiniLM-L6", 512, 8, 2, 8, (*OWN, "purify, bf16", *PEERS), 5),
    ("BERT-base", 32, 32, 4, 4, (*OWN, *PEERS), 5),
    ("BERT-base", 512, 4, 2, 2, (*OWN, *PEERS[:2]), 5),
    ("RoBERTa-large", 32, 8, 2, 2, (*OWN, *PEERS[:1]), 5),
    ("RoBERTa-large", 128, 4, 2, 2, (*OWN, *PEERS[:1]), 5),
    ("RoBERTa-large", 512, 2, 2, 1, (*OWN, *PEERS[:1]), 5),
]
TOGETHER = {"MiniLM-L6": 8, "BERT-base": 4, "RoBERTa-large": 2}
"""Examples at a time for the peers that hold a gradient per example: what 24 GiB allow, with room to spare."""


def seconds(actions: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median seconds of each action; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions):
        for name, action in actions.items():
            _wait()
            started = time.perf_counter()
            action()
            _wait()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def speed(cell: tuple[Any, ...], known: dict[str, str]) -> list[Row]:
    """Time all methods on one model and length."""
    model_name, length, size, count, few, methods, repetitions = cell
    torch.manual_seed(0)
    model = MODELS[model_name]().eval().to(device())
    data = random_batches(model, length, size, count)
    less = [{key: value[:few] for key, value in data[0].items()}]
    actions: dict[str, Callable[[], Any]] = {}
    examples = {}
    for name in methods:
        if METHODS[name].peer and known.get(name) != "exact":
            continue
        mine = less if METHODS[name].peer else data
        examples[name] = few if METHODS[name].peer else size * count
        actions[name] = partial(METHODS[name].run, model, mine, TOGETHER[model_name])
    found = seconds(actions, repetitions)
    unit = found["ordinary"] / examples["ordinary"]
    trainable = dict(model.named_parameters())
    one = {key: value[:1] for key, value in data[0].items() if key != "labels"}
    setup = seconds({"": partial(make_plan, model, trainable, one)}, 5)[""]
    return [
        {
            "model": model_name,
            "tokens": length,
            "batch": size,
            "method": name,
            "examples": examples[name],
            "seconds_per_example": value / examples[name],
            "ratio": value / examples[name] / unit,
            "setup_seconds": setup if name == "purify" else None,
            "repetitions": repetitions,
        }
        for name, value in found.items()
    ]


def text() -> list[Row]:
    """Real text: 256 rows of AG News, in batches sorted by length, against batches as the rows come."""
    rows = load_task("ag_news").train.select(range(256))
    plm = load_plm()
    model = plm.classifier(4, seed=0).eval().to(device())
    by_length = list(sorted_batches(rows, plm.tokenizer, batch_size=32, max_length=128))
    as_they_come: list[Batch] = []
    for start in range(0, len(rows), 32):
        part = rows.select(range(start, start + 32))
        made = plm.tokenizer(list(part["text"]), truncation=True, max_length=128, padding=True, return_tensors="pt")
        as_they_come.append({**made, "labels": torch.tensor(part["label"])})
    by_length, as_they_come = _moved(by_length), _moved(as_they_come)
    found = seconds(
        {
            "ordinary": partial(ordinary, model, as_they_come, 0),
            "ordinary, sorted by length": partial(ordinary, model, by_length, 0),
            "purify, sorted by length": partial(fisher_diagonal, model, by_length),
        },
        repetitions=7,
    )
    return [
        {"model": "MiniLM-L6", "method": name, "examples": len(rows), "seconds_per_example": value / len(rows)}
        | {"ratio": value / found["ordinary"], "batch": 32, "repetitions": 7}
        for name, value in found.items()
    ]


def _moved(batches: list[Batch]) -> list[Batch]:
    return [{key: value.to(device()) for key, value in batch.items()} for batch in batches]


def growth() -> list[Row]:
    """Time against the number of examples, and of parameters outside the embeddings."""
    model = minilm().eval().to(device())
    data = random_batches(model, 64, 32, 8)
    rows = []
    found = seconds({str(k): partial(fisher_diagonal, model, data[:k]) for k in (1, 2, 4, 8)}, repetitions=5)
    for k, value in found.items():
        rows.append({"model": "MiniLM-L6", "tokens": 64, "batch": 32, "examples": 32 * int(k), "seconds": value})
    for width, layers in ((256, 6), (384, 6), (384, 12), (512, 12), (768, 6), (768, 12)):
        model = minilm(
            hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width, num_attention_heads=width // 32
        )
        model = model.eval().to(device())
        data = random_batches(model, 64, 32, 2)
        found = seconds({"purify": partial(fisher_diagonal, model, data)}, repetitions=3)
        inner = sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name)
        rows.append({"model": f"BERT, {layers} × {width}", "tokens": 64, "batch": 32, "examples": 64})
        rows[-1] |= {"parameters": inner, "seconds": found["purify"]}
    return [{"method": "purify", **row} for row in rows]


def memory(known: dict[str, str]) -> list[Row]:
    """Peak memory on top of the model, over two batches; peers take fewer examples at a time where they must.

    The ordinary pass drops its gradients after each batch, as training does, while all others keep a sum.
    """
    rows = []
    for model, length in (("MiniLM-L6", 64), ("BERT-base", 64), ("BERT-base", 128)):
        of_model = []
        for name in (*OWN, "purify, bf16", *PEERS):
            if METHODS[name].peer and known.get(name) != "exact":
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                weights, on_top = pool.apply(peak_memory, (model, length, name))
            row = {"model": model, "tokens": length, "batch": 32, "method": name}
            of_model.append(row | {"megabytes_model": weights / 1e6, "megabytes": on_top / 1e6})
        unit = of_model[0]["megabytes"]
        for row in of_model:
            whole = (row["megabytes_model"] + row["megabytes"]) / (row["megabytes_model"] + unit)
            rows.append(row | {"ratio": row["megabytes"] / unit, "ratio_with_model": whole})
    return rows


def peak_memory(model_name: str, length: int, name: str) -> tuple[int, int]:
    """Bytes of the weights, and at the peak on top of the loaded model, in a process of its own."""
    model = MODELS[model_name]().eval().to(device())
    data = random_batches(model, length, 32, 2)
    weights = sum(p.nbytes for p in model.parameters())
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        METHODS[name].run(model, data, TOGETHER[model_name])
        return weights, torch.cuda.max_memory_allocated() - before
    METHODS["ordinary"].run(model, [{key: value[:1] for key, value in data[0].items()}], 1)  # libraries' own memory
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    METHODS[name].run(model, data, TOGETHER[model_name])
    return weights, _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def error() -> list[Row]:
    """How far fp32 and bf16 are from float64, on real text and weights."""
    rows = load_task("ag_news").train.select(range(128))
    plm = load_plm()
    data = list(sorted_batches(rows, plm.tokenizer, batch_size=32, max_length=128))
    model = plm.classifier(4, seed=0).eval()
    found = {
        "fp32": fisher_diagonal(model, data),
        "fp32, kahan": fisher_diagonal(model, data, accumulate="kahan"),
        "fp32, sums in fp64": fisher_diagonal(model, data, accumulate="fp64"),
        "bf16": fisher_diagonal(model, data, precision="bf16"),
    }
    wanted = {name: value.double() for name, value in fisher_diagonal(model.double(), data).items()}
    result = []
    for how, diagonal in found.items():
        parts = [(diagonal[n].double(), f) for n, f in wanted.items() if not n.endswith("key.bias")]
        largest = max(((value - exact).abs().max() / exact.max()).item() for value, exact in parts)
        relative = torch.cat([((value - exact).abs() / exact)[exact > 0].flatten() for value, exact in parts])
        median = relative.median().item()
        result.append({"model": "MiniLM-L6", "method": how, "largest_error": largest, "median_error": median})
    return result


def main() -> None:
    """Run what is missing, and write the tables after every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/fisher.csv"))
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--only", nargs="+", choices=["text", "error", "speed", "growth", "memory"])
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    done = options.output.with_suffix(".partial.jsonl")
    if options.fresh:
        done.unlink(missing_ok=True)
    rows = [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
    known = dict(verdicts())
    parts: dict[str, Callable[[], list[Row]]] = {
        "peers": lambda: [{"method": name, "verdict": verdict} for name, verdict in known.items()],
        "text": text,
        "error": error,
        **{f"speed {cell[0]} {cell[1]}": partial(speed, cell, known) for cell in CELLS},
        "growth": growth,
        "memory": partial(memory, known),
    }
    here = environment("fp32")
    for part, measure in parts.items():
        kind = part.split()[0]
        if any(row["key"] == part for row in rows) or (options.only and kind not in (*options.only, "peers")):
            continue
        print(part, file=sys.stderr, flush=True)
        facts = {"device": here["device"], "cores": os.cpu_count(), "torch": here["packages"]["torch"]}
        facts |= {"revision": here["revision"], "day": datetime.now(UTC).date().isoformat()}
        new = [{"key": part, "part": kind, **row, **facts} for row in measure()]
        for row in new:
            print("  ", {k: v for k, v in row.items() if k not in ("key", *facts)}, file=sys.stderr, flush=True)
        rows += new
        with done.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        write(rows, options.output)
    write(rows, options.output)


def write(rows: list[Row], output: Path) -> None:
    """Write the numbers as CSV, the tables as Markdown, and the plots."""
    frame = pd.DataFrame(rows).drop(columns="key")
    frame.to_csv(output, index=False, float_format="%.5g")
    tables = {
        "speed": ("Time per example, ordinary forward and backward = 1", report.speed_table),
        "text": ("Real text, batches as they come or sorted by length", report.text_table),
        "memory": ("Peak memory on top of the model, ordinary = 1", report.memory_table),
        "error": ("Error against float64", report.error_table),
        "peers": ("What a tiny BERT gets", report.peers_table),
    }
    found = set(frame["part"])
    parts = [
        f"{title}\n\n{table(frame).to_markdown(index=False)}"
        for part, (title, table) in tables.items()
        if part in found
    ]
    parts.append(f"{report.machine(frame)}. By `benchmarks/fisher.py`.")
    output.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    style()
    for part, figure in (("speed", report.speed_figure), ("growth", report.growth_figure)):
        if part in found:
            figure(frame).savefig(output.with_name(f"{output.stem}-{part}.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
