"""The store: records of finished cells and checkpoints of stages, by the hash of their description."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from purify.errors import PurifyError
from purify.grid.folder import Folder
from purify.grid.lease import TTL, Leases
from purify.grid.spec import Cell, Stage, fingerprint, fingerprint_of_plain
from purify.home import project_root
from purify.metrics import Proportion, Scores

log = logging.getLogger(__name__)

SCHEMA = 2
STORE = "PURIFY_STORE"
"""Environment variable: folder or URL of the store; by default ``.purify`` in the project's folder."""

Record = dict[str, Any]


class DamagedError(ValueError):
    """A file of the store is not what was written: cut off, or changed."""


@dataclass(frozen=True)
class Store:
    """A folder, or a URL that fsspec knows, with what has been run.

    ``records/<hash>.json``, ``failed/<hash>.json`` and ``leases/`` are small; ``suspects/<hash>/``,
    ``fishers/<hash>/`` and ``models/<hash>/`` hold tensors (see `purify.grid.checkpoints`). What is found damaged
    is moved into ``aside/`` and made again.

    Attributes:
        root: The folder or URL.
        records: Where records are looked for, in this order; new ones are written to the first. By default, the
            store's own folder.
        ttl: Seconds after which a silent runner on another machine loses its lease.
    """

    root: str | Path
    records: tuple[str | Path, ...] = ()
    ttl: float = TTL

    @classmethod
    def default(cls, records: Path | None = None, root: str | None = None) -> "Store":
        """Return the store that the notebooks and the command line use.

        Args:
            records: The one folder of records that is used. If it is not given, records go into the store's own
                folder, and those that the project ships in ``results`` are found as well.
            root: The store; by default that of the environment variable `STORE`.

        Raises:
            PurifyError: as `check`.
        """
        home = project_root()
        root = absolute(root or os.environ.get(STORE) or str(home / ".purify"))
        found = (records.absolute(),) if records else (f"{root.rstrip('/')}/records", home / "results")
        store = cls(root, found)
        store.check()
        return store

    def __reduce__(self) -> tuple[type["Store"], tuple[object, ...]]:
        """Send another process where the store is, not what was opened of it and seen of its leases here."""
        return Store, (self.root, self.records, self.ttl)

    @cached_property
    def folder(self) -> Folder:
        """The root.

        Raises:
            PurifyError: the URL is of a file system that is unknown, or whose package is not installed.
        """
        folder = Folder(str(self.root))
        try:
            folder.fs  # noqa: B018  (asks for the file system)
        except (ImportError, ValueError) as error:
            raise PurifyError(f"the store {self.root} cannot be opened: {error}") from error
        return folder

    @cached_property
    def record_folders(self) -> tuple[Folder, ...]:
        """The folders of records, that for new ones first."""
        return tuple(Folder(str(where)) for where in self.records) or (self.folder / "records",)

    @cached_property
    def leases(self) -> Leases:
        """Who works on what."""
        return Leases(self.folder / "leases", self.ttl)

    def check(self) -> None:
        """Refuse a store that a newer version wrote.

        Raises:
            PurifyError: its schema is newer than `SCHEMA`, or it cannot be opened.
        """
        try:
            content = self.folder.read("store.json")
            schema = json.loads(content)["schema"] if content else SCHEMA
        except PurifyError:
            raise
        except Exception as error:  # every file system has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PurifyError(f"the store {self.root} cannot be opened: {reason}") from error
        if schema > SCHEMA:
            raise PurifyError(f"the store {self.root} has schema {schema}, newer than {SCHEMA}: update purify")

    def get(self, cell: Cell, *, repair: bool = False) -> Record | None:
        """Return the record of a cell, or None if it has not been run.

        A damaged one is named and counts as not run.

        Args:
            cell: Whose record.
            repair: Set a damaged record aside; for those who hold its lease and will write it again.

        Raises:
            PurifyError: the record was written by a newer version.
        """
        return self.read(fingerprint(cell), repair=repair)

    def read(self, key: str, *, repair: bool = False) -> Record | None:
        """Return the record with this hash; as `get`."""
        name = f"{key}.json"
        for folder in self.record_folders:
            content = folder.read(name)
            if content is not None:
                try:
                    return parse_record(content, f"{folder}/{name}", key)
                except DamagedError as error:
                    if repair and self._is_ours(folder):
                        self.set_aside(folder, name, error)
                    else:
                        log.warning("%s/%s is damaged (%s): it is not used", folder, name, error)
        return None

    def put(self, cell: Cell, record: Record) -> None:
        """Write the record of a cell, with its schema, specification and checksum.

        Raises:
            DiskFullError: no space is left.
        """
        if self.folder.read("store.json") is None:
            self.folder.write("store.json", _json({"schema": SCHEMA}))
        self.record_folders[0].write(f"{fingerprint(cell)}.json", seal(record))
        self.forget_failure(cell)

    def recorded(self) -> set[str]:
        """Return the hashes of all cells that have a record; the records are not read."""
        names = set().union(*(folder.names() for folder in self.record_folders))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def all_records(self) -> list[Record]:
        """Return every sound record, in the order of their hashes."""
        return [record for record in map(self.read, sorted(self.recorded())) if record]

    def set_aside(self, folder: Folder, name: str, reason: object) -> None:
        """Move what is damaged out of the way, and say so."""
        fresh = folder.move(name, self.folder / "aside")
        log.warning("%s/%s cannot be used (%s): set aside as aside/%s, and made again", folder, name, reason, fresh)

    def _is_ours(self, folder: Folder) -> bool:
        """What the project ships is read only."""
        return folder == self.record_folders[0]

    def put_failure(self, stage: Stage, failure: Mapping[str, Any]) -> None:
        """Write down why a stage failed.

        Raises:
            DiskFullError: no space is left.
        """
        self._failed.write(f"{fingerprint(stage)}.json", _json(failure))

    def failure(self, stage: Stage) -> dict[str, Any] | None:
        """Return why a stage failed, if it did and has not succeeded since."""
        content = self._failed.read(f"{fingerprint(stage)}.json")
        return json.loads(content) if content else None

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return what failed and has not succeeded since: hash -> what, error, traceback, when, where."""
        found = {}
        for name in sorted(self._failed.names()):
            content = self._failed.read(name)
            if content is not None:
                found[name.removesuffix(".json")] = json.loads(content)
        return found

    def forget_failure(self, stage: Stage) -> None:
        """Delete the failure of a stage, if there is one: it succeeded, or is tried again."""
        self._failed.delete(f"{fingerprint(stage)}.json")

    @cached_property
    def _failed(self) -> Folder:
        return self.folder / "failed"


def seal(record: Record) -> bytes:
    """Return the content of a record's file: the record, its schema, and the checksum of both."""
    body = {"schema": SCHEMA, **{key: value for key, value in record.items() if key not in ("schema", "sha256")}}
    return _json({**body, "sha256": _checksum(body)})


