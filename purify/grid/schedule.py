"""Which stages have to be run for some cells, in which order, and what became of each."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Literal

from purify.defenses import DEFENSES
from purify.grid.checkpoints import is_made
from purify.grid.spec import NONE, Cell, Stage, fingerprint
from purify.grid.store import Store
from purify.measures import MEASURES
from purify.registry import Named

Kind = Literal["attack", "fisher", "score"]


class State(Enum):
    """What became of a job."""

    DONE = "done"
    BUSY = "busy"  # another runner is at it
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What a worker says of a job.

    Attributes:
        state: What became of it.
        error: In one line, if it failed.
        seconds: What it took.
    """

    state: State
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """One stage that has to be run.

    Attributes:
        kind: Which stage of the cell; "score" covers purify and evaluate, which keep what they make separately.
        cell: A cell that needs it.
    """

    kind: Kind
    cell: Cell

    @property
    def stage(self) -> Stage:
        """The description of the stage."""
        match self.kind:
            case "attack":
                return self.cell.suspect.trained
            case "fisher":
                return self.cell.fisher
        return self.cell

    @property
    def key(self) -> str:
        """The hash of the stage."""
        return fingerprint(self.stage)

    def __str__(self) -> str:
        return str(self.cell) if self.kind == "score" else f"{self.kind} of {self.cell.suspect}"


@cache
def needs_fisher(defense: Named) -> bool:
    """Say whether a defense uses the Fisher."""
    return defense.name != NONE and "Fisher" in DEFENSES.build(defense).needs


def _stages_of(measure: Named) -> tuple[str, ...]:
    return MEASURES.classes[measure.name].needs


def jobs_for(cell: Cell) -> Iterator[Job]:
    """Yield the stages that a cell needs, in their order, itself last.

    Where ρ is chosen, they are those of the candidates.
    """
    needed = _stages_of(cell.measure) if cell.measure else ("suspect", "Fisher" * needs_fisher(cell.defense))
    if not cell.policy:
        if "control" in needed or ("suspect" in needed and cell.suspect.on_control):
            yield Job("attack", replace(cell, suspect=cell.suspect.as_control))
        if "suspect" in needed:
            yield Job("attack", cell)
        if "Fisher" in needed:
            yield Job("fisher", cell)
    yield Job("score", cell)


class Schedule:
    """The stages that some cells still need. Depth first: a suspect's cells are run as soon as it is there.

    Args:
        cells: What is wanted.
        store: What is there.

    Attributes:
        total: How many cells are wanted.
        done: How many have a record.
        failed: Cell -> the error that it or a stage before it ended with.
        running: The jobs that were taken and not finished.
        origins: Task and digest of the rows that the records which are there were made from.
    """

    def __init__(self, cells: Sequence[Cell], store: Store) -> None:
        self.total = len(cells)
        self.failed: dict[Cell, str] = {}
        self.running: set[Job] = set()
        self.remaining: dict[str, Job] = {}
        self._waits_for: dict[str, set[str]] = {}
        self._unlocks: dict[str, list[str]] = {}
        self._busy: list[Job] = []
        self._damaged: set[str] = set()
        self.origins: set[tuple[str, str]] = set()
        todo = []
        recorded = store.recorded()
        for cell in cells:
            record = store.get(cell)
            if record is None and fingerprint(cell) in recorded:
                self._damaged.add(fingerprint(cell))
            if record is None:
                todo.append(cell)
            elif "rows" in record["inputs"]:
                self.origins.add((cell.suspect.task, record["inputs"]["rows"]))
        self.done = self.total - len(todo)
        for cell in todo:
            for job in jobs_for(cell):
                if job.key not in self.remaining and (job.kind == "score" or not is_made(job.stage, store)):
                    self.remaining[job.key] = job
        for key, job in self.remaining.items():
            if job.kind == "score":
                needed = {part.key for part in jobs_for(job.cell)}
                needed |= {fingerprint(cell) for cell in (job.cell.received, *job.cell.candidates()) if job.cell.policy}
            else:
                needed = {part.key for part in jobs_for(job.cell) if part.kind == "attack"}
            self._waits_for[key] = (needed & self.remaining.keys()) - {key}
            for other in self._waits_for[key]:
                self._unlocks.setdefault(other, []).append(key)
        self._ready = deque(job for key, job in self.remaining.items() if not self._waits_for[key])

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.remaining

    def take(self) -> Job | None:
        """Return the next job that can be run, or None while all others wait for one that is being run."""
        if not self._ready:
            return None
        job = self._ready.popleft()
        self.running.add(job)
        return job

    def retry_busy(self) -> None:
        """Make the jobs that other runners were at available again."""
        self._ready.extend(self._busy)
        self._busy.clear()

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Note what became of a job."""
        self.running.discard(job)
        match outcome.state:
            case State.BUSY:
                self._busy.append(job)
            case State.FAILED:
                self._fail(job.key, outcome.error)
            case State.DONE:
                del self.remaining[job.key]
                self.done += job.kind == "score"
                free = self._unlocks.get(job.key, ())
                for key in free:
                    self._waits_for[key].discard(job.key)
                self._ready.extendleft(
                    self.remaining[key] for key in reversed(free) if key in self.remaining and not self._waits_for[key]
                )

    def observe(self, store: Store) -> list[Job]:
        """Note what other processes are doing and have done; return the jobs that are done since the last look."""
        recorded, held = store.recorded(), store.leases.holders()
        done = [
            job
            for key, job in self.remaining.items()
            if (self._has_record(key, recorded, store) if job.kind == "score" else is_made(job.stage, store))
        ]
        for job in done:
            self.finish(job, Outcome(State.DONE))
        self.running = {job for key, job in self.remaining.items() if key in held}
        return done

    def _has_record(self, key: str, recorded: set[str], store: Store) -> bool:
        return key in recorded and (key not in self._damaged or store.read(key) is not None)

    def _fail(self, key: str, error: str) -> None:
        """A job fails, and with it all that wait for it."""
        job = self.remaining.pop(key, None)
        if job is None:
            return
        if job.kind == "score":
            self.failed[job.cell] = error
        for other in self._unlocks.get(key, ()):
            self._fail(other, f"not run, because this failed: {job}: {error}")
