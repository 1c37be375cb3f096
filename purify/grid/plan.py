"""What a grid would do, before it does it: its cells, what is done already, and what the rest will cost."""

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from purify.grid.checkpoints import CARD, KINDS, is_made
from purify.grid.schedule import Job, jobs_for
from purify.grid.spec import NONE, Cell, Stage, Suspect, fingerprint, restore
from purify.grid.store import Store
from purify.home import BUNDLED, location
from purify.tasks import TASKS

_SAMPLE = 100
"""At most so many results of a kind are looked at for an estimate."""

_REFERENCE = 30.0
"""Units per second of the bundled model where the store knows nothing: 2 cores of an AMD EPYC, bf16."""

_RECORD_BYTES = 4096
_TOKENIZER_BYTES = 2_000_000

_KNOWN = {
    "google-bert/bert-base-uncased": {"vocab_size": 30522, "num_hidden_layers": 12, "hidden_size": 768},
    "FacebookAI/roberta-base": {"vocab_size": 50265, "num_hidden_layers": 12, "hidden_size": 768},
}
"""The sizes of models that the grids name, for machines that do not have them."""


@dataclass(frozen=True)
class Plan:
    """What is left of a grid.

    Attributes:
        cells: All its cells, with whether each has a record.
        suspects: Suspects that have to be trained.
        fishers: Fishers that have to be computed.
        seconds: Estimate of the time for all that is left, on one worker.
        measured: Whether the estimate rests on results in the store, at least for some of the cells.
        disk: Estimate of the bytes that the store will grow by.
    """

    cells: dict[Cell, bool]
    suspects: int
    fishers: int
    seconds: float
    measured: bool
    disk: int

    @property
    def done(self) -> int:
        """How many cells have a record."""
        return sum(self.cells.values())


def plan(cells: Sequence[Cell], store: Store, *, keep_models: bool = False) -> Plan:
    """Say what running some cells would do; nothing is loaded and nothing is run.

    Args:
        cells: What is wanted.
        store: What is there; its results are what the estimate rests on.
        keep_models: Count the cleaned checkpoints, which are otherwise deleted when they have been scored.

    Cost: about 20 µs per cell.
    """
    recorded = store.recorded()
    state = {cell: fingerprint(cell) in recorded for cell in cells}
    before: dict[Stage, Job] = {}
    work: dict[tuple[str, str], float] = defaultdict(float)
    disk = 0
    for cell, done in state.items():
        if not done:
            for job in jobs_for(cell):
                if job.kind != "score":
                    before.setdefault(job.stage, job)
            work[cell.suspect.plm, cell.suspect.task] += units(Job("score", cell))
            disk += _RECORD_BYTES
            if keep_models and cell.defense.name != NONE and not cell.policy:
                disk += model_bytes(cell.suspect.plm)
    left = [job for stage, job in before.items() if not is_made(stage, store)]
    for job in left:
        work[job.cell.suspect.plm, job.cell.suspect.task] += units(job)
        disk += model_bytes(job.cell.suspect.plm)
    speed = _Speed(store) if work else None
    seconds = sum(amount / speed.of(*key) for key, amount in work.items()) if speed else 0.0
    kinds = [job.kind for job in left]
    measured = bool(speed and speed.measured)
    return Plan(state, kinds.count("attack"), kinds.count("fisher"), seconds, measured, disk)


def units(job: Job) -> float:
    """The work of a job, in examples that are passed forward and backward once."""
    suspect, cell = job.cell.suspect, job.cell
    clean = cell.clean_per_class * len(TASKS[suspect.task].labels)
    match job.kind:
        case "attack":
            ratio = 0.0 if suspect.control else suspect.build_attack().ratio
            return suspect.train * (1 + ratio) * suspect.training.epochs
        case "fisher":
            return clean
    if measure := cell.build_measure():
        return measure.examples(cell)
    if cell.policy:
        return 1
    return (cell.validation + 2 * cell.test) / 3 + clean * cell.tuning.epochs * (cell.defense.name != NONE)


class _Speed:
    """Units per second, from results in the store."""

    def __init__(self, store: Store) -> None:
        seen: dict[tuple[str, str], list[float]] = defaultdict(list)
        for job, seconds in itertools.chain(_suspects(store), _records(store)):
            if seconds > 0:
                seen[job.cell.suspect.plm, job.cell.suspect.task].append(units(job) / seconds)
        self._median = {key: statistics.median(values) for key, values in seen.items()}
        self.measured = bool(seen)

    def of(self, plm: str, task: str) -> float:
        """Of this model on this task; else of the model on others; else of the bundled one, scaled by size."""
        if (plm, task) in self._median:
            return self._median[plm, task]
        same = [value for (model, _), value in self._median.items() if model == plm]
        if same:
            return statistics.median(same)
        bundled = [value for (model, _), value in self._median.items() if model == BUNDLED]
        ratio = _size(BUNDLED)[1] / _size(plm)[1]
        return (statistics.median(bundled) if bundled else _REFERENCE) * ratio


def _suspects(store: Store) -> Iterator[tuple[Job, float]]:
    folder = store.folder / KINDS[Suspect]
    for name in itertools.islice(sorted(folder.names()), _SAMPLE):
        with suppress(ValueError, KeyError, TypeError):
            card = json.loads(folder.read(f"{name}/{CARD}") or b"")
            yield Job("attack", Cell(restore(Suspect, card["spec"]))), card["seconds"]


def _records(store: Store) -> Iterator[tuple[Job, float]]:
    for folder in store.record_folders:
        for name in itertools.islice(sorted(folder.names()), _SAMPLE):
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(folder.read(name) or b"")
                stages, cell = record["stages"], restore(Cell, record["spec"])
                if not cell.policy:
                    yield Job("score", cell), stages.get("purify", 0) + stages["evaluate"]


def model_bytes(plm: str) -> int:
    """Estimate what a checkpoint of a model takes on disk: fp32 weights and a tokenizer."""
    return 4 * _size(plm)[0] + _TOKENIZER_BYTES


@cache
def _size(plm: str) -> tuple[int, int]:
    """Estimate the parameters of a model, in all and without embeddings, from its configuration if it is here."""
    folder = location(plm)
    cached = None
    with suppress(ValueError):  # no hub id
        cached = None if Path(folder).is_dir() else try_to_load_from_cache(plm, "config.json")
    path = Path(cached) if isinstance(cached, str) else Path(folder) / "config.json"
    known = _KNOWN.get(plm, _KNOWN["google-bert/bert-base-uncased"])
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else known

    def first(*names: str, default: int = 0) -> int:
        return next((config[name] for name in names if config.get(name)), default)

    width = first("hidden_size", "dim", "d_model", "n_embd")
    inner = first("intermediate_size", "hidden_dim", "n_inner", default=4 * width)
    layers = first("num_hidden_layers", "n_layers", "n_layer", "num_layers", default=12)
    encoder = layers * (4 * width**2 + 2 * width * inner)
    return encoder + width * first("vocab_size"), encoder
