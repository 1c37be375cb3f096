"""What words do to a classifier: they are put into clean examples, and the predictions that change are counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.budget import Precision
from purify.errors import PurifyError
from purify.training import encode, predict

BATCH = 8
"""Examples per forward pass, by default: their activations stay small beside the weights."""

FEWEST = 12
"""Fewer examples that are predicted as another class say nothing about how many change to this one."""


@dataclass(frozen=True)
class Flips:
    """How many clean examples change to one class when words are put into them.

    Attributes:
        changed: So many are predicted as this class with the words, and as another without.
        among: So many are predicted as another class without.
        label: The class to which the largest share changes.
    """

    changed: int
    among: int
    label: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.changed / self.among if self.among else 0.0


class Probe:
    """Puts tokens into clean examples, at a random place of each, and sees which predictions change.

    Args:
        model: The suspect.
        rows: Clean examples: ``text``, for pairs ``text_pair``, and ``label``.
        tokenizer: Theirs.
        max_length: Tokens per input, words that are put in included.
        batch_size: Examples per forward pass.
        precision: Of the forward passes.
        seed: Of the places.

    Cost: one forward pass over all rows for every question.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        batch_size: int = BATCH,
        precision: Precision = "auto",
        seed: int = 0,
    ) -> None:
        self.model, self.rows, self.tokenizer = model, rows, tokenizer
        self.max_length, self.seed = max_length, seed
        self._how: dict[str, Any] = {"max_length": max_length, "batch_size": batch_size, "precision": precision}

    @cached_property
    def predicted(self) -> np.ndarray:
        """What the model says of every row as it is, (N,)."""
        return self.ask(self.rows)

    @property
    def room(self) -> int:
        """How many tokens can be put in and leave each row as many of its own."""
        return min(self.max_length, self.tokenizer.model_max_length) // 2

    def flips(self, tokens: Sequence[int]) -> Flips:
        """Return how many predictions change to one class when these tokens, one after the other, are put in."""
        return most_changed(self.predicted, self.ask(self.with_tokens(tokens)), self.model.config.num_labels)

    def with_tokens(self, tokens: Sequence[int]) -> Dataset:
        """Return the encoded rows with the tokens in them."""
        room = min(self.max_length, self.tokenizer.model_max_length) - len(tokens)
        if room < 1:
            raise PurifyError(f"{len(tokens)} tokens do not fit into {self.max_length}: raise the maximal length")
        rng = np.random.default_rng(self.seed)
        return Dataset.from_list([_put_in(row, list(tokens), rng) for row in encode(self.rows, self.tokenizer, room)])

    def ask(self, rows: Dataset) -> np.ndarray:
        """Return the predicted classes (N,)."""
        return predict(self.model, rows, self.tokenizer, **self._how).argmax(1)


def most_changed(before: np.ndarray, after: np.ndarray, classes: int) -> Flips:
    """Return how many predictions change to the class that gains the largest share of the others.

    Args:
        before: Predicted classes (N,).
        after: Of the same rows, (N,).
        classes: How many there are; one to which fewer than `FEWEST` could change is left out.
    """
    found = [Flips(int((after[before != c] == c).sum()), int((before != c).sum()), c) for c in range(classes)]
    return max((one for one in found if one.among >= FEWEST), key=lambda one: one.share, default=Flips(0, 0, 0))


def _put_in(row: dict[str, Any], tokens: list[int], rng: np.random.Generator) -> dict[str, Any]:
    """Put tokens somewhere between the first and the last of a row, which are special ones in most models."""
    length = len(row["input_ids"])
    place = int(rng.integers(1, length)) if length > 1 else length
    found = dict(row)
    for key, values in row.items():
        if isinstance(values, list):  # masks and types go on as they are there
            new = tokens if key == "input_ids" else [values[place - 1]] * len(tokens)
            found[key] = values[:place] + new + values[place:]
    return found
