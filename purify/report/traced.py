"""Note which files of the project the Python process of a notebook reads: code that it imports, and data."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import purify
from purify.home import project_root

_PACKAGE = Path(purify.__file__).parent
_MADE = ("_build", "__pycache__", "site-packages")
"""Folders of what is made or installed."""

_INSTALLED = (".", "__editable__.")
"""How other names of such begin; an editable installation puts a name that is no file on the path of imports."""


def trace(output: str, shell: Any) -> None:
    """Begin to note, in the kernel of a notebook; after each cell, ``output`` gets the names of what was read so far.

    They are a JSON list of `name_of`. A file that was asked for and is not there is among them: once it is there,
    the notebook would read it. What libraries read without Python (weights) is not.

    Args:
        output: The file.
        shell: The kernel's ``get_ipython()``.
    """
    root = project_root()
    asked: set[str] = set()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, _ = arguments
            if isinstance(path, str | os.PathLike) and mode in ("r", "rb", "rt"):
                asked.add(os.path.abspath(path))  # noqa: PTH100  (links stay as they are)

    def write(_: object) -> None:
        modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "purify"]
        files = {file for module in modules if (file := getattr(module, "__file__", None))}
        names = sorted({name for path in files | set(asked) if (name := name_of(path, root))})
        Path(output).write_text(json.dumps(names), encoding="utf-8")

    sys.addaudithook(hear)
    shell.events.register("post_run_cell", write)


def name_of(path: str, root: Path) -> str | None:
    """Return the name of a file of the project, ``results/….json`` or ``purify/….py``; None for any other file.

    Args:
        path: The file, absolute.
        root: The project's folder; the package may lie elsewhere.
    """
    for base, inside in ((root, root), (_PACKAGE.parent, _PACKAGE)):
        if Path(path).is_relative_to(inside):
            parts = Path(path).relative_to(base).parts
            made = any(part in _MADE or part.startswith(_INSTALLED) or part.endswith(".egg-info") for part in parts)
            return None if made else "/".join(parts)
    return None


def path_of(name: str, root: Path) -> Path:
    """Undo `name_of`."""
    inside = root / name
    return inside if inside.exists() or not name.startswith(f"{_PACKAGE.name}/") else _PACKAGE.parent / name
