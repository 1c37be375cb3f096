"""The one rule by which a hyperparameter is chosen: clean validation accuracy, never the attack."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from purify.errors import PurifyError

Count = Literal["judged", "all"]
"""What ρ is a share of: the dimensions that the clean data judges, or all; see `purify.purification.purify`."""


def check_reserve(reserve: float) -> None:
    """Refuse a reserve ratio ρ outside [0, 1].

    Raises:
        PurifyError: names the ratio.
    """
    if not 0 <= reserve <= 1:
        raise PurifyError(f"the reserve ratio must lie in [0, 1], not {reserve}")


@dataclass(frozen=True)
class Choice:
    """A chosen reserve ratio.

    Attributes:
        reserve: The ratio ρ.
        within: Whether it keeps the accuracy within the allowed drop; if no ratio does, the most
            accurate one is chosen and this is False.
    """

    reserve: float
    within: bool


def choose_reserve(accuracy: Mapping[float, float], reference: float, max_drop: float) -> Choice:
    """Choose the smallest ρ whose clean validation accuracy is at least ``reference − max_drop``.

    The defender cannot see the attack; resetting as much as the accuracy allows is the cautious choice.

    Args:
        accuracy: ρ -> clean validation accuracy of the cleaned model, in percent.
        reference: Clean validation accuracy of the suspect as received, in percent.
        max_drop: ΔACC, in percentage points.

    Raises:
        PurifyError: nothing to choose from, or a negative drop.

    Source: the protocol of the paper's section 5 (ρ chosen by a threshold on the accuracy drop).
    """
    if not accuracy:
        raise PurifyError("there is no reserve ratio to choose from")
    if max_drop < 0:
        raise PurifyError(f"the allowed accuracy drop must be 0 or more, not {max_drop}")
    allowed = [reserve for reserve, value in accuracy.items() if value >= reference - max_drop]
    if allowed:
        return Choice(min(allowed), within=True)
    best = max(accuracy.values())
    return Choice(min(reserve for reserve, value in accuracy.items() if value == best), within=False)
