from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from purify import PurifyError
from purify.cli import app
from purify.report.assignment import BEGIN, END, for_students, grade

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "book" / "teaching" / "assignment.ipynb"

# Jupyter's own libraries warn about each other; the notebooks' code runs in another process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)


def small(source="value = 3", check="assert value == 3, 'three'"):
    """An assignment of one task for two points."""
    cells = [("answer:one", f"value = None\n{BEGIN}\n{source}\n{END}"), ("check:one:2", check)]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(text, metadata={"tags": [tag]}) for tag, text in cells]
    return notebook


def answered(tmp_path, *answers):
    """A submission with these answers to the task above."""
    notebook = small()
    for cell, answer in zip(notebook.cells, answers, strict=False):
        cell.source = answer
    nbformat.write(notebook, tmp_path / "submitted.ipynb")
    return tmp_path / "submitted.ipynb"


def tiny():
    """The assignment at sizes at which nothing is learned; what is right does not depend on that."""
    source = nbformat.read(SOURCE, 4)
    (cell,) = [cell for cell in source.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source = "train, epochs, test = 32, 1, 40"
    return source


def test_the_solutions_get_all_points(monkeypatch):
    monkeypatch.chdir(ROOT)
    grades = grade(tiny(), SOURCE)
    assert [one.remark for one in grades] == [""] * 7
    assert [one.points for one in grades] == [one.possible for one in grades]
    assert sum(one.possible for one in grades) == 10


@pytest.mark.slow
def test_without_answers_there_is_no_point(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    nbformat.write(for_students(tiny()), tmp_path / "empty.ipynb")
    grades = grade(tiny(), tmp_path / "empty.ipynb")
    assert [one.points for one in grades] == [0] * 7
    assert all(one.remark for one in grades)


def test_students_get_no_solution():
    source = nbformat.read(SOURCE, 4)
    notebook = for_students(source)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert BEGIN not in text
    assert text.count("...  # your answer") == 7
    assert BEGIN in "\n".join(cell.source for cell in source.cells)  # which stays as it was
    assert all(not cell.get("outputs") for cell in source.cells)
    with pytest.raises(PurifyError, match="must mark one solution, it has 0"):
        for_students(nbformat.from_dict({"cells": [{**source.cells[5], "metadata": {"tags": ["answer:x"]}}]}))


def test_a_changed_check_does_not_count(tmp_path):
    (one,) = grade(small(), answered(tmp_path, "value = 4", "pass"))
    assert (one.points, one.possible, one.remark) == (0, 2, "AssertionError: three")
    (one,) = grade(small(), answered(tmp_path, "1 / 0", "pass"))
    assert (one.points, one.remark) == (0, "ZeroDivisionError: division by zero")
    (one,) = grade(small(), answered(tmp_path, "value = 3", "assert False"))
    assert one.points == 2


def test_what_is_not_this_assignment_is_refused(tmp_path):
    with pytest.raises(PurifyError, match="no cell tagged 'answer:…'"):
        grade(small(), ROOT / "notebooks" / "01-threat.ipynb")
    with pytest.raises(PurifyError, match="there is no notebook"):
        grade(small(), tmp_path / "none.ipynb")


def test_the_command_writes_both_versions_and_overwrites_none(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, options in (("students", []), ("instructor", ["--solutions"])):
        file = tmp_path / f"{name}.ipynb"
        result = CliRunner().invoke(app, ["assignment", "-o", str(file), *options])
        assert result.exit_code == 0, result.output
        assert (BEGIN in file.read_text(encoding="utf-8")) == bool(options)
        again = CliRunner().invoke(app, ["assignment", "-o", str(file)])
        assert isinstance(again.exception, PurifyError)


def test_the_command_prints_points(tmp_path, monkeypatch):
    monkeypatch.setattr("purify.cli_teach._source", small)
    result = CliRunner().invoke(app, ["grade", str(answered(tmp_path, "value = 3"))])
    assert result.exit_code == 0, result.output
    assert "submitted.ipynb: 2 of 2 points" in result.output
    assert "one        2 of 2" in result.output
