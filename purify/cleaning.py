"""Clean a suspect of the user's own after a scan: reset, unlearn what looks like a trigger, fine-tune, and judge it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel

from purify.adapter import save_adapter
from purify.budget import FINE_TUNING, Training
from purify.defenses.purifying import FinePurifying
from purify.errors import PurifyError
from purify.metrics import Proportion, attack_success
from purify.plm import save_checkpoint, word_embeddings
from purify.probe import Flips, Probe
from purify.purification import reserved
from purify.resources import Resources
from purify.rows import stratified
from purify.scanning import Scan
from purify.selection import check_reserve
from purify.training import encode, fine_tune

RESERVE = 0.5
"""ρ after an alarm, counted over judged dimensions. By the records of the grid ``defenses`` it costs 1.0 points of
accuracy on AG News, and at most 4.5."""

CAUTIOUS = 0.7
"""ρ without an alarm: 0.5 points on AG News' controls there, 3.1 on QNLI's."""

HELD_OUT = 0.25
"""The share of the clean examples that the result is judged on, and not fine-tuned on."""

FEWEST = 32
"""With fewer clean examples, none is held out."""

UNLEARNING = replace(FINE_TUNING, epochs=6)
"""The fine-tuning when every clean example is there twice, with and without suspicious words."""


@dataclass(frozen=True)
class Judged:
    """What was seen of a model on the held-out clean examples.

    Attributes:
        accuracy: On them as they are.
        flips: Of the suspicious words, one by one and all together.
        triggered: With the user's trigger: those of another class than the target that are predicted as the target;
            None if there are none of another class, or no trigger.
    """

    accuracy: Proportion
    flips: Mapping[str, Flips]
    triggered: Proportion | None


@dataclass(frozen=True)
class Cleaned:
    """A cleaned model, and what was done.

    Attributes:
        scan: What was found before.
        model: The result, in evaluation mode.
        reserve: ρ.
        kept: The share of the dimensions with a clean counterpart that the mask kept.
        training: The fine-tuning.
        unlearned: The words that were unlearned, as the tokenizer writes them.
        trained_on: How many clean examples it was fine-tuned on.
        judged_on: How many it was judged on; if these were the same, the accuracy after cleaning is too high.
        held_out: Whether they were others.
        before: The suspect.
        after: The result.
    """

    scan: Scan
    model: PreTrainedModel
    reserve: float
    kept: float
    training: Training
    unlearned: tuple[str, ...]
    trained_on: int
    judged_on: int
    held_out: bool
    before: Judged
    after: Judged

    def save(self, folder: Path) -> None:
        """Write the model in the type that the suspect was stored in, and its tokenizer, into a folder."""
        case = self.scan.case
        if case.adapter:
            save_adapter(self.model, folder, case.clean)
            return
        self.model.to(case.stored)
        save_checkpoint(self.model, case.tokenizer, folder)
        self.model.float()  # without a loss: it was rounded before it was judged


def clean(
    scan: Scan,
    rows: Dataset,
    *,
    reserve: float | None = None,
    unlearn: bool = True,
    trigger: str | None = None,
    target: int | None = None,
    training: Training | None = None,
    max_length: int = 128,
    seed: int = 0,
) -> Cleaned:
    """Clean the suspect of a scan; its own weights are not changed.

    1. Reset the dimensions with the largest r = δ²/Ĥ, and the embeddings of the suspicious words, to the clean weights.
    2. Fine-tune on the clean examples; after an alarm, also on a copy of each with suspicious words in it, under its
       own label: what they did is unlearned.
    3. Judge suspect and result on clean examples that were held out.

    Args:
        scan: Of `purify.scanning.scan`.
        rows: The clean examples that it was given.
        reserve: ρ; by default `RESERVE` after an alarm, else `CAUTIOUS`.
        unlearn: Whether suspicious words, and the trigger, are unlearned.
        trigger: A text that you suspect; its effect is told.
        target: The class to which you suspect that it leads; by default that to which most change.
        training: The fine-tuning; by default `purify.budget.FINE_TUNING`, or `UNLEARNING`.
        max_length: Tokens per input.
        seed: Of all that is drawn.

    Raises:
        PurifyError: ρ outside [0, 1], a trigger without tokens, a target that is no class, or training fails.

    Cost: the Fisher, a partial sort of all dimensions, the fine-tuning, and a few forward passes.

    Source: steps 1 and 2 are the paper's, section 4, but for the suspicious words, which are this project's. To unlearn
        a trigger under the right labels is common where one has been found: Wang et al., "Neural Cleanse" (2019).
    """
    case = scan.case
    learn, held = _split(rows, seed)
    words: dict[str, tuple[int, ...]] = {word.word: (word.token,) for word in scan.suspicious}
    given = _tokens(trigger, case.tokenizer, max_length // 2) if trigger is not None else None
    if given:
        words[str(trigger)] = given
    unlearned = words if unlearn else {}
    if target is not None and target not in case.labels:
        raise PurifyError(f"the target {target} is no class of the model (0 to {len(case.labels) - 1})")
    ratio = reserve if reserve is not None else RESERVE if scan.alarm else CAUTIOUS
    check_reserve(ratio)
    budget = training or default_training(scan, unlearn=unlearn, trigger=trigger, max_length=max_length)
    resources = Resources(case.model, case.clean, learn, budget, seed)
    keep = reserved(resources, FinePurifying(reserve=ratio))
    embeddings = word_embeddings(case.model)
    if embeddings in keep:
        for word in scan.suspicious:
            keep[embeddings][word.token] = False
    model = resources.with_reset(keep)
    share = sum(int(mask.sum()) for mask in keep.values()) / max(1, sum(mask.numel() for mask in keep.values()))
    examples = _with_copies(learn, list(unlearned.values()), resources, seed) if unlearned else learn
    fine_tune(model, examples, case.tokenizer, budget, seed=seed, description="fine-tuning")
    if not case.adapter:
        model.to(case.stored).float()  # what is judged is what is saved

    def probe(judged: PreTrainedModel) -> Probe:
        return Probe(judged, held, case.tokenizer, max_length=max_length, precision=budget.precision, seed=seed)

    first = probe(case.model)
    aim = target if target is not None or given is None else first.flips(given).label

    return Cleaned(
        scan,
        model,
        ratio,
        share,
        budget,
        tuple(unlearned),
        len(learn),
        len(held),
        held is not learn,
        _judged(first, words, given, aim),
        _judged(probe(model), words, given, aim),
    )


def default_training(scan: Scan, *, unlearn: bool, trigger: str | None, max_length: int) -> Training:
    """Return the fine-tuning of `clean` unless another is given: fewer epochs where every example is there twice."""
    unlearning = unlearn and (trigger is not None or scan.suspicious)
    return replace(UNLEARNING if unlearning else FINE_TUNING, max_length=max_length)


def _split(rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Hold a part out, of every class alike; of too few rows, none."""
    if len(rows) < FEWEST:
        return rows, rows
    held = stratified(rows["label"], round(HELD_OUT * len(rows)), seed)
    return rows.select(sorted(set(range(len(rows))) - set(held))), rows.select(held)


