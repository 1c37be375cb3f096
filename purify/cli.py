"""The command line: ``purify …``."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from purify.errors import PurifyError

app = typer.Typer(
    help="Find and reset the poisoned parameters of a fine-tuned language model.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
grid_app = typer.Typer(help="Run grids of experiments.", no_args_is_help=True)
app.add_typer(grid_app, name="grid")


@grid_app.command("run")
def grid_run(
    file: Annotated[Path, typer.Argument(help="The grid file (YAML), for example book/grids/ag_news.yml.")],
    records: Annotated[
        Path | None, typer.Option(help="Folder that new records are written to (default: inside the store).")
    ] = None,
) -> None:
    """Run the cells of a grid that the store lacks, and print the scores of all."""
    from purify.grid import Store, load_grid
    from purify.grid import run as run_cells
    from purify.report.tables import as_frame

    frame = as_frame(run_cells(load_grid(file), Store.default(records)))
    Console().print(frame.to_string(index=False), highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; bad input ends with one sentence and status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app(standalone_mode=True)
    except PurifyError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
