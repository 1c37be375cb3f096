"""What a defender has at hand, and what is computed from it once."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.budget import FINE_TUNING, Training
from purify.errors import PurifyError
from purify.fisher import fisher_diagonal
from purify.hardware import device
from purify.indicator import drift, indicator
from purify.plm import CleanPLM
from purify.training import batches, fine_tune


def check_rows(rows: Dataset, classes: int) -> None:
    """Refuse labelled rows that a classifier with ``classes`` classes cannot be judged on.

    Raises:
        PurifyError: ``text`` or ``label`` is missing, a text is no text, or a label no class.
    """
    for column in ("text", "label"):
        if column not in rows.column_names:
            raise PurifyError(f"the data has no column '{column}' (it has {', '.join(rows.column_names)})")
    for text in rows["text"]:
        if not isinstance(text, str):
            raise PurifyError(f"the column 'text' must hold texts, not {text!r}")
    for label in rows["label"]:
        if not isinstance(label, int) or not 0 <= label < classes:
            raise PurifyError(f"the data has label {label!r}, but the suspect has classes 0 to {classes - 1}")


@dataclass(frozen=True)
class Resources:
    """What the defender has, and what is computed from it once and shared by all defenses of one suspect.

    Attributes:
        suspect: The model as received; moved to the GPU if there is one, in evaluation mode; else never changed.
        clean: The clean PLM that it was fine-tuned from.
        clean_data: The small clean set: ``text``, for pairs ``text_pair``, and ``label``.
        training: The fine-tuning budget.
        seed: Of every random choice.
        stored_fisher: Where the Fisher comes from, if it has been computed before.
    """

    suspect: PreTrainedModel
    clean: CleanPLM
    clean_data: Dataset
    training: Training = field(default=FINE_TUNING)
    seed: int = 0
    stored_fisher: Callable[[], dict[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        """Refuse clean data that the suspect cannot be judged on."""
        if not len(self.clean_data):
            raise PurifyError("the clean set is empty: at least one labelled example is needed")
        check_rows(self.clean_data, self.suspect.config.num_labels)
        self.suspect.to(device()).eval()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The clean PLM's tokenizer: the suspect's own could be part of the attack."""
        return self.clean.tokenizer

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        """The clean weights under the suspect's parameter names, without the head."""
        return {name: value.to(self.suspect.device) for name, value in self.clean.weights_for(self.suspect).items()}

    @cached_property
    def drift(self) -> dict[str, Tensor]:
        """δ = suspect − clean."""
        return drift(dict(self.suspect.named_parameters()), self.reference)

    @cached_property
    def indicator(self) -> dict[str, Tensor]:
        """R = δ²/Ĥ of every parameter with a clean counterpart."""
        return indicator(self.drift, self.fisher)

    @cached_property
    def fisher(self) -> dict[str, Tensor]:
        """Ĥ of the suspect on the clean data (fp32)."""
        return self.stored_fisher() if self.stored_fisher else self.compute_fisher()

    def compute_fisher(self) -> dict[str, Tensor]:
        """Compute Ĥ: one forward and one backward pass over the clean data."""
        return fisher_diagonal(
            self.suspect, batches(self.clean_data, self.tokenizer, max_length=self.training.max_length)
        )

    def with_weights(self, weights: dict[str, Tensor] | None = None) -> PreTrainedModel:
        """Return a copy of the suspect, with other weights if given."""
        model = copy.deepcopy(self.suspect)
        if weights is not None:
            model.load_state_dict(weights, strict=False)
        return model

    def fine_tuned(self, model: PreTrainedModel) -> PreTrainedModel:
        """Fine-tune the model in place on the clean data, within the budget that all defenses share."""
        return fine_tune(model, self.clean_data, self.tokenizer, self.training, seed=self.seed)
