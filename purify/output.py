"""Results that are never half-written: they go to a folder beside their own, which takes its name when all is there."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from purify.errors import PurifyError
from purify.gate import NAME, shown

MARK = "report.json"
"""A folder whose file of this name has our `SCHEMA` was written by `purify scan` or `purify clean`."""

SCHEMA = "purify-report/1"
"""The form of that file: what `purify.report.scanned.describe` returns."""


def refuse(output: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> None:
    """Refuse a folder that cannot be made, before any work is done.

    Args:
        output: The new folder.
        force: Allow one that is there, if it is empty or one of ours (`MARK`).
        inputs: What is read, and must not be replaced.

    Raises:
        PurifyError: it is there already, is not ours, or cannot be written.
    """
    output = output.absolute()
    if any(len(os.fsencode(part)) > NAME for part in output.parts):
        raise PurifyError(f"'{shown(output)}' cannot be made: a name in it has more than {NAME} bytes")
    if os.path.lexists(output):
        if not force:
            raise PurifyError(f"{output} is there already: name a new folder")
        if output.is_symlink() or not output.is_dir() or not (_is_ours(output) or not any(output.iterdir())):
            raise PurifyError(
                f"{output} was not written by purify, and is not replaced even by force: name a new folder"
            )
        place = output.resolve()
        if any(path.exists() and path.resolve().is_relative_to(place) for path in inputs if path.parts):
            raise PurifyError(f"{output} holds what is to be read: name another folder")
    above = next(folder for folder in output.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise PurifyError(f"{output} cannot be made: {above} is no folder that can be written to")


@contextmanager
def new_folder(output: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``output`` when all is in it; if anything fails, nothing is left.

    Args:
        output: The new folder; what is there is replaced, if `refuse` allows it.
        force: As there.

    Raises:
        PurifyError: see `refuse`.
    """
    refuse(output, force=force)
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
    try:
        folder = scratch / output.name
        folder.mkdir()
        yield folder
        old = scratch / "old"
        if os.path.lexists(output):
            output.replace(old)
        try:
            folder.replace(output)
        except OSError:
            if old.exists():
                old.replace(output)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / MARK).read_text(encoding="utf-8"))["schema"] == SCHEMA
    except (OSError, ValueError, KeyError, TypeError):
        return False
