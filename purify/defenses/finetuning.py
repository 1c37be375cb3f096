"""Fine-tuning on the small clean set."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from purify.defenses.base import Defense

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class FineTuning(Defense):
    """Go on training on clean examples and hope that the model forgets.

    Source: the paper's baseline "Fine-tuning"; Yao et al. (2019).
    """

    def defend(self, resources: "Resources") -> "PreTrainedModel":
        """Return the suspect, fine-tuned."""
        return resources.fine_tuned(resources.with_weights())
