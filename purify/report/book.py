"""Build the book: run the notebooks whose inputs changed, lay out the sources, render, and check the result."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from purify.errors import PurifyError
from purify.grid.files import load_grid
from purify.grid.runner import in_process, run
from purify.grid.store import Store
from purify.report.downloads import repository
from purify.report.execution import Job, in_processes, run_changed, say
from purify.report.layout import EXTRA, NOTEBOOKS, changes, contents, first_page
from purify.report.links import faults

_SOUND = ".sound"
"""Stands among the pages when all of them came from the sources that are there."""


def build(root: Path, output: Path, *, smoke: bool = False, solutions: bool = True) -> Path:
    """Build the book of the project in ``root`` and return its first page.

    Args:
        root: The project: ``_config.yml``, ``_toc.yml``, ``book/``, ``notebooks/``.
        output: Folder that gets the build: pages in ``_build/html``, executed notebooks beside them.
        smoke: Run the grid ``smoke`` instead of ``default``, and every notebook with the tiny sizes of
            ``book/smoke.yml``.
        solutions: Keep the solutions of the exercises.

    Raises:
        PurifyError: a cell of the grid or a notebook fails, Sphinx warns, or a page is missing or faulty.
    """
    toc = _yaml(root / "_toc.yml")
    tiny = _yaml(root / "book" / "smoke.yml") if smoke else {}
    pages = list(_pages(toc))
    executed = output / "_build" / ("executed-smoke" if smoke else "executed")
    sources = output / "_build" / "src"
    grid = root / "book" / "grids" / ("smoke.yml" if smoke else "default.yml")
    say(f"the experiments of {grid.name}")
    run(load_grid(grid), Store.default(), engine=in_process if smoke else in_processes)
    notebooks = [root / f"{page}.ipynb" for page in pages if page.startswith(f"{NOTEBOOKS}/")]
    jobs = [Job(notebook, tiny.get(notebook.stem, {}), executed / notebook.name) for notebook in notebooks]
    run_changed(jobs)
    copies = [job.copy for job in jobs]
    files = contents(root, copies, published=repository(root), solutions=solutions) | first_page()
    html = render(sources, output, changes(files, sources))
    found = faults(html, [f"{page}.html" for page in pages])
    if found:
        (html / _SOUND).unlink(missing_ok=True)  # the next time, all pages are rendered again
        raise PurifyError("the rendered book has faults: " + "; ".join(found))
    return html / "index.html"


def render(sources: Path, output: Path, changes: Mapping[Path, bytes | None]) -> Path:
    """Change the sources and render them with jupyter-book, warnings being errors; return the folder of the pages.

    Only the pages that changed are rendered again; all of them, if something changed that is no page and no file to be
    copied beside them, if only such files changed, or if the last rendering did not end well.

    Args:
        sources: Their folder.
        output: Of the build.
        changes: File of ``sources`` -> its new content, or None if it has to go.

    Raises:
        PurifyError: jupyter-book fails; its output has been shown.
    """
    html = output / "_build" / "html"
    sound = html / _SOUND
    written = [path for path, content in changes.items() if content is not None]
    beside = [path for path in written if path.is_relative_to(sources / EXTRA)]
    pages = [path for path in written if path.suffix in (".md", ".ipynb") and path not in beside]
    whole = not sound.is_file() or not changes.keys() <= {*pages, *beside} or (bool(changes) and not pages)
    if not (whole or changes):
        return html
    say("rendering" if whole else f"rendering {', '.join(sorted({path.stem for path in pages}))}")
    sound.unlink(missing_ok=True)
    for path, content in changes.items():
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if whole:
        shutil.rmtree(html, ignore_errors=True)
    run_it = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run_it, "build", str(sources), "--path-output", str(output)]
    done = subprocess.run(
        [*command, *["--all"] * whole, "-n", "-W", "--keep-going"],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise PurifyError("jupyter-book could not render the book without warnings; its output is above")
    sound.touch()
    return html


def _pages(toc: Mapping[str, Any]) -> Iterator[str]:
    """Yield every page of a table of contents, without its ending."""
    for key in ("root", "file"):
        if key in toc:
            yield toc[key].removesuffix(".md").removesuffix(".ipynb")
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, ()):
            yield from _pages(entry)


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PurifyError(f"there is no {path}: run this in the project's folder")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
