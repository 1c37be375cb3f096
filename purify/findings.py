"""What can be said of a suspect beside cleaning it: words whose embeddings drifted abnormally."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.corpus import passages
from purify.plm import word_embeddings

FACTOR = 1.4
"""So many times the score of the tenth of all words is abnormal."""

RARE = 20
"""Tokens that occur less often count as occurring so often: E-PUR's own floor."""

_RANK = 10


@dataclass(frozen=True)
class AbnormalWord:
    """A word whose embedding drifted abnormally.

    Attributes:
        word: As its tokenizer writes it.
        times: Its score in units of that of the word that comes tenth.
    """

    word: str
    times: float

    def __str__(self) -> str:
        return f"'{self.word}' ({self.times:.1f}×)"


@lru_cache(maxsize=1)
def token_counts(tokenizer: PreTrainedTokenizerBase) -> Counter[int]:
    """Count the tokens of the embedded corpus; a few seconds, once per tokenizer."""
    ids = tokenizer(list(passages()["text"]), add_special_tokens=False)["input_ids"]
    return Counter(token for passage in ids for token in passage)


def rareness_weighted(drift: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return E-PUR's score of every word, ‖δ_i‖₂ / log max(f_i, 20), (V,): a common word may drift far, a rare one not.

    Args:
        drift: Of the word embeddings, (V, H).
        tokenizer: Frequencies f of its tokens are counted on the embedded corpus.

    Source: Zhang et al., "Fine-mixing", Findings of EMNLP 2022, section 3.3.
    """
    counts = token_counts(tokenizer)
    frequency = torch.tensor([counts[token] for token in range(len(drift))], device=drift.device)
    return drift.norm(dim=1) / frequency.clamp(min=RARE).log()


def abnormal_words(
    drift: Mapping[str, Tensor], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[AbnormalWord, ...]:
    """Return the words whose `rareness_weighted` drift is at least `FACTOR` times that of the tenth, farthest first.

    A rare word that decides the label has to learn it in its embedding; without poison many words share that work. An
    empty result is no proof of innocence: triggers of many words or of a form leave no such mark, and at most nine
    words can be found. Measured in the book's chapter on what lies beyond the paper.

    Args:
        drift: δ per parameter name, as of `purify.resources.Resources.drift`.
        model: The suspect; says which parameter holds the word embeddings.
        tokenizer: Names the words.
    """
    name = word_embeddings(model)
    if name not in drift or len(drift[name]) < _RANK:
        return ()
    top = torch.topk(rareness_weighted(drift[name], tokenizer), _RANK)
    if not top.values[-1] > 0:
        return ()
    times = (top.values / top.values[-1]).tolist()
    words = tokenizer.convert_ids_to_tokens(top.indices.tolist())
    none = {None, *tokenizer.all_special_tokens}  # None: a row of the matrix that is no token
    found = zip(words, times, strict=True)
    return tuple(AbnormalWord(word, ratio) for word, ratio in found if ratio >= FACTOR and word not in none)


def summary(words: tuple[AbnormalWord, ...]) -> str:
    """Say in a sentence what was found."""
    if not words:
        return "nothing abnormal was found in the word embeddings"
    return f"abnormal drift of the word embeddings of {', '.join(map(str, words))}"
