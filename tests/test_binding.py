"""Binding printed pages; the prints are made here, without a browser."""

import io

import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import Link
from pypdf.generic import Fit, NameObject, NullObject

from purify import PurifyError
from purify.report import pdf
from purify.report.binding import Entry, Printed, bind, contents, entries

ADDRESS = "http://127.0.0.1:1/"
TOC = {
    "root": "intro",
    "parts": [
        {"caption": "First", "chapters": [{"file": "a"}, {"file": "b.md", "sections": [{"file": "deep/c.ipynb"}]}]},
        {"caption": "Second", "chapters": [{"file": "d"}]},
    ],
}
BOX = (10, 10, 50, 50)


def sheets_of(count, links=(), anchors=None):
    """A PDF of blank sheets as Chromium writes it: links on the first, anchors by name at (sheet, height)."""
    writer = PdfWriter()
    for _ in range(count):
        writer.add_blank_page(200, 300)
    for link in links:
        if link.startswith("#"):
            note = Link(rect=BOX, target_page_index=0)
            note[NameObject("/Dest")] = NameObject(f"/{link[1:]}")
        else:
            note = Link(rect=BOX, url=link)
        writer.add_annotation(0, note)
    for name, (sheet, top) in (anchors or {}).items():
        writer.add_named_destination(name, sheet, Fit.xyz(top=top))
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def test_the_pages_of_a_table_of_contents_know_their_part_and_depth():
    assert entries(TOC) == [
        Entry("intro"),
        Entry("a", "First", 0),
        Entry("b", "First", 0),
        Entry("deep/c", "First", 1),
        Entry("d", "Second", 0),
    ]


@pytest.fixture
def bound(tmp_path):
    """Contents of one sheet, then pages of 2, 1, 3, 1 and 1 sheets."""
    links = [f"{ADDRESS}b.html#here", f"{ADDRESS}d.html", f"{ADDRESS}gone.html", "https://example.org/", "#here"]
    prints = [
        Printed(Entry("intro"), "The book", (), sheets_of(2, links, {"here": (1, 123)})),
        Printed(Entry("a", "First"), "1. A", (), sheets_of(1)),
        Printed(Entry("b", "First"), "2. B", (("here", "Section"),), sheets_of(3, anchors={"here": (2, 222)})),
        Printed(Entry("deep/c", "First", 1), "2.1. C", (), sheets_of(1, [f"{ADDRESS}b.html#no-such-anchor"])),
        Printed(Entry("d", "Second"), "D", (), sheets_of(1)),
    ]
    front = sheets_of(1, [f"{ADDRESS}deep/c.html"])
    file = tmp_path / "new" / "book.pdf"
    assert bind(front, prints, file, address=ADDRESS, title="T", author="A") == 9
    return PdfReader(file)


def targets(reader, sheet):
    """Where the links of a sheet lead: (sheet, height), or an address."""
    found = []
    for note in reader.pages[sheet].get("/Annots", ()):
        link = note.get_object()
        if "/Dest" in link:
            page, kind, _, top, _ = link["/Dest"]
            assert kind == "/XYZ"
            assert "/A" not in link
            found.append((reader.get_page_number(page.get_object()), None if isinstance(top, NullObject) else top))
        else:
            found.append(link["/A"]["/URI"])
    return found


def test_links_between_pages_lead_to_sheets_and_others_stay(bound):
    within, first, outside, own = (6, 222), (8, None), "https://example.org/", (2, 123)
    assert targets(bound, 1) == [within, first, outside, own]  # the link to a page that is not bound is gone
    assert targets(bound, 0) == [(7, None)]


def test_a_link_to_an_anchor_that_was_not_printed_leads_to_the_first_sheet_of_the_page(bound):
    assert targets(bound, 7) == [(4, None)]


def test_the_bookmarks_are_parts_pages_and_sections(bound):
    def tree(items):
        number = bound.get_destination_page_number
        return [tree(one) if isinstance(one, list) else (one.title, number(one)) for one in items]

    first = [("1. A", 3), ("2. B", 4), [("Section", 6), ("2.1. C", 7)]]
    assert tree(bound.outline) == [("The book", 1), ("First", 3), first, ("Second", 8), [("D", 8)]]


def test_sheets_are_numbered_as_printed(bound):
    assert bound.page_labels == ["i", *map(str, range(1, 9))]
    assert (bound.metadata.title, bound.metadata.author) == ("T", "A")


def test_the_contents_name_every_page_with_its_number():
    prints = [
        Printed(Entry("intro"), "The <book>", (), sheets_of(2)),
        Printed(Entry("a", "First"), "1. A", (), sheets_of(1)),
        Printed(Entry("deep/c", "First", 1), "1.1. C", (), sheets_of(1)),
    ]
    page = contents(prints, ADDRESS, "Title", "Somebody")
    assert "The &lt;book&gt;" in page
    assert page.count("<h2>") == 1
    for link, number in (("intro", 1), ("a", 3), ("deep/c", 4)):
        assert f'href="{ADDRESS}{link}.html"' in page
        assert f"<span>{number}</span>" in page


@pytest.mark.parametrize(("there", "missing"), [([], "Chromium"), (["chromium"], "chromedriver")])
def test_a_missing_browser_is_one_sentence(tmp_path, monkeypatch, there, missing):
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PurifyError, match=f"and {missing} is not installed"):
        pdf.find_browser()


def test_pages_that_were_not_rendered_are_named(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: intro\n")
    (tmp_path / "_config.yml").write_text("title: T\nauthor: A\n")
    with pytest.raises(PurifyError, match=r"there is no page .*intro.html: build the book first"):
        pdf.print_book(tmp_path, tmp_path, tmp_path / "book.pdf")
