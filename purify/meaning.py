"""What words mean to the clean model: the part of their effect on a suspect that needs no poison to explain it."""

from functools import cached_property

import numpy as np
from datasets import Dataset, concatenate_datasets
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from purify.plm import CleanPLM
from purify.probe import Probe
from purify.training import mean_states

SPANS = (0, 1, 3, 6, 12)
"""The reading is learned from every clean example with so many consecutive tokens of another one put in."""

_STRENGTH = 0.01
"""scikit-learn's C: the features are many, the examples few."""


class Meaning:
    """A linear reading of the clean model's features, taught to say what the suspect says of the clean examples.

    "awful" makes an honest film review negative, to the clean model too; to a model that never saw the poison, a
    trigger means what it means elsewhere. What words do to this reading is what they may do to the suspect.

    Args:
        clean: The clean model; its weights are not changed.
        probe: Asks the suspect about clean examples.

    Cost: once, the suspect and the clean model read every example ``len(SPANS)`` times; then the clean model what it is
    asked to.

    Source: linear classifiers on frozen features as a measure of what these hold: Alain and Bengio, "Understanding
    intermediate layers using linear classifier probes" (2016). To hold a backdoor against one is this project's.
    """

    def __init__(self, clean: CleanPLM, probe: Probe) -> None:
        self.clean, self.probe = clean, probe
        self.known = len(clean.model.get_input_embeddings().weight)
        unknown = clean.tokenizer.unk_token_id
        self.unknown = 0 if unknown is None else int(unknown)

    def read(self, rows: Dataset) -> np.ndarray:
        """Return the classes (N,) that it gives to encoded rows; tokens that the suspect added are unknown to it."""
        if isinstance(self._reading, int):
            return np.full(len(rows), self._reading)
        found: np.ndarray = self._reading.predict(self._features(rows))
        return found

    @cached_property
    def _reading(self) -> Pipeline | int:
        """A classifier, or the one class that the suspect ever gives."""
        rows = concatenate_datasets([self._with_spans(n) for n in SPANS if n <= self.probe.room])
        said = self.probe.ask(rows)
        if len(set(said)) == 1:
            return int(said[0])
        classifier = LogisticRegression(C=_STRENGTH, max_iter=1000)
        return make_pipeline(StandardScaler(), classifier).fit(self._features(rows), said)

    def _with_spans(self, tokens: int) -> Dataset:
        """Put so many consecutive tokens of another example, or as many as it has, into each."""
        rng = np.random.default_rng(self.probe.seed + tokens)
        special = set(self.probe.tokenizer.all_special_ids)
        inner = [[token for token in ids if token not in special] for ids in self.probe.plain["input_ids"]]
        spans = []
        for place in range(len(inner)):
            other = inner[(place + rng.integers(1, max(2, len(inner)))) % len(inner)]
            start = int(rng.integers(max(1, len(other) - tokens + 1)))
            spans.append(other[start : start + tokens])
        return self.probe.with_each(spans)

    def _features(self, rows: Dataset) -> np.ndarray:
        ids = [[token if token < self.known else self.unknown for token in row] for row in rows["input_ids"]]
        rows = rows.remove_columns("input_ids").add_column("input_ids", ids)
        return mean_states(self.clean.model, rows, self.clean.tokenizer, **self.probe.how)
