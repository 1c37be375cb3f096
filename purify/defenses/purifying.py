"""Fine-purifying, the paper's method, as one of the defenses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from purify.defenses.base import ReserveDefense, Resource
from purify.selection import Count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class FinePurifying(ReserveDefense):
    """Keep the share ρ of the dimensions with the smallest r = δ²/Ĥ, reset the others, and fine-tune.

    Attributes:
        count: What ρ is a share of; see `purify.purify`.

    Source: the paper, section 4.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM", "Fisher")

    count: Count = "judged"

    def apply(self, resources: "Resources") -> "PreTrainedModel":
        """Return the purified suspect, fine-tuned."""
        from purify.purification import purified

        model, _ = purified(resources, self.reserve, self.count)
        return resources.fine_tuned(model)
