"""Cells from what people write: grid files, and the parameters of the notebooks."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from purify.attacks import ATTACKS
from purify.budget import FINE_TUNING, TRAINING, Training
from purify.defenses import DEFENSES
from purify.errors import PurifyError
from purify.grid.checks import refuse
from purify.grid.spec import NONE, NOTHING, Cell, Policy, Suspect, fingerprint
from purify.measures import MEASURES
from purify.registry import Named, typed

_KEYS = ("suspect", "attack", "seeds", "control", "defenses", "thresholds", "measures", "cell", "training", "tuning")
_NOT_IN_SUSPECT = ("attack", "training", "seed", "control")
_NOT_IN_CELL = ("suspect", "defense", "tuning", "policy", "measure")

DEFENDED = "defended"
"""The value of the key ``control`` that runs the defenses on the clean control too."""

ALONE = "alone"
"""The value of the key ``control`` that runs all, measures too, on clean controls and on nothing else."""

Defenses = Mapping[str, Mapping[str, Sequence[Any]] | None]


def load_grid(path: Path) -> list[Cell]:
    """Read a grid file into its cells, those of one suspect together, each cell once.

    Raises:
        PurifyError: the file cannot be read, has unknown keys (named, with the valid ones), names something that
            does not exist, or a cell cannot run.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise PurifyError(f"cannot read the grid file {path}: {reason}") from error
    blocks = content if isinstance(content, list) else [content]
    cells: dict[Cell, None] = {}
    for number, block in enumerate(blocks, start=1):
        where = f"{path}, block {number}," if len(blocks) > 1 else str(path)
        if not isinstance(block, Mapping):
            raise PurifyError(f"{where} must be a mapping with the keys {', '.join(_KEYS)}")
        cells.update(dict.fromkeys(expand(block, where=where)))
    return list(cells)


def select(cells: Iterable[Cell], conditions: Iterable[str]) -> list[Cell]:
    """Return the cells that meet all conditions ``field=value``.

    Fields: task, plm, attack, seed, control, defense, measure, clean_per_class, and hash, the name of a record. A
    field that is named several times may have any of its values.

    Raises:
        PurifyError: an unknown field, or no cell is left.
    """
    wanted: dict[str, set[str]] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals or name not in _FIELDS:
            raise PurifyError(f"'{condition}' is no condition: write FIELD=VALUE with one of {', '.join(_FIELDS)}")
        wanted.setdefault(name, set()).add(value)
    found = [cell for cell in cells if all(_FIELDS[name](cell) in values for name, values in wanted.items())]
    if not found:
        raise PurifyError(f"no cell of the grid has {', '.join(conditions) or 'a suspect'}")
    return found


_FIELDS: dict[str, Callable[[Cell], str]] = {
    "task": lambda cell: cell.suspect.task,
    "plm": lambda cell: cell.suspect.plm,
    "attack": lambda cell: cell.suspect.attack.name,
    "seed": lambda cell: str(cell.suspect.seed),
    "control": lambda cell: str(cell.suspect.control).lower(),
    "defense": lambda cell: cell.defense.name,
    "measure": lambda cell: cell.measure.name if cell.measure else NONE,
    "clean_per_class": lambda cell: str(cell.clean_per_class),
    "hash": fingerprint,
}


