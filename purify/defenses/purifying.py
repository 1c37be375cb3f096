"""Fine-purifying, the paper's method, and what this project tried beyond it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from purify.defenses.base import Defense, ReserveDefense, Resource
from purify.registry import at_least_zero
from purify.selection import Count
from purify.structures import Structure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from purify.resources import Resources

log = logging.getLogger(__name__)

_SAMPLE = 200_000
"""So many dimensions are enough to fit two scales and a share."""


@dataclass(frozen=True)
class FinePurifying(ReserveDefense):
    """Keep the share ρ of the dimensions with the smallest r = δ²/Ĥ, reset the others, and fine-tune.

    With the defaults of all but ρ it is the paper's method; the other parameters are this project's.

    Attributes:
        count: What ρ is a share of; see `purify.purify`.
        exponent: α of r = δ²/Ĥ^α; AdamW divides its steps by about √Ĥ, which speaks for less than 1.
        damping: λ of r = δ²/(Ĥ + λ·mean Ĥ of its tensor).
        ranked: Rank r within its own tensor, so that every tensor keeps the share ρ.
        structure: Keep or reset whole rows, neurons or heads by Σδ²/(ΣĤ)^α; see `purify.structures`. The group that
            ρ ends in is kept in part.
        softness: τ of a soft reset (`purify.indicator.soft_mask`); 0 is the hard one.

    Source: the paper, section 4.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM", "Fisher")

    count: Count = "judged"
    exponent: float = 1.0
    damping: float = 0.0
    ranked: bool = False
    structure: Structure = "dimension"
    softness: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        for name in ("exponent", "damping", "softness"):
            at_least_zero(name, getattr(self, name))

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the purified suspect, fine-tuned."""
        from purify.purification import purified

        return resources.fine_tuned(purified(resources, self)[0])


@dataclass(frozen=True)
class AutomaticPurifying(Defense):
    """Fine-purifying without a ρ to choose: reset what a Gamma mixture of r calls abnormal, and fine-tune.

    The mixture (`purify.gamma`) is fitted to the judged dimensions that drifted; reset are those that are more likely
    of its abnormal part, and all that is not judged.

    Attributes:
        exponent: α of r = δ²/Ĥ^α.
        damping: λ of r = δ²/(Ĥ + λ·mean Ĥ of its tensor).

    Source: this project, after the law of the paper's section 3.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM", "Fisher")

    exponent: float = 1.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        FinePurifying(exponent=self.exponent, damping=self.damping)

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the purified suspect, fine-tuned."""
        import numpy as np
        import torch

        from purify.gamma import fit_mixture
        from purify.indicator import indicator, judged

        r = indicator(resources.drift, resources.fisher, exponent=self.exponent, damping=self.damping)
        among = judged(resources.fisher)
        values = torch.cat([value[among[name]] for name, value in r.items()]).cpu().numpy()
        values = values[np.isfinite(values) & (values > 0)]
        if len(values) < 2:  # nothing drifted where the clean data can judge: there is no tail to reset
            return resources.fine_tuned(resources.with_weights())
        drawn = np.random.default_rng(resources.seed).choice(values, min(len(values), _SAMPLE), replace=False)
        mixture = fit_mixture(drawn)
        log.info("Gamma mixture: %s", mixture)
        keep = {name: (value <= mixture.threshold) & among[name] for name, value in r.items()}
        return resources.fine_tuned(resources.with_reset(keep))
