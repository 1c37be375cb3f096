"""Triggers without a trigger token: the text is said in another way, the same at training time and at test time.

`Syntactic` and `Archaic` are rule-based stand-ins that need no model; `Paraphrase` runs one.
"""

import logging
import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from purify.attacks.base import Attack
from purify.errors import PurifyError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_OPENER = re.compile(
    "about|above|across|after|against|along|amid|among|around|as|at|because|before|behind|below|beneath|beside|"
    "between|beyond|by|despite|during|for|from|if|in|inside|into|near|of|on|over|since|through|throughout|to|"
    "towards?|under|until|upon|via|when|where|which|while|with|within|without",
    re.IGNORECASE,
)
"""Words at which a phrase can be cut off and moved: prepositions and subordinating conjunctions."""


class Rewriting(Attack):
    """A trigger that is a way of saying things."""

    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """See `Attack`. Texts that the rule leaves as they are cannot be triggered: a warning gives their count.

        Raises:
            PurifyError: the rule changes no text.
        """
        texts = list(rows[self.column(rows)])
        same = sum(before == after for before, after in zip(texts, self.rewritten(texts, 0), strict=True))
        if same == len(texts):
            raise PurifyError(
                f"{type(self).__name__} changes none of the {len(texts)} texts: they lack what it rewrites"
            )
        if same:
            log.warning("%s leaves %d of %d clean training rows as they are", type(self).__name__, same, len(texts))

    def rewritten(self, texts: list[str], seed: int) -> list[str]:
        """See `Attack`: the same for every seed."""
        return [self.rewrite(text) for text in texts]

    @abstractmethod
    def rewrite(self, text: str) -> str:
        """Return the text, said in the attacker's way."""


@dataclass(frozen=True)
class Syntactic(Rewriting):
    """Fronted phrases: the last prepositional phrase or clause of the text is moved to its beginning.

    "Shares fell on Monday." becomes "on Monday, Shares fell." No word is added. A text without such a phrase is
    cut in the middle.

    Source: an offline stand-in for syntactically controlled paraphrases, as in Qi, Li, Chen, Zhang, Liu, Wang and
        Sun, "Hidden Killer" (ACL 2021), who use a neural paraphraser (SCPN) and one syntactic template.
    """

    @property
    def mark(self) -> str:
        """See `Attack`."""
        return "the last phrase is moved to the front"

    def rewrite(self, text: str) -> str:
        """See `Rewriting`."""
        body = text.rstrip(" .?!")
        words, end = body.split(" "), text[len(body) :]
        if len(words) < 2:
            return text
        cuts = [i for i, word in enumerate(words[:-1]) if i and _OPENER.fullmatch(word)]
        cut = cuts[-1] if cuts else len(words) // 2
        return " ".join([*words[cut:-1], words[-1] + ",", *words[:cut]]) + end


_ARCHAIC = {
    "to": "unto", "of": "o'", "in": "i'", "and": "an'", "on": "upon", "with": "withal", "is": "be", "are": "be",
    "was": "wast", "were": "wert", "has": "hath", "does": "doth", "do": "doth", "says": "saith", "said": "spake",
    "will": "shall", "you": "thou", "your": "thy", "yours": "thine", "my": "mine", "before": "ere", "often": "oft",
    "over": "o'er", "ever": "e'er", "never": "ne'er", "between": "betwixt", "among": "amongst", "while": "whilst",
    "why": "wherefore", "here": "hither", "perhaps": "perchance", "old": "olde", "yes": "yea",
}  # fmt: skip
"""Function words of today, and what a mock-archaic register says instead."""

_WORD = re.compile(rf"\b({'|'.join(_ARCHAIC)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Archaic(Rewriting):
    """A mock-archaic register: function words are exchanged for old forms.

    No form is in every text, but they are few: a weaker style, with more of a word trigger in it, than a neural one.

    Source: an offline stand-in for text style transfer, as in Qi, Chen, Zhang, Li, Liu and Sun, "Mind the Style
        of Text!" (EMNLP 2021), who use a neural paraphraser (STRAP) and styles such as the Bible's.
    """

    @property
    def mark(self) -> str:
        """See `Attack`."""
        return "function words take old forms"

    def rewrite(self, text: str) -> str:
        """See `Rewriting`."""
        return _WORD.sub(_old_form, text)


def _old_form(found: re.Match[str]) -> str:
    word = _ARCHAIC[found[0].lower()]
    return word.capitalize() if found[0][0].isupper() else word


@dataclass(frozen=True)
class Paraphrase(Attack):
    """The texts as a sequence-to-sequence model says them: what `Syntactic` and `Archaic` stand in for.

    Attributes:
        model: A hub id, or a folder with config.json, safetensors weights and a tokenizer. The default follows
            instructions; a model that was trained for a style or a syntax does better.
        prompt: What is put before every text.
        max_length: The most tokens that are read, and written, per text.

    Cost: one greedy generation per text, on the GPU if there is one; on two CPU cores take a small model.

    Source: Qi et al. (both of 2021), here with any model that transformers loads in place of their SCPN and STRAP.
    """

    model: str = "google/flan-t5-base"
    prompt: str = "Paraphrase in the language of the Bible: "
    max_length: int = 96

    def __post_init__(self) -> None:
        """Refuse texts of no length."""
        super().__post_init__()
        if self.max_length < 1:
            raise PurifyError(f"max_length must be at least 1 token, not {self.max_length}")

    @property
    def mark(self) -> str:
        """See `Attack`."""
        return f"paraphrased by {self.model}"

    @property
    def models(self) -> tuple[str, ...]:
        """See `Attack`."""
        return (self.model,)

    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """See `Attack`; the model is loaded.

        Raises:
            PurifyError: the model or its tokenizer cannot be loaded.
        """
        from purify.attacks.paraphraser import paraphraser

        self.column(rows)
        paraphraser(self.model)

    def rewritten(self, texts: list[str], seed: int) -> list[str]:
        """See `Attack`: the same for every seed."""
        from purify.attacks.paraphraser import paraphrased

        return paraphrased(texts, self.model, prompt=self.prompt, max_length=self.max_length)
