"""Feed `purify scan` mutated checkpoints and data files by the thousand, and watch what it does.

Every case is a sound tiny checkpoint with a sound data file, one of them changed: the header of the safetensors file,
its bytes, the config, the shard index, the tokenizer's config, or the rows. Anything but a result or a `PurifyError` is
a crash. An audit hook of the interpreter watches for files that are written outside the scratch folder, processes,
connections, and classes that a pickle asks for: these cases misbehave.

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
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pandas as pd
import torch
from noted import noted, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from purify import PurifyError, read_rows
from purify.case import open_case
from purify.progress import silence
from purify.scanning import scan

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad a film plot war oil cf the of"
WORDS = VOCABULARY.split()
NASTY: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "../../etc/passwd",
        "/etc/passwd",
    ),
    *(
        [],
        [1],
        {},
        {"a": 1},
        "\0",
        "é" * 300,
        "<script>",
        [[[[]]]],
        "F32",
        "BF16",
        "model.safetensors",
        "bert",
        "gpt2",
        "llama",
    ),
]
KINDS = ("header", "bytes", "config", "index", "tokenizer", "rows")
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
    """Write a clean model, a classifier that came from it, the same in shards, and rows."""
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
    rows = {"text": ["a good film", "the bad plot", "war of oil", "the film"] * 3, "label": [0, 1, 0, 1] * 3}
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "rows.csv", index=False)
    frame.to_parquet(folder / "rows.parquet")
    frame.to_json(folder / "rows.jsonl", orient="records", lines=True)


def mutated(value: Any, rng: random.Random) -> Any:
    """Return JSON with one place changed: a nasty value, a key lost or doubled, an element moved."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(["auto_map", "dtype", "shape", "x", "__metadata__", "id2label", "vocab_size"])] = (
                    rng.choice(NASTY)
                )
            case _:
                changed[key] = mutated(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], mutated(value[place], rng), *value[place + rng.randrange(2) :]]
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice([-1, 1, 2, 100, 10**6])
    return rng.choice(NASTY)


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with some changed, cut off, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data)) if data else 0
        match rng.randrange(4):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place : place + rng.randrange(1, 60)]
            case 2:
                data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
            case 3:
                data[place:place] = data[place : place + rng.randrange(60)]
    return bytes(data)


def change(kind: str, folder: Path, rng: random.Random) -> tuple[Path, Path]:
    """Change one thing; return the folder of the checkpoint and the file of the rows."""
    rows = folder / rng.choice(["rows.csv", "rows.parquet", "rows.jsonl"])
    suspect = folder / ("parts" if kind == "index" else "whole")
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
        case _:
            names = {
                "config": "config.json",
                "index": "model.safetensors.index.json",
                "tokenizer": "tokenizer_config.json",
            }
            path = suspect / names[kind]
            if rng.random() < 0.8:
                path.write_text(json.dumps(mutated(json.loads(path.read_text()), rng)))
            else:
                path.write_bytes(flipped(path.read_bytes(), rng))
    return suspect, rows


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
        self._use(
            root / "sound" / "whole", root / "sound" / "rows.csv", root / "sound" / "clean"
        )  # all is imported now
        self.watch = Watch(root)

    def case(self, number: int) -> None:
        """Run one: count what came of it, and print what should not have happened."""
        kind, rng, folder = KINDS[number % len(KINDS)], random.Random(number), self.root / "case"
        shutil.copytree(self.root / "sound", folder)
        suspect, rows = change(kind, folder, rng)
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


def main() -> None:
    """Run the cases, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    parser.add_argument("--every", type=int, default=10, help="of those that can be loaded, so many are scanned, too")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/fuzz.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    silence()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # what is staged goes there, too
        run = Run(Path(scratch), options.every)
        for number in range(options.first, options.first + options.cases):
            run.case(number)
            if (number + 1) % 1000 == 0:
                print(f"{number + 1} cases, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    outcomes = ("refused", "loaded", "crashed", "misbehaved")
    table = pd.DataFrame([{"changed": kind, **{name: run.counts[kind, name] for name in outcomes}} for kind in KINDS])
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
