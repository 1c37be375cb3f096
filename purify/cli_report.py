"""The command line of the tables: ``purify report …``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="Tables and verdicts from the shipped records, for a paper or another program.", no_args_is_help=True
)

Grid = Annotated[str, typer.Option("--grid", help="Name of a grid in book/grids.")]
Only = Annotated[
    list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Only cells with this task, attack, seed …; repeatable.")
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File (default: standard output).")]


@app.command()
def latex(
    output: Output = None,
    grid: Grid = "tables",
    only: Only = None,
    drop: Annotated[float, typer.Option(min=0, help="ΔACC: the accepted drop of accuracy, in points.")] = 5.0,
    clean: Annotated[int, typer.Option(min=1, help="Rows of the clean set in all.")] = 64,
    score: Annotated[str, typer.Option(help="asr, acc or bacc.")] = "asr",
) -> None:
    """Write the main table, task × attack × method, as LaTeX (with the package booktabs).

    Example: purify report latex --drop 5 --clean 64 -o tables.tex
    """
    from purify.report.export import latex_table

    _write(latex_table(_frame(grid, only), drop, clean, score), output)


@app.command()
def csv(output: Output = None, grid: Grid = "tables", only: Only = None) -> None:
    """Write every choice, one row per suspect, clean set, method and ΔACC, with the hash of its record, as CSV.

    Example: purify report csv --only task=ag_news -o choices.csv
    """
    from purify.report.protocol import choices

    _write(choices(_frame(grid, only)).to_csv(index=False), output)


@app.command()
def claims(
    ledger: Annotated[Path | None, typer.Option(help="The ledger (default: book/claims.yml).")] = None,
    grid: Grid = "tables",
) -> None:
    """Say of every claim of the paper whether the shipped records bear it out."""
    from purify.home import project_root
    from purify.report.claims import LOWEST, load_ledger, verdicts
    from purify.report.effects import shipped
    from purify.report.protocol import signed, tables_frame

    found = load_ledger(ledger or project_root() / "book" / "claims.yml")
    for one in verdicts(found, tables_frame(grid), shipped("theory", ["measure=Dimensions"])):
        typer.echo(f"{one.claim.id}: {one.outcome}")
        for rival, difference in one.differences.items():
            what = f"ASR against {rival}" if one.claim.statistic == LOWEST else rival
            typer.echo(f"    {what}: {signed(difference)} on {difference.n} draws")


@app.command()
def calibration(output: Output = None, grid: Annotated[str, typer.Option("--grid", help="Of scans.")] = "scan") -> None:
    """Write the law of honest models that scans are held against, from the shipped records of scans.

    Example: purify report calibration -o purify/honest.json
    """
    import json

    from purify.report.effects import shipped
    from purify.report.userside import honest_law

    _write(json.dumps(vars(honest_law(shipped(grid, ["control=true"]))), indent=1) + "\n", output)


def _frame(grid: str, only: list[str] | None) -> "pd.DataFrame":
    from purify.report.protocol import tables_frame

    return tables_frame(grid, only or [])


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    from purify.grid.folder import write_whole

    write_whole(output, lambda partial: partial.write_text(text, encoding="utf-8"))
    Console(stderr=True).print(f"written: {output}", highlight=False, markup=False, soft_wrap=True)
