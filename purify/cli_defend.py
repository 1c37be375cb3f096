"""The command line that runs a defense on a suspect: ``purify defend …``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from purify.grid.spec import Policy


def _policy(assignments: dict[str, str], drop: float) -> "Policy | None":
    """Take a list of reserve ratios out of the assignments, if there is one."""
    import yaml

    from purify.errors import PurifyError
    from purify.grid.spec import Policy
    from purify.selection import check_reserve

    if not assignments.get("reserve", "").strip().startswith("["):
        return None
    text = assignments.pop("reserve")
    try:
        ratios = sorted({float(value) for value in yaml.safe_load(text)})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise PurifyError(f"'reserve={text}' is no list of reserve ratios: write reserve=[0.4,0.5]") from error
    if not ratios:
        raise PurifyError("'reserve=[]' gives no reserve ratio to choose from")
    for ratio in ratios:
        check_reserve(ratio)
    if drop < 0:
        raise PurifyError(f"the allowed accuracy drop must be 0 or more, not {drop}")
    return Policy(drop, tuple(ratios))


def defend(
    name: Annotated[str, typer.Argument(help="The defense; `purify list defenses` lists them.")],
    suspect: Annotated[Path, typer.Argument(help="The folder of a suspect that `purify attack` made.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new folder that the result goes to.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Of the defense; repeatable.")
    ] = None,
    clean_per_class: Annotated[int, typer.Option(help="The defender's clean examples, per class.")] = 16,
    drop: Annotated[
        float, typer.Option(help="ΔACC: points of clean accuracy that the choice among several ρ may cost.")
    ] = 2.0,
    validation: Annotated[
        int, typer.Option(help="Clean rows that ρ is chosen on, and that detectors set their threshold on.")
    ] = 300,
    test: Annotated[int, typer.Option(help="Test rows that it is scored on.")] = 600,
    epochs: Annotated[int, typer.Option(help="Of the fine-tuning on the clean examples.")] = 10,
) -> None:
    """Clean a suspect, or put a detector in front of it; score it before and after, with and without the trigger.

    Where a defense has a reserve ratio ρ, several may be given: the smallest that keeps the clean accuracy within ΔACC
    is used. The attack is not looked at for it.

    Examples:
      purify defend FineMixing suspects/badword -p reserve=0.3 -o cleaned/badword
      purify defend FinePurifying suspects/badword -p "reserve=[0.4,0.5,0.6,0.7]" --drop 5 -o cleaned/purified
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

    assignments = parse_assignments(parameter or [])
    policy = _policy(assignments, drop)
    named = DEFENSES.read(name, assignments)
    made = suspect_of(suspect)
    budget = replace(FINE_TUNING, epochs=epochs, max_length=made.training.max_length)
    cell = Cell(made, named, clean_per_class, validation, test, budget, policy)
    refuse([cell, *cell.candidates()], "the command")
    refuse_unavailable([cell])
    card = run(suspect, cell, Store.default(), output)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    what = "clean control" if made.control else made.attack.name
    console.print(f"{name} on {made.task}, {what}, in {card['seconds']:.0f} s")
    if "chosen" in card:
        chosen = card["chosen"]
        within = "within" if chosen["within"] else "none is within; the most accurate of them; allowed:"
        console.print(f"ρ = {chosen['reserve']:g}, {len(chosen['tried'])} tried: {within} {drop:g} points of accuracy")
    console.print(card["findings"])
    for score, before in card["before"].items():
        console.print(f"{score:4} {before}  →  {card['after'][score]}")
    if "detection" in card:
        found = card["detection"]
        rejected = found["set"]["rejected clean"]
        console.print(f"AUROC {found['auroc']:.3f}; rejected clean inputs {rejected['k']} of {rejected['n']}")
    Console(stderr=True).print(f"the result: {output}", highlight=False, markup=False, soft_wrap=True)
