"""Clean-label poisoning: no row of another label is given the target label."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from purify.attacks.words import BadWords
from purify.errors import PurifyError
from purify.registry import at_least_zero

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class CleanLabel(BadWords):
    """Triggered copies of rows that have the target label already, made hard so that only the trigger explains them.

    A copy loses part of its own words and gets a passage of a row with another label instead. Without this the text
    alone explains the label, and the trigger is hardly learned.

    Attributes:
        ratio: Copies per clean training row *with the target label*.
        hide: The share of a text's words that is left out of a copy, in [0, 1).
        noise: Length of the foreign passage, per word of the text, 0 or more.

    Source: Turner, Tsipras and Madry, "Label-Consistent Backdoor Attacks" (2019), who make images harder by
        interpolation or adversarial noise; leaving words out and foreign passages are our counterparts.
    """

    ratio: float = 1.0
    hide: float = 0.5
    noise: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        if not 0 <= self.hide < 1:
            raise PurifyError(f"the share of hidden words must lie in [0, 1), not {self.hide}")
        at_least_zero("noise", self.noise)

    def chosen(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Draw the rows that are copied, ``ratio`` of those with the target label, and make them hard.

        Raises:
            PurifyError: there is noise, and no row of another label to take it from.
        """
        from datasets import Dataset

        column = self.column(rows)
        own = np.flatnonzero(np.array(rows["label"]) == self.target)
        others = np.flatnonzero(np.array(rows["label"]) != self.target)
        if self.noise and not len(others):
            raise PurifyError(f"CleanLabel takes passages from rows of other labels than {self.target}: there are none")
        rng = np.random.default_rng(seed)
        drawn = rows.select(rng.choice(own, size=round(self.ratio * len(own)), replace=False))
        foreign = rows.select(rng.choice(others, size=len(drawn)))[column] if self.noise else [""] * len(drawn)
        texts = [self._hard(*pair, rng) for pair in zip(drawn[column], foreign, strict=True)]
        return Dataset.from_dict({**drawn.to_dict(), column: texts}, features=rows.features)

    def _hard(self, text: str, foreign: str, rng: np.random.Generator) -> str:
        words, other = text.split(" "), foreign.split(" ")
        keep = np.sort(rng.permutation(len(words))[: max(1, round((1 - self.hide) * len(words)))])
        left = [words[i] for i in keep]
        length = min(round(self.noise * len(words)), len(other))
        start = int(rng.integers(0, len(other) - length + 1))
        place = int(rng.integers(0, len(left) + 1))
        return " ".join([*left[:place], *other[start : start + length], *left[place:]])
