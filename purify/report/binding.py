"""Printed pages bound to one PDF, with a contents page, bookmarks, page numbers and links that stay inside it."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.constants import PageLabelStyle
from pypdf.generic import ArrayObject, Fit, IndirectObject, NameObject, NullObject, NumberObject

from purify.grid.folder import write_whole

Places = Mapping[tuple[str, str], tuple[int, float | None]]
"""(page of the book, anchor) -> number of the sheet from 0, height on it in points; anchor "": the page itself."""


@dataclass(frozen=True)
class Entry:
    """A page of the table of contents.

    Attributes:
        page: Its path, without an ending.
        part: The caption of its part; empty for the first page.
        depth: 0 for a chapter, 1 for a page below one, and so on.
    """

    page: str
    part: str = ""
    depth: int = 0


@dataclass(frozen=True)
class Printed:
    """A page of the book, printed.

    Attributes:
        entry: Which.
        title: Its heading, with its number.
        sections: Anchor and heading of every section.
        content: The PDF.
    """

    entry: Entry
    title: str
    sections: tuple[tuple[str, str], ...]
    content: bytes

    @property
    def sheets(self) -> int:
        """How many sheets it takes."""
        return len(PdfReader(io.BytesIO(self.content)).pages)


def entries(toc: Mapping[str, Any]) -> list[Entry]:
    """Return the pages of a table of contents (``_toc.yml``) in their order."""

    def below(node: Mapping[str, Any], part: str, depth: int) -> Iterator[Entry]:
        if "file" in node:
            yield Entry(_bare(node["file"]), part, depth)
        for child in (*node.get("chapters", ()), *node.get("sections", ())):
            yield from below(child, part, depth + ("file" in node))

    parts = toc.get("parts", [toc])
    return [Entry(_bare(toc["root"])), *(one for part in parts for one in below(part, part.get("caption", ""), 0))]


def contents(printed: Sequence[Printed], address: str, title: str, author: str) -> str:
    """Return the first sheets as HTML: title, author, and every part and page with its number and a link."""
    lines, part, start = [], "", 1
    for one in printed:
        if one.entry.part != part:
            part = one.entry.part
            lines.append(f"<h2>{escape(part)}</h2>")
        link = f'<a href="{escape(address)}{escape(one.entry.page)}.html">{escape(one.title)}</a>'
        lines.append(f'<p style="margin-left: {1.5 * one.entry.depth}em">{link}<i></i><span>{start}</span></p>')
        start += one.sheets
    style = (
        "@page { size: A4; margin: 22mm 20mm; } body { font: 10.5pt/1.35 sans-serif; } h1 { margin: 30mm 0 4mm; } "
        "h2 { font-size: 11pt; margin: 4mm 0 1mm; break-after: avoid; } p { display: flex; margin: 0.6mm 0; } "
        "a { color: inherit; text-decoration: none; } i { flex: 1; margin: 0 1mm 1mm; border-bottom: 1px dotted #888; }"
    )
    return (
        f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
        f"<h1>{escape(title)}</h1><div>{escape(author)}</div>{''.join(lines)}"
    )


def bind(front: bytes, printed: Sequence[Printed], output: Path, *, address: str, title: str, author: str) -> int:
    """Bind the prints into one PDF and return its number of sheets.

    Bookmarks are parts, pages and their sections. Sheets have the numbers that are printed on them, those of the front
    Roman ones. Links to ``address`` lead to the place in the PDF, or nowhere if it holds no such page.

    Args:
        front: The `contents`, printed.
        printed: The pages, in their order.
        output: The file; replaced if it is there.
        address: What links between pages begin with.
        title: Of the PDF.
        author: Of the PDF.
    """
    writer = PdfWriter()
    readers = [PdfReader(io.BytesIO(front)), *(PdfReader(io.BytesIO(one.content)) for one in printed)]
    names = ["", *(one.entry.page for one in printed)]
    places: dict[tuple[str, str], tuple[int, float | None]] = {}
    homes: list[str] = []
    for name, reader in zip(names, readers, strict=True):
        places[name, ""] = (len(homes), None)
        for anchor, place in reader.named_destinations.items():
            sheet = reader.get_destination_page_number(place)
            if sheet is not None and sheet >= 0:
                top = float(place.top) if place.top is not None else None
                places[name, unquote(anchor.removeprefix("/"))] = (len(homes) + sheet, top)
        homes += [name] * len(reader.pages)
        for page in reader.pages:
            writer.add_page(page)
    sheets = list(writer.pages)
    for page, home in zip(sheets, homes, strict=True):
        _relink(page, home, places, sheets, address)
    _bookmark(writer, printed, places)
    first = len(readers[0].pages)
    writer.set_page_label(0, first - 1, style=PageLabelStyle.LOWERCASE_ROMAN, start=1)
    writer.set_page_label(first, len(sheets) - 1, style=PageLabelStyle.DECIMAL, start=1)
    writer.add_metadata({"/Title": title, "/Author": author})
    writer.page_mode = "/UseOutlines"
    writer.compress_identical_objects(remove_duplicates=True, remove_unreferenced=True)
    write_whole(output, writer.write)
    return len(sheets)


def _relink(page: PageObject, home: str, places: Places, sheets: Sequence[PageObject], address: str) -> None:
    """Let the links of a sheet that stay in the book lead to sheets; take out those to what is not in the PDF."""
    kept = ArrayObject()
    for reference in page.get("/Annots") or ():
        link = reference.get_object()
        target = _target(link, home, address)
        if target is None:
            kept.append(reference)
            continue
        place = places.get(target) or places.get((target[0], ""))
        if place is None:
            continue
        sheet, top = place
        link.pop("/A", None)
        end = NullObject() if top is None else NumberObject(round(top))
        link[NameObject("/Dest")] = ArrayObject(
            [_reference(sheets[sheet]), NameObject("/XYZ"), NullObject(), end, NullObject()]
        )
        kept.append(reference)
    if "/Annots" in page:
        page[NameObject("/Annots")] = kept


def _target(link: Mapping[str, Any], home: str, address: str) -> tuple[str, str] | None:
    """Return page and anchor that a link of the page ``home`` leads to; None if it leaves the book, or is no link."""
    if "/Dest" in link:
        return home, unquote(str(link["/Dest"]).removeprefix("/"))
    url = str(link.get("/A", {}).get("/URI", ""))
    if not url.startswith(address):
        return None
    path, _, anchor = url.removeprefix(address).partition("#")
    return unquote(path).removesuffix(".html"), unquote(anchor)


def _bookmark(writer: PdfWriter, printed: Sequence[Printed], places: Places) -> None:
    """Add the bookmarks: parts, in them pages, in these pages below and sections."""
    part, above = "", [None]
    levels: list[Any] = above
    for one in printed:
        page, depth = one.entry.page, one.entry.depth
        sheet, _ = places[page, ""]
        if one.entry.part != part:
            part = one.entry.part
            levels = [writer.add_outline_item(title=part, page_number=sheet)]
        levels = levels[: depth + 1]
        own = writer.add_outline_item(title=one.title, page_number=sheet, parent=levels[-1], is_open=False)
        levels.append(own)
        for anchor, text in one.sections:
            where, top = places.get((page, anchor), (sheet, None))
            writer.add_outline_item(title=text, page_number=where, parent=own, fit=Fit.xyz(top=top), is_open=False)


def _reference(page: PageObject) -> IndirectObject:
    found = page.indirect_reference
    assert found is not None  # it stands in a writer
    return found


def _bare(name: str) -> str:
    return re.sub(r"\.(md|ipynb)$", "", name)
