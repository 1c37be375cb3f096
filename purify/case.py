"""A suspect of the user's own and the clean model that it came from, found, checked and ready to be compared."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.errors import PurifyError
from purify.gate import ADAPTER, WEIGHTS, Stored, inspect, read_json, shown
from purify.home import BUNDLED
from purify.memory import let_go
from purify.plm import CleanPLM, folder_of, load_adapter, load_plm, load_suspect, load_tokenizer, weights_digest
from purify.reference import FARTHEST, Reference, distance

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

_KNOWN = {
    ("bert", 768, 30522): "google-bert/bert-base-uncased",
    ("bert", 768, 28996): "google-bert/bert-base-cased",
    ("bert", 1024, 30522): "google-bert/bert-large-uncased",
    ("roberta", 768, 50265): "FacebookAI/roberta-base or distilbert/distilroberta-base",
    ("roberta", 1024, 50265): "FacebookAI/roberta-large",
    ("distilbert", 768, 30522): "distilbert/distilbert-base-uncased",
    ("electra", 768, 30522): "google/electra-base-discriminator",
    ("albert", 768, 30000): "albert/albert-base-v2",
    ("deberta-v2", 768, 128100): "microsoft/deberta-v3-base",
    ("xlm-roberta", 768, 250002): "FacebookAI/xlm-roberta-base",
}
"""Well-known models by type, width and vocabulary: what to try when the suspect does not say where it came from."""


@dataclass(frozen=True)
class Case:
    """A suspect and its clean model.

    Attributes:
        name: Of the suspect, as the user gave it.
        digest: Of its weight files: 16 hexadecimal digits of their sha256.
        model: The suspect, in evaluation mode.
        clean: The clean model; with the suspect's own tokenizer if that only adds tokens to the clean one.
        found: How the clean model was found.
        reference: The clean weights by the suspect's names.
        adapter: Whether the suspect is a LoRA adapter on the clean model.
        stored: The type of most of its weights in their file: fp32, fp16 or bf16.
    """

    name: str
    digest: str
    model: PreTrainedModel
    clean: CleanPLM
    found: str
    reference: Reference
    adapter: bool
    stored: torch.dtype

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What clean texts are tokenised with."""
        return self.clean.tokenizer

    @property
    def labels(self) -> dict[int, str]:
        """The classes: number -> name."""
        return {int(number): str(name) for number, name in self.model.config.id2label.items()}


def open_case(suspect: str | Path, clean: str | Path | None = None) -> Case:
    """Load a suspect and find its clean model.

    Without a name for it, the clean model is the bundled one if the suspect has its shapes, settings and vocabulary;
    else what the suspect's config names, if that is in the hub's cache: nothing is fetched that the user did not name.
    A suspect's word for its own origin is worth no more than the suspect: check that you trust the model.

    Args:
        suspect: Folder or hub id of a fine-tuned classifier or of a LoRA adapter; safetensors only.
        clean: "bundled", folder or hub id.

    Raises:
        PurifyError: either cannot be loaded or is refused (`purify.gate.inspect`); no clean model is found; or the
            suspect was not made from it: shapes, settings or vocabulary differ, or its weights lie too far away.
    """
    name = str(suspect)
    folder = folder_of(name)
    tensors = inspect(folder)
    adapter = (folder / ADAPTER).exists() and not (folder / WEIGHTS).exists()
    if adapter:
        named = str(clean) if clean else _origin(folder, "adapter_config.json", "base_model_name_or_path")
        plm = load_plm(named)
        model, own = load_adapter(folder, plm), None
    else:
        model, own = load_suspect(folder)
        plm = load_plm(clean) if clean else _found(model, folder)
    reference = plm.weights_for(model)
    if different := _different(model, reference):
        raise PurifyError(
            f"'{different}' has another shape in the suspect than in '{plm.name}': "
            "name the clean model that the suspect was fine-tuned from"
        )
    if not adapter and (apart := distance(dict(model.named_parameters()), reference)) > FARTHEST:
        raise PurifyError(
            f"the weights of '{name}' lie {apart:.2f} times the norm of '{plm.name}' away from it, fine-tuned ones a "
            "few hundredths: name the clean model that the suspect was fine-tuned from"
        )
    stored = _stored(tensors)
    if stored == torch.float32:  # its weights are mapped from the file, and the Fisher needs few of the embeddings
        for value in model.parameters():
            let_go(value)
    how = "named by you" if clean else _told(plm, adapter)
    plm = replace(plm, tokenizer=_tokenizer(folder, plm, own, model))
    return Case(name, weights_digest(str(folder)), model, plm, how, reference, adapter, stored)


