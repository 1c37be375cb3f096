"""What the libraries that load models get to see of a stranger's folder: vetted files, plainly named, nothing else."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from purify.errors import PurifyError
from purify.gate import INDEX, LIMITS, inside, inspect, read_json, shown, weight_files

_TEXTS = ("vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

_JSON = (*(name for name in LIMITS if name != INDEX), "generation_config.json")

_DROPPED = {
    *("transformers_weights", "attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "fast_tokenizer_files", "vocab_file", "tokenizer_file"),
    *(
        "fusion_config",
        "use_kernels",
        "device_map",
        "tp_plan",
        "_name_or_path",
        "name_or_path",
        "auto_mapping",
        "megatron_core",
        "megatron_config",
        "megatron_core",
        "megatron_config",
    ),
}
"""Settings that make a library read other files, fetch something, or run other code."""

_REFUSED = ("quantization_config", "auto_map", "custom_pipelines")

_LARGEST = 64 << 20


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a private folder with the vetted files of a checkpoint, to load it from; it is deleted afterwards.

    Weights are links to the files that `purify.gate.inspect` has looked at; what has been mapped from them stays
    mapped. Configs are copies without the settings that lead a library elsewhere.

    Raises:
        PurifyError: see `purify.gate.inspect`; or a setting asks for what is not supported (quantisation).
    """
    inspect(folder)
    with tempfile.TemporaryDirectory(prefix="purify-") as scratch:
        safe = Path(scratch)
        for name in _JSON:
            path = inside(folder, name)
            if path.is_file() and name.endswith("config.json"):
                (safe / name).write_text(json.dumps(_sound(read_json(folder, name), path)), encoding="utf-8")
            elif path.is_file():
                (safe / name).symlink_to(path.resolve())
        for name in _TEXTS:
            path = inside(folder, name)
            if path.is_file() and path.stat().st_size <= _LARGEST:
                (safe / name).symlink_to(path.resolve())
        weights = weight_files(folder)
        for path in weights:
            (safe / path.name).symlink_to(path.resolve())
        if len(weights) > 1 or weights[0].name not in ("model.safetensors", "adapter_model.safetensors"):
            (safe / INDEX).write_text(json.dumps(read_json(folder, INDEX)), encoding="utf-8")
        yield safe


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Read the tokens of a checkpoint's tokenizer, without building it; None where no such file is known.

    Raises:
        PurifyError: the file is malformed.
    """
    path = inside(folder, "tokenizer.json")
    if not path.is_file():
        path = inside(folder, "vocab.txt")
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return {line: number for number, line in enumerate(lines)}
    content = read_json(folder, "tokenizer.json")
    try:
        known = content["model"]["vocab"]
        pairs = known.items() if isinstance(known, dict) else ((one[0], i) for i, one in enumerate(known))
        found = dict(pairs) | {one["content"]: one["id"] for one in content.get("added_tokens") or ()}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise PurifyError(f"{path} has no vocabulary that can be read: the checkpoint is damaged") from error
    if not all(isinstance(token, str) and type(number) is int for token, number in found.items()):
        raise PurifyError(f"{path} has a token that is no text, or without a number: the checkpoint is damaged")
    return found


def _sound(config: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in _REFUSED:
        if config.get(key):
            raise PurifyError(f"{path} has '{shown(key)}', which is not supported: save the model without it")
    return {
        key: _sound(value, path) if isinstance(value, dict) and key not in ("id2label", "label2id") else value
        for key, value in config.items()
        if key not in _DROPPED
    }
