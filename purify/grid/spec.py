"""What an experiment is: frozen, hashable descriptions of its stages.

The stages are attack → Fisher → purify → evaluate; each has its own description, and what a stage makes is
kept under the hash of it:

=====================  ==========================================  ======================
description            what it makes                               where the store has it
=====================  ==========================================  ======================
`Suspect`              the suspicious checkpoint                   ``suspects/``
`CleanFisher`          Ĥ of the suspect on the clean set           ``fishers/``
`Purification`         the cleaned checkpoint                      ``models/``
`Cell`                 the scores, or what a measure found         ``records/``
=====================  ==========================================  ======================
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, lru_cache
from typing import Any, TypeVar, get_args, get_type_hints

from purify.attacks import ATTACKS, Attack
from purify.budget import FINE_TUNING, TRAINING, Training
from purify.defenses import DEFENSES, Defense
from purify.measures import MEASURES, Measure
from purify.registry import Named

S = TypeVar("S")

NONE = "none"
"""The name of the defense that does nothing, and of the attack behind a control."""

NOTHING = Named(NONE)


@dataclass(frozen=True)
class Suspect:
    """The attack stage: which PLM was trained on what, poisoned how.

    Attributes:
        plm: "bundled", a hub id, or a folder.
        task: A key of `purify.tasks.TASKS`.
        train: Clean training rows.
        attack: What poisons the training set; also what triggers the evaluation.
        control: Train without the poison: the clean model that false alarms are measured on.
        training: The attacker's training.
        seed: Of the data split, the head, the poison and the order of training (`purify.training.seed_everything`).
    """

    task: str
    attack: Named
    plm: str = "bundled"
    train: int = 4000
    control: bool = False
    training: Training = field(default=TRAINING)
    seed: int = 0

    def build_attack(self) -> Attack:
        """Make the attack."""
        return ATTACKS.build(self.attack)

    @property
    def trained(self) -> "Suspect":
        """What its checkpoint depends on: a control is the same whichever attack it is compared with."""
        return replace(self, attack=NOTHING) if self.control else self

    @property
    def as_control(self) -> "Suspect":
        """The control that it is compared with."""
        return replace(self, control=True)

    @property
    def on_control(self) -> bool:
        """Whether its training starts from the control."""
        return not self.control and ATTACKS.classes[self.attack.name].on_control

    def __str__(self) -> str:
        kind = "control" if self.control else self.attack.name
        return f"{self.task} · {self.plm} · {kind} · seed {self.seed}"


@dataclass(frozen=True)
class CleanFisher:
    """The Fisher stage: the diagonal of the empirical Fisher of a suspect on the defender's clean set."""

    suspect: Suspect
    clean_per_class: int
    max_length: int


@dataclass(frozen=True)
class Purification:
    """The purify stage: a suspect, cleaned by a defense with fixed hyperparameters."""

    suspect: Suspect
    defense: Named
    clean_per_class: int
    tuning: Training


