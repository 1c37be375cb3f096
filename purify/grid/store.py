"""The store: records of finished cells and checkpoints of trained suspects, on disk, by hash."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from purify.errors import PurifyError
from purify.grid.spec import Cell, Suspect, fingerprint
from purify.home import project_root
from purify.metrics import Proportion, Scores

SCHEMA = 1
STORE = "PURIFY_STORE"
"""Environment variable: the folder of the store; by default ``.purify`` in the project's folder."""


@dataclass(frozen=True)
class Store:
    """A folder with ``checkpoints/<hash>/``, and folders of records, ``<hash>.json``.

    Everything is written to a temporary name and renamed, so that what exists is complete.

    Attributes:
        root: The folder of the checkpoints.
        records: Where records are looked for, in this order; new ones are written to the first.
    """

    root: Path
    records: tuple[Path, ...]

    @classmethod
    def default(cls, records: Path | None = None) -> "Store":
        """Return the store that the notebooks and the command line use.

        Args:
            records: The one folder of records that is used. If it is not given, records go into the
                store's own folder, and those that the project ships in ``results`` are found as well.
        """
        home = project_root()
        root = Path(os.environ.get(STORE, home / ".purify"))
        return cls(root, (records,) if records else (root / "records", home / "results"))

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """Return the record of a cell, or None if it has not been run.

        Raises:
            PurifyError: the record was written by a newer version, or is damaged.
        """
        for folder in self.records:
            path = folder / f"{fingerprint(cell)}.json"
            if path.exists():
                return read_record(path)
        return None

    def put(self, cell: Cell, record: dict[str, Any]) -> None:
        """Write the record of a cell."""
        path = self.records[0] / f"{fingerprint(cell)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)

    def checkpoint(self, suspect: Suspect, make: Callable[[Path], None]) -> Path:
        """Return the folder of a suspect's checkpoint; if there is none, ``make`` writes it first."""
        folder = self.root / "checkpoints" / fingerprint(suspect)
        if not folder.exists():
            with _scratch(folder.parent) as scratch:
                make(scratch)
                scratch.replace(folder)
        return folder


def read_record(path: Path) -> dict[str, Any]:
    """Read one record.

    Raises:
        PurifyError: as `Store.get`.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema = record["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PurifyError(f"the record {path} is damaged: delete it to have the cell run again") from error
    if schema > SCHEMA:
        raise PurifyError(f"the record {path} has schema {schema}, newer than {SCHEMA}: update purify")
    return record


def scores_to_json(scores: Scores) -> dict[str, dict[str, int]]:
    """Return the counts, from which every percentage and interval follows."""
    return asdict(scores)


def scores_from_json(scores: dict[str, dict[str, int]]) -> Scores:
    """Undo `scores_to_json`."""
    return Scores(**{name: Proportion(**counts) for name, counts in scores.items()})


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
