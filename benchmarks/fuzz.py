"""Feed `purify scan` mutated checkpoints and data files by the thousand, and watch what it does.

Every case is a sound tiny checkpoint with a sound data file, one of them changed: the header of the safetensors file,
its bytes, the config, the shard index, the tokenizer's config, the rows, or a LoRA adapter; or with a stray file, link
or folder in it. Anything but a result or a `PurifyError` is a crash. An audit hook of the interpreter watches for files
that are written outside the scratch folder, processes, connections, and classes that a pickle asks for: these cases
misbehave.

    .venv/bin/python benchmarks/fuzz.py                       # 20,000 cases; writes results/benchmarks/fuzz.csv
    .venv/bin/python benchmarks/fuzz.py --first 17 --cases 1  # one of them again

Ends with status 1 if a case crashed or misbehaved; it is named by its number.
"""

import argparse
import json
import logging
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pandas as pd
import torch
from mutations import flipped, mutated, strewn
from noted import noted, write
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from purify import PurifyError, read_rows
from purify.case import open_case
from purify.progress import bar, silence
from purify.scanning import scan

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad a film plot war oil cf the of"
WORDS = VOCABULARY.split()
KINDS = ("header", "bytes", "config", "index", "tokenizer", "rows", "adapter", "strewn")
FOLDERS = {"index": "parts", "adapter": "adapter"}
WATCHED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


class Watch:
    """What the interpreter does meanwhile that it should not."""

    def __init__(self, allowed: Path) -> None:
        self.seen: list[str] = []
        self.on = False
        self.allowed = str(allowed)
        sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an event."""
        if not self.on:
            return
        if event in WATCHED:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[1], str):
            path = str(Path(arguments[0]).absolute())
            if set(arguments[1]) & set("wax+") and not path.startswith((self.allowed, "/dev/null")):
                self.seen.append(f"wrote {path}")


def sound(folder: Path) -> None:
    """Write a clean model, a classifier that came from it, the same in shards, an adapter of it, and rows."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=8, max_position_embeddings=32, num_labels=2)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names)
    clean = BertModel(config)
    suspect = BertForSequenceClassification(config)
    suspect.bert.load_state_dict({k: v + 0.001 * torch.randn_like(v) for k, v in clean.state_dict().items()})
    for model, name, options in (
        (clean, "clean", {}),
        (suspect, "whole", {}),
        (suspect, "parts", {"max_shard_size": "1KB"}),
    ):
        model.save_pretrained(folder / name, **options)
        fast.save_pretrained(folder / name)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    get_peft_model(suspect, lora).save_pretrained(folder / "adapter")
    rows = {"text": ["a good film", "the bad plot", "war of oil", "the film"] * 3, "label": [0, 1, 0, 1] * 3}
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "rows.csv", index=False)
    frame.to_parquet(folder / "rows.parquet")
    frame.to_json(folder / "rows.jsonl", orient="records", lines=True)


def change(kind: str, folder: Path, rng: random.Random) -> tuple[Path, Path, bool]:
    """Change one thing; return the folder of the checkpoint, the file of the rows, and whether it must be refused."""
    forbidden = False
    rows = folder / rng.choice(["rows.csv", "rows.parquet", "rows.jsonl"])
    suspect = folder / FOLDERS.get(kind, "whole")
    match kind:
        case "header":
            path = suspect / "model.safetensors"
            data = path.read_bytes()
            (length,) = struct.unpack("<Q", data[:8])
            header = json.dumps(mutated(json.loads(data[8 : 8 + length]), rng)).encode()
            size = len(header) if rng.random() < 0.9 else rng.choice([0, 1, 2**40, 2**64 - 1])
            path.write_bytes(struct.pack("<Q", size) + header + data[8 + length :])
        case "bytes":
            path = suspect / "model.safetensors"
            data = path.read_bytes()
            path.write_bytes(flipped(data[:400], rng) + data[400:] if rng.random() < 0.7 else flipped(data, rng))
        case "rows":
            content = rows.read_bytes()
            if rows.suffix == ".jsonl" and rng.random() < 0.5:
                lines = [json.loads(line) for line in content.splitlines()]
                place = rng.randrange(len(lines))
                lines[place] = mutated(lines[place], rng)
                content = b"\n".join(json.dumps(line).encode() for line in lines)
            else:
                content = flipped(content, rng)
            rows.write_bytes(content)
        case "strewn":
            forbidden = strewn(suspect, folder / "clean" / "config.json", rng)
        case "adapter" if rng.random() < 0.3:
            path = suspect / "adapter_model.safetensors"
            path.write_bytes(flipped(path.read_bytes(), rng))
        case _:
            names = {
                "config": "config.json",
                "index": "model.safetensors.index.json",
                "tokenizer": "tokenizer_config.json",
                "adapter": "adapter_config.json",
            }
            path = suspect / names[kind]
            if rng.random() < 0.8:
                path.write_text(json.dumps(mutated(json.loads(path.read_text()), rng)))
            else:
                path.write_bytes(flipped(path.read_bytes(), rng))
    return suspect, rows, forbidden


