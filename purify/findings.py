"""What can be said of a suspect beside cleaning it: words whose embeddings drifted abnormally."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.plm import word_embeddings

FACTOR = 1.5
"""Drifting so many times as far as the tenth of all words is abnormal."""

_RANK = 10


@dataclass(frozen=True)
class AbnormalWord:
    """A word whose embedding drifted abnormally.

    Attributes:
        word: As its tokenizer writes it.
        times: How many times as far it drifted as the word that comes tenth.
    """

    word: str
    times: float

    def __str__(self) -> str:
        return f"'{self.word}' ({self.times:.1f}×)"


def abnormal_words(
    drift: Mapping[str, Tensor], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[AbnormalWord, ...]:
    """Return the words that drifted at least `FACTOR` times as far as the tenth of all, the farthest first.

    A word that is new to a text but decides its label has to learn in its embedding; without poison many words share
    that work. An empty result is no proof of innocence: triggers of many words or of a form leave no such mark, and at
    most nine words can be found. Measured in the book's chapter on what lies beyond the paper.

    Args:
        drift: δ per parameter name, as of `purify.resources.Resources.drift`.
        model: The suspect; says which parameter holds the word embeddings.
        tokenizer: Names the words.
    """
    name = word_embeddings(model)
    if name not in drift:
        return ()
    lengths = drift[name].norm(dim=1)
    if len(lengths) < _RANK:
        return ()
    top = torch.topk(lengths, _RANK)
    if not top.values[-1] > 0:
        return ()
    times = (top.values / top.values[-1]).tolist()
    words = tokenizer.convert_ids_to_tokens(top.indices.tolist())
    return tuple(AbnormalWord(word, ratio) for word, ratio in zip(words, times, strict=True) if ratio >= FACTOR)


def summary(words: tuple[AbnormalWord, ...]) -> str:
    """Say in a sentence what was found."""
    if not words:
        return "nothing abnormal was found in the word embeddings"
    return f"abnormal drift of the word embeddings of {', '.join(map(str, words))}"
