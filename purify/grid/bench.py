"""The workbench of one suspect: its rows, its models, and how each stage is computed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from purify.anatomy import Place, places
from purify.attacks import Means
from purify.budget import Precision
from purify.defenses import Defense, Guard
from purify.defenses.base import Detector
from purify.grid import checkpoints
from purify.grid.environment import environment, forget_peak
from purify.grid.lease import POLL
from purify.grid.spec import Cell, Stage, fingerprint
from purify.grid.store import DamagedError, Store
from purify.hardware import device
from purify.indicator import drift
from purify.metrics import Scores, accuracy, attack_success, confusion
from purify.plm import CleanPLM, load_plm, load_suspect, save_checkpoint, weights_digest
from purify.resources import Resources
from purify.tasks import Splits, load_task
from purify.training import encode, predict, seed_everything

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


def once(
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


class Predictions(NamedTuple):
    """Labels (N,) that a model gives to the rows of each split."""

    validation: np.ndarray
    test: np.ndarray
    triggered: np.ndarray
    triggered_validation: np.ndarray


class Bench:
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
    def triggered(self) -> Dataset:
        """The test rows with the trigger in them."""
        return self.attack.poison(self.splits.test, seed=self.cell.suspect.seed)

    @cached_property
    def triggered_validation(self) -> Dataset:
        """The validation rows with the trigger in them."""
        return self.attack.poison(self.splits.validation, seed=self.cell.suspect.seed)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of all that a stage of this suspect is made from."""
        models = () if self.cell.suspect.control else self.attack.models
        origin = {"plm origin": self.clean.origin} if self.clean.origin else {}
        return {"rows": self.training.digest, "plm": self.clean.digest, **origin, **_digests(models)}

    @cached_property
    def resources(self) -> Resources:
        """The suspect and what the defender has; the Fisher comes from the store."""
        folder = self.made(self.cell.suspect.trained, self.train)
        assert folder
        return self.resources_for(load_suspect(folder)[0], self.stored_fisher)

    def resources_for(self, model: PreTrainedModel, fisher: Callable[[], dict[str, Tensor]] | None = None) -> Resources:
        """What a defender of this model has; all that cells can ask for, but not always the training data."""
        suspect = self.cell.suspect
        return Resources(
            model,
            self.clean,
            self.splits.clean,
            self.cell.tuning,
            suspect.seed,
            fisher,
            validation=self.splits.validation,
            training_source=self.training_source,
            retraining=suspect.training,
        )

    @property
    def training_source(self) -> Callable[[], Dataset] | None:
        """What gives the rows that the suspect was trained on; None if its attacker did more than to poison rows."""
        if self.cell.suspect.control:
            return lambda: self.training.train
        if not self.attack.only_data:
            return None
        return lambda: self.attack.poison_training(self.training.train, seed=self.cell.suspect.seed)

    def stored_fisher(self) -> dict[str, Tensor]:
        """Ĥ from its stage."""
        folder = self.made(self.cell.fisher, self.measure)
        assert folder
        return load_file(folder / FISHER, device=str(self.resources.suspect.device))

    def made(
        self, stage: Stage, make: Callable[[Path], None], *, models: Sequence[str] = (), wait: bool = True
    ) -> Path | None:
        """Return the folder of a stage's checkpoint, made if the store lacks it, with the help of further models."""
        inputs = {**self.inputs, **_digests(models)}

        def write(folder: Path) -> Mapping[str, Any]:
            forget_peak()
            seed_everything(self.cell.suspect.seed)
            started = time.perf_counter()
            make(folder)
            seconds = round(time.perf_counter() - started, 2)
            trained = stage == self.cell.suspect.trained
            precision = self.cell.suspect.training.precision if trained else self.cell.tuning.precision
            return {"seconds": seconds, **self.provenance(precision, models)}

        found = once(
            stage,
            self.store,
            lambda repair: checkpoints.find(stage, self.store, inputs, repair=repair),
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

    def provenance(self, precision: Precision, models: Sequence[str] = ()) -> dict[str, Any]:
        """What was used, further models too, and where it ran."""
        inputs = {"source": self.training.source, **self.inputs, **_digests(models)}
        return {"inputs": inputs, "environment": environment(precision)}

    def train(self, folder: Path) -> None:
        """The attack stage."""
        suspect, labels = self.cell.suspect, self.training.task.labels
        if suspect.on_control:
            model = self.control()
            seed_everything(suspect.seed)
        else:
            model = self.clean.classifier(len(labels), seed=suspect.seed)
            model.config.id2label = dict(enumerate(labels))
            model.config.label2id = {label: i for i, label in enumerate(labels)}
        description = f"training the suspect ({suspect})"
        means = Means(model, self.training.train, self.clean, suspect.training, suspect.seed, description)
        if suspect.control:
            means.fine_tune(means.rows)
        else:
            self.attack.train(means)
        save_checkpoint(model, self.clean.tokenizer, folder)

    def control(self, seed: int | None = None) -> PreTrainedModel:
        """The control, of this seed or of another, trained if the store lacks it."""
        suspect = replace(self.cell.suspect.as_control, seed=self.cell.suspect.seed if seed is None else seed)
        other = Bench(replace(self.cell, suspect=suspect), self.store)
        folder = other.made(other.cell.suspect.trained, other.train)
        assert folder
        return load_suspect(folder)[0].to(device())

    def measure(self, folder: Path) -> None:
        """The Fisher stage."""
        values = {name: value.cpu().contiguous() for name, value in self.resources.compute_fisher().items()}
        save_file(values, folder / FISHER)

    def purified(self, cell: Cell, defense: Defense) -> PreTrainedModel | Guard:
        """The purify stage; a model that has just been made is not read back, and a guard has no weights to keep."""
        if isinstance(defense, Detector):
            started = time.perf_counter()
            guard = defense.apply(self.resources)
            self.took[cell.purification] = round(time.perf_counter() - started, 2)
            return guard
        fresh: list[PreTrainedModel] = []

        def make(folder: Path) -> None:
            cleaned = defense.apply(self.resources)
            assert not isinstance(cleaned, Guard)
            fresh.append(cleaned)
            save_checkpoint(cleaned, self.clean.tokenizer, folder)

        folder = self.made(cell.purification, make, models=defense.models)
        assert folder
        return fresh[0] if fresh else load_suspect(folder)[0]

    def predictions(self, model: PreTrainedModel) -> Predictions:
        """The evaluate stage: the labels that a model gives to the rows, with and without the trigger."""
        tokenizer, tuning = self.clean.tokenizer, self.cell.tuning
        how: dict[str, Any] = {"max_length": tuning.max_length, "precision": tuning.precision}
        return Predictions(*(predict(model, rows, tokenizer, **how).argmax(1) for rows in self._encoded))

    @cached_property
    def _encoded(self) -> list[Dataset]:
        """The rows that models are judged on, tokenised once for all cells."""
        return [encode(rows, self.clean.tokenizer, self.cell.tuning.max_length) for rows in self.judged_on]

    @property
    def judged_on(self) -> tuple[Dataset, Dataset, Dataset, Dataset]:
        """The rows of the `Predictions`."""
        return self.splits.validation, self.splits.test, self.triggered, self.triggered_validation

    def scores(self, predicted: Predictions) -> Scores:
        """What the tables report."""
        truth, held = np.asarray(self.splits.test["label"]), np.asarray(self.splits.validation["label"])
        return Scores(
            acc=accuracy(predicted.test, truth),
            asr=attack_success(predicted.triggered, truth, self.attack.target),
            bacc=accuracy(predicted.triggered, truth),
            validation=accuracy(predicted.validation, held),
            validation_asr=attack_success(predicted.triggered_validation, held, self.attack.target),
        )

    def anatomy(self, predicted: Predictions) -> dict[str, Any]:
        """What the attack did: confusion (true label × prediction), and sums of squared drift by place."""
        truth, classes = np.asarray(self.splits.test["label"]), len(self.splits.task.labels)
        confusions = {
            "clean": confusion(predicted.test, truth, classes),
            "triggered": confusion(predicted.triggered, truth, classes),
        }
        found: dict[str, Any] = {"confusion": {name: counts.tolist() for name, counts in confusions.items()}}
        found["drift"] = _squares(self.resources.drift)
        if self.cell.suspect.on_control:
            weights = dict(self.control().named_parameters())
            suspect = dict(self.resources.suspect.named_parameters())
            delta = drift(suspect, weights)
            found["from control"] = _squares({name: delta[name] for name in self.resources.drift})
            found["moved"] = sum(int(value.count_nonzero()) for value in delta.values())
        return found


def _digests(models: Sequence[str]) -> dict[str, str]:
    return {f"model {name}": weights_digest(name) for name in models}


def _squares(drift: Mapping[str, Tensor]) -> list[Place]:
    return places({name: value.square() for name, value in drift.items()})


@lru_cache(maxsize=1)
def bench(cell: Cell, store: Store) -> Bench:
    """The last one used: cells of one suspect that stand together share what is loaded."""
    return Bench(cell, store)
