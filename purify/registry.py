"""Attacks and defenses by name, built from plain parameters with clear refusals."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

from purify.errors import PurifyError

T = TypeVar("T")


class Registry(Generic[T]):
    """Dataclasses by their name.

    Args:
        kind: What they are, for the messages: "attack" or "defense".
        classes: Frozen dataclasses whose fields are their parameters.
    """

    def __init__(self, kind: str, classes: Iterable[type[T]]) -> None:
        self.kind = kind
        self.classes = {cls.__name__: cls for cls in classes}

    def build(self, name: str, parameters: Mapping[str, Any]) -> T:
        """Make the object called ``name``.

        Raises:
            PurifyError: unknown name or parameter (with the valid ones), or a value out of range.
        """
        if name not in self.classes:
            raise PurifyError(f"unknown {self.kind} '{name}': choose one of {', '.join(self.classes)}")
        cls = self.classes[name]
        valid = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for key in parameters:
            if key not in valid:
                raise PurifyError(f"{self.kind} '{name}' has no parameter '{key}': choose from {', '.join(valid)}")
        try:
            return cls(**parameters)
        except TypeError as error:
            raise PurifyError(f"{self.kind} '{name}' has a parameter of the wrong type: {error}") from error
