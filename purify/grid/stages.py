"""What the stages compute. Each is made once, by whoever holds its lease, and found in the store afterwards."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from purify.budget import Precision
from purify.defenses import Defense
from purify.grid import checkpoints
from purify.grid.environment import environment, forget_peak
from purify.grid.lease import POLL
from purify.grid.spec import Cell, Stage, canonical, fingerprint
from purify.grid.store import DamagedError, Record, Store, scores_from_json, scores_to_json
from purify.metrics import Scores, accuracy, attack_success
from purify.plm import CleanPLM, load_plm, load_suspect, save_checkpoint
from purify.resources import Resources
from purify.selection import choose_reserve
from purify.tasks import Splits, load_task
from purify.training import fine_tune, predict, seed_everything

T = TypeVar("T")

FISHER = "fisher.safetensors"


def splits_of(cell: Cell) -> Splits:
    """Return the rows of a cell; without clean rows per class, one each that no stage may use."""
    return load_task(
        cell.suspect.task,
        train=cell.suspect.train,
        validation=cell.validation,
        test=cell.test,
        clean_per_class=max(1, cell.clean_per_class),
        seed=cell.suspect.seed,
    )


def attack(cell: Cell, store: Store, *, wait: bool = True) -> Path | None:
    """Return the folder of a cell's suspect, trained if the store does not have it.

    Args:
        cell: Whose suspect.
        store: Where it is kept.
        wait: For another runner that is training it; otherwise None is returned while it does.
    """
    bench = _bench(cell.received, store)
    return bench.made(cell.suspect.trained, bench.train, wait=wait)


def fisher(cell: Cell, store: Store, *, wait: bool = True) -> Path | None:
    """Return the folder with the Fisher of a cell's suspect on its clean set; as `attack`."""
    bench = _bench(cell.received, store)
    return bench.made(cell.fisher, bench.measure, wait=wait)


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
        store.put(cell, _chosen(cell, store) if cell.policy else _scored(cell, store))
        if not keep_models and cell.build_defense() and not cell.policy:
            lease = store.leases.acquire(fingerprint(cell.purification))
            if lease:  # else another cell is waiting for it
                with lease:
                    checkpoints.drop(cell.purification, store)

    return _once(cell, store, lambda repair: store.get(cell, repair=repair), make, wait)


def suspect_model(cell: Cell, store: Store) -> PreTrainedModel:
    """Return the suspect of a cell, trained if the store does not have it."""
    return _bench(cell.received, store).resources.suspect


def _once(
    stage: Stage, store: Store, find: Callable[[bool], T | None], make: Callable[[], None], wait: bool
) -> T | None:
    """Find what a stage makes, or make it while holding its lease."""
    while (found := find(False)) is None:
        lease = store.leases.acquire(fingerprint(stage))
        if lease is None:
            if not wait:
                return None
            time.sleep(POLL)
            continue
        with lease:
            found = find(True)  # the former holder may just have finished
            if found is None:
                make()
                found = find(True)
        if found is None:
            raise OSError(f"what was just written to {store.root} for {stage} cannot be read back")
    return found


