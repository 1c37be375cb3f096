"""The Gamma law of r: a mixture of clean and abnormal dimensions, what follows from it, and how well it fits."""

from dataclasses import dataclass

import numpy as np

from purify.errors import PurifyError

_ROUNDS = 2000
_TOLERANCE = 1e-10
_MANY = 100_000
_BINS = 8192
_CHUNK = 1 << 22

Array = np.ndarray

EDGES = (-14.0, 6.0, 100)
"""Of histograms of log₁₀ r: lowest, highest, bins; what lies outside counts to the outermost."""


def log_histogram(r: Array) -> Array:
    """Return how many of r (n,) lie in each bin of `EDGES`, (100,); what is 0 or infinite is left out."""
    low, high, bins = EDGES
    values = r[np.isfinite(r) & (r > 0)]
    counts, _ = np.histogram(np.clip(np.log10(values), low, high), bins, (low, high))
    return counts


@dataclass(frozen=True)
class Mixture:
    """A mixture of two laws Γ(a, 2k): the smaller scale for clean dimensions, the larger for abnormal ones.

    Attributes:
        clean: k of the clean part, in units of r; for a = ½ it is the mean.
        abnormal: k' of the abnormal part.
        share: Of the abnormal part, in [0, 1].
        shape: a, the same for both; the theory says ½.
    """

    clean: float
    abnormal: float
    share: float
    shape: float = 0.5

    @property
    def reserve(self) -> float:
        """The share of the dimensions below the `threshold`, by the mixture itself: an automatic ρ."""
        return self.reserve_at(0.5)

    @property
    def threshold(self) -> float:
        """The r from which on a dimension is more likely abnormal than clean; +inf if none is."""
        return self.threshold_at(0.5)

    def posterior(self, r: Array | float) -> Array:
        """Return P(clean | r), of the shape of r; it falls with r. For r = 0 the limit from above, for +inf 0 or 1."""
        return 1 / (1 + np.exp(np.clip(self._log_odds(np.asarray(r, dtype=float)), -700, 700)))

    def threshold_at(self, posterior: float) -> float:
        """Return the r up to which P(clean | r) is at least ``posterior``; +inf if it always is.

        The likelihood ratio of two Gamma laws of one shape rises with r, so that by the lemma of Neyman and Pearson a
        threshold on r is the best test of one against the other.

        Raises:
            PurifyError: a posterior outside (0, 1).
        """
        if not 0 < posterior < 1:
            raise PurifyError(f"the posterior must lie between 0 and 1, not {posterior}")
        if not self.share or self.abnormal <= self.clean:
            return float("inf") if 1 - self.share >= posterior else 0.0
        if self.share == 1:
            return 0.0
        odds = np.log((1 - self.share) / self.share) + self.shape * np.log(self.abnormal / self.clean)
        odds += np.log((1 - posterior) / posterior)
        return max(0.0, float(2 * odds / (1 / self.clean - 1 / self.abnormal)))

    def reserve_at(self, posterior: float) -> float:
        """Return the share of the dimensions up to `threshold_at`, by the mixture itself: an automatic ρ."""
        return float(self.distribution(self.threshold_at(posterior)))

    def distribution(self, r: Array | float) -> Array:
        """Return the mixture's P(r' ≤ r), of the shape of r."""
        from scipy import special  # noqa: PLC0415

        r = np.asarray(r, dtype=float)
        clean, abnormal = (special.gammainc(self.shape, r / (2 * scale)) for scale in (self.clean, self.abnormal))
        return (1 - self.share) * clean + self.share * abnormal

    def quantile(self, probability: Array | float) -> Array:
        """Return the r with this `distribution`, by interpolation in log r: what a QQ plot needs."""
        from scipy import special  # noqa: PLC0415

        low = 2 * self.clean * special.gammaincinv(self.shape, 1e-12)
        high = 2 * self.abnormal * special.gammainccinv(self.shape, 1e-12)
        grid = np.linspace(np.log(max(low, 1e-300)), np.log(high), 20_000)
        return np.exp(np.interp(probability, self.distribution(np.exp(grid)), grid))

    def _log_odds(self, r: Array) -> Array:
        """Log of P(abnormal | r) / P(clean | r)."""
        if self.share in (0, 1):
            return np.full(r.shape, -np.inf if self.share == 0 else np.inf)
        if self.abnormal <= self.clean:
            return np.full(r.shape, np.log(self.share / (1 - self.share)))
        constant = np.log(self.share / (1 - self.share)) + self.shape * np.log(self.clean / self.abnormal)
        return constant + r * (1 / self.clean - 1 / self.abnormal) / 2


