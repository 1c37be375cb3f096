"""Suspects, and what defenses make of them, as folders of their own with a card that says what was done."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from purify.defenses import Guard
from purify.defenses.base import Detector
from purify.errors import PurifyError
from purify.findings import abnormal_words, summary
from purify.grid.bench import Bench, bench
from purify.grid.checkpoints import CARD, read_card
from purify.grid.environment import environment
from purify.grid.folder import Folder
from purify.grid.guarded import watched
from purify.grid.spec import Cell, Suspect, canonical, restore
from purify.grid.stages import attack
from purify.grid.store import Store, scores_to_json
from purify.metrics import Scores, accuracy
from purify.output import new_folder, refuse
from purify.plm import load_suspect, save_checkpoint
from purify.resources import Resources
from purify.selection import choose_reserve
from purify.tasks import TASKS
from purify.training import predict


def deliver(cell: Cell, store: Store, output: Path) -> dict[str, Any]:
    """Train the suspect of a cell if the store lacks it, score it, and write it into a new folder.

    The folder holds the model (safetensors), its tokenizer, and ``card.json``: the attack with all its parameters, the
    trigger, the target label, the seed, ACC, ASR and BACC of these very weights with their counts, the specification,
    and where it was trained and where scored.

    Args:
        cell: Without a defense.
        store: Where suspects are kept.
        output: The new folder.

    Returns:
        The card.

    Raises:
        PurifyError: the folder is there already, it cannot be written, or training fails.
    """
    output = output.absolute()
    refuse(output)
    made = attack(cell, store)
    assert made
    with new_folder(output) as folder:
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns(CARD), dirs_exist_ok=True)
        card = _card(cell, store, made)
        _write(card, folder)
    return card


def suspect_of(folder: Path) -> Suspect:
    """Return the description of a suspect that was delivered into a folder.

    Raises:
        PurifyError: there is no such folder, or no readable card in it.
    """
    try:
        return restore(Suspect, json.loads((folder / CARD).read_text(encoding="utf-8"))["spec"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PurifyError(
            f"{folder} has no readable {CARD}: give the folder of a suspect that `purify attack` made"
        ) from error


def defend(folder: Path, cell: Cell, store: Store, output: Path) -> dict[str, Any]:
    """Run the defense of a cell on the suspect in a folder, score it, and write the result into a new folder.

    The folder gets the cleaned model and its tokenizer; a detector changes no weights, and leaves its card alone.
    ``card.json`` holds the defense with all its parameters, how ρ was chosen if it was open, the scores before and
    after, for a detector its rates, the seconds that it took, the specification, and where it ran.

    Args:
        folder: Of `deliver`; the weights in it are used, whatever the store has.
        cell: The suspect of the folder's card, the defense, the sizes, and where ρ is open, the policy for it.
        store: Where a control is found, for attacks that start from one.
        output: The new folder.

    Returns:
        The card.

    Raises:
        PurifyError: the folder is there already or cannot be written, the defense lacks what it needs, or training
            fails.
    """
    output = output.absolute()
    refuse(output)
    work = Bench(cell.received, store)
    resources = work.resources_for(load_suspect(folder)[0])
    before = work.scores(work.predictions(resources.suspect))
    started = time.perf_counter()
    cell, result, choice = _applied(cell, work, resources, before)
    seconds = round(time.perf_counter() - started, 2)
    defense = cell.build_defense()
    assert defense
    card: dict[str, Any] = {
        "control": cell.suspect.control,
        "defense": cell.defense.name,
        "parameters": vars(defense),
        "suspect": canonical(cell.suspect),
        "findings": summary(abnormal_words(resources.drift, resources.suspect, work.clean.tokenizer)),
        "before": _percents(before),
        **choice,
    }
    if isinstance(result, Guard):
        assert isinstance(defense, Detector)
        predicted, card["detection"] = watched(result, defense.frr, work)
    else:
        predicted = work.predictions(result)
    after = work.scores(predicted)
    card |= {
        "after": _percents(after),
        "scores": {"before": scores_to_json(before), "after": scores_to_json(after)},
        "seconds": seconds,
        **work.provenance(cell.tuning.precision, defense.models),
        "spec": canonical(cell),
    }
    with new_folder(output) as target:
        if not isinstance(result, Guard):
            save_checkpoint(result, work.clean.tokenizer, target)
        _write(card, target)
    return card


def _applied(
    cell: Cell, work: Bench, resources: Resources, before: Scores
) -> tuple[Cell, PreTrainedModel | Guard, dict[str, Any]]:
    """Run the defense; where ρ is open, with one ratio after the other, until one is accurate enough.

    Returns the cell with the ρ that was used, what the defense returned, and how ρ was chosen.
    """
    if not cell.policy:
        defense = cell.build_defense()
        assert defense
        return cell, defense.apply(resources), {}
    tried: dict[float, float] = {}
    best: tuple[Cell, PreTrainedModel | Guard] | None = None
    rows, tuning = work.splits.validation, cell.tuning
    for reserve, candidate in zip(cell.policy.among, cell.candidates(), strict=True):
        defense = candidate.build_defense()
        assert defense
        result = defense.apply(resources)
        assert not isinstance(result, Guard)
        logits = predict(result, rows, work.clean.tokenizer, max_length=tuning.max_length, precision=tuning.precision)
        tried[reserve] = accuracy(logits.argmax(1), np.asarray(rows["label"])).percent
        choice = choose_reserve(tried, before.validation.percent, cell.policy.max_drop)
        if choice.reserve == reserve:
            best = candidate, result
        if choice.within:
            break
    assert best
    return *best, {"chosen": {"max_drop": cell.policy.max_drop, **vars(choice), "tried": tried}}


def _percents(scores: Scores) -> dict[str, str]:
    return {"ACC": str(scores.acc), "ASR": str(scores.asr), "BACC": str(scores.bacc)}


def _write(card: dict[str, Any], folder: Path) -> None:
    (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _card(cell: Cell, store: Store, made: Path) -> dict[str, Any]:
    suspect = cell.suspect
    attacker = suspect.build_attack()
    work = bench(cell.received, store)
    scores = work.scores(work.predictions(work.resources.suspect))
    trained = read_card(Folder(str(made)))
    return {
        "control": suspect.control,
        "attack": suspect.attack.name,
        "parameters": vars(attacker),
        "trigger": attacker.mark,
        "target": {"label": attacker.target, "name": TASKS[suspect.task].labels[attacker.target]},
        "task": suspect.task,
        "seed": suspect.seed,
        **_percents(scores),
        "scores": scores_to_json(scores),
        "inputs": trained["inputs"],
        "trained": trained["environment"],
        "scored": environment(cell.tuning.precision),
        "spec": canonical(suspect),
    }
