"""A notebook of tasks that check themselves: a source with solutions, the students' version, points for a submission.

In the source, a cell tagged ``answer:NAME`` holds a solution between the lines `BEGIN` and `END`; a cell tagged
``check:NAME:POINTS`` fails unless the answer is right.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from purify.errors import PurifyError
from purify.report.notebooks import read_notebook

BEGIN, END = "# begin solution", "# end solution"
_SOLUTION = re.compile(rf"^([ \t]*){BEGIN}\n.*?^[ \t]*{END}$", re.M | re.S)
_SECONDS = 300
"""That a cell may take."""


class Grade(NamedTuple):
    """What a task brought.

    Attributes:
        task: Its name.
        points: That were given.
        possible: That could be had.
        remark: Why none were given, else empty.
    """

    task: str
    points: int
    possible: int
    remark: str


def for_students(source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy in which ``...`` stands in the place of every solution.

    Raises:
        PurifyError: an answer cell marks no solution.
    """
    notebook = deepcopy(source)
    for cell in notebook.cells:
        if _tagged(cell, "answer"):
            cell.source, count = _SOLUTION.subn(r"\1...  # your answer", cell.source)
            if count != 1:
                raise PurifyError(f"the answer cell '{cell.source[:40]}' must mark one solution, it has {count}")
    return notebook


def grade(source: nbformat.NotebookNode, submission: Path) -> list[Grade]:
    """Run the answers of a submission within the source, and return what each task brought.

    Only the cells with answers are taken from the submission: what else was changed there, the checks among it, does
    not count. **A submission is a program**: it runs with the rights of whoever grades it.

    Args:
        source: The notebook with solutions, which are not used.
        submission: The students' version, filled in.

    Raises:
        PurifyError: the file is no notebook, has no cell with an answer, or the process that runs it dies.
    """
    given = dict(_answers(read_notebook(submission)))
    if not given:
        raise PurifyError(f"{submission} has no cell tagged 'answer:…': is it this assignment?")
    notebook = for_students(source)
    for cell in notebook.cells:
        if task := _tagged(cell, "answer"):
            cell.source = given.get(task[0], cell.source)
    client = NotebookClient(
        notebook,
        timeout=_SECONDS,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        allow_errors=True,
        interrupt_on_timeout=True,
        error_on_timeout={"ename": "TimeoutError", "evalue": f"longer than {_SECONDS} seconds", "traceback": []},
        resources={"metadata": {"path": str(Path.cwd())}},
    )
    try:
        client.execute()
    except (DeadKernelError, NoSuchKernel) as error:
        raise PurifyError(f"the Python process that ran {submission} died ({error})") from error
    return list(_grades(notebook))


def _answers(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    for cell in notebook.cells:
        if cell.cell_type == "code" and (task := _tagged(cell, "answer")):
            yield task[0], cell.source


def _grades(executed: nbformat.NotebookNode) -> Iterator[Grade]:
    failed: dict[str, str] = {}
    for cell in executed.cells:
        errors = [output for output in cell.get("outputs", ()) if output.output_type == "error"]
        said = f"{errors[0].ename}: {errors[0].evalue}".partition("\n")[0] if errors else ""
        if answer := _tagged(cell, "answer"):
            failed[answer[0]] = said
        elif check := _tagged(cell, "check"):
            task, points = check[0], int(check[1])
            yield Grade(task, 0 if said else points, points, failed.get(task) or said)


def _tagged(cell: nbformat.NotebookNode, kind: str) -> list[str]:
    """Return what a cell's tag ``kind:…`` names; empty if it has none."""
    found = [tag.split(":")[1:] for tag in cell.metadata.get("tags", ()) if tag.startswith(f"{kind}:")]
    return found[0] if found else []
