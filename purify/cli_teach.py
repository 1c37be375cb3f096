"""``purify assignment`` and ``purify grade``: tasks for students, and their points."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from purify.errors import PurifyError

if TYPE_CHECKING:
    import nbformat


def assignment(
    output: Annotated[Path, typer.Option("-o", "--output", help="The notebook to write.")] = Path("assignment.ipynb"),
    solutions: Annotated[bool, typer.Option(help="With the solutions: the instructor's version.")] = False,
) -> None:
    """Write the assignment notebook, for students or with its solutions.

    Example: purify assignment -o assignment.ipynb
    """
    import nbformat

    from purify.report.assignment import for_students

    if output.exists():
        raise PurifyError(f"{output} exists: remove it or name another file, so that no answers are lost")
    notebook = _source()
    nbformat.write(notebook if solutions else for_students(notebook), output)
    typer.echo(f"the assignment: {output}")


def grade(
    submissions: Annotated[list[Path], typer.Argument(help="Notebooks with answers.")],
) -> None:
    """Run the answers of submitted notebooks and print their points.

    A submission is a program of someone else: run this where it can do no harm.

    Example: purify grade submitted/*.ipynb
    """
    from purify.report.assignment import grade as points_of

    source = _source()
    for submission in submissions:
        grades = points_of(source, submission)
        typer.echo(f"{submission}: {sum(one.points for one in grades)} of {sum(one.possible for one in grades)} points")
        for one in grades:
            typer.echo(f"    {one.task:<10} {one.points} of {one.possible}  {one.remark}".rstrip())


def _source() -> "nbformat.NotebookNode":
    from purify.home import project_root
    from purify.report.notebooks import read_notebook

    return read_notebook(project_root() / "book" / "teaching" / "assignment.ipynb")
