"""The figures of the executed chapters as files for slides, SVG and PNG, and the page that shows all of them."""

import base64
import html
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import nbformat

MIMES = {"svg": "image/svg+xml", "png": "image/png"}


class Picture(NamedTuple):
    """A figure of a chapter.

    Attributes:
        name: Of its files, without the ending: chapter and number.
        place: The heading that it stands under.
        alt: What it shows, in words.
        files: Ending (``svg``, ``png``) -> the file.
    """

    name: str
    place: str
    alt: str
    files: Mapping[str, bytes]


def pictures(notebook: nbformat.NotebookNode, name: str) -> Iterator[Picture]:
    """Yield the figures of an executed notebook, in their order.

    Args:
        notebook: The executed copy.
        name: Of its file, without the ending.
    """
    place, number = "", 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            place = headings[-1].lstrip("# ") if headings else place
            continue
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if MIMES["png"] in data:
                number += 1
                files = {ending: _content(ending, data[mime]) for ending, mime in MIMES.items() if mime in data}
                alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
                yield Picture(f"{name}-{number}", place, alt, files)


def _content(ending: str, data: str) -> bytes:
    return data.encode() if ending == "svg" else base64.b64decode(data)


def without_svg(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an executed notebook, changed in place, whose figures are PNG alone: what its page shows."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(MIMES["svg"], None)
    return notebook


def gallery(chapters: Mapping[str, tuple[str, Iterable[Picture]]], folder: str) -> str:
    """Return a page of all figures, in Markdown: each with the heading it stands under, its alt text and its files.

    Args:
        chapters: Name of the chapter's file -> its title and its figures.
        folder: Of the figures' files, seen from the page.
    """
    parts = []
    for name, (title, found) in chapters.items():
        shown = [_shown(picture, folder) for picture in found]
        if shown:
            parts += [f"## [{title}](notebooks/{name})", "\n".join(['<div class="gallery">', *shown, "</div>"])]
    return "\n\n".join(parts) + "\n"


def _shown(picture: Picture, folder: str) -> str:
    alt, file = html.escape(picture.alt), f"{folder}/{picture.name}"
    files = " ".join(f'<a href="{file}.{ending}" download>{ending.upper()}</a>' for ending in picture.files)
    return (
        f'<figure><img src="{file}.png" alt="{alt}" loading="lazy"><figcaption><strong>{html.escape(picture.place)}'
        f'</strong> {alt} <span class="files">{files}</span></figcaption></figure>'
    )
