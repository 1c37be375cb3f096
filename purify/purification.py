"""Fine-purifying in one call: detect, reset, fine-tune."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.budget import FINE_TUNING, Training
from purify.defenses.purifying import FinePurifying
from purify.errors import PurifyError
from purify.findings import AbnormalWord, abnormal_words
from purify.indicator import indicator, judged, per_tensor, reserve_mask, soft_mask
from purify.metrics import accuracy
from purify.plm import CleanPLM, load_classifier, load_plm, save_checkpoint
from purify.resources import Resources, check_rows
from purify.selection import Count, check_reserve, choose_reserve
from purify.structures import pooled
from purify.training import predict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Purified:
    """The result of `purify`.

    Attributes:
        model: The cleaned classifier, in evaluation mode.
        tokenizer: The clean PLM's tokenizer, which it was cleaned with.
        reserve: The reserve ratio ρ that was used.
        kept: Share of the dimensions with a clean counterpart that the mask keeps. (One that is not
            judged and did not drift counts as reset, although there was nothing to reset.)
        kept_per_module: The same share for each module, by its name.
        validation: ρ -> clean validation accuracy (percent) of each ratio that was tried.
        indicator: r per parameter, if asked for.
        abnormal: Words whose embeddings drifted abnormally; none is no proof (`purify.findings`).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reserve: float
    kept: float
    kept_per_module: Mapping[str, float]
    validation: Mapping[float, float]
    indicator: Mapping[str, Tensor] | None
    abnormal: tuple[AbnormalWord, ...] = ()

    def save(self, folder: str | Path) -> None:
        """Write the cleaned model (safetensors) and its tokenizer as a folder that transformers reads."""
        save_checkpoint(self.model, self.tokenizer, Path(folder))


def purify(
    suspect: PreTrainedModel | str | Path,
    clean: CleanPLM | str | Path,
    clean_data: Dataset,
    *,
    reserve: float | Sequence[float] = 0.5,
    count: Count = "judged",
    validation: Dataset | None = None,
    max_drop: float = 2.0,
    fine_tune: bool = True,
    training: Training = FINE_TUNING,
    seed: int = 0,
    return_indicator: bool = False,
) -> Purified:
    """Clean a fine-tuned classifier that may be poisoned; the suspect's own weights are not changed.

    Args:
        suspect: The classifier, or its folder or hub id (safetensors only).
        clean: The clean PLM that it was fine-tuned from: "bundled", a folder, a hub id, or loaded.
        clean_data: A few clean examples: columns ``text``, for pairs ``text_pair``, and ``label``.
        reserve: The reserve ratio ρ in [0, 1], or several to choose from on ``validation``.
        count: "judged": ρ is a share of the dimensions with Ĥ > 0 and all others are reset: the clean
            data can neither vouch for them nor needs them. "all": a share of all dimensions, the
            paper's plain count.
        validation: Clean rows to choose ρ on, needed when several are given.
        max_drop: ΔACC: how many points of clean accuracy the choice of ρ may cost.
        fine_tune: Whether to fine-tune after the reset (step 3 of the method).
        training: The fine-tuning budget.
        seed: Of ties in the ranking and of the fine-tuning.
        return_indicator: Keep r in the result; as large as the model.

    Raises:
        PurifyError: ρ outside [0, 1], an empty clean set, labels out of range, a suspect of another
            architecture or shape than the clean PLM, or weights that are not finite.

    Cost: one forward and backward pass over the clean data for Ĥ, a partial sort of all dimensions,
        and the fine-tuning; for several ρ, the last two for each one that is tried, from the smallest
        up, and once more for the most accurate one when none is within ``max_drop``.

    Source: the paper, section 4; `purify.selection.choose_reserve` for the choice of ρ.
    """
    if count not in get_args(Count):
        raise PurifyError(f"count must be 'judged' or 'all', not '{count}'")
    ratios = [float(value) for value in np.atleast_1d(np.asarray(reserve, dtype=float))]
    if not ratios:
        raise PurifyError("there is no reserve ratio to choose from")
    for ratio in ratios:
        check_reserve(ratio)
    if len(ratios) > 1 and validation is None:
        raise PurifyError("several reserve ratios need validation rows to choose on: pass validation=")
    if isinstance(suspect, str | Path):
        suspect = load_classifier(suspect)
    if not isinstance(clean, CleanPLM):
        clean = load_plm(clean)
    resources = Resources(suspect, clean, clean_data, training, seed)
    if validation is not None:
        check_rows(validation, suspect.config.num_labels)

    def clean_at(ratio: float) -> tuple[PreTrainedModel, dict[str, Tensor]]:
        model, keep = purified(resources, FinePurifying(reserve=ratio, count=count))
        return (resources.fine_tuned(model) if fine_tune else model.eval()), keep

    scores: dict[float, float] = {}
    if validation is None:
        chosen = ratios[0]
        model, keep = clean_at(chosen)
    else:
        reference = _accuracy(suspect, validation, resources)
        for chosen in sorted(ratios):  # the smallest that is accurate enough is the choice
            model, keep = clean_at(chosen)
            scores[chosen] = _accuracy(model, validation, resources)
            if choose_reserve({chosen: scores[chosen]}, reference, max_drop).within:
                break
        else:
            chosen = choose_reserve(scores, reference, max_drop).reserve
            log.warning("no reserve ratio keeps the accuracy within %g points; %g comes closest", max_drop, chosen)
            model, keep = clean_at(chosen)
    overall, per_module = _kept(keep)
    r = resources.indicator if return_indicator else None
    abnormal = abnormal_words(resources.drift, suspect, clean.tokenizer)
    return Purified(model, clean.tokenizer, chosen, overall, per_module, scores, r, abnormal)


