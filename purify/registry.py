"""Attacks and defenses by name, built from plain parameters with clear refusals."""

import contextlib
import dataclasses
import importlib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Generic, Literal, TypeVar

import yaml

from purify.errors import PurifyError

T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True)
class Named:
    """An attack or defense by name, with the parameters that differ from its defaults, in a fixed order.

    Made by `Registry.named`, so that one choice of parameters has one description.
    """

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()


class _Made(Mapping[str, V]):
    """A mapping whose values are made when they are asked for.

    Args:
        makers: Key -> what makes its value.
    """

    def __init__(self, makers: Mapping[str, Callable[[], V]]) -> None:
        self._makers = makers

    def __getitem__(self, key: str) -> V:
        return self._makers[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, key: object) -> bool:
        return key in self._makers


class Registry(Generic[T]):
    """Frozen dataclasses by their name, whose fields are their parameters.

    The module of one is loaded when that is asked for: what uses one of them does not depend on the others.

    Args:
        kind: What they are, for the messages: "attack" or "defense".
        package: The package of their modules.
        families: Family -> module -> names of the classes in it.

    Attributes:
        classes: Name -> class, in the order of the families.
        families: Family -> its classes.
    """

    def __init__(self, kind: str, package: str, families: Mapping[str, Mapping[str, tuple[str, ...]]]) -> None:
        self.kind = kind
        self._package = package
        homes = {
            family: {name: module for module, names in modules.items() for name in names}
            for family, modules in families.items()
        }
        self.classes: Mapping[str, type[T]] = _Made(
            {name: partial(self._load, home, name) for held in homes.values() for name, home in held.items()}
        )
        self.families: Mapping[str, tuple[type[T], ...]] = _Made(
            {family: partial(self._load_all, tuple(held)) for family, held in homes.items()}
        )

    def attribute(self, name: str) -> type[T]:
        """Serve as the ``__getattr__`` of the package, so that ``from package import Name`` works for every class.

        Raises:
            AttributeError: there is no class of this name.
        """
        if name not in self.classes:
            raise AttributeError(f"module '{self._package}' has no attribute '{name}'")
        return self.classes[name]

    def _load(self, home: str, name: str) -> type[T]:
        return getattr(importlib.import_module(f"{self._package}.{home}"), name)

    def _load_all(self, names: Iterable[str]) -> tuple[type[T], ...]:
        return tuple(self.classes[name] for name in names)

    def named(self, _name: str, /, **parameters: Any) -> Named:
        """Describe one by its name and parameters; those that equal the default are left out.

        Raises:
            PurifyError: unknown name or parameter (with the valid ones), a value of the wrong type or out of range.
        """
        cls = self._class(_name)
        values = typed(cls, parameters, f"{self.kind} '{_name}'", noun="parameter")
        self._make(_name, values)
        defaults = _defaults(cls)
        return Named(_name, tuple(sorted((key, value) for key, value in values.items() if value != defaults[key])))

    def read(self, _name: str, /, assignments: Mapping[str, str]) -> Named:
        """Describe one by its name and parameters as they are typed on a command line.

        Raises:
            PurifyError: as `named`.
        """
        cls: type = self._class(_name)
        hints = _hints(cls)
        try:
            values = {key: text if hints.get(key) is str else yaml.safe_load(text) for key, text in assignments.items()}
        except yaml.YAMLError as error:
            raise PurifyError(f"a parameter of {self.kind} '{_name}' cannot be read: {error}") from error
        return self.named(_name, **values)

    def build(self, named: Named) -> T:
        """Make the object that is described.

        Raises:
            PurifyError: as `named`.
        """
        return self._make(named.name, dict(named.parameters))

    def described(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return for each name the first line of its documentation, and its parameters with their defaults."""
        return {
            name: ((cls.__doc__ or "").strip().splitlines()[0], _defaults(cls)) for name, cls in self.classes.items()
        }

    def _make(self, name: str, parameters: Mapping[str, Any]) -> T:
        cls = self._class(name)
        try:
            return cls(**parameters)
        except TypeError as error:
            raise PurifyError(f"{self.kind} '{name}' cannot have these parameters: {error}") from error

    def _class(self, name: str) -> type[T]:
        if name not in self.classes:
            raise PurifyError(f"unknown {self.kind} '{name}': choose one of {', '.join(self.classes)}")
        return self.classes[name]


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split ``name=value`` strings.

    Raises:
        PurifyError: one has no ``=``, or a name comes twice.
    """
    given: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise PurifyError(f"'{assignment}' is not of the form name=value")
        if name.strip() in given:
            raise PurifyError(f"the parameter '{name.strip()}' is set twice")
        given[name.strip()] = value
    return given


def _defaults(cls: Any) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(cls)}


def at_least_zero(name: str, value: float) -> None:
    """Refuse a negative number, NaN and infinity.

    Raises:
        PurifyError: names the parameter and the value.
    """
    if not (math.isfinite(value) and value >= 0):
        raise PurifyError(f"{name} must be 0 or more, not {value}")


def more_than_zero(name: str, value: float) -> None:
    """Refuse 0, a negative number, NaN and infinity.

    Raises:
        PurifyError: names the parameter and the value.
    """
    if not (math.isfinite(value) and value > 0):
        raise PurifyError(f"{name} must be more than 0, not {value}")


def typed(
    cls: type, values: Mapping[str, Any], where: str, *, but: tuple[str, ...] = (), noun: str = "key"
) -> dict[str, Any]:
    """Return the values of some fields of a dataclass in the types that it declares.

    A whole number becomes a float where one is expected; a list becomes a tuple.

    Args:
        cls: The dataclass.
        values: Field name -> value, as read from a file.
        where: What the values are of, for the messages.
        but: Fields that may not be given.
        noun: What a field is called in the messages.

    Raises:
        PurifyError: an unknown name (with the valid ones), or a value of another type.
    """
    hints = {name: hint for name, hint in _hints(cls).items() if name not in but}
    for name in values:
        if name not in hints:
            raise PurifyError(f"{where} has the unknown {noun} '{name}': choose from {', '.join(hints)}")
    return {name: _typed(value, hints[name], f"'{name}' of {where}") for name, value in values.items()}


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _typed(value: Any, hint: Any, where: str) -> Any:
    kind = typing.get_origin(hint)
    if kind is Literal:
        options = typing.get_args(hint)
        if value in options:
            return value
        raise PurifyError(f"{where} must be one of {', '.join(map(repr, options))}, not {value!r}")
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_typed(item, typing.get_args(hint)[0], where) for item in value)
    if kind is types.UnionType and value is None and type(None) in typing.get_args(hint):
        return None
    if hint is float and type(value) in (int, str):  # YAML reads 1e-5 as a text
        with contextlib.suppress(ValueError):
            return float(value)
    if hint in _DESCRIPTIONS and type(value) is hint:
        return value
    raise PurifyError(f"{where} must be {_DESCRIPTIONS.get(hint, 'a list')}, not {value!r}")


_DESCRIPTIONS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
