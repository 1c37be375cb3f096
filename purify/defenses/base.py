"""The interface of the defenses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from purify.selection import check_reserve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from purify.resources import Resources

Resource = Literal["clean data", "clean PLM", "Fisher"]
"""What a defense may need beside the suspect; the Fisher is computed from the clean data."""


@dataclass(frozen=True)
class Defense(ABC):
    """A defense on the weights of a suspect; its fields are its hyperparameters.

    Attributes:
        needs: The resources that it uses. They are provided before it runs, or its cell is refused.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data",)

    @abstractmethod
    def apply(self, resources: "Resources") -> "PreTrainedModel":
        """Return a cleaned copy of the suspect."""


@dataclass(frozen=True)
class ReserveDefense(Defense):
    """A defense that keeps a share of the suspect.

    Attributes:
        reserve: The reserve ratio ρ in [0, 1]; what it is a share of is the defense's own.
    """

    reserve: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a ratio outside [0, 1]."""
        check_reserve(self.reserve)
