"""How much a model is trained, and how: plain data, without torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from purify.errors import PurifyError

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Training:
    """How a model is fine-tuned: AdamW with a linearly decaying learning rate.

    Attributes:
        epochs: Passes over the rows.
        learning_rate: Its initial value.
        batch_size: Examples per step.
        weight_decay: AdamW's decoupled weight decay.
        max_length: Tokens per input (both texts of a pair together); longer ones are cut.
        precision: Of forward and backward passes; "auto" is bf16 autocast where the hardware multiplies
            in it, else fp32. Weights and optimiser states are always fp32.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    weight_decay: float = 0.0
    max_length: int = 96
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("epochs", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise PurifyError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (0 <= self.learning_rate < float("inf") and 0 <= self.weight_decay < float("inf")):
            raise PurifyError("learning_rate and weight_decay must be 0 or more")
        if self.precision not in get_args(Precision):
            raise PurifyError(f"precision must be one of {', '.join(get_args(Precision))}, not '{self.precision}'")


TRAINING = Training()
"""How a suspect is trained, unless said otherwise."""

FINE_TUNING = Training(epochs=10)
"""The fine-tuning budget of every weight defense, unless said otherwise."""
