"""What is refused before anything of a stranger's checkpoint is loaded: pickles, code, paths that lead out, and bombs.

A checkpoint is a folder of JSON and safetensors. Both are looked at here, with limits, before the libraries that load
models see them: these trust their input more than a defender should.
"""

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purify.errors import PurifyError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
"""Endings of files that run code when they are opened, or that nothing here reads."""

LIMITS: Mapping[str, int] = {
    "config.json": 1 << 20,
    "adapter_config.json": 1 << 20,
    "tokenizer_config.json": 16 << 20,
    "special_tokens_map.json": 1 << 20,
    "added_tokens.json": 16 << 20,
    "tokenizer.json": 256 << 20,
    "vocab.json": 64 << 20,
    INDEX: 64 << 20,
}
"""The most bytes of each JSON file that are read."""

HEADER = 100_000_000
"""The most bytes of a safetensors header: the format's own limit."""

NAME = 255
"""The most bytes of a file's name: more, no file system takes."""

LAYERS = 1000
"""The most layers that a config may ask for."""

WHOLE = 1 << 24
"""The largest whole number that a config may hold for a size."""

SMALL = 1 << 22
"""A table of so many numbers harms no machine, whatever the file backs."""

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    "F4": 4,
}

_LAYER_KEYS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
_WIDTH_KEYS = ("embedding_size", "hidden_size", "dim", "d_model", "n_embd")
_TABLE_KEYS = ("vocab_size", "num_labels", "max_position_embeddings", "type_vocab_size", "n_positions")
"""Sizes of tables that have the width of the model as their other side."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: Which.
        dtype: As the format writes it: "F32", "BF16", ….
        shape: Of the tensor.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def inspect(folder: Path) -> dict[str, Stored]:
    """Check a checkpoint's folder and return its tensors by name; no tensor is read.

    Args:
        folder: With ``config.json`` and safetensors, one file or several with an index, or a LoRA adapter.

    Raises:
        PurifyError: there is no such folder; weights that are pickled, missing, or lie outside the folder; JSON that is
            too large or malformed; a config that asks for code or for absurd sizes; or a malformed header.

    Cost: reads JSON and headers alone.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PurifyError(f"there is no folder '{folder}': give the folder of a checkpoint")
    adapter = is_adapter(folder)
    config = read_json(folder, "adapter_config.json" if adapter else "config.json")
    for name in LIMITS:
        if name != INDEX and os.path.lexists(folder / name):
            _refuse_code(read_json(folder, name), folder / name)
    tensors: dict[str, Stored] = {}
    for path in weight_files(folder):
        for name, stored in _tensors(path):
            if name in tensors:
                raise PurifyError(f"{folder} holds the tensor '{shown(name)}' twice: the checkpoint is damaged")
            tensors[name] = stored
    if not adapter:
        _refuse_sizes(config, tensors, folder)
    return tensors


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds an adapter and no weights of a whole model."""
    whole = any(os.path.lexists(folder / name) for name in (WEIGHTS, INDEX))
    return os.path.lexists(folder / ADAPTER) and not whole


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a checkpoint, up to its limit.

    Raises:
        PurifyError: it is missing, leads out of the folder, is too large, or is no JSON object.
    """
    path = inside(folder, name)
    limit = LIMITS.get(name, 1 << 20)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise PurifyError(f"'{folder}' has no readable {name}: give the folder of a checkpoint") from error
    if len(content) > limit:
        raise PurifyError(f"{path} is larger than {limit >> 20} MiB: this is no {name} of a real model")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PurifyError(f"{path} is no JSON: the checkpoint is damaged") from error
    if not isinstance(found, dict):
        raise PurifyError(f"{path} holds no JSON object: the checkpoint is damaged")
    return found


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in the folder, or of the hub cache's blob that it is a link to.

    Raises:
        PurifyError: the name, or a link, leads elsewhere, or to what is no regular file; that a file is missing is
            found by opening it.
    """
    too_long = len(name.encode("utf-8", "surrogatepass")) > NAME
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name or "\\" in name or too_long:
        raise PurifyError(f"'{shown(name)}' leads out of the checkpoint '{folder}': it must be a plain file name")
    path = folder / name
    if path.is_symlink():
        home, target = folder.resolve(), path.resolve()
        cached = home.parent.name == "snapshots"  # <cache>/models--…/snapshots/<revision>
        allowed = (home.parent.parent / "blobs", home.parents[2] / "blobs") if cached else (home,)
        if not any(target.is_relative_to(place) for place in allowed):
            raise PurifyError(f"{path} is a link that leads out of the checkpoint: copy the file itself there")
    if os.path.lexists(path) and not path.is_file():
        raise PurifyError(f"{path} is no regular file: the checkpoint is damaged")
    return path


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a checkpoint, and no others.

    Raises:
        PurifyError: there is none, an index is malformed, or a file is no safetensors or lies elsewhere.
    """
    if is_adapter(folder):
        return [inside(folder, ADAPTER)]
    if os.path.lexists(folder / WEIGHTS):
        return [inside(folder, WEIGHTS)]
    if os.path.lexists(folder / INDEX):
        places = read_json(folder, INDEX).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
            raise PurifyError(f"{folder / INDEX} has no 'weight_map' of tensors to files: the checkpoint is damaged")
        shards = [inside(folder, name) for name in dict.fromkeys(places.values())]
        for path in shards:
            if path.suffix != ".safetensors" or not path.is_file():
                raise PurifyError(f"{folder / INDEX} names '{shown(path.name)}', which is no safetensors file there")
        return shards
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickled:
        raise PurifyError(
            f"'{folder}' has its weights in '{shown(pickled[0])}', which can run code when it is opened: on a machine "
            "that holds nothing of value, load it with transformers and save it with "
            "model.save_pretrained(folder, safe_serialization=True)"
        )
    raise PurifyError(f"'{folder}' has no safetensors weights: give the folder of a checkpoint")


