"""Checkpoints of the stages: folders of files with a card that lists their checksums and is written last."""

import hashlib
import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purify.grid.folder import Folder, telling_full_disks
from purify.grid.spec import CleanFisher, Purification, Stage, Suspect, canonical, fingerprint
from purify.grid.store import SCHEMA, DamagedError, Store
from purify.home import cache_folder

log = logging.getLogger(__name__)

CARD = "card.json"
KINDS: dict[type, str] = {Suspect: "suspects", CleanFisher: "fishers", Purification: "models"}


def place(stage: Stage, store: Store) -> tuple[Folder, str]:
    """Return the folder that holds the checkpoints of this kind of stage, and the name of this one in it."""
    return store.folder / KINDS[type(stage)], fingerprint(stage)


def is_made(stage: Stage, store: Store) -> bool:
    """Say whether a stage has a checkpoint; its files are not read."""
    folder, name = place(stage, store)
    return folder.read(f"{name}/{CARD}") is not None


@dataclass(frozen=True)
class Checkpoint:
    """What a stage has made: its folder on this machine, and how long it took."""

    folder: Path
    seconds: float


def find(stage: Stage, store: Store, inputs: Mapping[str, str], *, repair: bool = False) -> Checkpoint | None:
    """Return a stage's checkpoint, or None if there is none to be used.

    Its files are checked; if the store is not local, they are fetched. One that is damaged or not finished, or was
    made from other rows or another clean model, is not used.

    Args:
        stage: What is looked for.
        store: Where.
        inputs: Digests of the rows and of the clean model at hand.
        repair: Name what cannot be used and set it aside; for those who hold its lease and will make it again.
          Others may be looking at what is just being written.

    Raises:
        DiskFullError: no space is left for fetching it.
    """
    folder, name = place(stage, store)
    own = folder / name
    if not own.names():
        return None
    try:
        card = read_card(own)
        for what, digest in inputs.items():
            if card["inputs"].get(what) != digest:
                raise DamagedError(f"it was made from other {what} than at hand")
        here = own if own.local else _fetched(own, card)
        check_files(card, here)
        return Checkpoint(Path(here.path), card["seconds"])
    except DamagedError as error:
        if repair:
            store.set_aside(folder, name, error)
        return None


def write(stage: Stage, store: Store, make: Callable[[Path], Mapping[str, Any]]) -> None:
    """Make a checkpoint: whole, or not at all.

    Args:
        stage: What it is of.
        store: Where it goes.
        make: Writes files into the folder that it is given, and returns the rest of the card.

    Raises:
        DiskFullError: no space is left.
    """
    folder, name = place(stage, store)
    parent = folder.local
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".partial-{name}-", dir=parent))
    scratch.chmod(0o755)  # others may share the store
    try:
        with telling_full_disks(folder.url):
            card: dict[str, Any] = {"schema": SCHEMA, "spec": canonical(stage), **make(scratch)}
            card["files"] = {path.name: _sha256(Folder(str(scratch)), path.name) for path in sorted(scratch.iterdir())}
            content = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
            if parent:
                (scratch / CARD).write_text(content, encoding="utf-8")
                with suppress(OSError):  # somebody was faster, after taking this runner for dead
                    scratch.replace(parent / name)
            else:
                folder.fs.makedirs(f"{folder.path}/{name}", exist_ok=True)
                for file in card["files"]:
                    folder.fs.put_file(str(scratch / file), f"{folder.path}/{name}/{file}")
                folder.write(f"{name}/{CARD}", content.encode())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def drop(stage: Stage, store: Store) -> None:
    """Delete a checkpoint, so that a runner that is killed meanwhile leaves no part of it under its name.

    Where nothing can be renamed at once, its card goes first: without one it counts as unfinished.
    """
    folder, name = place(stage, store)
    if folder.local:
        doomed = folder.local / f".dropped-{name}-{uuid.uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            (folder.local / name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        return
    folder.delete(f"{name}/{CARD}")
    folder.delete(name)


def read_card(folder: Folder) -> dict[str, Any]:
    """Read the card of one checkpoint.

    Raises:
        DamagedError: it is missing or cut off.
    """
    content = folder.read(CARD)
    if content is None:
        raise DamagedError("it was not finished")
    try:
        card = json.loads(content)
        _ = card["files"], card["inputs"], card["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError("its card is cut off") from error
    return card


def check_files(card: Mapping[str, Any], folder: Folder) -> None:
    """Check the files of one checkpoint against its card.

    Raises:
        DamagedError: a file is missing or differs.
    """
    for file, expected in card["files"].items():
        found = _sha256(folder, file)
        if found != expected:
            raise DamagedError(f"{file} is {'missing' if found is None else 'not what was written'}")


def _fetched(folder: Folder, card: Mapping[str, Any]) -> Folder:
    """Copy a remote checkpoint into a local folder, once per content."""
    key = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:16]
    target = Folder(str(cache_folder() / "checkpoints" / key))
    with telling_full_disks(target):
        Path(target.path).mkdir(parents=True, exist_ok=True)
        for file, expected in card["files"].items():
            if _sha256(target, file) != expected:
                folder.fs.get_file(f"{folder.path}/{file}", f"{target.path}/{file}")
    return target


def _sha256(folder: Folder, file: str) -> str | None:
    try:
        with folder.fs.open(f"{folder.path}/{file}", "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None
