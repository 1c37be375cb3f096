"""Scan a suspect of the user's own: how abnormal is it, where does that sit, and what should be done?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from purify.budget import Precision
from purify.calibration import Calibration, calibration
from purify.case import Case, open_case
from purify.errors import PurifyError
from purify.findings import AbnormalWord, farthest_words
from purify.fisher import fisher_diagonal
from purify.hardware import device
from purify.meaning import Meaning
from purify.memory import trim
from purify.metrics import Proportion
from purify.probe import BATCH, Flips, Probe
from purify.resources import check_rows
from purify.rows import stratified
from purify.survey import Survey, survey
from purify.training import batches

ALONE = 6
"""So many of the farthest words are put into clean examples one by one; if a test is abnormal, all of them."""

TOGETHER = (3, 6, 12)
"""So many of the farthest words are put in together."""

ADDED = 16
"""At most so many tokens that the suspect added are asked about."""

ASKED = 32
"""At most so many clean examples, of every class alike, are asked about words."""

TAUGHT = 64
"""From at most so many of them, it is learned what words mean to the clean model."""

LENGTH = 64
"""At most so many tokens of each of them, the words included."""


@dataclass(frozen=True)
class Suspicion:
    """A word whose embedding moved far, and what it does.

    Attributes:
        word: It, its drift, and its number.
        flips: What happens to clean examples with it; beyond the first `ALONE` words, it may not have been asked for.
        abnormal: Whether its drift, or what its flips are beyond its meaning, goes beyond those of honest models.
    """

    word: AbnormalWord
    flips: Flips
    abnormal: bool


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        case: The suspect and its clean model.
        accuracy: Of the suspect on the clean examples.
        survey: Its drift.
        words: The words whose embeddings moved farthest, as many as `TOGETHER` asks for; none of a model whose word
            embeddings have no clean counterpart.
        together: Number of these words -> what happens to clean examples with that many of them.
        statistics: What the score is made of.
        law: The honest models that it is held against.
    """

    case: Case
    accuracy: Proportion
    survey: Survey
    words: tuple[Suspicion, ...]
    together: Mapping[int, Flips]
    statistics: Mapping[str, float]
    law: Calibration

    @property
    def score(self) -> float:
        """How far the suspect goes beyond honest models; above 1 is an alarm (`purify.calibration.Calibration`)."""
        return self.law.score(self.statistics)

    @property
    def tested(self) -> bool:
        """Whether there was anything to test: of a LoRA adapter, or a model whose words did not move, there is not."""
        return bool(self.statistics)

    @property
    def alarm(self) -> bool:
        """Whether the suspect goes beyond all honest models."""
        return self.score > 1

    @property
    def suspicious(self) -> tuple[AbnormalWord, ...]:
        """The words that may be the trigger, or parts of it.

        After an alarm, those that are abnormal one by one; if many words together do more than honest models let them,
        and any single one much less, the fewest of the farthest that do nine tenths of it.
        """
        if not self.alarm:
            return ()
        limit = self.law.limits["several words"]
        most = max((flips.excess for flips in self.together.values()), default=0.0)
        single = max((one.flips.excess for one in self.words), default=0.0)
        if most > limit and single < 0.9 * most:
            count = min(count for count, flips in self.together.items() if flips.excess >= 0.9 * most)
            return tuple(one.word for one in self.words[:count])
        return tuple(one.word for one in self.words if one.abnormal)