def _tensors(path: Path) -> Iterator[tuple[str, Stored]]:
    """Yield what the header of a safetensors file describes, after checking it against the file."""
    damaged = f"{path} is no sound safetensors file"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            if len(first) < 8:
                raise PurifyError(f"{damaged}: it is cut off")
            (length,) = struct.unpack("<Q", first)
            if length > min(HEADER, size - 8):
                raise PurifyError(f"{damaged}: its header would take {length} bytes")
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise PurifyError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, PurifyError) else PurifyError(f"{damaged}: its header is no JSON") from error
    if not isinstance(header, dict):
        raise PurifyError(f"{damaged}: its header is no JSON object")
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            whole = len(shape) <= 16 and all(type(v) is int and 0 <= v < 1 << 62 for v in (*shape, start, end))
            bits = _BITS[dtype] * math.prod(shape) if whole else -1
        except (KeyError, TypeError, ValueError) as error:
            raise PurifyError(f"{damaged}: its header does not describe '{shown(name)}' soundly") from error
        if not whole or bits != 8 * (end - start):
            raise PurifyError(f"{damaged}: '{shown(name)}' does not have the bytes that its shape asks for")
        spans.append((start, end))
        yield name, Stored(path, dtype, shape)
    place = 0
    for start, end in sorted(spans):
        if start != place:
            raise PurifyError(f"{damaged}: its tensors overlap or leave holes")
        place = end
    if place != size - 8 - length:
        raise PurifyError(f"{damaged}: it has {size - 8 - length} bytes of data, and its header describes {place}")


def _refuse_code(content: Mapping[str, Any], path: Path) -> None:
    for key in ("auto_map", "custom_pipelines"):
        if content.get(key):
            raise PurifyError(f"{path} asks for code of its own ('{key}'), which is never run here: take the entry out")


def _refuse_sizes(config: Mapping[str, Any], tensors: Mapping[str, Stored], folder: Path) -> None:
    """Refuse sizes that the file cannot back: building such a model would take the machine down before it fails."""

    def bad(key: str) -> PurifyError:
        return PurifyError(f"{folder / 'config.json'} has {key} = {shown(config[key])}: no real model has that")

    for key in _LAYER_KEYS:
        if key in config and not (type(config[key]) is int and 0 < config[key] <= LAYERS):
            raise bad(key)
    for key, value in config.items():
        if type(value) is int and key.endswith(("_size", "_dim", "_heads", "num_labels", "dim", "n_embd", "d_model")):
            if not (0 if key == "type_vocab_size" else 1) <= value <= WHOLE:  # DeBERTa has no token types
                raise bad(key)
        elif (type(value) is int and abs(value) > 1 << 40) or (type(value) is float and not math.isfinite(value)):
            raise bad(key)
    held = sum(stored.numel for stored in tensors.values())
    width = next((config[key] for key in _WIDTH_KEYS if type(config.get(key)) is int), 1)
    for key in _TABLE_KEYS:
        if type(config.get(key)) is int and config[key] * width > max(2 * held, SMALL):
            raise bad(key)
    deep = max((config[key] for key in _LAYER_KEYS if key in config), default=1)
    deep = deep if config.get("model_type") != "albert" else 1  # its layers share their weights
    for key in ("hidden_size", "intermediate_size", "dim", "hidden_dim", "d_model", "ffn_dim", "n_embd", "n_inner"):
        if type(config.get(key)) is int and deep * width * config[key] > max(2 * held, SMALL):
            raise bad(key)
    labels = config.get("id2label")
    if labels is not None and not (isinstance(labels, dict) and len(labels) * width <= max(2 * held, SMALL)):
        raise bad("id2label")


def printable(text: str) -> str:
    """Return a stranger's text without control characters: fit for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def shown(value: object) -> str:
    """Return the same, short: fit for a message."""
    text = str(value)
    return printable(text[:80]) + ("…" if len(text) > 80 else "")
