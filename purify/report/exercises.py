"""Answers to exercises, checked in the notebook: a cell says right or wrong, and does not show the answer."""

import math
from collections.abc import Mapping

from scipy import stats

from purify.errors import PurifyError
from purify.gamma import Mixture

ANSWERS: Mapping[str, float] = {
    "sde-batch": 2.0,  # n η² / B with η and B doubled
    "sde-epoch": 0.5,  # 1 − n B / N
    "sde-momentum": 0.002,  # η (1 − μ)
    "fp-short": 0.05362,  # (1 − e^(−2ht)) / (2ht) = 0.9 at h = 2
    "fp-stationary": 0.025,  # D / h
    "fp-wells": 2.0,  # √(h₂ / h₁)
    "drift-overtakes": 10.0,  # C / (B g²)
    "drift-attenuation": 4 / 4.25,  # s² / (s² + σ²)
    "drift-signal": 2.0,
    "gamma-width": math.log10(stats.chi2(1).ppf(0.95) / stats.chi2(1).ppf(0.05)),
    "gamma-threshold": Mixture(1.0, 100.0, 0.05).threshold,
    "gamma-few": math.log10(stats.f(1, 4).ppf(0.95) / stats.f(1, 4).ppf(0.05)),
    "fisher-empirical": 0.34,  # ½ (1 − p)² + ½ p² at p = 0.8
    "fisher-calibrated": 1.0,
    "fisher-fitted": 1 / 99,  # (1 − p)² / (p (1 − p)) at p = 0.99
    "adam-first": 5e-5,
    "adam-crossover": 32 * 1e-16,
    "adam-decay": 7.5e-5,  # Σ η λ with η falling to 0
    "dimensions-precision": 0.2,  # recall · share / flagged
    "dimensions-random": 0.4,
    "dimensions-f1": 2 * 0.5 * 0.05 / (0.05 + 0.05),
    "limits-few": 0.5,  # √(2 / N)
    "limits-schedule": 1 / 3,
    "limits-evasion": 2e-5,  # √(q H)
}
"""Name -> the answer."""


def check(name: str, answer: float | None, tolerance: float = 0.03) -> str:
    """Say whether an answer is right.

    Args:
        name: Of the exercise.
        answer: A number, or None for none yet.
        tolerance: Relative: answers are often rounded.

    Raises:
        PurifyError: there is no such exercise.
    """
    if name not in ANSWERS:
        raise PurifyError(f"there is no exercise '{name}': choose one of {', '.join(ANSWERS)}")
    if answer is None:
        return "no answer yet: put a number in the place of None, and run the cell again"
    expected = ANSWERS[name]
    right = abs(float(answer) - expected) <= tolerance * abs(expected)
    return "right" if right else "wrong: try again, or open the solution"
