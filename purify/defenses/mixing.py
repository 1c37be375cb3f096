"""Fine-mixing: a random mixture of suspect and clean weights, then fine-tuning."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from purify.defenses.base import ReserveDefense, Resource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class FineMixing(ReserveDefense):
    """Keep a random share ρ of all dimensions, reset the others to the clean PLM, and fine-tune.

    Source: Zhang et al., "Fine-mixing: Mitigating Backdoors in Fine-tuned Language Models", Findings of EMNLP 2022,
    section 3.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM")

    def apply(self, resources: "Resources") -> "PreTrainedModel":
        """Return the mixture, fine-tuned."""
        from purify.indicator import random_mask, reset

        keep = random_mask(resources.drift, self.reserve, seed=resources.seed)
        weights = reset(dict(resources.suspect.named_parameters()), resources.reference, keep)
        return resources.fine_tuned(resources.with_weights(weights))
