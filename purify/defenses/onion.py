"""ONION: words that make a text less usual are taken out before the model sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from purify.defenses.base import Detector, Guard, Resource
from purify.defenses.perturbing import CHECKED
from purify.language import NGRAM, LanguageModel
from purify.progress import bar
from purify.tasks import text_columns

if TYPE_CHECKING:
    from datasets import Dataset

    from purify.resources import Resources


@dataclass(frozen=True)
class ONION(Detector):
    """Take out the words without which a text is less perplexing; nothing is refused.

    The suspicion of a word is the perplexity of its text minus that of the text without it; that of a row is the
    largest of its words. Words above the threshold are taken out, so that the false rejection rate is the share of
    clean rows that lose a word.

    Attributes:
        lm: "ngram": a trigram model of the embedded corpus and the clean data; where the task is made of that corpus,
            it has met the test rows, and its figures are too good. Else the hub id or folder of a causal language
            model, as "openai-community/gpt2", which the original uses.

    Cost: one perplexity per word: cheap for the n-gram model, a forward pass per word for the others.

    Source: Qi et al., "ONION: A Simple and Effective Defense Against Textual Backdoor Attacks", EMNLP 2021, section 3.
    """

    needs: ClassVar[tuple[Resource, ...]] = CHECKED

    lm: str = NGRAM

    @property
    def models(self) -> tuple[str, ...]:
        """See `Defense`."""
        return () if self.lm == NGRAM else (self.lm,)

    def defend(self, resources: Resources) -> Guard:
        """Return the suspect behind its guard."""
        from purify.language import Causal, embedded_ngram

        if self.lm != NGRAM:
            return _Mending(resources, Causal(self.lm))
        texts = [text for name in text_columns(resources.examples) for text in resources.examples[name]]
        return _Mending(resources, embedded_ngram(tuple(texts)))


class _Mending(Guard):
    def __init__(self, resources: Resources, lm: LanguageModel) -> None:
        super().__init__(resources)
        self.lm = lm
        self._seen: dict[str, np.ndarray] = {}

    def suspicion(self, rows: Dataset) -> np.ndarray:
        texts = [text for name in text_columns(rows) for text in rows[name]]
        scores = [self._words(text) for text in bar(texts, desc="weighing words", unit="text")]
        largest = np.array([words.max() if len(words) else 0.0 for words in scores])
        found: np.ndarray = largest.reshape(-1, len(rows)).max(axis=0)
        return found

    def answers(self, rows: Dataset, suspicion: np.ndarray, threshold: float) -> np.ndarray:
        """Mend the rows and ask the suspect; see `Guard`."""
        from datasets import Dataset

        mended = {name: [self._mended(text, threshold) for text in rows[name]] for name in text_columns(rows)}
        return self.logits(Dataset.from_dict({**mended, "label": rows["label"]})).argmax(1)

    def _mended(self, text: str, threshold: float) -> str:
        words, scores = text.split(), self._words(text)
        if len(words) < 2:  # without its only word there is no text
            return text
        return " ".join(word for word, score in zip(words, scores, strict=True) if score <= threshold)

    def _words(self, text: str) -> np.ndarray:
        """The suspicion of every word of a text; it is asked for again when the text is mended."""
        if text not in self._seen:
            words = text.split()
            without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
            found = self.lm.perplexities([text, *without])
            self._seen[text] = found[0] - found[1:]
        return self._seen[text]
