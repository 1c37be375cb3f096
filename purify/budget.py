"""How much a model is trained, and how: plain data, without torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from purify.errors import PurifyError

Precision = Literal["auto", "fp32", "bf16"]
Optimizer = Literal["adamw", "adafactor"]


@dataclass(frozen=True)
class Training:
    """How a model is fine-tuned, with a linearly decaying learning rate.

    Attributes:
        epochs: Passes over the rows.
        learning_rate: Its initial value.
        batch_size: Examples per step.
        weight_decay: Decoupled weight decay.
        max_length: Tokens per input (both texts of a pair together); longer ones are cut.
        precision: Of forward and backward passes; "auto" is bf16 autocast where the hardware multiplies
            faster in it, else fp32. Weights and optimiser states are always fp32.
        optimizer: "adamw", or "adafactor" with a learning rate of its own scale (`transformers.Adafactor` without
            relative steps).
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    weight_decay: float = 0.0
    max_length: int = 96
    precision: Precision = "auto"
    optimizer: Optimizer = "adamw"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("epochs", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise PurifyError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (0 <= self.learning_rate < float("inf") and 0 <= self.weight_decay < float("inf")):
            raise PurifyError("learning_rate and weight_decay must be 0 or more")
        for name, choices in (("precision", get_args(Precision)), ("optimizer", get_args(Optimizer))):
            if getattr(self, name) not in choices:
                raise PurifyError(f"{name} must be one of {', '.join(choices)}, not '{getattr(self, name)}'")


TRAINING = Training()
"""How a suspect is trained, unless said otherwise."""

FINE_TUNING = Training(epochs=10)
"""The fine-tuning budget of every weight defense, unless said otherwise."""
