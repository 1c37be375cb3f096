"""Two small pages printed by a real browser, with the style sheet of the book; run with `pytest -m browser`."""

import shutil
from pathlib import Path

import pytest
from pypdf import PdfReader

from purify import PurifyError
from purify.report import pdf

STYLE = Path(__file__).parents[1] / "book" / "_static" / "print.css"
PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="/print.css" media="print"></head>
<body><div class="bd-sidebar-primary">sidebar</div><button>press</button>
<article><section id="{name}"><h1>{title}<a class="headerlink" href="#{name}">#</a></h1>{body}</section></article>
</body></html>"""
LONG = "<p>Some words that fill a sheet.</p>" * 90

WIDE = "<table><tr>" + '<td style="white-space: pre">wide cell</td>' * 20 + "<td>last</td></tr></table>"

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    html = root / "html"
    (html / "deep").mkdir(parents=True)
    shutil.copy(STYLE, html)
    (root / "_toc.yml").write_text("root: intro\nparts: [{caption: Part, chapters: [{file: deep/b}]}]\n")
    (root / "_config.yml").write_text("title: The title\nauthor: The authors\n")
    first = (
        f'{LONG}<p><a href="deep/b.html#sec%C3%A9">there</a> <a href="https://example.org/">out</a></p>'
        '<details class="hide"><summary>Show</summary><p>folded text</p></details>'
        '<div class="admonition toggle-hidden"><p>solution</p></div>'
    )
    second = f'{LONG}<section id="secé"><h2>A section</h2>{WIDE}</section>'
    (html / "intro.html").write_text(PAGE.format(name="intro", title="1. One", body=first), encoding="utf-8")
    (html / "deep" / "b.html").write_text(PAGE.format(name="b", title="2. “Two”", body=second), encoding="utf-8")
    sheets = pdf.print_book(root, html, root / "book.pdf")
    reader = PdfReader(root / "book.pdf")
    assert sheets == len(reader.pages)
    return reader


def texts(reader):
    return [" ".join(page.extract_text().split()) for page in reader.pages]


def test_what_is_folded_is_open_and_what_is_for_the_screen_is_gone(printed):
    text = " ".join(texts(printed))
    assert "folded text" in text
    assert "solution" in text
    for gone in ("sidebar", "press", "Show", "#"):
        assert gone not in text


def test_sheets_have_running_numbers_and_titles(printed):
    contents, *sheets = texts(printed)
    assert "The title" in contents
    assert [int(number) for number in printed.page_labels[1:]] == list(range(1, len(sheets) + 1))
    for number, text in enumerate(sheets, start=1):
        assert str(number) in text.split()
    second = next(number for number, text in enumerate(sheets) if "2. “Two” Some" in text)
    assert second >= 2
    assert f"2. “Two” {second + 1}" in contents
    assert "1. One" in sheets[1]  # the running title; the first sheet of a page has its heading
    assert "2. “Two”" in sheets[second + 1]


def test_a_link_leads_to_its_section_on_another_page(printed):
    links = [note.get_object() for page in printed.pages[1:] for note in page.get("/Annots", ())]
    (inside,) = [link for link in links if "/Dest" in link]
    (outside,) = [link for link in links if "/A" in link]
    sheet = printed.get_page_number(inside["/Dest"][0].get_object())
    assert "A section" in texts(printed)[sheet]
    assert float(inside["/Dest"][3]) < 842  # the height of a sheet: the section is below its top
    assert outside["/A"]["/URI"] == "https://example.org/"


def test_a_table_that_is_too_wide_is_shrunk(printed):
    places = []
    for page in printed.pages:
        page.extract_text(visitor_text=lambda text, cm, tm, *_: places.append((text.strip(), cm[0] * tm[4] + cm[4])))
    (left,) = [x for text, x in places if text == "last"]
    assert 400 < left < 595  # points: the width of a sheet


def test_the_bookmarks_lead_to_pages_and_sections(printed):
    one, part, [two, [section]] = printed.outline
    assert [item.title for item in (one, part, two, section)] == ["1. One", "Part", "2. “Two”", "A section"]
    assert "A section" in texts(printed)[printed.get_destination_page_number(section)]


def test_a_browser_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(pdf, "OLDEST", 10**6)
    with pytest.raises(PurifyError, match="needs Chromium 1000000 or newer"), pdf.chromium():
        pass
