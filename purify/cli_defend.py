"""The command line that runs a defense on a suspect: ``purify defend …``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def defend(
    name: Annotated[str, typer.Argument(help="The defense; `purify list defenses` lists them.")],
    suspect: Annotated[Path, typer.Argument(help="The folder of a suspect that `purify attack` made.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new folder that the result goes to.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Of the defense; repeatable.")
    ] = None,
    clean_per_class: Annotated[int, typer.Option(help="The defender's clean examples, per class.")] = 16,
    validation: Annotated[int, typer.Option(help="Clean rows that detectors set their threshold on.")] = 300,
    test: Annotated[int, typer.Option(help="Test rows that it is scored on.")] = 600,
    epochs: Annotated[int, typer.Option(help="Of the fine-tuning on the clean examples.")] = 10,
) -> None:
    """Clean a suspect, or put a detector in front of it; score it before and after, with and without the trigger.

    Example: purify defend FineMixing suspects/badword -p reserve=0.3 -o cleaned/badword
    """
    from dataclasses import replace

    from purify.budget import FINE_TUNING
    from purify.defenses import DEFENSES
    from purify.grid.checks import refuse, refuse_unavailable
    from purify.grid.delivery import defend as run
    from purify.grid.delivery import suspect_of
    from purify.grid.spec import Cell
    from purify.grid.store import Store
    from purify.registry import parse_assignments

    named = DEFENSES.read(name, parse_assignments(parameter or []))
    made = suspect_of(suspect)
    budget = replace(FINE_TUNING, epochs=epochs, max_length=made.training.max_length)
    cell = Cell(made, named, clean_per_class=clean_per_class, validation=validation, test=test, tuning=budget)
    refuse([cell], "the command")
    refuse_unavailable([cell])
    card = run(suspect, cell, Store.default(), output)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    what = "clean control" if made.control else made.attack.name
    console.print(f"{name} on {made.task}, {what}, in {card['seconds']:.0f} s")
    console.print(card["findings"])
    for score, before in card["before"].items():
        console.print(f"{score:4} {before}  →  {card['after'][score]}")
    if "detection" in card:
        found = card["detection"]
        rejected = found["set"]["rejected clean"]
        console.print(f"AUROC {found['auroc']:.3f}; rejected clean inputs {rejected['k']} of {rejected['n']}")
    Console(stderr=True).print(f"the result: {output}", highlight=False, markup=False, soft_wrap=True)