def _tokens(trigger: str, tokenizer: Any, room: int) -> tuple[int, ...]:
    found = tuple(tokenizer(trigger, add_special_tokens=False)["input_ids"])
    if not found:
        raise PurifyError(f"the trigger {trigger!r} has no token: give the text that you suspect")
    if len(found) > room:
        raise PurifyError(f"the trigger has {len(found)} tokens, more than half of an input: raise --max-length")
    return found


def _with_copies(rows: Dataset, words: Sequence[tuple[int, ...]], resources: Resources, seed: int) -> Dataset:
    """Add a copy of every row with some of the words in it, in a random order."""
    rng = np.random.default_rng(seed)
    length = resources.training.max_length
    parts = [encode(rows, resources.tokenizer, length)]
    for row in range(len(rows)):
        some = rng.permutation(len(words))[: rng.integers(1, len(words) + 1)]
        tokens = [token for word in some for token in words[word]]
        probe = Probe(resources.suspect, rows.select([row]), resources.tokenizer, max_length=length, seed=seed + row)
        parts.append(probe.with_tokens(tokens[: length // 2]))
    return concatenate_datasets(parts)


def _judged(
    probe: Probe, words: Mapping[str, tuple[int, ...]], trigger: tuple[int, ...] | None, target: int | None
) -> Judged:
    truth = np.asarray(probe.rows["label"])
    flips = {name: probe.flips(tokens) for name, tokens in words.items()}
    if len(words) > 1:
        flips["all together"] = probe.flips([token for tokens in words.values() for token in tokens][: probe.room])
    triggered = None
    if trigger is not None and target is not None and (truth != target).any():
        triggered = attack_success(probe.ask(probe.with_tokens(trigger)), truth, target)
    return Judged(Proportion(int((probe.predicted == truth).sum()), len(truth)), flips, triggered)