def expand(grid: Mapping[str, Any], *, where: str = "the grid") -> Iterator[Cell]:
    """Yield the cells of one block of a grid file: every suspect of its axes, each with all its defenses.

    Keys: ``suspect`` (task, plm, train), ``attack`` (name and parameters, or a list of such), ``training`` and
    ``tuning`` (fields of `purify.training.Training`), ``cell`` (clean_per_class, validation, test): in all of
    these, a list in the place of a value is an axis. ``seeds``; ``control`` (evaluate the clean control as
    received; "defended": with all defenses; "alone": the controls, measured too, and nothing else); ``defenses``
    (name -> lists of parameter values, all combinations are run); ``thresholds`` (values of ΔACC: for each, one cell
    per defense whose ρ is chosen among the listed ones); ``measures`` (like ``defenses``; a block with measures and
    without the key ``defenses`` scores no suspect).

    Raises:
        PurifyError: as `load_grid`.
    """
    _check_form(grid, where)
    attacks = grid["attack"] if isinstance(grid["attack"], list) else [grid["attack"]]
    axes = (
        [typed(Suspect, part, f"'suspect' of {where}", but=_NOT_IN_SUSPECT) for part in _combinations(grid["suspect"])],
        list(_trainings(grid.get("training"), TRAINING, f"'training' of {where}")),
        [ATTACKS.named(str(part.pop("name", "")), **part) for attack in attacks for part in _combinations(attack)],
        grid.get("seeds", [0]),
    )
    sizes = [typed(Cell, part, f"'cell' of {where}", but=_NOT_IN_CELL) for part in _combinations(grid.get("cell"))]
    tunings = list(_trainings(grid.get("tuning"), FINE_TUNING, f"'tuning' of {where}"))
    choices = list(_choices(grid.get("defenses") or {}, grid.get("thresholds", ())))
    if "measures" in grid and "defenses" not in grid:
        choices = []
    measured = (grid.get("measures") or {}).items()
    measures = [MEASURES.named(name, **part) for name, values in measured for part in _combinations(values)]
    cells = []
    for fields, training, attack, seed in itertools.product(*axes):
        alone = grid.get("control") == ALONE
        for control in (True,) if alone else (False, True) if grid.get("control") else (False,):
            suspect = Suspect(**fields, attack=attack, training=training, seed=seed, control=control)
            bases = [Cell(suspect, **size, tuning=tuning) for size in sizes for tuning in tunings]
            cells += bases if control and grid["control"] is True else list(_with(bases, choices))
            cells += [replace(base, measure=measure) for base in bases for measure in measures if alone or not control]
    refuse(cells, where)
    yield from cells


def experiment(
    *,
    task: str,
    plm: str,
    attack: str,
    attack_parameters: Mapping[str, Any],
    train: int,
    epochs: int,
    clean_per_class: int,
    validation: int,
    test: int,
    tuning_epochs: int,
    seed: int,
) -> Cell:
    """Return the cell of a suspect as received, from the parameters that the notebooks share.

    Args:
        task: A key of `purify.tasks.TASKS`.
        plm: "bundled", a hub id, or a folder.
        attack: Its name in `purify.attacks.ATTACKS`.
        attack_parameters: Those that differ from its defaults.
        train, validation, test: Rows of each split.
        epochs: Of the attacker's training.
        clean_per_class: Rows per class of the clean set.
        tuning_epochs: Of the defender's fine-tuning.
        seed: See `purify.training.seed_everything`.

    Raises:
        PurifyError: an unknown task, attack or attack parameter, or a value out of range.
    """
    suspect = Suspect(
        task,
        ATTACKS.named(attack, **attack_parameters),
        plm=plm,
        train=train,
        training=replace(TRAINING, epochs=epochs),
        seed=seed,
    )
    tuning = replace(FINE_TUNING, epochs=tuning_epochs)
    cell = Cell(suspect, clean_per_class=clean_per_class, validation=validation, test=test, tuning=tuning)
    refuse([cell], "the experiment")
    return cell


def measurement(
    measure: str, parameters: Mapping[str, Any], *, task: str, plm: str, seed: int, train: int = 1000
) -> Cell:
    """Return the cell of a measure that trains no suspect, on the training rows of a task.

    Raises:
        PurifyError: an unknown task, measure or parameter, or a value out of range.
    """
    suspect = Suspect(task, ATTACKS.named("BadWord"), plm=plm, train=train, seed=seed)
    cell = Cell(suspect, measure=MEASURES.named(measure, **parameters))
    refuse([cell], "the measurement")
    return cell


