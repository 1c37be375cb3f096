"""The evaluate stage of a detector: what gets past it, and how often it cries wolf."""

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from purify.defenses import Guard
from purify.grid.bench import Bench, Predictions
from purify.metrics import Proportion, attack_success

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""False rejection rates of the curve that every record of a detector keeps."""


def watched(guard: Guard, frr: float, work: Bench) -> tuple[Predictions, dict[str, Any]]:
    """Ask the guarded model; return its answers and what the detector did.

    Thresholds are quantiles of the suspicion of the validation rows; test rows and triggered rows only show what
    follows. The second part of the result holds, for the rate that was set and those of `RATES`: the share of clean
    test rows that are rejected (for a guard that mends its inputs: mended), that of the triggered ones whose label is
    not the target, and the ASR that is left; and the AUROC between these triggered and the clean test rows.
    """
    suspicion = [guard.suspicion(rows) for rows in work.judged_on]
    held, clean, triggered, _ = suspicion
    truth = np.asarray(work.splits.test["label"])
    others = truth != work.attack.target

    def threshold(rate: float) -> float:
        return float(np.quantile(held, 1 - rate, method="higher"))

    def at(rate: float) -> dict[str, Any]:
        limit = threshold(rate)
        answers = guard.answers(work.triggered, triggered, limit)
        counts = {
            "rejected clean": Proportion(int((clean > limit).sum()), len(clean)),
            "rejected triggered": Proportion(int((triggered[others] > limit).sum()), int(others.sum())),
            "asr": attack_success(answers, truth, work.attack.target),
        }
        return {"frr": rate, **{name: vars(count) for name, count in counts.items()}}

    limit = threshold(frr)
    predicted = Predictions(
        *(guard.answers(rows, scores, limit) for rows, scores in zip(work.judged_on, suspicion, strict=True))
    )
    is_triggered = np.r_[np.zeros(len(clean)), np.ones(int(others.sum()))]
    auroc = float(roc_auc_score(is_triggered, np.r_[clean, triggered[others]])) if others.any() else float("nan")
    return predicted, {"auroc": auroc, "set": at(frr), "curve": [at(rate) for rate in RATES]}
