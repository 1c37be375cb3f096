"""Looking after a store: what it holds, whether it is sound, and what of it can go."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purify.grid.checkpoints import KINDS, check_files, read_card
from purify.grid.folder import Folder
from purify.grid.schedule import jobs_for
from purify.grid.spec import NONE, Cell, fingerprint, fingerprint_of_plain
from purify.grid.store import DamagedError, Store, parse_record

_OLD = 3600
"""Seconds after which an unfinished file that nobody works on is rubbish."""


@dataclass(frozen=True)
class Status:
    """The state of a grid, or of a whole store.

    Attributes:
        total: Cells of the grid; of a whole store, its records.
        done: Cells with a record.
        running: What is held at the moment: hash -> who holds it.
        failed: Hash -> what failed, and why.
    """

    total: int
    done: int
    running: dict[str, dict[str, Any]]
    failed: dict[str, dict[str, Any]]


def status(store: Store, cells: Sequence[Cell] | None = None) -> Status:
    """Say how far a grid is, or what a store holds.

    Args:
        store: Where to look.
        cells: The grid; without it, everything in the store.

    Cost: about 10 µs per cell; no record is read.
    """
    recorded = store.recorded()
    running, failed = store.leases.holders(), store.failures()
    if cells is None:
        return Status(len(recorded), len(recorded), running, failed)
    hashes = {fingerprint(cell) for cell in cells}
    if running or failed:
        stages = hashes | _stages(cells)
        running = {key: holder for key, holder in running.items() if key in stages}
        failed = {key: failure for key, failure in failed.items() if key in stages}
    return Status(len(hashes), len(hashes & recorded), running, failed)


def verify(store: Store) -> Iterator[tuple[str, str]]:
    """Check every record and every checkpoint, and yield what each is and what is wrong with it, if anything.

    Cost: reads the whole store once.
    """
    for folder in store.record_folders:
        for name in sorted(folder.names()):
            if name.endswith(".json"):
                where = f"{folder}/{name}"
                try:
                    parse_record(folder.read(name) or b"", where, name.removesuffix(".json"))
                    yield where, ""
                except DamagedError as error:
                    yield where, str(error)
    for cls, kind in KINDS.items():
        for name in sorted((store.folder / kind).names()):
            place = store.folder / kind / name
            try:
                card = read_card(place)
                check_files(card, place)
                right = fingerprint_of_plain(cls.__name__, card["spec"]) == name
                yield str(place), "" if right else "its specification does not belong to its name"
            except DamagedError as error:
                yield str(place), str(error)


@dataclass(frozen=True)
class Rubbish:
    """Something that can go: where it is, why, and its size in bytes."""

    folder: Folder
    name: str
    reason: str
    size: int


def rubbish(store: Store, wanted: Sequence[Cell] | None = None) -> Iterator[Rubbish]:
    """Yield what can be deleted: never a record, nor what somebody is working on.

    That is what was set aside, what killed runners left unfinished, and, if the cells that are still wanted are
    given, the checkpoints that none of them needs; these stay while somebody works on anything else.
    """
    held = store.leases.holders().keys()
    aside = store.folder / "aside"
    yield from (Rubbish(aside, name, "set aside", _size(aside, name)) for name in sorted(aside.names()))
    for kind in (*KINDS.values(), "leases", "failed"):
        folder = store.folder / kind
        for name in _unfinished(folder.local):
            if not any(key in name for key in held):
                yield Rubbish(folder, name, "unfinished", _size(folder, name))
    for folder in store.record_folders:
        yield from (Rubbish(folder, name, "unfinished", _size(folder, name)) for name in _unfinished(folder.local))
    if wanted is None:
        return
    needed = _stages(wanted, models_of=store.recorded())
    if held - needed:
        return  # somebody runs another grid, whose stages are not known here
    for kind in KINDS.values():
        folder = store.folder / kind
        for name in sorted(folder.names() - needed - held):
            yield Rubbish(folder, name, "not needed", _size(folder, name))


def _unfinished(folder: Path | None) -> list[str]:
    if folder is None or not folder.is_dir():
        return []
    hidden = [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".gitignore"]
    return sorted(path.name for path in hidden if time.time() - path.stat().st_mtime > _OLD)


def _stages(cells: Sequence[Cell], models_of: set[str] | None = None) -> set[str]:
    """The hashes of the stages of the cells; of cleaned checkpoints, those of cells not yet in ``models_of``."""
    stages = {job.key for cell in cells for job in jobs_for(cell)}
    defended = (cell for cell in cells if cell.defense.name != NONE and not cell.policy)
    return stages | {fingerprint(c.purification) for c in defended if fingerprint(c) not in (models_of or ())}


def _size(folder: Folder, name: str) -> int:
    return int(folder.fs.du(f"{folder.path}/{name}", withdirs=False))