def variants(cell: Cell, defenses: Defenses, thresholds: Iterable[float] = ()) -> list[Cell]:
    """Return the cell as received, and with every combination of every defense's hyperparameters.

    Args:
        cell: Its own defense is ignored.
        defenses: Defense name -> hyperparameter -> values; nothing for a defense without any.
        thresholds: Values of ΔACC: for each, ρ is chosen among those of the defense.

    Raises:
        PurifyError: an unknown defense or hyperparameter, or a value out of range.
    """
    return list(_with([cell], list(_choices(defenses, thresholds))))


def _with(cells: Iterable[Cell], choices: Sequence[tuple[Named, Policy | None]]) -> Iterator[Cell]:
    for cell in cells:
        for defense, policy in choices:
            yield replace(cell, defense=defense, policy=policy)


def _choices(defenses: Defenses, thresholds: Iterable[float]) -> Iterator[tuple[Named, Policy | None]]:
    """Yield every defense with fixed hyperparameters, then, for each threshold, with a policy for ρ."""
    thresholds = tuple(map(float, thresholds))
    yield NOTHING, None
    for name, values in defenses.items():
        for parameters in _combinations(values):
            yield DEFENSES.named(name, **parameters), None
        ratios = (values or {}).get("reserve")
        if ratios:
            others = {key: value for key, value in (values or {}).items() if key != "reserve"}
            for parameters, drop in itertools.product(_combinations(others), thresholds):
                yield DEFENSES.named(name, **parameters), Policy(drop, tuple(sorted(map(float, ratios))))


def _trainings(given: Mapping[str, Any] | None, default: Training, where: str) -> Iterator[Training]:
    for part in _combinations(given):
        yield replace(default, **typed(Training, part, where))


def _combinations(part: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values that are lists, with those that are not."""
    part = {str(key): value for key, value in (part or {}).items()}
    axes = [value if isinstance(value, list | tuple) else [value] for value in part.values()]
    for combination in itertools.product(*axes):
        yield dict(zip(part, combination, strict=True))


def _check_form(grid: Mapping[str, Any], where: str) -> None:
    """Refuse what is no grid before its values are looked at."""
    for key in grid:
        if key not in _KEYS:
            raise PurifyError(f"{where} has the unknown key '{key}': choose from {', '.join(_KEYS)}")
    for key in ("suspect", "attack"):
        if not grid.get(key):
            raise PurifyError(f"{where} lacks the key '{key}'")
    for key in ("suspect", "cell", "training", "tuning", "defenses", "measures"):
        if not isinstance(grid.get(key) or {}, Mapping):
            raise PurifyError(f"'{key}' of {where} must be a mapping, not {grid[key]!r}")
    if "task" not in grid["suspect"]:
        raise PurifyError(f"'suspect' of {where} lacks the key 'task'")
    _check_lists(grid, where)


def _check_lists(grid: Mapping[str, Any], where: str) -> None:
    for attack in grid["attack"] if isinstance(grid["attack"], list) else [grid["attack"]]:
        if not isinstance(attack, Mapping):
            raise PurifyError(f"'attack' of {where} must be a mapping or a list of mappings, not {attack!r}")
    if grid.get("control", False) not in (True, False, DEFENDED, ALONE):
        raise PurifyError(
            f"'control' of {where} must be true, false, '{DEFENDED}' or '{ALONE}', not {grid['control']!r}"
        )
    for key, kinds, noun in (("seeds", int, "whole numbers"), ("thresholds", int | float, "numbers")):
        values = grid.get(key, [])
        good = isinstance(values, list) and not any(isinstance(v, bool) or not isinstance(v, kinds) for v in values)
        if not good or min(values, default=0) < 0:
            raise PurifyError(f"'{key}' of {where} must be a list of {noun} of 0 or more, not {values!r}")
    named = [*(grid.get("defenses") or {}).items(), *(grid.get("measures") or {}).items()]
    for name, values in named:
        if not isinstance(values or {}, Mapping) or not all(isinstance(v, list) for v in (values or {}).values()):
            raise PurifyError(f"'{name}' of {where} must map each hyperparameter to a list of values, not {values!r}")
