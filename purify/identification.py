r"""Which dimensions are the poisonous ones: indicators to rank them, and how well a ranking finds them.

Beside the paper's :math:`\delta_i^2 / \hat H_i` stand its parts alone, its rival with the root of the Fisher, and the
one that follows if the suspect was trained with Adam. Adam divides each gradient by :math:`\sqrt{v_i} + \epsilon`, and
where noise outweighs signal :math:`v_i \approx \hat H_i / B` for batches of B examples. Fine-tuning then spreads
dimension i in proportion to

.. math:: \frac{\hat H_i / B}{(\sqrt{\hat H_i / B} + \epsilon)^2},

so that this, and not :math:`\hat H_i`, is what δ² has to be held against: where :math:`\hat H_i \gg B \epsilon^2` it
is constant and δ² alone is left, where :math:`\hat H_i \ll B \epsilon^2` it is proportional to :math:`\hat H_i`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from purify.errors import PurifyError

Array = np.ndarray

EPSILON = 1e-8
"""Adam's ε in PyTorch and in Transformers."""


def adam_spread(fisher: Array, batch_size: int, epsilon: float = EPSILON) -> Array:
    r"""Return what Adam's spread is proportional to, :math:`(\hat H/B) / (\sqrt{\hat H/B} + \epsilon)^2`, in [0, 1).

    Args:
        fisher: Ĥ ≥ 0, any shape.
        batch_size: B of the suspect's training.
        epsilon: Adam's ε > 0.

    Source: the module's derivation.
    """
    root = np.sqrt(fisher / batch_size)
    return (root / (root + epsilon)) ** 2


INDICATORS: Mapping[str, Callable[[Array, Array, int], Array]] = {
    "δ²/Ĥ": lambda drift, fisher, batch: drift**2 / fisher,
    "δ²/√Ĥ": lambda drift, fisher, batch: drift**2 / np.sqrt(fisher),
    "δ²": lambda drift, fisher, batch: drift**2,
    "1/Ĥ": lambda drift, fisher, batch: 1 / fisher,
    "Adam": lambda drift, fisher, batch: drift**2 / adam_spread(fisher, batch),
}
"""Name -> function of the drift (n,), the Fisher (n,) > 0 and the batch size of the suspect's training."""


class Ranking:
    """Dimensions in the order of an indicator, the most suspicious first; ties in random order.

    Args:
        r: (n,) the indicator, finite.
        seed: Of the order of ties.

    Cost: one sort.
    """

    def __init__(self, r: Array, seed: int = 0) -> None:
        shuffled = np.random.default_rng(seed).permutation(len(r))
        self.order = shuffled[np.argsort(-r[shuffled], kind="stable")]

    def auroc(self, truth: Array) -> float:
        """Return the probability that a poisonous dimension stands before one that is not.

        Args:
            truth: (n,) of bool.

        Raises:
            PurifyError: all dimensions are of one kind.
        """
        found = truth[self.order]
        positives = int(found.sum())
        negatives = len(found) - positives
        if not positives or not negatives:
            raise PurifyError("an AUROC needs poisonous dimensions and others")
        before = np.cumsum(~found)[found]  # harmless ones that stand before each poisonous one
        return float(1 - before.sum(dtype=np.float64) / positives / negatives)

    def recall(self, truth: Array, flagged: Sequence[float]) -> list[float]:
        """Return the share of the poisonous dimensions among the first share of all, for each of ``flagged``."""
        found = np.concatenate([[0], np.cumsum(truth[self.order])])
        return [float(found[round(share * len(truth))] / max(found[-1], 1)) for share in flagged]


def precision(recall: float, flagged: float, share: float) -> float:
    """Return the share of poisonous dimensions among those flagged.

    Args:
        recall: The share of the poisonous ones that is flagged.
        flagged: The share of all dimensions that is flagged, more than 0.
        share: The share of all dimensions that is poisonous.
    """
    return recall * share / flagged


def f1(recall: float, flagged: float, share: float) -> float:
    """Return the harmonic mean of `precision` and recall; all three are shares, as there."""
    return 2 * recall * share / (flagged + share)


def top(values: Array, share: float) -> Array:
    """Return the mask (n,) of exactly ``round(share · n)`` dimensions with the largest values, at least one."""
    count = max(1, round(share * len(values)))
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argpartition(-values, count - 1)[:count]] = True
    return mask