class Run:
    """The cases, one after the other.

    Args:
        root: The scratch folder.
        every: Of those that can be loaded, every so many are scanned, too.
    """

    def __init__(self, root: Path, every: int) -> None:
        self.root, self.every = root, every
        self.counts: Counter[tuple[str, str]] = Counter()
        sound(root / "sound")
        for name in ("whole", "parts", "adapter"):  # nothing of them is refused, and all is imported now
            self._use(root / "sound" / name, root / "sound" / "rows.csv", root / "sound" / "clean")
        self.watch = Watch(root)

    def case(self, number: int) -> None:
        """Run one: count what came of it, and print what should not have happened."""
        kind, rng, folder = KINDS[number % len(KINDS)], random.Random(number), self.root / "case"
        shutil.copytree(self.root / "sound", folder)
        suspect, rows, forbidden = change(kind, folder, rng)
        self.watch.on = True
        outcome = "refused"
        try:
            outcome = self._use(suspect, rows, folder / "clean", whole=not self.counts[kind, "loaded"] % self.every)
        except PurifyError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                self.watch.seen.append(f"no sentence: {error!r:.300}")
        except Exception as error:
            outcome = "crashed"
            self.watch.seen.append(f"{type(error).__name__}: {error!s:.300}")
        self.watch.on = False
        if forbidden and outcome == "loaded":
            self.watch.seen.append("followed a link that leads outside")
        self.counts[kind, outcome] += 1
        if self.watch.seen:
            print(f"case {number} ({kind}): {self.watch.seen}", file=sys.stderr)
            self.counts[kind, "misbehaved"] += 1
            self.watch.seen.clear()
        shutil.rmtree(folder)

    def _use(self, suspect: Path, rows: Path, clean: Path, whole: bool = True) -> str:
        case = open_case(suspect, clean)
        found = read_rows(rows, case.labels)
        if whole:
            scan(case, found, max_length=32)
        return "loaded"


def cases(numbers: range, every: int) -> Counter[tuple[str, str]]:
    """Run some cases in this process, and return how many of each kind ended how."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    silence()
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # what is staged goes there, too
        run = Run(Path(scratch), every)
        for number in numbers:
            run.case(number)
    tempfile.tempdir = None
    return run.counts


def main() -> None:
    """Run the cases, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    parser.add_argument("--every", type=int, default=20, help="of those that can be loaded, so many are scanned, too")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/fuzz.csv"))
    options = parser.parse_args()
    started = time.perf_counter()
    last, step = options.first + options.cases, 500
    parts = [range(first, min(first + step, last)) for first in range(options.first, last, step)]
    counts: Counter[tuple[str, str]] = Counter()
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for found in bar(pool.map(partial(cases, every=options.every), parts), total=len(parts), desc=f"{step} cases"):
            counts += found
    outcomes = ("refused", "loaded", "crashed", "misbehaved")
    table = pd.DataFrame([{"changed": kind, **{name: counts[kind, name] for name in outcomes}} for kind in KINDS])
    print(table.to_string(index=False))
    if options.cases >= 1000:
        seconds = round(time.perf_counter() - started)
        write(noted(table.assign(seconds=seconds), 1), options.output, lambda _: markdown(table))
    sys.exit(int(table[["crashed", "misbehaved"]].to_numpy().sum() > 0))


def markdown(table: pd.DataFrame) -> str:
    """Return what the book shows."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in [table.columns, ["---"] * table.shape[1], *table.to_numpy()]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
