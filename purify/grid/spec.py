"""What an experiment is: frozen, hashable descriptions of its stages, and grid files that list many."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from purify.attacks import ATTACKS, Attack
from purify.defenses import DEFENSES, Defense
from purify.errors import PurifyError
from purify.registry import Registry
from purify.resources import FINE_TUNING
from purify.training import Training

ATTACK_TRAINING = Training()
"""How a suspect is trained, unless said otherwise."""

NONE = "none"
"""The name of the defense that does nothing: the suspect as received."""


@dataclass(frozen=True)
class Named:
    """An attack or defense by name, with the parameters that differ from its defaults."""

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, **parameters: Any) -> "Named":
        """Make one from keyword parameters, in a fixed order."""
        return cls(name, tuple(sorted(parameters.items())))

    def build(self, registry: Registry[Any]) -> Any:
        """Make the object (see `Registry.build`)."""
        return registry.build(self.name, dict(self.parameters))


@dataclass(frozen=True)
class Suspect:
    """A suspicious checkpoint: which PLM was trained on what, poisoned how.

    Attributes:
        plm: "bundled", a hub id, or a folder.
        task: A key of `purify.tasks.TASKS`.
        train: Clean training rows.
        attack: What poisons the training set; also what triggers the evaluation.
        control: Train without the poison: the clean model that false alarms are measured on.
        training: The attacker's training.
        seed: Of the data split, the head, the poison and the order of training.
    """

    task: str
    attack: Named
    plm: str = "bundled"
    train: int = 4000
    control: bool = False
    training: Training = field(default=ATTACK_TRAINING)
    seed: int = 0

    def build_attack(self) -> Attack:
        """Make the attack."""
        return self.attack.build(ATTACKS)


@dataclass(frozen=True)
class Cell:
    """One number of a table: a suspect, a defense, and the sizes of what it is judged on.

    Attributes:
        suspect: The checkpoint.
        defense: The defense with its hyperparameters, or "none".
        clean_per_class: Rows per class of the defender's clean set.
        validation: Clean rows that choices are made on.
        test: Test rows.
        tuning: The defender's fine-tuning.
    """

    suspect: Suspect
    defense: Named = Named(NONE)
    clean_per_class: int = 16
    validation: int = 500
    test: int = 1000
    tuning: Training = field(default=FINE_TUNING)

    def build_defense(self) -> Defense | None:
        """Make the defense; None for "none"."""
        return None if self.defense.name == NONE else self.defense.build(DEFENSES)


def canonical(spec: Any) -> Any:
    """Return plain data for a spec, without fields that have their default value.

    A field that is added later with a default therefore changes no existing hash; a default must never
    be changed.
    """
    if is_dataclass(spec):
        plain = {}
        for item in fields(spec):
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            value = getattr(spec, item.name)
            if value != default:
                plain[item.name] = canonical(value)
        return plain
    return [canonical(value) for value in spec] if isinstance(spec, tuple | list) else spec


def fingerprint(spec: Any) -> str:
    """Hash a spec: 16 hexadecimal digits of the sha256 of its canonical JSON."""
    text = json.dumps({type(spec).__name__: canonical(spec)}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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

    Raises:
        PurifyError: an unknown attack or attack parameter.
    """
    suspect = Suspect(
        task,
        Named.of(attack, **attack_parameters),
        plm=plm,
        train=train,
        training=replace(ATTACK_TRAINING, epochs=epochs),
        seed=seed,
    )
    suspect.build_attack()
    tuning = replace(FINE_TUNING, epochs=tuning_epochs)
    return Cell(suspect, clean_per_class=clean_per_class, validation=validation, test=test, tuning=tuning)


