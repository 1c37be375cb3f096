"""What the folder of the book's sources holds: pages, chapters in their frames, figures, the first page's picture."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat

from purify.report import landing
from purify.report.downloads import Repository, for_download
from purify.report.frame import framed, without_solutions
from purify.report.gallery import Picture, gallery, pictures, without_svg
from purify.report.inputs import code_digest

NOTEBOOKS = "notebooks"
REFERENCE = "reference"
"""The pages that are made from docstrings and help texts: they change with the code."""

EXTRA = Path("_extra")
"""Is copied as it is beside the pages."""


def contents(
    root: Path, executed: Iterable[Path], *, published: Repository | None, solutions: bool
) -> dict[Path, bytes]:
    """Return every file of the sources: its name in their folder -> its content.

    Args:
        root: The project.
        executed: The executed chapters, in the order of the book.
        published: Where the project is.
        solutions: Whether the solutions of the exercises are kept.
    """
    skipped = ("smoke.yml", "__pycache__", "teaching")
    paths = {path.relative_to(root / "book"): path for path in (root / "book").rglob("*") if path.is_file()}
    paths = {name: path for name, path in paths.items() if not set(skipped) & set(name.parts)}
    paths |= {Path("benchmarks") / path.name: path for path in (root / "results" / "benchmarks").iterdir()}
    paths |= {Path("included") / name: root / name for name in ("CHANGELOG.md", "CONTRIBUTING.md")}
    paths |= {Path(name): root / name for name in ("_config.yml", "_toc.yml")}
    made = f"\n% made from the code {code_digest()}\n".encode()
    files = {name: path.read_bytes() + (made if name.parts[0] == REFERENCE else b"") for name, path in paths.items()}
    chapters: dict[str, tuple[str, list[Picture]]] = {}
    for copy in executed:
        chapter = nbformat.read(copy, as_version=4)
        found = list(pictures(chapter, copy.stem))
        chapter = without_svg(chapter) if solutions else without_solutions(without_svg(chapter))
        page = framed(chapter, copy.stem, published)
        chapters[copy.stem] = (page.cells[0].source.partition("\n")[0].removeprefix("# "), found)
        files[Path(NOTEBOOKS) / copy.name] = nbformat.writes(page).encode()
        files[EXTRA / "downloads" / copy.name] = nbformat.writes(for_download(chapter, published)).encode()
        files |= {
            EXTRA / "figures" / f"{one.name}.{ending}": file for one in found for ending, file in one.files.items()
        }
    files[Path("included") / "gallery.md"] = gallery(chapters, "figures").encode()
    return files


def first_page() -> dict[Path, bytes]:
    """Return the files of the first page's picture and the text around it (`purify.report.landing`)."""
    chosen, laws = landing.records()
    drawn = {EXTRA / "glance" / name: file for name, file in landing.panels(chosen, laws).items()}
    return {Path("included") / "glance.md": landing.glance(chosen, laws, "glance").encode(), **drawn}


def changes(files: Mapping[Path, bytes], sources: Path) -> dict[Path, bytes | None]:
    """Return what has to change in the folder of sources: file -> its new content, or None if it has to go."""
    there = [path for path in sources.rglob("*") if path.is_file()]
    found: dict[Path, bytes | None] = {path: None for path in there if path.relative_to(sources) not in files}
    for name, content in files.items():
        if not (sources / name).is_file() or (sources / name).read_bytes() != content:
            found[sources / name] = content
    return found
