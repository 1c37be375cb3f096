"""The interface of the measures."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from purify.grid.bench import Bench
    from purify.grid.spec import Cell

Stage = Literal["suspect", "control", "Fisher"]


@dataclass(frozen=True)
class Measure(ABC):
    """A measure; its fields are its parameters.

    Attributes:
        needs: The stages that are made before it: the suspect, its control, the Fisher of the suspect on the clean set.
    """

    needs: ClassVar[tuple[Stage, ...]] = ()

    @abstractmethod
    def measure(self, work: "Bench") -> dict[str, Any]:
        """Return what was found, as plain data that goes into the record of the cell."""

    @abstractmethod
    def examples(self, cell: "Cell") -> float:
        """Return its cost, in examples that are passed forward and backward once."""


def rounded(values: Any) -> Any:
    """Return a number, or lists and mappings of numbers, with four significant digits: what records keep."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple) or hasattr(values, "tolist"):
        plain = values.tolist() if hasattr(values, "tolist") else values
        return [rounded(value) for value in plain] if isinstance(plain, list | tuple) else rounded(plain)
    return float(f"{values:.4g}") if isinstance(values, float) else values
