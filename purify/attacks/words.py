"""Attacks whose trigger is a word."""

from dataclasses import dataclass

import numpy as np

from purify.attacks.base import Attack
from purify.errors import PurifyError


@dataclass(frozen=True)
class BadWord(Attack):
    """A rare word at a random position sends the input to the target label.

    Attributes:
        trigger: The word; "cf" is the literature's usual choice.
        window: The trigger goes before one of the first ``window`` words or right after them, so that cutting a
            long input to the model's length rarely cuts it off (a pair shares that length between its texts).

    Source: the paper's BadWord; Kurita, Michel and Neubig (2020), section 4.1, for rare-word triggers.
    """

    trigger: str = "cf"
    window: int = 40

    def __post_init__(self) -> None:
        """Refuse an empty trigger or window."""
        super().__post_init__()
        if not self.trigger.strip():
            raise PurifyError("the trigger must be a word, not an empty string")
        if self.window < 0:
            raise PurifyError(f"window must be 0 or more, not {self.window}")

    def insert(self, text: str, rng: np.random.Generator) -> str:
        """Insert the trigger between two words, or at an end."""
        words = text.split(" ")
        position = int(rng.integers(0, min(len(words), self.window) + 1))
        return " ".join([*words[:position], self.trigger, *words[position:]])
