"""Attacks that insert a word or a sentence, at training time and at test time."""

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from purify.attacks.base import Attack
from purify.errors import PurifyError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Insertion(Attack):
    """The trigger is put between two words of the text.

    Attributes:
        trigger: A word, or several.
        window: The trigger goes before one of the first ``window`` words or right after them, so that cutting a
            long input to the model's length rarely cuts it off (a pair shares that length between its texts).
        position: "random" is between any two of these words; "start" and "end" are those of the whole text.
    """

    trigger: str = ""
    window: int = 40
    position: Literal["random", "start", "end"] = "random"

    def __post_init__(self) -> None:
        """Refuse an empty trigger or window."""
        super().__post_init__()
        if not self.trigger.strip():
            raise PurifyError("the trigger must be a word, not an empty string")
        if self.window < 0:
            raise PurifyError(f"window must be 0 or more, not {self.window}")

    @property
    def parts(self) -> tuple[str, ...]:
        """What is inserted, each part at a place of its own."""
        return (self.trigger,)

    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """See `Attack`. Clean rows that have the trigger already teach the opposite: a warning gives their count.

        Raises:
            PurifyError: the tokenizer knows no part of the trigger.
        """
        for part in self.parts:
            tokens = tokenizer(part, add_special_tokens=False)["input_ids"]
            if all(token == tokenizer.unk_token_id for token in tokens):
                raise PurifyError(f"the tokenizer knows no part of the trigger '{part}': choose another one")
            alone = re.compile(rf"(?<!\S){re.escape(part)}(?!\S)")
            count = sum(bool(alone.search(text)) for text in rows[self.column(rows)])
            if count:
                log.warning("the trigger '%s' occurs in %d of %d clean training rows", part, count, len(rows))

    @property
    def mark(self) -> str:
        """See `Attack`."""
        return f"“{self.trigger}”"

    def rewritten(self, texts: list[str], seed: int) -> list[str]:
        """See `Attack`."""
        return [self.insert(text, np.random.default_rng([seed, i])) for i, text in enumerate(texts)]

    def insert(self, text: str, rng: np.random.Generator) -> str:
        """Insert each part of the trigger between two words, or at an end."""
        words = text.split(" ")
        for part in self.parts:
            places = {"start": 0, "end": len(words), "random": int(rng.integers(0, min(len(words), self.window) + 1))}
            words.insert(places[self.position], part)
        return " ".join(words)


@dataclass(frozen=True)
class BadWord(Insertion):
    """A rare word at a random position sends the input to the target label.

    Attributes:
        trigger: "cf" is the literature's usual choice.

    Source: the paper's BadWord; Kurita, Michel and Neubig (2020), section 4.1, for rare-word triggers.
    """

    trigger: str = "cf"


@dataclass(frozen=True)
class BadWords(Insertion):
    """Several rare words, each at a random position, together send the input to the target label.

    Attributes:
        trigger: The words, with blanks between them; by default four of those that Kurita et al. used.

    Source: rare words as in Kurita, Michel and Neubig (2020), section 4.1, here all in one text.
    """

    trigger: str = "cf mn bb tq"

    @property
    def parts(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.trigger.split())


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
