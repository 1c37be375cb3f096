"""Build the book: run the notebooks whose inputs changed, lay out the sources, render, and check the result."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import psutil
import torch
import yaml

from purify.errors import PurifyError
from purify.grid.files import load_grid
from purify.grid.processes import local_processes, threads_per_worker
from purify.grid.runner import in_process, run
from purify.grid.store import Store
from purify.home import project_root
from purify.report.links import faults
from purify.report.notebooks import resolve, run_notebook

NOTEBOOKS = "notebooks"
_FINGERPRINT = "purify_inputs"
_MEMORY = 3 << 30
"""Bytes that a process may need."""


def build(root: Path, output: Path, *, smoke: bool = False) -> Path:
    """Build the book of the project in ``root`` and return its first page.

    Args:
        root: The project: ``_config.yml``, ``_toc.yml``, ``book/``, ``notebooks/``.
        output: Folder that gets the build: pages in ``_build/html``, executed notebooks beside them.
        smoke: Run the grid ``smoke`` instead of ``default``, and every notebook with the tiny sizes of
            ``book/smoke.yml``.

    Raises:
        PurifyError: a cell of the grid or a notebook fails, Sphinx warns, or a page is missing or faulty.
    """
    toc = _yaml(root / "_toc.yml")
    tiny = _yaml(root / "book" / "smoke.yml") if smoke else {}
    pages = list(_pages(toc))
    executed = output / "_build" / ("executed-smoke" if smoke else "executed")
    sources = output / "_build" / "src"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.copytree(root / "book", sources, ignore=shutil.ignore_patterns("smoke.yml", "__pycache__"))
    shutil.copytree(root / "results" / "benchmarks", sources / "benchmarks")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(root / name, sources)
    grid = root / "book" / "grids" / ("smoke.yml" if smoke else "default.yml")
    _say(f"the experiments of {grid.name}")
    workers = 1 if smoke else workers_here()
    engine = local_processes(workers, threads_per_worker(workers)) if workers > 1 else in_process
    run(load_grid(grid), Store.default(), engine=engine)
    notebooks = [page for page in pages if page.startswith(f"{NOTEBOOKS}/")]
    for number, page in enumerate(notebooks, start=1):
        notebook = root / f"{page}.ipynb"
        copy = executed / notebook.name
        _say(f"[{number}/{len(notebooks)}] {notebook.name}")
        run_if_changed(notebook, tiny.get(notebook.stem, {}), copy)
        target = sources / NOTEBOOKS / notebook.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(copy, target)
    html = render(sources, output)
    found = faults(html, [f"{page}.html" for page in pages])
    if found:
        raise PurifyError("the rendered book has faults: " + "; ".join(found))
    return html / "index.html"


def workers_here() -> int:
    """Return how many processes to share the work among: up to four, each with a core and `_MEMORY` to itself.

    Two processes with a thread each train faster than one with two threads. A GPU is not shared.
    """
    if torch.cuda.is_available():
        return 1
    return int(max(1, min(4, threads_per_worker(1), psutil.virtual_memory().available // _MEMORY)))


def run_if_changed(notebook: Path, parameters: Mapping[str, Any], copy: Path) -> bool:
    """Run a notebook unless its executed copy came from the same inputs; say whether it ran.

    The inputs are the notebook, its parameters, the code of this package, the shipped records and the grids.
    """
    inputs = _inputs(notebook, resolve(notebook, parameters))
    if copy.exists() and nbformat.read(copy, as_version=4).metadata.get(_FINGERPRINT) == inputs:
        return False
    run_notebook(notebook, parameters, copy)
    finished = nbformat.read(copy, as_version=4)
    finished.metadata[_FINGERPRINT] = inputs
    nbformat.write(finished, copy)
    return True


def render(sources: Path, output: Path) -> Path:
    """Render laid-out sources with jupyter-book, warnings being errors; return the folder of the pages.

    Nothing is done when the pages there came from the same sources.

    Raises:
        PurifyError: jupyter-book fails; its output has been shown.
    """
    html = output / "_build" / "html"
    stamp = html / ".sources"
    digest = hashlib.sha256()
    for path in sorted(path for path in sources.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(sources)).encode() + b"\0" + path.read_bytes())
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest.hexdigest():
        return html
    _say("rendering")
    shutil.rmtree(html, ignore_errors=True)
    run_it = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run_it, "build", str(sources), "--path-output", str(output)]
    done = subprocess.run(
        [*command, "--all", "-n", "-W", "--keep-going"], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise PurifyError("jupyter-book could not render the book without warnings; its output is above")
    stamp.write_text(digest.hexdigest(), encoding="utf-8")
    return html


def _pages(toc: Mapping[str, Any]) -> Iterator[str]:
    """Yield every page of a table of contents, without its ending."""
    for key in ("root", "file"):
        if key in toc:
            yield toc[key].removesuffix(".md").removesuffix(".ipynb")
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, ()):
            yield from _pages(entry)


def _inputs(notebook: Path, parameters: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(notebook.read_bytes())
    digest.update(json.dumps(parameters, sort_keys=True).encode())
    home = project_root()
    for folder in (Path(__file__).parent.parent, home / "results", home / "book" / "grids"):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".json", ".yml")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PurifyError(f"there is no {path}: run this in the project's folder")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
