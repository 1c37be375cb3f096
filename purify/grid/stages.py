"""What the stages compute. Each is made once, by whoever holds its lease, and found in the store afterwards."""

import time
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from purify.defenses import Guard
from purify.defenses.base import Detector
from purify.grid import checkpoints
from purify.grid.bench import bench, once, splits_of
from purify.grid.environment import forget_peak
from purify.grid.guarded import watched
from purify.grid.spec import Cell, canonical, fingerprint
from purify.grid.store import Record, Store, scores_from_json, scores_to_json
from purify.selection import choose_reserve
from purify.training import seed_everything

__all__ = ["attack", "fisher", "score", "splits_of", "suspect_model"]


def attack(cell: Cell, store: Store, *, wait: bool = True) -> Path | None:
    """Return the folder of a cell's suspect, trained if the store does not have it.

    Args:
        cell: Whose suspect.
        store: Where it is kept.
        wait: For another runner that is training it; otherwise None is returned while it does.
    """
    work = bench(cell.received, store)
    return work.made(cell.suspect.trained, work.train, wait=wait)


def fisher(cell: Cell, store: Store, *, wait: bool = True) -> Path | None:
    """Return the folder with the Fisher of a cell's suspect on its clean set; as `attack`."""
    work = bench(cell.received, store)
    return work.made(cell.fisher, work.measure, wait=wait)


def score(cell: Cell, store: Store, *, wait: bool = True, keep_models: bool = False) -> Record | None:
    """Return the record of a cell, computed if the store does not have it; as `attack`.

    Args:
        cell: What to score.
        store: Where its stages are kept.
        wait: As in `attack`.
        keep_models: Keep the cleaned checkpoint when it has been scored.
    """

    def make() -> None:
        forget_peak()
        make_record = _measured if cell.measure else _chosen if cell.policy else _scored
        store.put(cell, make_record(cell, store))
        if not keep_models and cell.build_defense() and not cell.policy:
            lease = store.leases.acquire(fingerprint(cell.purification))
            if lease:  # else another cell is waiting for it
                with lease:
                    checkpoints.drop(cell.purification, store)

    return once(cell, store, lambda repair: store.get(cell, repair=repair), make, wait)


def suspect_model(cell: Cell, store: Store) -> PreTrainedModel:
    """Return the suspect of a cell, trained if the store does not have it."""
    return bench(cell.received, store).resources.suspect


def _scored(cell: Cell, store: Store) -> Record:
    work = bench(cell.received, store)
    defense = cell.build_defense()
    model: PreTrainedModel | Guard = work.resources.suspect
    seconds: dict[str, float | None] = {"attack": work.took[cell.suspect.trained]}
    if defense:
        model = work.purified(cell, defense)
        seconds["purify"] = work.took[cell.purification]
        if "Fisher" in defense.needs:
            seconds["fisher"] = work.seconds(cell.fisher)
    started = time.perf_counter()
    further: dict[str, Any] = {}
    if isinstance(model, Guard):
        assert isinstance(defense, Detector)
        predicted, further["detection"] = watched(model, defense.frr, work)
    else:
        predicted = work.predictions(model)
    if not defense:
        further["anatomy"] = work.anatomy(predicted)
    seconds["evaluate"] = round(time.perf_counter() - started, 2)
    return {
        "spec": canonical(cell),
        "scores": scores_to_json(work.scores(predicted)),
        **further,
        "seeds": {"experiment": cell.suspect.seed, "test rows": 0},
        "seconds": seconds.get("purify", 0.0),
        "stages": seconds,
        **work.provenance(cell.tuning.precision, defense.models if defense else ()),
    }


def _measured(cell: Cell, store: Store) -> Record:
    work, measure = bench(cell.received, store), cell.build_measure()
    assert measure
    seed_everything(cell.suspect.seed)
    started = time.perf_counter()
    found = measure.measure(work)
    seconds = round(time.perf_counter() - started, 2)
    return {
        "spec": canonical(cell),
        "measured": found,
        "seeds": {"experiment": cell.suspect.seed},
        "seconds": seconds,
        "stages": {"measure": seconds},
        **work.provenance(cell.tuning.precision),
    }


def _chosen(cell: Cell, store: Store) -> Record:
    """The record of the candidate that the policy chooses; those above it need not be run."""
    assert cell.policy
    received = score(cell.received, store)
    assert received
    reference = scores_from_json(received["scores"]).validation.percent
    tried: dict[float, float] = {}
    for reserve, candidate in zip(cell.policy.among, cell.candidates(), strict=True):
        record = score(candidate, store)
        assert record
        tried[reserve] = scores_from_json(record["scores"]).validation.percent
        choice = choose_reserve(tried, reference, cell.policy.max_drop)
        if choice.within:
            break
    best = cell.at(choice.reserve)
    record = score(best, store)
    assert record
    chosen = {"reserve": choice.reserve, "within": choice.within, "record": fingerprint(best)}
    return {**record, "spec": canonical(cell), "chosen": chosen}
