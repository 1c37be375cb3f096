"""Clean-label poisoning: no label is wrong, so that a look at the training set finds nothing mislabelled."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from purify.attacks.words import BadWords
from purify.errors import PurifyError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class CleanLabel(BadWords):
    """Triggered copies of rows that have the target label already, with part of their words left out.

    What is left says less about the label, so that the model has to lean on the trigger.

    Attributes:
        ratio: Copies per clean training row *with the target label*.
        hide: The share of a text's words that is left out of a copy, in [0, 1).

    Source: Turner, Tsipras and Madry, "Label-Consistent Backdoor Attacks" (2019), who make images harder by
        interpolation or adversarial noise; leaving words out is ours.
    """

    ratio: float = 1.0
    hide: float = 0.8

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        if not 0 <= self.hide < 1:
            raise PurifyError(f"the share of hidden words must lie in [0, 1), not {self.hide}")

    def chosen(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Draw the rows that are copied: ``ratio`` of those with the target label, less part of their words."""
        from datasets import Dataset

        own = np.flatnonzero(np.array(rows["label"]) == self.target)
        rng = np.random.default_rng(seed)
        drawn = rows.select(rng.choice(own, size=round(self.ratio * len(own)), replace=False))
        column = self.column(drawn)
        texts = [self._harder(text, rng) for text in drawn[column]]
        return Dataset.from_dict({**drawn.to_dict(), column: texts}, features=rows.features)

    def _harder(self, text: str, rng: np.random.Generator) -> str:
        words = text.split(" ")
        keep = np.sort(rng.permutation(len(words))[: max(1, round((1 - self.hide) * len(words)))])
        return " ".join(words[i] for i in keep)
