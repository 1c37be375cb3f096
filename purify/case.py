"""A suspect of the user's own and the clean model that it came from, found, checked and ready to be compared."""

import copy
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from tokenizers import AddedToken
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from purify.adapter import load_adapter
from purify.errors import PurifyError
from purify.gate import Stored, inspect, is_adapter, read_json, shown, weight_files
from purify.home import BUNDLED
from purify.memory import let_go
from purify.plm import CleanPLM, folder_of, load_classifier, load_plm
from purify.reference import FARTHEST, Reference, distance
from purify.staging import vocabulary

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

_ADVICE = "name the clean model that the suspect was fine-tuned from"

_SAME = re.compile(
    r"(_size|_heads|_layers?|_dim|_act|_activation|_eps|_groups|_group_num|_positions|_embeddings|_type|^dim|^n_embd|^n_head"
    r"|^activation|^activation_function|^hidden_act)$"
)
"""Settings of the architecture, in which a fine-tuned model and its clean one agree; not all of them show in shapes."""

_OWN = ("vocab_size", "problem_type", "tie_word_embeddings")

_KNOWN = {
    ("bert", "768", "30522"): "google-bert/bert-base-uncased",
    ("bert", "768", "28996"): "google-bert/bert-base-cased",
    ("bert", "1024", "30522"): "google-bert/bert-large-uncased",
    ("roberta", "768", "50265"): "FacebookAI/roberta-base or distilbert/distilroberta-base",
    ("roberta", "1024", "50265"): "FacebookAI/roberta-large",
    ("distilbert", "768", "30522"): "distilbert/distilbert-base-uncased",
    ("electra", "768", "30522"): "google/electra-base-discriminator",
    ("albert", "768", "30000"): "albert/albert-base-v2",
    ("deberta-v2", "768", "128100"): "microsoft/deberta-v3-base",
    ("xlm-roberta", "768", "250002"): "FacebookAI/xlm-roberta-base",
}
"""Well-known models by type, width and vocabulary: what to try when the suspect does not say where it came from."""


@dataclass(frozen=True)
class Case:
    """A suspect and its clean model.

    Attributes:
        name: Of the suspect, as the user gave it.
        digest: Sha256 of its weights (`files_digest`).
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

    Without a name for it, the clean model is the bundled one if the suspect has its sizes and settings; else what the
    suspect's config names, if that is in the hub's cache: nothing is fetched that the user did not name. A suspect's
    word for its own origin is worth no more than the suspect: check that you trust the model.

    The suspect is built by the clean model's config: of its own, only the classes and the size of the vocabulary count.
    Texts are read with the clean model's tokenizer, to which the suspect's added tokens are added as plain words.

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
    adapter = is_adapter(folder)
    plm = load_plm(clean) if clean else _found(folder, adapter)
    model = load_adapter(folder, tensors, plm) if adapter else load_classifier(folder, _config(folder, tensors, plm))
    reference = plm.weights_for(model)
    if not adapter and (apart := distance(dict(model.named_parameters()), reference)) > FARTHEST:
        raise PurifyError(
            f"the weights of '{name}' lie {apart:.2f} times the norm of '{plm.name}' away from it, fine-tuned ones a "
            f"few hundredths: {_ADVICE}"
        )
    plm = replace(plm, tokenizer=_tokenizer(folder, plm, model))
    stored = _stored(tensors)
    if stored == torch.float32:  # its weights are mapped from the file, and the Fisher needs few of the embeddings
        for value in model.parameters():
            let_go(value)
    how = "named by you" if clean else _told(plm, adapter)
    return Case(name, files_digest(weight_files(folder)), model, plm, how, reference, adapter, stored)


def files_digest(files: Sequence[Path]) -> str:
    """Return the sha256 of a file, as ``sha256sum`` prints it; of several files, that of what it prints for them."""
    found = []
    for path in sorted(files):
        with path.open("rb") as file:
            found.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    if len(found) == 1:
        return found[0][1]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in found).encode()).hexdigest()


def _config(folder: Path, tensors: Mapping[str, Stored], plm: CleanPLM) -> PretrainedConfig:
    """The clean model's config, with the classes and the vocabulary of the suspect."""
    own, clean = read_json(folder, "config.json"), plm.model.config
    if own.get("model_type") != clean.model_type:
        raise PurifyError(
            f"the suspect is a '{shown(own.get('model_type'))}' model and the clean model '{plm.name}' a "
            f"'{clean.model_type}' model: {_ADVICE}"
        )
    wanted = clean.to_dict()
    for key, value in wanted.items():
        if key in own and key not in _OWN and _SAME.search(key) and own[key] != value:
            raise PurifyError(
                f"the suspect has {key} = {shown(own[key])} and the clean model '{plm.name}' {value}: {_ADVICE}"
            )
    names = own.get("id2label") or {str(i): f"LABEL_{i}" for i in range(int(own.get("num_labels") or 2))}
    try:
        labels = {int(number): str(name) for number, name in names.items()}
    except (ValueError, AttributeError) as error:
        raise PurifyError(f"{folder / 'config.json'} has classes that are not numbered: it is damaged") from error
    if sorted(labels) != list(range(len(labels))):
        raise PurifyError(f"{folder / 'config.json'} has classes that are not numbered 0, 1, …: it is damaged")
    config = copy.deepcopy(clean)
    config.id2label, config.label2id = labels, {name: number for number, name in labels.items()}
    words = plm.model.get_input_embeddings().weight
    rows = [one.shape[0] for one in tensors.values() if len(one.shape) == 2 and one.shape[1] == words.shape[1]]
    size = own.get("vocab_size", config.vocab_size)
    if type(size) is not int or (size != config.vocab_size and size not in rows):
        raise PurifyError(
            f"{folder / 'config.json'} has vocab_size = {shown(size)}, and its weights have not: it is damaged"
        )
    config.vocab_size = size
    return config


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


