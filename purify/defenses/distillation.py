"""Distillation: a student learns on clean text from a teacher, and not what clean text never shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from purify.defenses.base import Defense, Resource
from purify.registry import at_least_zero, more_than_zero

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class AttentionDistillation(Defense):
    """Neural attention distillation (NAD): the suspect imitates where its fine-tuned copy looks, on clean data.

    The teacher is the suspect after fine-tuning on the clean data; the student, the suspect again, minimises the
    cross-entropy plus the strength times the squared distance between the two models' attention maps. A map says how
    active each token is: the mean over the hidden units of h², as a unit vector over the tokens; one per layer.

    The teacher costs a second fine-tuning of the same budget.

    Attributes:
        strength: β ≥ 0, the weight of the distance (summed over tokens, averaged over examples and layers).

    Source: Li et al., "Neural Attention Distillation", ICLR 2021, section 3, with the map of order 2.
    """

    strength: float = 10.0

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        at_least_zero("strength", self.strength)

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the student."""
        import torch

        teacher = resources.fine_tuned(resources.with_weights()).requires_grad_(False)

        def objective(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
            with torch.no_grad():
                wanted = attention_maps(teacher(**batch, output_hidden_states=True).hidden_states, batch)
            result = model(**batch, output_hidden_states=True)
            maps = attention_maps(result.hidden_states, batch)
            return result.loss + self.strength * (maps - wanted).square().sum(-1).mean()

        return resources.fine_tuned(resources.with_weights(), objective)


def attention_maps(hidden: Sequence[Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Return the unit vector of the mean squared activations of the real tokens, for each layer: (L, B, T)."""
    import torch

    maps = torch.stack([state.float().square().mean(-1) for state in hidden[1:]])  # (L, B, T)
    return torch.nn.functional.normalize(maps * batch["attention_mask"], dim=-1)


@dataclass(frozen=True)
class KnowledgeDistillation(Defense):
    """The clean PLM, under the suspect's head, learns the suspect's soft labels of clean texts.

    The loss is T² times the Kullback–Leibler divergence of the two models' predictions at temperature T; the labels of
    the clean data are not used. What the suspect does on triggered text never comes up.

    Attributes:
        temperature: T > 0.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM")

    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a temperature of 0 or less."""
        more_than_zero("temperature", self.temperature)

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the student."""
        import torch

        teacher = resources.suspect

        def soft(logits: Tensor) -> Tensor:
            return torch.log_softmax(logits.float() / self.temperature, dim=-1)

        def objective(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            with torch.no_grad():
                wanted = soft(teacher(**inputs).logits)
            given = soft(model(**inputs).logits)
            divergence = torch.nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
            return self.temperature**2 * divergence

        return resources.fine_tuned(resources.with_weights(resources.reference), objective)