def variants(cell: Cell, defenses: Mapping[str, Mapping[str, Iterable[Any]] | None]) -> list[Cell]:
    """Return the cell as received, and with every combination of every defense's hyperparameters.

    Args:
        cell: Its own defense is ignored.
        defenses: Defense name -> hyperparameter -> values; nothing for a defense without any.

    Raises:
        PurifyError: an unknown defense or hyperparameter, or a value out of range.
    """
    named = [
        Named.of(name, **dict(zip(values or {}, combination, strict=True)))
        for name, values in defenses.items()
        for combination in itertools.product(*(values or {}).values())
    ]
    for defense in named:
        defense.build(DEFENSES)
    return [replace(cell, defense=defense) for defense in (Named(NONE), *named)]


def load_grid(path: Path) -> list[Cell]:
    """Read a grid file into its cells, suspects in order, each with all its defenses.

    Raises:
        PurifyError: the file cannot be read, has unknown keys (named, with the valid ones), or names
            something that does not exist.
    """
    try:
        grid = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise PurifyError(f"cannot read the grid file {path}: {reason}") from error
    if not isinstance(grid, Mapping):
        raise PurifyError(f"{path} must be a mapping with the keys {', '.join(_KEYS)}")
    return list(expand(grid, where=str(path)))


_KEYS = ("suspect", "attack", "seeds", "control", "defenses", "cell", "training", "tuning")


def expand(grid: Mapping[str, Any], *, where: str = "the grid") -> Iterator[Cell]:
    """Yield the cells of a grid: every seed (poisoned, then the control if asked) × every defense.

    Keys: ``suspect`` (task, plm, train), ``attack`` (name and parameters), ``seeds``, ``control``
    (evaluate the clean control as received), ``defenses`` (name -> lists of parameter values; all
    combinations are run), ``cell`` (clean_per_class, validation, test), ``training``, ``tuning``.
    """
    _only(grid, _KEYS, where)
    for key in ("suspect", "attack"):
        if key not in grid:
            raise PurifyError(f"{where} lacks the key '{key}'")
    for key in ("suspect", "attack", "cell", "training", "tuning", "defenses"):
        if not isinstance(grid.get(key) or {}, Mapping):
            raise PurifyError(f"'{key}' of {where} must be a mapping, not {grid[key]!r}")
    if "task" not in (grid["suspect"] or {}):
        raise PurifyError(f"'suspect' of {where} lacks the key 'task'")
    if not isinstance(grid.get("seeds", []), list):
        raise PurifyError(f"'seeds' of {where} must be a list, not {grid['seeds']!r}")
    for name, values in (grid.get("defenses") or {}).items():
        if not isinstance(values or {}, Mapping) or not all(isinstance(v, list) for v in (values or {}).values()):
            raise PurifyError(f"'{name}' of {where} must map each hyperparameter to a list of values, not {values!r}")
    attack = dict(grid["attack"] or {})
    suspect = Suspect(
        **{
            **_valid(Suspect, grid["suspect"], f"'suspect' of {where}", but=("attack", "training", "seed", "control")),
            "attack": Named.of(attack.pop("name", ""), **attack),
            "training": replace(ATTACK_TRAINING, **_valid(Training, grid.get("training"), f"'training' of {where}")),
        }
    )
    base = Cell(
        suspect,
        tuning=replace(FINE_TUNING, **_valid(Training, grid.get("tuning"), f"'tuning' of {where}")),
        **_valid(Cell, grid.get("cell"), f"'cell' of {where}", but=("suspect", "defense", "tuning")),
    )
    suspect.build_attack()
    for seed in grid.get("seeds", [0]):
        seeded = replace(suspect, seed=seed)
        yield from variants(replace(base, suspect=seeded), grid.get("defenses") or {})
        if grid.get("control"):
            yield replace(base, suspect=replace(seeded, control=True))


def _valid(cls: type, given: Mapping[str, Any] | None, where: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
    _only(given or {}, tuple(item.name for item in fields(cls) if item.name not in but), where)
    return dict(given or {})


def _only(given: Mapping[str, Any], valid: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in valid:
            raise PurifyError(f"{where} has the unknown key '{key}': choose from {', '.join(valid)}")