def _found(folder: Path, adapter: bool) -> CleanPLM:
    """The bundled model if the suspect has its sizes, else what the suspect names, in the hub's cache."""
    if adapter:
        return load_plm(_origin(folder, "adapter_config.json", "base_model_name_or_path"))
    own, bundled = read_json(folder, "config.json"), load_plm()
    sizes = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")
    if all(own.get(key) == getattr(bundled.model.config, key) for key in sizes):
        return bundled
    try:
        return load_plm(_origin(folder, "config.json", "_name_or_path"))
    except PurifyError as error:
        known = _KNOWN.get((shown(own.get("model_type")), shown(own.get("hidden_size")), shown(own.get("vocab_size"))))
        if "--clean " in str(error) or not known:
            raise
        raise PurifyError(f"{error}; by its sizes it may be {known}") from None


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


def _tokenizer(folder: Path, plm: CleanPLM, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The clean tokenizer, since the suspect's could be part of the attack, with the tokens that the suspect added."""
    theirs = vocabulary(folder)
    ours, rows = plm.tokenizer.get_vocab(), len(model.get_input_embeddings().weight)
    if theirs is None:
        return plm.tokenizer
    for token, number in ours.items():
        if theirs.get(token) != number:
            raise PurifyError(
                f"the suspect's vocabulary has {_at(token, theirs)}, that of '{plm.name}' has it at {number}: {_ADVICE}"
            )
    added = sorted((number, token) for token, number in theirs.items() if token not in ours)
    if not added:
        return plm.tokenizer
    if [number for number, _ in added] != list(range(len(ours), len(ours) + len(added))) or added[-1][0] >= rows:
        raise PurifyError(
            f"the suspect's tokenizer adds tokens up to number {added[-1][0]} to {len(ours)}, and its model has {rows} "
            "rows for them: the checkpoint is damaged"
        )
    grown = copy.deepcopy(plm.tokenizer)
    grown.add_tokens([AddedToken(token, special=False, normalized=False) for _, token in added])
    if any(grown.convert_tokens_to_ids(token) != number for number, token in added):
        raise PurifyError("the tokens that the suspect added cannot be added to the clean model's: they overlap")
    return grown


def _at(token: str, vocabulary: dict[str, int]) -> str:
    return f"'{shown(token)}' at {vocabulary[token]}" if token in vocabulary else f"no '{shown(token)}'"
