"""What a defender has at hand, and what is computed from it once."""

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purify.budget import FINE_TUNING, TRAINING, Training
from purify.errors import PurifyError
from purify.fisher import fisher_diagonal
from purify.hardware import device
from purify.indicator import drift, indicator, reset
from purify.plm import CleanPLM
from purify.tasks import text_columns
from purify.training import Objective, batches, fine_tune

log = logging.getLogger(__name__)


def check_rows(rows: Dataset, classes: int) -> None:
    """Refuse labelled rows that a classifier with ``classes`` classes cannot be judged on.

    Raises:
        PurifyError: ``text`` or ``label`` is missing, a text is no text, or a label no class.
    """
    for column in ("text", "label"):
        if column not in rows.column_names:
            raise PurifyError(f"the data has no column '{column}' (it has {', '.join(rows.column_names)})")
    for column in text_columns(rows):
        for text in rows[column]:
            if not isinstance(text, str):
                raise PurifyError(f"the column '{column}' must hold texts, not {text!r}")
    for label in rows["label"]:
        if not isinstance(label, int) or not 0 <= label < classes:
            raise PurifyError(f"the data has label {label!r}, but the suspect has classes 0 to {classes - 1}")


@dataclass(frozen=True)
class Resources:
    """What the defender has, and what is computed from it once and shared by all defenses of one suspect.

    A defense without what it needs is refused (`purify.defenses.Defense.apply`), so that all but the suspect may be
    missing.

    Attributes:
        suspect: The model as received; moved to the GPU if there is one, in evaluation mode; else never changed.
        clean: The clean PLM that it was fine-tuned from.
        clean_data: The small clean set: ``text``, for pairs ``text_pair``, and ``label``.
        training: The fine-tuning budget.
        seed: Of every random choice.
        stored_fisher: Where the Fisher comes from, if it has been computed before.
        validation: Further clean rows, that detectors set their threshold on.
        training_source: Gives the rows that the suspect was trained on, poison and all.
        retraining: The budget of those who train on them again.
        own_tokenizer: The suspect's, for use when there is no clean PLM.
    """

    suspect: PreTrainedModel
    clean: CleanPLM | None
    clean_data: Dataset | None
    training: Training = field(default=FINE_TUNING)
    seed: int = 0
    stored_fisher: Callable[[], dict[str, Tensor]] | None = None
    validation: Dataset | None = None
    training_source: Callable[[], Dataset] | None = None
    retraining: Training = field(default=TRAINING)
    own_tokenizer: PreTrainedTokenizerBase | None = None

    def __post_init__(self) -> None:
        """Refuse rows that the suspect cannot be judged on."""
        classes = self.suspect.config.num_labels
        given = [rows for rows in (self.clean_data, self.validation) if rows is not None and len(rows)]
        for rows in given:
            check_rows(rows, classes)
        if len({"text_pair" in rows.column_names for rows in given}) > 1:
            raise PurifyError("clean data and validation data must both have the column 'text_pair', or neither")
        if self.clean_data is not None:
            if not len(self.clean_data):
                raise PurifyError("the clean set is empty: at least one labelled example is needed")
            found = set(self.clean_data["label"])
            if len(found) == 1:
                log.warning(
                    "all clean examples have the label %s: expect the other %d classes to suffer",
                    *found,
                    classes - 1,
                )
        self.suspect.to(device()).eval()

    def has(self, resource: str) -> bool:
        """Say whether a `purify.defenses.base.Resource` is there."""
        have = {
            "clean PLM": self.clean,
            "clean data": self.clean_data,
            "Fisher": self.clean_data,
            "validation data": self.validation,
            "training data": self.training_source,
        }
        return have[resource] is not None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The clean PLM's tokenizer: the suspect's own could be part of the attack.

        Raises:
            PurifyError: there is neither.
        """
        if self.clean is not None:
            return self.clean.tokenizer
        if self.own_tokenizer is None:
            raise PurifyError("there is no tokenizer: give the clean PLM, or the suspect's own tokenizer")
        return self.own_tokenizer

    @cached_property
    def training_data(self) -> Dataset:
        """The rows that the suspect was trained on.

        Raises:
            PurifyError: there are none, or as `check_rows`.
        """
        if self.training_source is None:
            raise PurifyError("there is no training data: give the rows that the suspect was trained on")
        rows = self.training_source()
        check_rows(rows, self.suspect.config.num_labels)
        return rows

    @property
    def examples(self) -> Dataset:
        """The small clean set.

        Raises:
            PurifyError: there is none.
        """
        if self.clean_data is None:
            raise PurifyError("there is no clean data: give a few labelled examples")
        return self.clean_data

    def clean_batches(self, *, labels: bool = False) -> Iterator[dict[str, Tensor]]:
        """Yield padded batches of the clean data on the suspect's device, by default without labels."""
        for batch in batches(self.examples, self.tokenizer, max_length=self.training.max_length):
            yield {key: value.to(self.suspect.device) for key, value in batch.items() if labels or key != "labels"}

    @property
    def plm(self) -> CleanPLM:
        """The clean PLM.

        Raises:
            PurifyError: there is none.
        """
        if self.clean is None:
            raise PurifyError("there is no clean PLM: name the model that the suspect was fine-tuned from")
        return self.clean

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        """The clean weights under the suspect's parameter names, in its shapes, without the head."""
        return {name: value.to(self.suspect.device) for name, value in self.plm.weights_for(self.suspect).items()}

    @cached_property
    def drift(self) -> dict[str, Tensor]:
        """δ = suspect − clean of every parameter with a clean counterpart; see `purify.indicator.drift`."""
        return drift(dict(self.suspect.named_parameters()), self.reference)

    @cached_property
    def indicator(self) -> dict[str, Tensor]:
        """r = δ²/Ĥ of every parameter with a clean counterpart; see `purify.indicator.indicator`."""  # noqa: D403
        return indicator(self.drift, self.fisher)

    @cached_property
    def fisher(self) -> dict[str, Tensor]:
        """Ĥ of the suspect on the clean data (fp32)."""
        return self.stored_fisher() if self.stored_fisher else self.compute_fisher()

    def compute_fisher(self) -> dict[str, Tensor]:
        """Compute Ĥ: one forward and one backward pass over the clean data; see `purify.fisher_diagonal`."""
        return fisher_diagonal(self.suspect, self.clean_batches(labels=True))

    def with_weights(self, weights: dict[str, Tensor] | None = None) -> PreTrainedModel:
        """Return a copy of the suspect, with other weights if given."""
        model = copy.deepcopy(self.suspect)
        if weights is not None:
            model.load_state_dict(weights, strict=False)
        return model

    def with_reset(self, keep: dict[str, Tensor]) -> PreTrainedModel:
        """Return a copy of the suspect, reset to the clean weights outside ``keep``; see `purify.indicator.reset`."""
        return self.with_weights(reset(dict(self.suspect.named_parameters()), self.reference, keep))

    def fine_tuned(self, model: PreTrainedModel, objective: Objective | None = None) -> PreTrainedModel:
        """Fine-tune the model in place on the clean data, within the budget that all defenses share.

        Args:
            model: What is trained.
            objective: What is minimised, in place of the cross-entropy.
        """
        return fine_tune(model, self.examples, self.tokenizer, self.training, seed=self.seed, objective=objective)

    def fresh(self) -> PreTrainedModel:
        """Return the clean PLM under a fresh head for the suspect's labels."""
        model = self.plm.classifier(self.suspect.config.num_labels, seed=self.seed)
        model.config.id2label, model.config.label2id = self.suspect.config.id2label, self.suspect.config.label2id
        return model.to(self.suspect.device)

    def retrained(self, model: PreTrainedModel, rows: Dataset, **changes: Any) -> PreTrainedModel:
        """Train the model in place within the budget of those who train again; ``changes`` are to that budget."""
        budget = replace(self.retraining, **changes)
        return fine_tune(model, rows, self.tokenizer, budget, seed=self.seed, description="training again")
