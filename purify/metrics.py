"""Scores of a classifier: proportions with their counts and intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from purify.errors import PurifyError


@dataclass(frozen=True)
class Proportion:
    """k successes out of n, the form in which every accuracy and success rate is kept."""

    k: int
    n: int

    @property
    def percent(self) -> float:
        """100 k / n; NaN when nothing was counted."""
        return 100 * self.k / self.n if self.n else float("nan")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the Wilson score interval, in percent: what the sampling of the test rows leaves open.

        Source: Wilson (1927); in closed form, because tables have thousands, and scipy's computes a p value for each.
        """
        if not self.n:
            return float("nan"), float("nan")
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        share, weight = self.k / self.n, z**2 / self.n
        middle = share + weight / 2
        half = z * math.sqrt(share * (1 - share) / self.n + weight / (4 * self.n))
        low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
        return 100 * max(0.0, low), 100 * min(1.0, high)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.percent:.1f} % [{low:.1f}, {high:.1f}] (n = {self.n})"


@dataclass(frozen=True)
class Scores:
    """What the tables of the paper and of this book report about one model.

    Attributes:
        acc: Clean accuracy: clean test inputs against their labels.
        asr: Attack success rate: triggered inputs *whose label is not the target* that get the target.
        bacc: Accuracy on triggered (biased) inputs, all labels, against their true labels.
        validation: Clean accuracy on the validation rows, the only score that a defender's choice may look at.
        validation_asr: ASR on the validation rows: what those who develop a method with attacks of their own may look
            at, so that test rows are left for the result. Older records lack it.
    """

    acc: Proportion
    asr: Proportion
    bacc: Proportion
    validation: Proportion
    validation_asr: Proportion | None = None


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> Proportion:
    """Count agreements of two (N,) arrays of labels."""
    return Proportion(int((predicted == labels).sum()), len(labels))


def attack_success(predicted: np.ndarray, labels: np.ndarray, target: int) -> Proportion:
    """Count the triggered inputs with another true label that are predicted as ``target``; (N,) arrays."""
    others = labels != target
    return Proportion(int((predicted[others] == target).sum()), int(others.sum()))


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count (true label, prediction) pairs of two (N,) arrays: a (C, C) array, one row per true label."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return mean, low and high of the t interval over seeds; low and high are NaN for a single value.

    Raises:
        PurifyError: there is no value.
    """
    if not len(values):
        raise PurifyError("there is no value to average")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    from scipy import stats  # noqa: PLC0415

    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return mean, low and high of the percentile bootstrap interval of the mean; low and high are NaN for one value.

    No law is assumed, but few values give few different means: under about ten the interval is too narrow, and
    `mean_interval` is the cautious one.

    Raises:
        PurifyError: there is no value.

    Source: Efron and Tibshirani (1993), chapter 13, by way of scipy; 9,999 samples from a fixed seed.
    """
    if not len(values):
        raise PurifyError("there is no value to average")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    from scipy import stats  # noqa: PLC0415

    found = stats.bootstrap(
        (np.asarray(values, dtype=float),), np.mean, confidence_level=confidence, method="percentile", rng=0
    ).confidence_interval
    return mean, float(found.low), float(found.high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p value of paired differences under random signs; NaN for fewer than two.

    Exact up to 13 differences (8,192 sign patterns), else from 9,999 random ones and a fixed seed.

    Source: Fisher's randomisation test for pairs, by way of scipy.
    """
    if len(differences) < 2:
        return float("nan")
    from scipy import stats  # noqa: PLC0415

    values = (np.asarray(differences, dtype=float),)
    return float(stats.permutation_test(values, np.mean, permutation_type="samples", n_resamples=9999, rng=0).pvalue)
