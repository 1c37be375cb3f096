"""Every chapter has the same frame: objectives, needs, time, parameters, summary, exercises, further reading."""

import re
from pathlib import Path

import nbformat
import pytest

from purify.report.frame import parameters_of

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))
FRAME = (
    r"\A# .+\n\n\*\*After this chapter you can\*\*\n\n",
    r"\*\*You need\*\* ",
    r"\*\*It takes\*\* ",
    r"^## The parameters$",
    r"^## Summary$",
    r"^## Exercises$",
    r"^```\{exercise\}",
    r"^```\{solution\} [\w-]+\n:class: dropdown$",
    r"^\*\*Read on\*\*: ",
)
FOLDED = 30
"""A visible cell of code has at most so many lines."""

every_chapter = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path):
    return nbformat.read(path, 4).cells


def text_of(path):
    return "\n\n".join(cell.source for cell in cells_of(path) if cell.cell_type == "markdown")


def bullets_after(text, heading):
    """The number of items of the list that follows a line."""
    lines = iter(text.partition(heading)[2].strip().splitlines())
    count = 0
    for line in lines:
        if not line.strip():
            break
        count += line.startswith("- ")
    return count


@every_chapter
def test_a_chapter_has_its_frame_in_order(path):
    text, place = text_of(path), 0
    for part in FRAME:
        found = re.compile(part, re.M).search(text, place)
        assert found, part
        place = found.end()
    assert 2 <= bullets_after(text, "**After this chapter you can**") <= 4
    assert 3 <= bullets_after(text, "## Summary") <= 5
    assert text[place:].count("\n\n") == 0  # nothing stands after what to read next


@every_chapter
def test_every_exercise_has_a_collapsed_solution(path):
    text = text_of(path)
    exercises = re.findall(r"```\{exercise\}.*\n:label: ([\w-]+)", text)
    assert len(exercises) >= 2
    assert re.findall(r"```\{solution\} ([\w-]+)\n:class: dropdown\n", text) == exercises


@every_chapter
def test_no_wall_of_code_and_no_figure_without_words(path):
    cells = cells_of(path)
    for before, cell, after in zip([None, *cells], cells, [*cells[1:], None], strict=False):
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", ())
        assert "hide-input" in tags or "parameters" in tags or len(cell.source.splitlines()) <= FOLDED, cell.source
        if cell.metadata.get("mystnb", {}).get("image"):
            near = [other.source for other in (before, after) if other and other.cell_type == "markdown"]
            prose = [line for text in near for line in text.splitlines() if line and not line.startswith("#")]
            assert prose, cell.source


@every_chapter
def test_every_parameter_says_what_it_means(path):
    (cell,) = [cell for cell in cells_of(path) if "parameters" in cell.metadata.get("tags", ())]
    for parameter in parameters_of(cell.source):
        assert parameter.meaning, parameter.name
