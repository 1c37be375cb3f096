"""Detection in feature space: triggered inputs have hidden states that clean ones do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from purify.defenses.base import Detector, Guard, Resource
from purify.defenses.perturbing import CHECKED

if TYPE_CHECKING:
    from datasets import Dataset

    from purify.resources import Resources


@dataclass(frozen=True)
class FeatureDistance(Detector):
    """Reject inputs whose hidden states are far from those of clean inputs.

    After every layer, the state of the token that the classifier reads is compared with the clean data; each layer's
    distance is put into units of its spread over the validation rows, and the suspicion is their mean.

    Attributes:
        method: "mahalanobis": the distance to the nearest class mean of the clean data, in the metric of one covariance
            of all classes (shrunk as by Ledoit and Wolf, because the clean rows are fewer than the units). "spectral":
            how much of the state, less the mean of all, lies outside the directions that hold 90 % of the variance of
            the clean data.

    Cost: one prediction per input.

    Source: Lee et al., NeurIPS 2018 (Mahalanobis distance); Chen et al., "Expose Backdoors on the Way", Findings of
    EMNLP 2022 (all layers of a language model); Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS
    2018, who look for the direction of the poison itself in a poisoned data set, which a guard of single inputs lacks.
    """

    needs: ClassVar[tuple[Resource, ...]] = CHECKED

    method: Literal["mahalanobis", "spectral"] = "mahalanobis"

    def defend(self, resources: Resources) -> Guard:
        """Return the suspect behind its guard."""
        return _Distance(self, resources)


class _Distance(Guard):
    def __init__(self, detector: FeatureDistance, resources: Resources) -> None:
        super().__init__(resources)
        self.method = detector.method
        labels = np.asarray(resources.examples["label"])
        self.fitted = [self._fit(states, labels) for states in self._states(resources.examples)]
        assert resources.validation is not None
        held = self._distances(resources.validation)  # (L, N)
        self.centre, self.spread = held.mean(axis=1), np.maximum(held.std(axis=1), 1e-12)

    def suspicion(self, rows: Dataset) -> np.ndarray:
        distances = self._distances(rows)
        return ((distances - self.centre[:, None]) / self.spread[:, None]).mean(axis=0)

    def _states(self, rows: Dataset) -> np.ndarray:
        from purify.training import read_states

        return read_states(self.model, rows, self.tokenizer, max_length=self.max_length, precision=self.precision)

    def _distances(self, rows: Dataset) -> np.ndarray:
        return np.stack([self._distance(*pair) for pair in zip(self._states(rows), self.fitted, strict=True)])

    def _fit(self, states: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the means (C, H) and the metric (H, H) of one layer."""
        if self.method == "spectral":
            from sklearn.decomposition import PCA

            kept = PCA(n_components=0.9, svd_solver="full").fit(states).components_ if len(states) > 1 else states * 0
            return states.mean(axis=0, keepdims=True), np.eye(states.shape[1]) - kept.T @ kept
        from sklearn.covariance import LedoitWolf

        if len(states) == 1:
            return states, np.eye(states.shape[1])
        means = np.stack([states[labels == label].mean(axis=0) for label in np.unique(labels)])
        rest = states - means[np.searchsorted(np.unique(labels), labels)]
        if not rest.any():  # one text per class shows no spread: plain distance
            return means, np.eye(states.shape[1])
        return means, LedoitWolf(assume_centered=True).fit(rest).precision_

    @staticmethod
    def _distance(states: np.ndarray, fitted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        means, metric = fitted
        away = states[:, None] - means  # (N, C, H)
        return np.sqrt(np.maximum(((away @ metric) * away).sum(-1), 0)).min(axis=1)