def _stored(tensors: Mapping[str, Stored]) -> torch.dtype:
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.numel
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(
        max(sizes, key=sizes.__getitem__, default=""), torch.float32
    )


def _told(plm: CleanPLM, adapter: bool) -> str:
    if plm.name == BUNDLED and not adapter:
        return "the bundled model, whose shapes and settings the suspect has"
    return "named by the suspect itself: check that you trust it"


def _origin(folder: Path, file: str, key: str) -> str:
    """The clean model that a config names, in the hub's cache; nothing else that it may name is followed."""
    named = read_json(folder, file).get(key)
    if named == BUNDLED:
        return BUNDLED
    if isinstance(named, str) and _HUB_ID.fullmatch(named) and ".." not in named:
        try:
            return snapshot_download(named, local_files_only=True)
        except Exception as error:  # the library fails in many ways
            raise PurifyError(
                f"the suspect says that it was made from '{named}', which is not in the hub's cache: if you trust it, "
                f"name it with --clean {named}"
            ) from error
    raise PurifyError("the suspect does not say which clean model it was made from: name it with --clean")


def _found(model: PreTrainedModel, folder: Path) -> CleanPLM:
    bundled = load_plm()
    try:
        reference = bundled.weights_for(model)
    except PurifyError:
        return load_plm(_origin_or_hint(model, folder))
    return load_plm(_origin_or_hint(model, folder)) if _different(model, reference) else bundled


def _different(model: PreTrainedModel, reference: Reference) -> str | None:
    """A parameter whose shape differs."""
    parameters = dict(model.named_parameters())
    return next((name for name in reference if reference[name].shape != parameters[name].shape), None)


def _origin_or_hint(model: PreTrainedModel, folder: Path) -> str:
    try:
        return _origin(folder, "config.json", "_name_or_path")
    except PurifyError as error:
        config = model.config
        known = _KNOWN.get((config.model_type, getattr(config, "hidden_size", 0), config.vocab_size))
        if "--clean " in str(error) or not known:
            raise
        raise PurifyError(f"{error}; by its sizes it may be {known}") from None


def _tokenizer(
    folder: Path, plm: CleanPLM, own: PreTrainedTokenizerBase | None, model: PreTrainedModel
) -> PreTrainedTokenizerBase:
    """The clean tokenizer, since the suspect's could be part of the attack; its own if that only adds tokens."""
    if own is None:
        if not (folder / "tokenizer.json").exists():
            return plm.tokenizer
        own = load_tokenizer(folder, plm.model)
    ours, theirs = plm.tokenizer.get_vocab(), own.get_vocab()
    for token, number in ours.items():
        if theirs.get(token) != number:
            raise PurifyError(
                f"the suspect's vocabulary has {_at(token, theirs)}, that of '{plm.name}' has it at {number}: "
                "name the clean model that the suspect was fine-tuned from"
            )
    if len(theirs) == len(ours):
        return plm.tokenizer
    rows = model.get_input_embeddings().num_embeddings
    if max(theirs.values()) >= rows:
        raise PurifyError(f"the suspect's tokenizer knows {len(theirs)} tokens and its model {rows}: it is damaged")
    own.model_max_length = plm.tokenizer.model_max_length
    return own


def _at(token: str, vocabulary: dict[str, int]) -> str:
    return f"'{shown(token)}' at {vocabulary[token]}" if token in vocabulary else f"no '{shown(token)}'"
