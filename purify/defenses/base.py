"""The interface of the defenses: what they need, and what they return."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from purify.errors import PurifyError
from purify.registry import typed
from purify.selection import check_reserve

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel

    from purify.resources import Resources

Resource = Literal["clean data", "validation data", "clean PLM", "Fisher", "training data"]
"""What a defense may need beside the suspect.

``clean data`` are the few labelled rows of the defender, ``validation data`` further clean rows (a detector sets its
threshold on them), ``training data`` the rows that the suspect was trained on, poison and all. The Fisher is no
knowledge: it is computed from the clean data.
"""

REFUSED = -1
"""The answer of a guarded model that does not answer."""


class Guard(ABC):
    """The suspect, as it was received, with a detector in front of it: what a `Detector` returns.

    Attributes:
        model: The suspect.
        tokenizer: What it is asked with.
        max_length: Tokens per input.
        precision: Of the forward passes.
    """

    def __init__(self, resources: "Resources") -> None:
        self.model = resources.suspect
        self.tokenizer = resources.tokenizer
        self.max_length = resources.training.max_length
        self.precision = resources.training.precision
        self._last: tuple[Dataset, np.ndarray] | None = None

    @abstractmethod
    def suspicion(self, rows: "Dataset") -> "np.ndarray":
        """Return how suspicious each row is, (N,) of float; larger is more so."""

    def answers(self, rows: "Dataset", suspicion: "np.ndarray", threshold: float) -> "np.ndarray":
        """Return the label of each row, (N,) of int: `REFUSED` where the suspicion is above the threshold."""
        import numpy as np

        if self._last is None or self._last[0] is not rows:  # the same rows are asked at several thresholds
            self._last = rows, self.logits(rows).argmax(1)
        return np.where(suspicion > threshold, REFUSED, self._last[1])

    def logits(self, rows: "Dataset") -> "np.ndarray":
        """Return what the suspect says, (N, C)."""
        from purify.training import predict

        return predict(self.model, rows, self.tokenizer, max_length=self.max_length, precision=self.precision)


@dataclass(frozen=True)
class Defense(ABC):
    """A defense; its fields are its hyperparameters.

    Attributes:
        needs: The resources that it uses. They are provided before it runs, or its cell is refused.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data",)

    @property
    def models(self) -> tuple[str, ...]:
        """Hub ids or folders of the models that it loads beside the suspect and the clean PLM."""
        return ()

    def apply(self, resources: "Resources") -> "PreTrainedModel | Guard":
        """Return a cleaned copy of the suspect, or the suspect behind a guard; the suspect itself is not changed.

        Raises:
            PurifyError: a resource that it needs is missing, a parameter has no such value, or it cannot work on this
                architecture.
        """
        missing = [name for name in self.needs if not resources.has(name)]
        if missing:
            raise PurifyError(
                f"{type(self).__name__} needs {' and '.join(missing)}, and there is none: "
                f"give it, or choose a defense that does without ('purify list defenses')"
            )
        typed(type(self), vars(self), f"defense '{type(self).__name__}'", noun="parameter")
        return self.defend(resources)

    @abstractmethod
    def defend(self, resources: "Resources") -> "PreTrainedModel | Guard":
        """Do the work, after all that is needed has been found; see `apply`."""


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

    @abstractmethod
    def defend(self, resources: "Resources") -> "PreTrainedModel":
        """Return the cleaned model."""


@dataclass(frozen=True)
class Detector(Defense):
    """A defense that leaves the suspect as it is and looks at its inputs.

    Attributes:
        frr: The share of clean inputs, in [0, 1), that it may reject: so much of the validation rows is more suspicious
            than the threshold.
    """

    frr: float = 0.05

    def __post_init__(self) -> None:
        """Refuse a rate outside [0, 1)."""
        if not 0 <= self.frr < 1:
            raise PurifyError(f"the false rejection rate must lie in [0, 1), not {self.frr}")

    @abstractmethod
    def defend(self, resources: "Resources") -> Guard:
        """Return the suspect behind its guard."""


def knowledge(defense: type[Defense]) -> tuple[str, ...]:
    """Return what a defender must have for it, in words: resources, and whether it has to see inputs at inference."""
    known = tuple(need for need in defense.needs if need != "Fisher")
    return (*known, "access at inference") if issubclass(defense, Detector) else known
