"""What words do to a classifier: they are put into clean examples, and the predictions that change are counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.budget import Precision
from purify.errors import PurifyError
from purify.training import encode, predict

if TYPE_CHECKING:
    from purify.meaning import Meaning

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
        label: The class to which the largest share changes beyond what is expected.
        expected: The share that the words' meaning explains, in [0, 1]; 0 where it was not asked for.
    """

    changed: int
    among: int
    label: int
    expected: float = 0.0

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.changed / self.among if self.among else 0.0

    @property
    def excess(self) -> float:
        """The share beyond what is expected, at least 0."""
        return max(0.0, self.share - self.expected)


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
        meaning: Says how many changes are expected of words; by default none are.

    Cost: one forward pass over all rows for every question, and one of the clean model if there is a ``meaning``.
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
        meaning: "Meaning | None" = None,
    ) -> None:
        self.model, self.rows, self.tokenizer, self.meaning = model, rows, tokenizer, meaning
        self.max_length, self.seed = max_length, seed
        self.how: dict[str, Any] = {"max_length": max_length, "batch_size": batch_size, "precision": precision}

    @cached_property
    def predicted(self) -> np.ndarray:
        """What the model says of every row as it is, (N,)."""
        return self.ask(self.plain)

    @property
    def room(self) -> int:
        """How many tokens can be put in and leave each row as many of its own."""
        return min(self.max_length, self.tokenizer.model_max_length) // 2

    @cached_property
    def plain(self) -> Dataset:
        """The encoded rows as they are."""
        return encode(self.rows, self.tokenizer, self.max_length)

    @cached_property
    def _read(self) -> np.ndarray | None:
        return self.meaning.read(self.plain) if self.meaning else None

    def flips(self, tokens: Sequence[int]) -> Flips:
        """Return how many predictions change to one class when these tokens, one after the other, are put in."""
        rows = self.with_tokens(tokens)
        read = (self._read, self.meaning.read(rows)) if self.meaning and self._read is not None else None
        return most_changed(self.predicted, self.ask(rows), self.model.config.num_labels, read)

    def with_tokens(self, tokens: Sequence[int]) -> Dataset:
        """Return the encoded rows with the tokens in them."""
        return self.with_each([tokens] * len(self.rows))

    def with_each(self, spans: Sequence[Sequence[int]]) -> Dataset:
        """Return the encoded rows, each with a span of tokens of its own in it.

        Raises:
            PurifyError: a span leaves no room for the row.
        """
        longest = max(map(len, spans), default=0)
        room = min(self.max_length, self.tokenizer.model_max_length) - longest
        if room < 1:
            raise PurifyError(f"{longest} tokens do not fit into {self.max_length}: raise the maximal length")
        rng = np.random.default_rng(self.seed)
        rows = encode(self.rows, self.tokenizer, room)
        return Dataset.from_list([_put_in(row, list(span), rng) for row, span in zip(rows, spans, strict=True)])

    def ask(self, rows: Dataset) -> np.ndarray:
        """Return the predicted classes (N,)."""
        return predict(self.model, rows, self.tokenizer, **self.how).argmax(1)


def most_changed(
    before: np.ndarray, after: np.ndarray, classes: int, read: tuple[np.ndarray, np.ndarray] | None = None
) -> Flips:
    """Return how many predictions change to the class that gains the largest share of the others.

    Args:
        before: Predicted classes (N,).
        after: Of the same rows, (N,).
        classes: How many there are; one to which fewer than `FEWEST` could change is left out.
        read: What is expected, before and after. The share that changes by it to a class, among those that could, is
            taken from the gain; a class to which fewer than `FEWEST` could is left out, too.
    """
    found = []
    for c in range(classes):
        changed, among = _changed(before, after, c)
        meant, could = _changed(*read, c) if read else (0, len(before))
        if min(among, could) >= FEWEST:
            found.append(Flips(changed, among, c, meant / could))
    return max(found, key=lambda one: (one.excess, one.share), default=Flips(0, 0, 0))


def _changed(before: np.ndarray, after: np.ndarray, c: int) -> tuple[int, int]:
    """Count those that become ``c``, and those that could."""
    others = before != c
    return int((after[others] == c).sum()), int(others.sum())


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
