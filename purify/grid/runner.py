"""The runner: cells in order, each stage taken from the store where it is there."""

import json
import platform
import resource
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from purify.errors import PurifyError
from purify.grid.spec import Cell, canonical
from purify.grid.store import SCHEMA, Store, scores_to_json
from purify.metrics import Scores, accuracy, attack_success
from purify.plm import CleanPLM, load_plm, load_suspect, save_checkpoint
from purify.progress import bar
from purify.resources import Resources
from purify.tasks import Splits, load_task
from purify.training import Precision, device, fine_tune, predict, resolve_precision

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy", "purify-lm")


def run(cells: Sequence[Cell], store: Store) -> list[dict[str, Any]]:
    """Run the cells that the store lacks, and return the records of all, in order.

    Cells of one suspect that stand together share the loaded data, the suspect, the clean PLM and the
    Fisher. A run that is killed and started again repeats only the stage it was in.
    """
    records: list[dict[str, Any]] = []
    bench: _Bench | None = None
    waiting = sum(store.get(cell) is None for cell in cells)
    with bar(total=waiting, desc="experiments", unit="cell", disable=not waiting) as progress:
        for cell in cells:
            record = store.get(cell)
            if record is None:
                defense = cell.build_defense()
                progress.set_description(f"{cell.suspect.task}, seed {cell.suspect.seed}: {cell.defense.name}")
                key = replace(cell, defense=Cell(cell.suspect).defense)
                if bench is None or bench.cell != key:
                    bench = _Bench(key, store)
                started = time.perf_counter()
                resources = bench.resources
                model = resources.suspect if defense is None else defense.apply(resources)
                seconds = time.perf_counter() - started
                record = {
                    "schema": SCHEMA,
                    "spec": canonical(cell),
                    "scores": scores_to_json(bench.scores(model)),
                    "seconds": round(seconds, 2),
                    "data": bench.splits.source,
                    "environment": environment(cell.tuning.precision),
                }
                store.put(cell, record)
                progress.update()
            records.append(record)
    return records


def suspect_model(cell: Cell, store: Store) -> PreTrainedModel:
    """Return the suspect of a cell, trained if the store does not have it."""
    return _Bench(cell, store).resources.suspect


class _Bench:
    """Everything that the cells of one suspect share."""

    def __init__(self, cell: Cell, store: Store) -> None:
        self.cell = cell
        suspect = cell.suspect
        self.attack = suspect.build_attack()
        self.splits = splits_of(cell)
        self.clean: CleanPLM = load_plm(suspect.plm)
        labels = self.splits.task.labels
        if self.attack.target >= len(labels):
            raise PurifyError(
                f"the target label {self.attack.target} is out of range: task '{suspect.task}' has labels "
                f"0 to {len(labels) - 1}"
            )
        folder = store.checkpoint(suspect, self._train)
        model, _ = load_suspect(folder)
        self.resources = Resources(model, self.clean, self.splits.clean, cell.tuning, suspect.seed)

    def _train(self, folder: Path) -> None:
        suspect = self.cell.suspect
        rows = self.splits.train
        if not suspect.control:
            rows = self.attack.poison_training(rows, seed=suspect.seed)
        model = self.clean.classifier(len(self.splits.task.labels), seed=suspect.seed)
        model.config.id2label = dict(enumerate(self.splits.task.labels))
        model.config.label2id = {label: i for i, label in enumerate(self.splits.task.labels)}
        started = time.perf_counter()
        kind = "control" if suspect.control else suspect.attack.name
        description = f"training the suspect ({kind}, {suspect.task}, seed {suspect.seed})"
        fine_tune(model, rows, self.clean.tokenizer, suspect.training, seed=suspect.seed, description=description)
        save_checkpoint(model, self.clean.tokenizer, folder)
        card = {
            "schema": SCHEMA,
            "spec": canonical(suspect),
            "seconds": round(time.perf_counter() - started, 2),
            "data": self.splits.source,
            "environment": environment(suspect.training.precision),
        }
        (folder / "suspect.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def scores(self, model: PreTrainedModel) -> Scores:
        """Evaluate a model on validation, test, and triggered test rows."""
        test, validation = self.splits.test, self.splits.validation
        triggered = self.attack.poison(test, seed=self.cell.suspect.seed)
        on_validation, on_test, on_triggered = (
            predict(
                model,
                rows,
                self.clean.tokenizer,
                max_length=self.cell.tuning.max_length,
                precision=self.cell.tuning.precision,
            ).argmax(1)
            for rows in (validation, test, triggered)
        )
        truth = np.asarray(test["label"])
        return Scores(
            acc=accuracy(on_test, truth),
            asr=attack_success(on_triggered, truth, self.attack.target),
            bacc=accuracy(on_triggered, truth),
            validation=accuracy(on_validation, np.asarray(validation["label"])),
        )


def splits_of(cell: Cell) -> Splits:
    """Return the rows of a cell."""
    return load_task(
        cell.suspect.task,
        train=cell.suspect.train,
        validation=cell.validation,
        test=cell.test,
        clean_per_class=cell.clean_per_class,
        seed=cell.suspect.seed,
    )


def environment(precision: Precision) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a number: machine, versions, revision, time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "device": torch.cuda.get_device_name() if device().type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "precision": resolve_precision(precision),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "revision": _revision(),
        "peak_memory_mib": peak // (2**20 if platform.system() == "Darwin" else 2**10),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names: Iterable[str] = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(iter(names), platform.processor() or platform.machine())


@cache
def _revision() -> str:
    """The project's git revision, with a + if the tree was changed; empty outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", str(here.parent)) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
