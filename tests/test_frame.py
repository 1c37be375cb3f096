import re
from pathlib import Path

import nbformat
import pytest

from purify import PurifyError
from purify.report.downloads import Repository
from purify.report.frame import framed, links, parameter_table, parameters_of, without_solutions

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))
CELL = """task = "a"  # a | b
ratio = 0.5  # a share
flag = True
sizes = [
    1,
    2,
]  # how many
"""
TEXT = "a\n\n```{exercise}\n:label: e\nq\n```\n\n```{solution} e\n:class: dropdown\nsecret\n```\n\nb"


def chapter():
    notebook = nbformat.v4.new_notebook()
    code = nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]})
    notebook.cells = [nbformat.v4.new_markdown_cell(text) for text in ("# Title\n\nText.", TEXT)]
    notebook.cells.insert(1, code)
    return notebook


def test_the_parameters_are_read_from_their_cell():
    assert [tuple(one) for one in parameters_of(CELL)] == [
        ("task", "text", '"a"', "a | b"),
        ("ratio", "number", "0.5", "a share"),
        ("flag", "true or false", "True", ""),
        ("sizes", "list, each item whole number", "[1, 2]", "how many"),
    ]


def test_the_table_escapes_what_would_end_a_cell():
    assert parameter_table(CELL).splitlines()[4] == r'| `task` | text | `"a"` | a \| b |'


def test_a_page_has_links_and_a_table_and_the_notebook_stays_as_it_was():
    notebook = chapter()
    before = nbformat.writes(notebook)
    page = framed(notebook, "01-threat", None)
    assert nbformat.writes(notebook) == before
    first, table, code, last = page.cells
    assert re.match(r"# Title\n\n<p .*</p>\n\nText\.$", first.source, re.S)
    assert table.cell_type == "markdown"
    assert table.source == parameter_table(CELL)
    assert code.metadata.tags == ["parameters", "hide-input"]
    assert last.source == TEXT
    again = framed(notebook, "01-threat", None)
    assert nbformat.writes(again) == nbformat.writes(page)  # no page changes without a cause
    nbformat.validate(page)


def test_the_row_names_the_notebook_and_the_command_and_other_hosts_only_where_there_is_a_repository():
    row = links("01-threat", None)
    assert 'href="../downloads/01-threat.ipynb"' in row
    assert ".venv/bin/purify run notebooks/01-threat.ipynb" in row
    assert "https" not in row
    row = links("01-threat", Repository("https://github.com/someone/purify", "v1"))
    assert "https://mybinder.org/v2/gh/someone/purify/v1?urlpath=lab/tree/notebooks/01-threat.ipynb" in row
    assert "https://colab.research.google.com/github/someone/purify/blob/colab/01-threat.ipynb" in row
    assert "https" not in links("01-threat", Repository("https://example.org/purify", "v1"))


def test_a_cell_that_is_folded_already_is_not_folded_twice():
    notebook = chapter()
    notebook.cells[1].metadata["tags"] = ["parameters", "hide-input"]
    page = framed(notebook, "01-threat", None)
    assert page.cells[2].metadata.tags == ["parameters", "hide-input"]
    nbformat.validate(page)


def test_a_chapter_without_a_title_is_refused():
    notebook = chapter()
    notebook.cells[0].source = "Text."
    with pytest.raises(PurifyError, match="01-threat must begin with a title"):
        framed(notebook, "01-threat", None)


def test_solutions_can_be_left_out():
    notebook = chapter()
    notebook.cells.append(nbformat.v4.new_markdown_cell("::::{solution} e\nsecret\n:::{note}\nx\n:::\n::::\n"))
    *_, last, fenced = without_solutions(notebook).cells
    assert last.source == "a\n\n```{exercise}\n:label: e\nq\n```\n\nb"
    assert fenced.source == ""
    assert notebook.cells[-2].source == TEXT


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_solution_is_left_in_a_chapter_without_them(path):
    cells = without_solutions(nbformat.read(path, 4)).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "{solution}" not in text
    assert "dropdown" not in text
    assert "{exercise}" in text
    assert "**Read on**" in text
