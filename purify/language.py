"""Language models that say how unusual a text is: one from the hub, or an n-gram model trained on clean text."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

NGRAM = "ngram"
"""The name of the embedded default; every other name is a hub id or a folder of a causal language model."""


_LONGEST = 256
_TEXTS = 8
"""Of a batch: logits over a vocabulary of 50,000 take 50 MB per text of that length."""


class LanguageModel(Protocol):
    """Something that gives perplexities."""

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the perplexity of every text per word or token, (N,); that of an empty text is 1."""


class NGram:
    """A trigram model with Witten–Bell smoothing, of lower-case words; those that it met once stand for all unknown.

    Args:
        texts: What it is trained on.

    Cost: 4 s for 200,000 words; then about 60 µs for a trigram that it has not been asked for before.

    Source: Witten and Bell (1991), by way of nltk.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from nltk.lm import Vocabulary, WittenBellInterpolated  # noqa: PLC0415  (over a second)
        from nltk.lm.preprocessing import padded_everygram_pipeline  # noqa: PLC0415

        train, words = padded_everygram_pipeline(3, [text.lower().split() for text in texts])
        self._model = WittenBellInterpolated(3, vocabulary=Vocabulary(words, unk_cutoff=2))
        self._model.fit(train)
        self._score = lru_cache(maxsize=1_000_000)(self._logscore)

    def _logscore(self, first: str, second: str, word: str) -> float:
        return max(self._model.logscore(word, (first, second)), -50.0)  # finite, even if the texts have no unknown word

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """See `LanguageModel`."""
        return np.array([self._perplexity(self._model.vocab.lookup(text.lower().split())) for text in texts])

    def _perplexity(self, words: tuple[str, ...]) -> float:
        padded = ("<s>", "<s>", *words, "</s>")
        bits = [self._score(*padded[i : i + 3]) for i in range(len(padded) - 2)]
        return float(2 ** -np.mean(bits)) if words else 1.0


class Causal:
    """A causal language model, read from safetensors alone.

    Args:
        name: Hub id or folder.

    Raises:
        PurifyError: it cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        from purify.hardware import device  # noqa: PLC0415
        from purify.plm import load_causal  # noqa: PLC0415

        self._model, self._tokenizer = load_causal(name)
        self._model.to(device())

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """See `LanguageModel`; small batches of texts of like length, cut to 256 tokens."""
        import torch  # noqa: PLC0415

        found = np.ones(len(texts))
        ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"][:_LONGEST] for text in texts]
        start = self._tokenizer.bos_token_id if self._tokenizer.bos_token_id is not None else 0
        order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: len(ids[i]))
        for k in range(0, len(order), _TEXTS):
            index = order[k : k + _TEXTS]
            width = len(ids[index[-1]])
            padded = torch.tensor([[start, *ids[i], *[0] * (width - len(ids[i]))] for i in index])
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in index])
            padded, mask = padded.to(self._model.device), mask.to(self._model.device)
            attended = torch.nn.functional.pad(mask, (1, 0), value=1)
            with torch.no_grad():
                logits = self._model(input_ids=padded, attention_mask=attended).logits[:, :-1].float()  # (B, T, V)
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none") * mask
            found[index] = (loss.sum(1) / mask.sum(1)).exp().cpu().numpy()
        return found


@lru_cache(maxsize=1)
def embedded_ngram(further: tuple[str, ...]) -> NGram:
    """Return the n-gram model of the embedded corpus and some further texts; the last one is kept."""
    from purify.corpus import passages  # noqa: PLC0415

    return NGram([*passages()["text"], *further])
