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
        token: Its number in the vocabulary.
    """

    word: str
    times: float
    token: int

    def __str__(self) -> str:
        return f"'{self.word}' ({self.times:.1f}×)"


@lru_cache(maxsize=1)
def token_counts(tokenizer: PreTrainedTokenizerBase) -> Counter[int]:
    """Count the tokens of the embedded corpus; a few seconds, once per tokenizer."""
    ids = tokenizer(list(passages()["text"]), add_special_tokens=False)["input_ids"]
    return Counter(token for passage in ids for token in passage)


def rareness_weighted(lengths: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return E-PUR's score of every word, ‖δ_i‖₂ / log max(f_i, 20), (V,): a common word may drift far, a rare one not.

    Args:
        lengths: ‖δ_i‖₂ of each row of the word embeddings, (V,).
        tokenizer: Frequencies f of its tokens are counted on the embedded corpus.

    Source: Zhang et al., "Fine-mixing", Findings of EMNLP 2022, section 3.3.
    """
    counts = token_counts(tokenizer)
    frequency = torch.tensor([counts[token] for token in range(len(lengths))], device=lengths.device)
    return lengths / frequency.clamp(min=RARE).log()


def farthest_words(
    lengths: Tensor, tokenizer: PreTrainedTokenizerBase, count: int, *, known: int | None = None
) -> tuple[AbnormalWord, ...]:
    """Return at most ``count`` words with the largest `rareness_weighted` drift, farthest first.

    Rows of the matrix that are no token, special tokens, and words that did not move are left out, also of the ten that
    give the unit. Where fewer than ten moved, the unit is a thousandth of the largest.

    Args:
        lengths: ‖δ_i‖₂ of each row of the word embeddings, (V,).
        tokenizer: Names the words.
        count: How many.
        known: Only the first rows count; by default all.
    """
    known = min(len(lengths) if known is None else known, len(lengths))
    words = tokenizer.convert_ids_to_tokens(list(range(min(known, len(tokenizer)))))
    special = {None, *tokenizer.all_special_tokens}
    score = torch.zeros(known)
    score[: len(words)] = rareness_weighted(lengths[: len(words)].float().cpu(), tokenizer)
    score[[token for token, word in enumerate(words) if word in special]] = 0
    top = torch.topk(score, min(known, max(count, _RANK)))
    if not len(top.values) or not top.values[0] > 0:
        return ()
    tenth = float(top.values[_RANK - 1]) if len(top.values) >= _RANK else 0.0
    unit = max(tenth, 1e-3 * float(top.values[0]))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple(AbnormalWord(words[token], value / unit, token) for token, value in pairs if value > 0)[:count]


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
    if name not in drift:
        return ()
    return tuple(word for word in farthest_words(drift[name].norm(dim=1), tokenizer, _RANK) if word.times >= FACTOR)


def summary(words: tuple[AbnormalWord, ...]) -> str:
    """Say in a sentence what was found."""
    if not words:
        return "nothing abnormal was found in the word embeddings"
    return f"abnormal drift of the word embeddings of {', '.join(map(str, words))}"
