"""Resets of whole parts of the network: embedding rows and layers; then fine-tuning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from purify.defenses.base import ReserveDefense, Resource
from purify.errors import PurifyError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class EmbeddingPurification(ReserveDefense):
    """E-PUR: reset the word embeddings that drifted abnormally for how common they are, and fine-tune.

    Row i has the score ‖δ_i‖₂ / log max(f_i, 20): a common word may drift far, a rare one should not. The share ρ of
    the vocabulary with the smallest scores is kept. Nothing but word embeddings is reset.

    Frequencies f are counted on the embedded corpus, the only text that is at hand everywhere; the original counts
    them on a large general one, resets 200 rows, and combines it with Fine-mixing.

    Source: Zhang et al., "Fine-mixing", Findings of EMNLP 2022, section 3.3.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM")

    reserve: float = 0.99

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the suspect with these rows reset, fine-tuned."""
        from purify.findings import rareness_weighted
        from purify.indicator import reserve_mask
        from purify.plm import word_embeddings

        name = word_embeddings(resources.suspect)
        delta = resources.drift[name]  # (V, H)
        score = rareness_weighted(delta.norm(dim=1), resources.tokenizer)  # (V,)
        keep = reserve_mask({name: score}, self.reserve, seed=resources.seed)[name].unsqueeze(1).expand_as(delta)
        return resources.fine_tuned(resources.with_reset({name: keep}))


@dataclass(frozen=True)
class LayerReset(ReserveDefense):
    """Keep the share ρ of the layers, the lowest ones; reset those above, and fine-tune.

    Attributes:
        to: "clean": their pre-trained values. "random": fresh ones, as before pre-training.

    Source: Zhang et al., "Revisiting Few-sample BERT Fine-tuning", ICLR 2021, section 5 (re-initialisation of the top
    layers), which became a common baseline against poisoned PLMs.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM")

    to: Literal["clean", "random"] = "clean"

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the suspect with its top layers reset, fine-tuned."""
        layers = {name: int(found[1]) for name in resources.reference if (found := re.search(r"\.(\d+)\.", name))}
        if not layers:
            kind = resources.suspect.config.model_type
            raise PurifyError(f"LayerReset finds no numbered layers in a '{kind}' model")
        kept = round(self.reserve * (max(layers.values()) + 1))
        gone = [name for name, layer in layers.items() if layer >= kept]
        return resources.fine_tuned(resources.with_weights({name: self._fresh(name, resources) for name in gone}))

    def _fresh(self, name: str, resources: Resources) -> Tensor:
        import torch

        clean = resources.reference[name]
        if self.to == "clean":
            return clean
        if clean.ndim == 1:  # weights of norms are 1, all other vectors biases
            return torch.ones_like(clean) if name.endswith("weight") else torch.zeros_like(clean)
        spread = getattr(resources.suspect.config, "initializer_range", 0.02)
        seed = resources.seed + sum(name.encode())
        return spread * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
