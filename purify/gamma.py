"""The Gamma law of r: a mixture of clean and abnormal dimensions, and the reserve ratio that follows from it."""

from dataclasses import dataclass

import numpy as np

from purify.errors import PurifyError

_ROUNDS = 500
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Mixture:
    """A mixture of two laws Γ(½, 2k): the smaller scale for clean dimensions, the larger for abnormal ones.

    Attributes:
        clean: k of the clean part, in units of r.
        abnormal: k' of the abnormal part.
        share: Of the abnormal part, in [0, 1].
    """

    clean: float
    abnormal: float
    share: float

    @property
    def reserve(self) -> float:
        """The share of the dimensions below the `threshold`, by the mixture itself: an automatic ρ."""
        from scipy import stats  # noqa: PLC0415

        ends = self.threshold / np.array([self.clean, self.abnormal])
        below = stats.chi2(1).cdf(ends)
        return float((1 - self.share) * below[0] + self.share * below[1])

    @property
    def threshold(self) -> float:
        """The r from which on a dimension is more likely abnormal than clean; +inf if none is."""
        if not self.share or self.abnormal <= self.clean:
            return float("inf")
        if self.share == 1:
            return 0.0
        odds = np.log((1 - self.share) / self.share) + 0.5 * np.log(self.abnormal / self.clean)
        return max(0.0, float(2 * odds / (1 / self.clean - 1 / self.abnormal)))


def fit_mixture(r: np.ndarray) -> Mixture:
    """Fit the mixture to positive, finite values of r by expectation-maximisation.

    A value of Γ(½, 2k) is k times one of χ² with one degree of freedom: its mean is k, so that every step has a closed
    form. The start puts the scales at the lower and the upper quartile.

    Args:
        r: (n,) values of the indicator; zeros, infinities and NaN are left out.

    Raises:
        PurifyError: fewer than two values are left.

    Cost: at most 500 passes over the values; some thousand are enough.

    Source: the law is the paper's, section 3; the mixture of it is this project's.
    """
    r = np.asarray(r, dtype=np.float64)
    r = r[np.isfinite(r) & (r > 0)]
    if len(r) < 2:
        raise PurifyError("the Gamma mixture needs at least two positive, finite values of r")
    scales = np.maximum(np.quantile(r, [0.25, 0.75]) / 0.455, np.finfo(float).tiny)  # 0.455: the median of χ²(1)
    shares = np.array([0.5, 0.5])
    last = -np.inf
    for _ in range(_ROUNDS):
        logs = np.log(shares) - 0.5 * np.log(scales) - r[:, None] / (2 * scales)  # (n, 2), less what both share
        top = logs.max(axis=1, keepdims=True)
        weights = np.exp(logs - top)
        total = weights.sum(axis=1, keepdims=True)
        likelihood = float((np.log(total) + top).mean())
        weights /= total
        counts = np.maximum(weights.sum(axis=0), np.finfo(float).tiny)
        shares = np.clip(counts / len(r), 1e-12, 1)
        scales = np.maximum((weights * r[:, None]).sum(axis=0) / counts, np.finfo(float).tiny)
        if likelihood - last < _TOLERANCE:
            break
        last = likelihood
    low, high = np.argsort(scales)
    return Mixture(float(scales[low]), float(scales[high]), float(shares[high] / shares.sum()))