def purified(resources: Resources, choice: FinePurifying) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Detect and reset (steps 1 and 2): return a copy of the suspect, and what it kept (`reserved`)."""
    keep = reserved(resources, choice)
    return resources.with_reset(keep), keep


def reserved(resources: Resources, choice: FinePurifying) -> dict[str, Tensor]:
    """Detect (step 1): return the mask of what is kept, or for a soft reset the share of its drift."""
    r, fisher = resources.indicator, resources.fisher
    if choice.structure != "dimension":
        own = {name: fisher[name] for name in resources.drift}
        fisher = pooled(own, choice.structure, resources.suspect)
        squares = {name: delta.square() for name, delta in resources.drift.items()}
        sums = pooled(squares, choice.structure, resources.suspect)
        r = indicator({name: value.sqrt() for name, value in sums.items()}, fisher, **_law(choice))
    elif _law(choice) != _law(FinePurifying()):
        r = indicator(resources.drift, fisher, **_law(choice))
    among = judged(fisher) if choice.count == "judged" else None
    if choice.ranked:
        r = per_tensor(r, among)
    keep = reserve_mask(r, choice.reserve, among=among, seed=resources.seed)
    if choice.softness:
        soft = soft_mask(r, keep, choice.softness)
        keep = {name: soft[name] * among[name] if among else soft[name] for name in soft}
    return keep


def _law(choice: FinePurifying) -> dict[str, float]:
    return {"exponent": choice.exponent, "damping": choice.damping}


def _kept(keep: Mapping[str, Tensor]) -> tuple[float, dict[str, float]]:
    kept: dict[str, float] = defaultdict(float)
    size: dict[str, int] = defaultdict(int)
    for name, mask in keep.items():
        module = name.rpartition(".")[0]
        kept[module] += float(mask.sum())
        size[module] += mask.numel()
    return sum(kept.values()) / sum(size.values()), {module: kept[module] / size[module] for module in size}


def _accuracy(model: PreTrainedModel, rows: Dataset, resources: Resources) -> float:
    logits = predict(model, rows, resources.tokenizer, max_length=resources.training.max_length)
    return accuracy(logits.argmax(1), np.asarray(rows["label"])).percent