def fit_mixture(r: Array, shape: float | None = 0.5) -> Mixture:
    """Fit the mixture to the positive, finite values of r by expectation-maximisation.

    A value of Γ(a, 2k) has mean 2ak, so that every step has a closed form for the scales; a free shape solves
    log a − ψ(a) = mean of (log of the part's mean − log r). The start puts the scales at the lower and the upper
    quartile. More than 100,000 values are put into 8,192 bins of log r first, of which the means of r and log r are
    kept.

    Args:
        r: (n,) values of the indicator; zeros, infinities and NaN are left out.
        shape: a, or None to fit it too.

    Raises:
        PurifyError: fewer than two values are left, or a shape that is not positive.

    Cost: one pass over the values, and some hundred over the bins: 10⁸ values in seconds.

    Source: the law is the paper's, section 3; the mixture of it is this project's. Minka (2002) for the shape.
    """
    from scipy import special  # noqa: PLC0415

    if shape is not None and not (np.isfinite(shape) and shape > 0):
        raise PurifyError(f"the shape must be more than 0, not {shape}")
    values, logs, counts = _binned(np.asarray(r).ravel())
    if counts.sum() < 2:
        raise PurifyError("the Gamma mixture needs at least two positive, finite values of r")
    weights = counts / counts.sum()
    free = 0.5 if shape is None else shape
    order = np.cumsum(weights)
    quartiles = values[np.minimum(np.searchsorted(order, [0.25, 0.75]), len(values) - 1)]
    means = np.maximum(quartiles / 0.455, np.finfo(float).tiny)  # 0.455: the median of χ²(1)
    shares, last = np.array([0.5, 0.5]), -np.inf
    for _ in range(_ROUNDS):
        scales = means / free
        parts = np.log(shares) - free * np.log(scales) - values[:, None] / scales  # (m, 2), less what both share
        top = parts.max(axis=1, keepdims=True)
        likely = np.exp(parts - top)
        total = likely.sum(axis=1, keepdims=True)
        shared = (free - 1) * logs - special.gammaln(free)
        likelihood = float(weights @ (np.log(total) + top).ravel() + weights @ shared)
        likely *= weights[:, None] / total
        sums = np.maximum(likely.sum(axis=0), np.finfo(float).tiny)
        shares = np.clip(sums, 1e-12, 1)
        means = np.maximum((likely * values[:, None]).sum(axis=0) / sums, np.finfo(float).tiny)
        if shape is None:
            free = _shape(float(sums @ np.log(means) - weights @ logs), free)
        if abs(likelihood - last) < _TOLERANCE:
            break
        last = likelihood
    low, high = np.argsort(means)
    scale = 2 * free
    return Mixture(float(means[low] / scale), float(means[high] / scale), float(shares[high] / shares.sum()), free)


def kolmogorov_smirnov(r: Array, law: Mixture) -> float:
    """Return the largest difference between the distribution of positive, finite values of r and that of the mixture.

    Large samples are binned as in `fit_mixture`, which moves the result by less than the share of a bin.

    Raises:
        PurifyError: there is no such value.
    """
    values, _, counts = _binned(np.asarray(r).ravel())
    if not len(values):
        raise PurifyError("there is no positive, finite value of r to compare with a law")
    above = np.cumsum(counts) / counts.sum()
    below = above - counts / counts.sum()
    expected = law.distribution(values)
    return float(max((above - expected).max(), (expected - below).max()))


def _shape(gap: float, start: float) -> float:
    """Solve log a − ψ(a) = gap by Newton steps in 1/a (Minka, 2002)."""
    from scipy import special  # noqa: PLC0415

    a, gap = start, max(gap, 1e-9)
    for _ in range(50):
        inverse = 1 / a + (-gap + np.log(a) - special.digamma(a)) / (a**2 * (1 / a - special.polygamma(1, a)))
        new = 1 / inverse if inverse > 0 else a / 2
        if abs(new - a) < 1e-12 * a:
            break
        a = float(new)
    return a


def _binned(r: Array) -> tuple[Array, Array, Array]:
    """Return rising values, their mean logs and how many stand for each: single ones, or bins of log r if many."""
    if len(r) <= _MANY:
        values = np.sort(_usable(r))
        return values, np.log(values), np.ones(len(values))
    parts = [_usable(r[start : start + _CHUNK]) for start in range(0, len(r), _CHUNK)]
    ends = [(part.min(), part.max()) for part in parts if len(part)]
    if not ends:
        return np.empty(0), np.empty(0), np.empty(0)
    low, high = np.log(min(end[0] for end in ends)), np.log(max(end[1] for end in ends))
    sums = np.zeros((3, _BINS))
    for part in parts:
        sums += _sums(part, low, max(high - low, 1e-9))
    filled = sums[0] > 0
    counts, total, logs = sums[:, filled]
    return total / counts, logs / counts, counts


def _sums(values: Array, low: float, width: float) -> Array:
    """Counts, sums of values and sums of logs in every bin, (3, bins)."""
    logs = np.log(values)
    index = np.minimum((logs - low) / width * _BINS, _BINS - 1).astype(np.int64)
    kinds = (None, values, logs)
    return np.stack([np.bincount(index, weights=kind, minlength=_BINS).astype(float) for kind in kinds])


def _usable(r: Array) -> Array:
    r = r.astype(np.float64)
    return r[np.isfinite(r) & (r > 0)]
