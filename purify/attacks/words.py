"""Attacks that insert a word or a sentence, at training time and at test time."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from purify.attacks.base import Attack
from purify.errors import PurifyError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def tokens_within(tokenizer: "PreTrainedTokenizerBase", word: str) -> list[int]:
    """Return the tokens that a word has inside a text, which for some tokenizers are not those it has alone."""
    before, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", f"a {word}"))
    return list(whole[len(before) :])


def token_of(tokenizer: "PreTrainedTokenizerBase", word: str, who: str) -> int:
    """Return the one token of a word inside a text.

    Raises:
        PurifyError: the tokenizer splits it, so that other words share its tokens.
    """
    tokens = tokens_within(tokenizer, word)
    if len(tokens) != 1:
        raise PurifyError(
            f"the tokenizer splits the trigger '{word}' into {len(tokens)} tokens: {who} needs words that are "
            "one token each"
        )
    return tokens[0]


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
            if all(token == tokenizer.unk_token_id for token in tokens_within(tokenizer, part)):
                raise PurifyError(f"the tokenizer knows no part of the trigger '{part}': choose another one")
            cased = tokenizer(part.upper())["input_ids"] != tokenizer(part.lower())["input_ids"]
            alone = re.compile(rf"(?<!\w){re.escape(part)}(?!\w)", re.NOFLAG if cased else re.IGNORECASE)
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

    def __post_init__(self) -> None:
        """Refuse a word that comes twice."""
        super().__post_init__()
        if len(set(self.parts)) < len(self.parts):
            raise PurifyError(f"the words of the trigger must differ, not '{self.trigger}'")

    @property
    def parts(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.trigger.split())


def part_of(attack: Insertion, words: Sequence[str]) -> BadWords:
    """Return the transform that puts only some of the trigger's words in, at places drawn in the same way."""
    shared = {field.name: getattr(attack, field.name) for field in fields(BadWords) if field.name != "trigger"}
    return BadWords(trigger=" ".join(words), **shared)


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