def parse_record(content: bytes, where: str, name: str) -> Record:
    """Check the content of a record's file and return it.

    Args:
        content: What `seal` returned.
        where: The file, for the messages.
        name: The hash that its specification must have.

    Raises:
        DamagedError: it is cut off or was changed.
        PurifyError: it was written by a newer version.
    """
    try:
        record = json.loads(content)
        schema = record["schema"]
        if schema > SCHEMA:
            raise PurifyError(f"the record {where} has schema {schema}, newer than {SCHEMA}: update purify")
        body = {key: value for key, value in record.items() if key != "sha256"}
        if record["sha256"] != _checksum(body):
            raise DamagedError("its checksum is wrong")
        if fingerprint_of_plain("Cell", record["spec"]) != name:
            raise DamagedError("its specification does not belong to its name")
    except PurifyError:
        raise
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError("it is cut off") from error
    return record


def scores_to_json(scores: Scores) -> dict[str, dict[str, int]]:
    """Return the counts, from which every percentage and interval follows."""
    return {name: asdict(value) for name, value in vars(scores).items() if value is not None}


def scores_from_json(scores: Mapping[str, Mapping[str, int]]) -> Scores:
    """Undo `scores_to_json`."""
    return Scores(**{name: Proportion(**counts) for name, counts in scores.items()})


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def absolute(root: str) -> str:
    """Return a path or URL that means the same in every working directory."""
    return root if "://" in root else str(Path(root).absolute())


def records_of(cells: Sequence[Cell], store: Store) -> list[Record]:
    """Return the records that there are, in the order of the cells."""
    return [record for record in map(store.get, cells) if record]
