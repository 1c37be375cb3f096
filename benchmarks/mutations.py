"""Values and files changed at random, for `fuzz.py`."""

import random
from pathlib import Path
from typing import Any

_PATHS = ["../../etc/passwd", "/etc/passwd", "model.safetensors", "clean/config.json"]
_NUMBERS = [0, -1, 1, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf")]
_TEXTS = ["", "x", "\0", "é" * 300, "<script>", "F32", "BF16", "bert", "gpt2", "llama"]
NASTY: list[Any] = [None, True, *_NUMBERS, *_TEXTS, *_PATHS, [], [1], {}, {"a": 1}, [[[[]]]]]
KEYS = ["auto_map", "dtype", "shape", "x", "__metadata__", "id2label", "vocab_size"]

# What a folder may hold beside what is read; some of it is what libraries look for.
STRAY = [
    *("pytorch_model.bin", "model.pt", "training_args.bin", "modeling_x.py", "tokenization_x.py", "README.md"),
    *("added_tokens.json", "special_tokens_map.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja"),
    *("model.safetensors.index.json", "adapter_config.json", "adapter_model.safetensors", "generation_config.json"),
    *("config.json ", "-rf", "a\nb", "<b>", "é" * 60, ".hidden", "quantize_config.json", "preprocessor_config.json"),
]


def mutated(value: Any, rng: random.Random) -> Any:
    """Return JSON with one place changed: a nasty value, a key lost or doubled, an element moved."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(KEYS)] = rng.choice(NASTY)
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


NEEDED = ("config.json", "model.safetensors")
"""What cannot be done without: if one of them leads outside, the folder has to be refused."""


def strewn(folder: Path, outside: Path, rng: random.Random) -> bool:
    """Put a stray file, link or folder into a folder, or make a link of one of its files; say if it must be refused."""
    goal = rng.choice([outside, Path("/etc/passwd"), Path("/dev/zero"), folder, Path("nowhere"), Path("..")])
    match rng.randrange(4):
        case 0:
            (folder / rng.choice(STRAY)).write_bytes(flipped(rng.choice([b"{}", b"\x80\x04.", b"PK\3\4", b"x"]), rng))
        case 1:
            link = folder / rng.choice(STRAY)
            link.unlink(missing_ok=True)
            link.symlink_to(goal)
        case 2:
            (folder / rng.choice(STRAY)).mkdir(exist_ok=True)
        case 3:
            own = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
            content = own.read_bytes()
            own.unlink()
            if rng.random() < 0.5:  # to the same content, elsewhere
                goal = outside.with_name("elsewhere")
                goal.write_bytes(content)
            own.symlink_to(goal)
            return own.name in NEEDED
    return False
