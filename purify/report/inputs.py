"""What a notebook's outputs depend on: its code and parameters, and the files of the project that it read."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat

import purify
from purify.home import project_root
from purify.report.traced import path_of

Inputs = Mapping[str, str | None]
"""Name -> hash: of the code and the parameters, and of each file that was read (`purify.report.traced.name_of`)."""

CODE = "its code or parameters"


def inputs_of(
    notebook: Path, parameters: Mapping[str, Any], read: Iterable[str], before: float = math.inf
) -> dict[str, str | None]:
    """Hash what an execution of a notebook depends on; its text is not part of that.

    Args:
        notebook: The notebook.
        parameters: Those that it is run with.
        read: The names of the files that an execution read; one that is not there has no hash.
        before: When that execution began; a file that was written later was perhaps read in its former state, and
            gets the hash of no file.
    """
    code = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    root = project_root()
    files = {name: path_of(name, root) for name in read}
    return {
        CODE: _hash(json.dumps([code, dict(parameters)], sort_keys=True).encode()),
        **{name: _hash_of_file(path, before) for name, path in files.items()},
    }


def changed(notebook: Path, parameters: Mapping[str, Any], former: Inputs) -> list[str]:
    """Return the names of what differs from the inputs of a former execution."""
    now = inputs_of(notebook, parameters, former.keys() - {CODE})
    return [name for name, digest in former.items() if now[name] != digest]


def _hash_of_file(path: Path, before: float) -> str | None:
    if not path.is_file():
        return None
    return _hash(path.read_bytes()) if path.stat().st_mtime < before else "written meanwhile"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def with_text_of(notebook: Path, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an executed copy with the present text and cell settings of its notebook, whose code is the same."""
    fresh = nbformat.read(notebook, as_version=4)
    injected = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", ())]
    ran = iter([cell for cell in executed.cells if cell.cell_type == "code" and cell not in injected])
    cells = []
    for cell in fresh.cells:
        if cell.cell_type == "code":
            done = next(ran)
            run = {key: value for key, value in done.metadata.items() if key in ("papermill", "execution")}
            done.metadata = nbformat.from_dict({**cell.metadata, **run})
            cells.append(done)
            if "parameters" in cell.metadata.get("tags", ()):
                cells += injected
        else:
            cells.append(cell)
    executed.cells = cells
    return executed


def code_digest() -> str:
    """Hash all modules of this package."""
    digest = hashlib.sha256()
    package = Path(purify.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
