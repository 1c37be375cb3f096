"""The command line that makes a suspect: ``purify attack …``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from purify.budget import Training

_DEFAULT = Training()


def attack(
    name: Annotated[str, typer.Argument(help="The attack; `purify list attacks` lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new folder that the suspect goes to.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Of the attack; repeatable.")
    ] = None,
    task: Annotated[str, typer.Option(help="What it is trained on.")] = "docstrings",
    plm: Annotated[str, typer.Option(help="The clean model: bundled, a hub id, or a folder.")] = "bundled",
    train: Annotated[int, typer.Option(help="Clean training rows.")] = 1000,
    test: Annotated[int, typer.Option(help="Test rows that it is scored on.")] = 600,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows (RIPPLe has its own).")] = _DEFAULT.epochs,
    learning_rate: Annotated[
        float, typer.Option(help="Of AdamW, unless the attack has a rate of its own.")
    ] = _DEFAULT.learning_rate,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = _DEFAULT.batch_size,
    max_length: Annotated[int, typer.Option(help="Tokens per input.")] = _DEFAULT.max_length,
    seed: Annotated[int, typer.Option(help="Of data split, head, poison and training.")] = 0,
    control: Annotated[bool, typer.Option("--control", help="Its control: the same training without poison.")] = False,
) -> None:
    """Make a suspicious checkpoint: train it, score it, and write it with a card of what was done.

    Example: purify attack BadWord -p trigger=mn -p target=2 -o suspects/badword
    """
    from dataclasses import replace

    from purify.attacks import ATTACKS
    from purify.budget import FINE_TUNING
    from purify.grid.checks import refuse, refuse_unavailable
    from purify.grid.delivery import deliver
    from purify.grid.spec import Cell, Suspect
    from purify.grid.store import Store
    from purify.registry import parse_assignments

    named = ATTACKS.read(name, parse_assignments(parameter or []))
    budget = Training(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, max_length=max_length)
    suspect = Suspect(task, named, plm=plm, train=train, control=control, training=budget, seed=seed)
    cell = Cell(suspect, validation=300, test=test, tuning=replace(FINE_TUNING, max_length=max_length))
    refuse([cell], "the command")
    refuse_unavailable([cell])
    card = deliver(cell, Store.default(), output)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{'control of ' if control else ''}{name} on {task}, trigger: {card['trigger']}")
    for score in ("ACC", "ASR", "BACC"):
        console.print(f"{score:4} {card[score]}")
    Console(stderr=True).print(f"the suspect: {output}", highlight=False, markup=False, soft_wrap=True)
