"""The command line: ``purify …``."""

import errno
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from purify import cli_attack, cli_defend, cli_doctor, cli_grid, cli_pretrain, cli_report, cli_scan, cli_teach
from purify.errors import PurifyError

app = typer.Typer(
    help="Find and reset the poisoned parameters of a fine-tuned language model.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_grid.app, name="grid")
app.add_typer(cli_report.app, name="report")
app.command()(cli_scan.scan)
app.command()(cli_scan.clean)
app.command()(cli_scan.rows)
app.command()(cli_doctor.doctor)
app.command()(cli_attack.attack)
app.command()(cli_defend.defend)
app.command()(cli_pretrain.pretrain)
app.command()(cli_teach.assignment)
app.command()(cli_teach.grade)

Parameters = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Set a parameter; repeatable.")
]


class Kind(StrEnum):
    """What can be listed."""

    attacks = "attacks"
    defenses = "defenses"


@app.command()
def run(
    notebook: Annotated[Path, typer.Argument(help="The notebook, for example notebooks/14-defenses.ipynb.")],
    parameter: Parameters = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the executed copy goes.")] = None,
) -> None:
    """Run a notebook with other parameters and keep the executed copy.

    Example: purify run notebooks/14-defenses.ipynb -p task=ag_news -p seed=1
    """
    from purify.registry import parse_assignments
    from purify.report.notebooks import run_notebook

    target = output or Path("_build/runs") / notebook.name
    run_notebook(notebook, parse_assignments(parameter or []), target)
    Console(stderr=True).print(f"executed copy: {target}", highlight=False, markup=False, soft_wrap=True)


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
) -> None:
    """List the attacks or the defenses, with parameters and defaults, and what a defender must have for each.

    Example: purify list attacks
    """
    from purify.attacks import ATTACKS
    from purify.defenses import DEFENSES
    from purify.defenses.base import knowledge

    found = ATTACKS.described() if kind is Kind.attacks else DEFENSES.described()
    for name, (line, parameters) in found.items():
        typer.echo(f"{name}: {line}")
        typer.echo(f"    {', '.join(f'{key}={value!r}' for key, value in parameters.items()) or 'no parameters'}")
        if kind is Kind.defenses:
            typer.echo(f"    needs {', '.join(knowledge(DEFENSES.classes[name]))}")


@app.command()
def book(
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes: checks that everything runs.")] = False,
    solutions: Annotated[bool, typer.Option(help="Show the solutions of the exercises.")] = True,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder that gets _build/html.")] = Path(),
    pdf: Annotated[bool, typer.Option("--pdf", help="Also print it, to _build/purify.pdf; needs Chromium.")] = False,
) -> None:
    """Run the experiments and the notebooks, and render the book."""
    from purify.home import project_root
    from purify.report.book import build

    if pdf:
        from purify.report.pdf import find_browser, print_book

        find_browser()  # before the hours that the experiments may take
    console = Console(stderr=True)
    index = build(project_root(), output, smoke=smoke, solutions=solutions)
    console.print(f"the book: {index}", highlight=False, markup=False, soft_wrap=True)
    if pdf:
        file = output / "_build" / "purify.pdf"
        sheets = print_book(project_root(), index.parent, file)
        console.print(f"the PDF: {file}, {sheets} pages", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line; bad input ends with one sentence and status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app(standalone_mode=True)
    except PurifyError as error:
        _end(str(error))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        from purify.gate import shown

        _end(f"{error.strerror}: '{shown(error.filename)}'")
    except KeyboardInterrupt:
        sys.exit(130)


def _end(message: str) -> NoReturn:
    from purify.gate import printable

    message = escape(printable(" ".join(message.split())))
    Console(stderr=True).print(f"[bold red]error:[/] {message}", highlight=False, soft_wrap=True)
    sys.exit(2)