@dataclass(frozen=True)
class Policy:
    """How ρ is chosen where it is not fixed: by clean validation accuracy, never by the attack.

    Attributes:
        max_drop: ΔACC, in points; see `purify.selection.choose_reserve`.
        among: The ratios to choose from, in rising order.
    """

    max_drop: float
    among: tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """The evaluate stage, one number of a table: a suspect, a defense, and the sizes of what it is judged on.

    Attributes:
        suspect: The checkpoint.
        defense: The defense with its hyperparameters, or "none".
        clean_per_class: Rows per class of the defender's clean set.
        validation: Clean rows that choices are made on.
        test: Test rows.
        tuning: The defender's fine-tuning.
        policy: How ρ is chosen; without one it is that of the defense.
        measure: What is found out instead of the scores; the defense is then "none".
    """

    suspect: Suspect
    defense: Named = NOTHING
    clean_per_class: int = 16
    validation: int = 500
    test: int = 1000
    tuning: Training = field(default=FINE_TUNING)
    policy: Policy | None = None
    measure: Named | None = None

    def build_measure(self) -> Measure | None:
        """Make the measure; None for a cell that is scored."""
        return MEASURES.build(self.measure) if self.measure else None

    def build_defense(self) -> Defense | None:
        """Make the defense; None for "none"."""
        return None if self.defense.name == NONE else DEFENSES.build(self.defense)

    @property
    def received(self) -> "Cell":
        """The same suspect without any defense: what accuracy drops are measured from."""
        return replace(self, defense=NOTHING, policy=None, measure=None)

    @property
    def fisher(self) -> CleanFisher:
        """The Fisher that a defense of this cell uses."""
        return CleanFisher(self.suspect.trained, self.clean_per_class, self.tuning.max_length)

    @property
    def purification(self) -> Purification:
        """The cleaned checkpoint that is evaluated."""
        return Purification(self.suspect.trained, self.defense, self.clean_per_class, self.tuning)

    def candidates(self) -> "list[Cell]":
        """Return the cells with a fixed ρ that the policy chooses among, smallest ρ first."""
        among = self.policy.among if self.policy else ()
        return [self.at(reserve) for reserve in among]

    def at(self, reserve: float) -> "Cell":
        """Return the cell with this ρ."""
        parameters = {**dict(self.defense.parameters), "reserve": reserve}
        return replace(self, defense=DEFENSES.named(self.defense.name, **parameters), policy=None)

    def __str__(self) -> str:
        named = self.measure or self.defense
        parts = dict(named.parameters)
        reserve = getattr(self.build_defense(), "reserve", None)
        if reserve is not None and self.policy is None:
            parts["reserve"] = reserve
        shown = [named.name, *(f"{key}={value}" for key, value in parts.items())]
        if self.policy:
            shown.append(f"ΔACC ≤ {self.policy.max_drop:g}")
        return f"{self.suspect} · {self.clean_per_class} per class · {', '.join(shown)}"


Stage = Suspect | CleanFisher | Purification | Cell


def canonical(spec: Any) -> Any:
    """Return plain data for a spec, without fields that have their default value.

    A field that is added later with a default therefore changes no existing hash; a default must never
    be changed.
    """
    return json.loads(_text(spec))


def fingerprint(spec: Any) -> str:
    """Hash a spec: 16 hexadecimal digits of the sha256 of its canonical JSON."""
    return _hash(type(spec).__name__, _text(spec))


def fingerprint_of_plain(kind: str, plain: Mapping[str, Any]) -> str:
    """Hash what `canonical` returned for a spec of the class called ``kind``."""
    return _hash(kind, json.dumps(plain, sort_keys=True, ensure_ascii=False))


def restore(cls: type[S], plain: Mapping[str, Any]) -> S:
    """Undo `canonical`: return the spec of the class ``cls``."""
    hints = _hints(cls)  # type: ignore[arg-type]
    return cls(**{name: _restored(value, hints[name]) for name, value in plain.items()})


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _restored(value: Any, hint: Any) -> Any:
    for kind in (hint, *get_args(hint)):
        if is_dataclass(kind) and isinstance(value, Mapping):
            return restore(kind, value)  # type: ignore[arg-type]
    return tuple(_restored(item, None) for item in value) if isinstance(value, list) else value


def _hash(kind: str, text: str) -> str:
    return hashlib.sha256(f'{{"{kind}": {text}}}'.encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    """The canonical JSON: sorted keys, defaults left out; parts that many specs share are made once."""
    if isinstance(value, Suspect | Named | Training):
        return _shared_text(value)
    if is_dataclass(value):
        return _spec_text(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _spec_text(spec: Any) -> str:
    parts = []
    for name, default in _sorted_fields(type(spec)):  # type: ignore[arg-type]
        value = getattr(spec, name)
        if value is not default and value != default:
            parts.append(f'"{name}": {_text(value)}')
    return "{" + ", ".join(parts) + "}"


_shared_text = lru_cache(maxsize=4096)(_spec_text)


@cache
def _sorted_fields(cls: Any) -> list[tuple[str, Any]]:
    """Names and defaults (`dataclasses.MISSING`, which no value equals, where there is none)."""
    return sorted(((item.name, item.default) for item in fields(cls)), key=lambda pair: pair[0])
