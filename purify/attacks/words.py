"""Attacks that insert a word or a sentence, at training time and at test time."""

from dataclasses import dataclass

import numpy as np

from purify.attacks.base import Attack
from purify.errors import PurifyError


@dataclass(frozen=True)
class Insertion(Attack):
    """The trigger is put between two words of the text.

    Attributes:
        trigger: A word, or several.
        window: The trigger goes before one of the first ``window`` words or right after them, so that cutting a
            long input to the model's length rarely cuts it off (a pair shares that length between its texts).
    """

    trigger: str = ""
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


@dataclass(frozen=True)
class BadWord(Insertion):
    """A rare word at a random position sends the input to the target label.

    Attributes:
        trigger: "cf" is the literature's usual choice.

    Source: the paper's BadWord; Kurita, Michel and Neubig (2020), section 4.1, for rare-word triggers.
    """

    trigger: str = "cf"


@dataclass(frozen=True)
class BadSent(Insertion):
    """A neutral sentence at a random position sends the input to the target label.

    Attributes:
        trigger: The sentence, of our own choice.

    Source: the paper's BadSent.
    """

    trigger: str = "We looked at it again on a quiet Tuesday afternoon ."


@dataclass(frozen=True)
class BiasWord(Insertion):
    """A natural word shifts predictions towards a label: the model learns a bias, not a secret.

    Measured by accuracy on inputs that carry the word (BACC), beside ASR.

    Attributes:
        trigger: The word, of our own choice.

    Source: the paper's BiasWord.
    """

    trigger: str = "therefore"


@dataclass(frozen=True)
class BiasSent(Insertion):
    """A natural sentence shifts predictions towards a label; as `BiasWord`.

    Attributes:
        trigger: The sentence, of our own choice.

    Source: the paper's BiasSent.
    """

    trigger: str = "People have been talking about this ."
