"""The clean weights under a suspect's parameter names: what drift is measured from, and what a reset returns to."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purify.errors import PurifyError
from purify.memory import let_go

if TYPE_CHECKING:
    from purify.plm import CleanPLM

_SAME = ("num_attention_heads", "hidden_act", "layer_norm_eps", "position_embedding_type", "max_position_embeddings")
"""Settings of an architecture that the shapes of its parameters do not show, or not clearly."""

_ADVICE = "name the clean model that the suspect was fine-tuned from"

FARTHEST = 0.5
"""A model whose weights lie farther than this from the clean ones, in units of their norm, was made from others. The
suspects of this project lie at 0.007 to 0.011 (MiniLM), unrelated models at 1 and more."""


class Reference(Mapping[str, Tensor]):
    """The clean weights by the suspect's names; each is made when it is asked for, and not kept.

    * The head, and a pooler that the clean checkpoint lacks, have no clean counterpart and are left out.
    * The word embeddings of a suspect with added tokens are longer: a row of its own has the mean of all clean rows in
      the place of a clean value, with which transformers starts such rows too.
    * If the suspect was stored in bf16 or fp16, the clean value is rounded likewise: the rounding is no drift.
    * For a LoRA adapter the parameters are its matrices B, whose clean value is 0, with which their training starts.

    Args:
        clean: The clean model.
        suspect: The fine-tuned classifier, or an adapter on the clean model.

    Raises:
        PurifyError: the suspect is of another architecture: its type, its parameters, or a setting that the shapes do
            not show differs; or it is an adapter of another kind than LoRA.
    """

    def __init__(self, clean: "CleanPLM", suspect: PreTrainedModel) -> None:
        words = suspect.get_input_embeddings().weight
        self._theirs = {name: value.detach() for name, value in suspect.named_parameters()}
        self._words = next(name for name, value in suspect.named_parameters() if value is words)
        self._own: dict[str, Tensor | None]
        if getattr(suspect, "peft_config", None):
            self._own = dict.fromkeys(_low_rank(suspect))
            return
        _refuse_other(clean, suspect)
        theirs = {name for name, _ in suspect.base_model.named_parameters()}
        encoder = {name for name in theirs if not is_pooler(name)}
        own = {name: value.detach() for name, value in clean.model.named_parameters()}
        different = encoder.symmetric_difference(name for name in own if not is_pooler(name))
        if different:
            raise PurifyError(
                f"the suspect and the clean model '{clean.name}' differ in the parameter '{min(different)}': {_ADVICE}"
            )
        poolers = theirs - encoder - clean.absent
        prefix = suspect.base_model_prefix + "."
        self._own = {prefix + name: value for name, value in own.items() if name in encoder | poolers}

    def __getitem__(self, name: str) -> Tensor:
        own, theirs = self._own[name], self._theirs[name]
        if own is None:
            return torch.zeros_like(theirs)
        own = own.to(theirs.device, theirs.dtype)
        if name == self._words and own.shape[1:] == theirs.shape[1:] and len(own) < len(theirs):
            added = own.mean(0, keepdim=True).expand(len(theirs) - len(own), -1)
            own = torch.cat([own, added])
        stored = next((kind for kind in (torch.bfloat16, torch.float16) if _is_held_by(theirs, kind)), None)
        return own.to(stored).to(theirs.dtype) if stored else own

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def distance(suspect: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> float:
    """Return ‖suspect − clean‖ / ‖clean‖ over all parameters of ``clean`` that are there with its shape."""
    apart = size = 0.0
    for name, reference in clean.items():
        if name in suspect and suspect[name].shape == reference.shape:
            apart += float((suspect[name].detach() - reference).norm().double()) ** 2
            size += float(reference.norm().double()) ** 2
        let_go(reference)
    return (apart / size) ** 0.5 if size else float("inf") if apart else 0.0


def is_pooler(name: str) -> bool:
    """Some classifiers have the encoder's pooler, some do not, and some checkpoints lack it."""
    return name.startswith("pooler.")


def _refuse_other(clean: "CleanPLM", suspect: PreTrainedModel) -> None:
    ours, theirs = clean.model.config.model_type, suspect.config.model_type
    if ours != theirs:
        raise PurifyError(
            f"the suspect is a '{theirs}' model and the clean model '{clean.name}' a '{ours}' model: {_ADVICE}"
        )
    for key in _SAME:
        here, there = getattr(clean.model.config, key, None), getattr(suspect.config, key, None)
        if here != there:
            raise PurifyError(f"the suspect has {key} = {there} and the clean model '{clean.name}' {here}: {_ADVICE}")


def _low_rank(suspect: PreTrainedModel) -> list[str]:
    """The matrices B of a LoRA adapter."""
    kinds = {str(getattr(one.peft_type, "value", one.peft_type)) for one in suspect.peft_config.values()}
    names = [name for name, _ in suspect.named_parameters() if ".lora_B." in name or ".lora_embedding_B." in name]
    if kinds != {"LORA"} or not names:
        raise PurifyError(
            f"the suspect is an adapter of the kind {', '.join(sorted(kinds))}: only LoRA can be purified"
        )
    return names


def _is_held_by(value: Tensor, kind: torch.dtype) -> bool:
    """Whether a tensor holds nothing but numbers of a shorter type, by its first 65,536 values."""
    few = value.flatten()[: 1 << 16]
    return value.dtype != kind and bool((few.to(kind).to(value.dtype) == few).all())