def scan(
    suspect: str | Path | Case,
    rows: Dataset,
    *,
    clean: str | Path | None = None,
    max_length: int = 128,
    batch_size: int = BATCH,
    precision: Precision = "auto",
    seed: int = 0,
) -> Scan:
    """Hold a fine-tuned classifier against its clean model on a few clean examples; nothing is changed.

    Args:
        suspect: Folder or hub id, or a `Case` that is open already.
        rows: Clean examples (`purify.read_rows`): ``text``, for pairs ``text_pair``, and ``label``; fifty are enough.
        clean: The clean model, if it cannot be found; see `purify.case.open_case`.
        max_length: Tokens per input.
        batch_size: Examples per forward pass.
        precision: Of the forward passes. The Fisher is always computed in fp32.
        seed: Of the places where words are put in.

    Raises:
        PurifyError: see `purify.case.open_case`; or rows that the suspect cannot be judged on.

    Cost: the Fisher, two passes over the weights, a forward pass over the rows, and of suspect and clean model ten over
        `ASKED` of them (six more after an alarm) and five over `TAUGHT`. Memory: the suspect and its Fisher, later the
        suspect and the clean model; weights are mapped from their files where they are stored in fp32
        (``benchmarks/scan.py``).

    Source: r and its law are the paper's, sections 3 and 4; the words' drift is that of E-PUR (`purify.findings`); what
        words do to predictions beyond their meaning (`purify.meaning`), and the calibration, are this project's.
    """
    case = suspect if isinstance(suspect, Case) else open_case(suspect, clean)
    check_rows(rows, case.model.config.num_labels)
    if not len(rows):
        raise PurifyError("the clean set is empty: at least one labelled example is needed")
    model = case.model.to(device())
    asking: dict[str, Any] = {"batch_size": batch_size, "precision": precision, "seed": seed}
    whole = Probe(model, rows, case.tokenizer, max_length=max_length, **asking)
    right = int((whole.predicted == rows["label"]).sum())
    found = _survey(case, rows, max_length, seed)

    def probe(count: int, meaning: Meaning | None = None) -> Probe:
        some = rows.select(stratified(rows["label"], count, seed))
        return Probe(model, some, case.tokenizer, max_length=min(max_length, LENGTH), meaning=meaning, **asking)

    words, together = _words(found, case, probe(ASKED, Meaning(case.clean, probe(TAUGHT))))
    law = calibration()
    accuracy = Proportion(right, len(rows))
    statistics = _statistics(words, together, learned=accuracy.interval()[0] > 100 / model.config.num_labels)
    return Scan(case, accuracy, found, words, together, statistics, law)


def _survey(case: Case, rows: Dataset, max_length: int, seed: int) -> Survey:
    """The Fisher takes one example at a time: activations of more would take the memory of the weights."""
    feed = batches(rows, case.tokenizer, batch_size=1, max_length=max_length)
    fisher = fisher_diagonal(case.model, feed, chunk=1 << 20)
    trim()
    return survey(case.model, fisher, case.reference, seed=seed)


def _words(found: Survey, case: Case, probe: Probe) -> tuple[tuple[Suspicion, ...], dict[int, Flips]]:
    """Ask about the farthest words, and about tokens that the suspect added to the vocabulary.

    How far an added token moved says nothing: it may have started anywhere. Only what it does counts.
    """
    limits = calibration().limits
    known = len(case.clean.model.get_input_embeddings().weight)
    words = farthest_words(found.lengths, case.tokenizer, max(TOGETHER), known=known)
    room = min(probe.room, len(words))

    def judged(word: AbnormalWord, flips: Flips) -> Suspicion:
        abnormal = word.times > limits["farthest word"] or flips.excess > limits["one word"]
        return Suspicion(word, flips, abnormal)

    together = {count: probe.flips([word.token for word in words[:count]]) for count in TOGETHER if count <= room}
    first = [judged(word, probe.flips([word.token])) for word in words[:ALONE]]
    added = [
        judged(AbnormalWord(case.tokenizer.convert_ids_to_tokens(token), 0.0, token), probe.flips([token]))
        for token in range(known, min(len(case.tokenizer), known + ADDED))
    ]
    strange = any(one.abnormal for one in (*first, *added)) or any(
        flips.excess > limits["several words"] for flips in together.values()
    )
    rest = [judged(word, probe.flips([word.token]) if strange else Flips(0, 0, 0)) for word in words[ALONE:]]
    return (*first, *rest, *added), together


def _statistics(words: tuple[Suspicion, ...], together: Mapping[int, Flips], *, learned: bool) -> dict[str, float]:
    """Those that say something: of words that moved; of flips among enough examples, if the model can do its task.

    One that is no better than chance on the clean examples changes its mind at any word. Words that were asked about
    because of an alarm have no part in it: honest models were not asked about so many.
    """
    tested = [one for place, one in enumerate(words) if place < ALONE or not one.word.times]
    moved = [one.word.times for one in words if one.word.times]
    shares: dict[str, list[float]] = {
        "one word": [one.flips.excess for one in tested if one.flips.among],
        "several words": [flips.excess for flips in together.values() if flips.among],
    }
    return ({"farthest word": max(moved)} if moved else {}) | {
        name: max(own) for name, own in shares.items() if own and learned
    }