def _scored(cell: Cell, store: Store) -> Record:
    bench = _bench(cell.received, store)
    defense = cell.build_defense()
    model = bench.resources.suspect
    seconds: dict[str, float | None] = {"attack": bench.took[cell.suspect.trained]}
    if defense:
        model = bench.purified(cell, defense)
        seconds["purify"] = bench.took[cell.purification]
        if "Fisher" in defense.needs:
            seconds["fisher"] = bench.seconds(cell.fisher)
    started = time.perf_counter()
    scores = bench.scores(model)
    seconds["evaluate"] = round(time.perf_counter() - started, 2)
    return {
        "spec": canonical(cell),
        "scores": scores_to_json(scores),
        "seeds": {"experiment": cell.suspect.seed, "test rows": 0},
        "seconds": seconds.get("purify", 0.0),
        "stages": seconds,
        **bench.provenance(cell.tuning.precision),
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


class _Bench:
    """Everything that the cells of one suspect share."""

    def __init__(self, cell: Cell, store: Store) -> None:
        self.cell = cell
        self.store = store
        self.attack = cell.suspect.build_attack()
        self.clean: CleanPLM = load_plm(cell.suspect.plm)
        self.took: dict[Stage, float] = {}

    @cached_property
    def splits(self) -> Splits:
        """All rows of the cell."""
        return splits_of(self.cell)

    @cached_property
    def training(self) -> Splits:
        """The attacker's rows, which do not depend on the defender's sizes."""
        return splits_of(replace(self.cell, validation=1, test=1, clean_per_class=1))

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of all that a stage is made from."""
        return {"rows": self.training.digest, "plm": self.clean.digest}

    @cached_property
    def resources(self) -> Resources:
        """The suspect and what the defender has; the Fisher comes from the store."""
        folder = self.made(self.cell.suspect.trained, self.train)
        assert folder
        model, _ = load_suspect(folder)
        suspect = self.cell.suspect
        return Resources(model, self.clean, self.splits.clean, self.cell.tuning, suspect.seed, self.stored_fisher)

    def stored_fisher(self) -> dict[str, Tensor]:
        """Ĥ from its stage."""
        folder = self.made(self.cell.fisher, self.measure)
        assert folder
        return load_file(folder / FISHER, device=str(self.resources.suspect.device))

    def made(self, stage: Stage, make: Callable[[Path], None], *, wait: bool = True) -> Path | None:
        """Return the folder of a stage's checkpoint, made if the store lacks it."""

        def write(folder: Path) -> Mapping[str, Any]:
            forget_peak()
            seed_everything(self.cell.suspect.seed)
            started = time.perf_counter()
            make(folder)
            seconds = round(time.perf_counter() - started, 2)
            trained = stage == self.cell.suspect.trained
            precision = self.cell.suspect.training.precision if trained else self.cell.tuning.precision
            return {"seconds": seconds, **self.provenance(precision)}

        found = _once(
            stage,
            self.store,
            lambda repair: checkpoints.find(stage, self.store, self.inputs, repair=repair),
            lambda: checkpoints.write(stage, self.store, write),
            wait,
        )
        if found is None:
            return None
        self.took[stage] = found.seconds
        return found.folder

    def seconds(self, stage: Stage) -> float | None:
        """How long a stage took, which this process need not have looked at: what it was for may be there already."""
        if stage not in self.took:
            folder, name = checkpoints.place(stage, self.store)
            try:
                self.took[stage] = float(checkpoints.read_card(folder / name)["seconds"])
            except DamagedError:
                return None
        return self.took[stage]

    def provenance(self, precision: Precision) -> dict[str, Any]:
        """What was used, and where it ran."""
        return {"inputs": {"source": self.training.source, **self.inputs}, "environment": environment(precision)}

    def train(self, folder: Path) -> None:
        """The attack stage."""
        suspect, labels = self.cell.suspect, self.training.task.labels
        model = self.clean.classifier(len(labels), seed=suspect.seed)
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        train = fine_tune if suspect.control else self.attack.train
        description = f"training the suspect ({suspect})"
        rows, tokenizer = self.training.train, self.clean.tokenizer
        train(model, rows, tokenizer, suspect.training, seed=suspect.seed, description=description)
        save_checkpoint(model, self.clean.tokenizer, folder)

    def measure(self, folder: Path) -> None:
        """The Fisher stage."""
        values = {name: value.cpu().contiguous() for name, value in self.resources.compute_fisher().items()}
        save_file(values, folder / FISHER)

    def purified(self, cell: Cell, defense: Defense) -> PreTrainedModel:
        """The purify stage; a model that has just been made is not read back."""
        fresh: list[PreTrainedModel] = []

        def make(folder: Path) -> None:
            fresh.append(defense.apply(self.resources))
            save_checkpoint(fresh[0], self.clean.tokenizer, folder)

        folder = self.made(cell.purification, make)
        assert folder
        return fresh[0] if fresh else load_suspect(folder)[0]

    def scores(self, model: PreTrainedModel) -> Scores:
        """The evaluate stage: a model on validation, test, and triggered test rows."""
        test, validation = self.splits.test, self.splits.validation
        triggered = self.attack.poison(test, seed=self.cell.suspect.seed)
        options = {"max_length": self.cell.tuning.max_length, "precision": self.cell.tuning.precision}
        on_validation, on_test, on_triggered = (
            predict(model, rows, self.clean.tokenizer, **options).argmax(1)  # type: ignore[arg-type]
            for rows in (validation, test, triggered)
        )
        truth = np.asarray(test["label"])
        return Scores(
            acc=accuracy(on_test, truth),
            asr=attack_success(on_triggered, truth, self.attack.target),
            bacc=accuracy(on_triggered, truth),
            validation=accuracy(on_validation, np.asarray(validation["label"])),
        )


@lru_cache(maxsize=1)
def _bench(cell: Cell, store: Store) -> _Bench:
    """The last one used: cells of one suspect that stand together share what is loaded."""
    return _Bench(cell, store)
