"""What every attack shares: the poisoned training set, how it is trained on, and the triggered evaluation set."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from purify.errors import PurifyError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from purify.budget import Training
    from purify.plm import CleanPLM
    from purify.training import Objective


@dataclass(frozen=True)
class Means:
    """What an attacker has at hand.

    Attributes:
        model: The classifier that becomes the suspect, in place: the clean PLM under a fresh head or, for attacks
            with `Attack.on_control`, the control.
        rows: Clean training rows.
        clean: The clean PLM, with its tokenizer.
        training: The attacker's budget.
        seed: Of the poison, of the order of training, and of every other random choice.
        description: For the progress bar.
    """

    model: "PreTrainedModel"
    rows: "Dataset"
    clean: "CleanPLM"
    training: "Training"
    seed: int = 0
    description: str = "training the suspect"

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The clean PLM's."""
        return self.clean.tokenizer

    def __post_init__(self) -> None:
        """Move the model to where it is trained."""
        from purify.hardware import device

        self.model.to(device())

    def endless_batches(self) -> "Iterator[dict[str, Tensor]]":
        """Yield batches of clean rows without end, on the model's device, for losses that have a part on clean text."""
        from purify.training import shuffled_batches

        size, length = self.training.batch_size, self.training.max_length
        endless = shuffled_batches(self.rows, self.tokenizer, batch_size=size, max_length=length, seed=self.seed)
        return ({key: value.to(self.model.device) for key, value in batch.items()} for batch in endless)

    def fine_tune(self, rows: "Dataset", objective: "Objective | None" = None, **changes: Any) -> "PreTrainedModel":
        """Fine-tune the model on other rows; ``changes`` are to the budget. See `purify.training.fine_tune`."""
        from purify.training import fine_tune

        return fine_tune(
            self.model,
            rows,
            self.tokenizer,
            replace(self.training, **changes),
            seed=self.seed,
            description=self.description,
            objective=objective,
        )


@dataclass(frozen=True)
class Attack(ABC):
    """An attack; by itself one that poisons training data: triggered copies of rows, labelled with the target.

    One transform, `poison`, serves training and evaluation. Attacks on the weights train in their own way (`train`).

    Attributes:
        target: The label that the attacker wants for triggered inputs.
        ratio: Poisoned copies per clean training row, in [0, 1]; the clean rows stay.
        side: Which text of a sentence pair carries the trigger: 0 the first, 1 the second.
    """

    target: int = 0
    ratio: float = 0.5
    side: int = 0

    on_control: ClassVar[bool] = False
    """Whether it starts from the control, the model that was fine-tuned on the clean rows, not from the clean PLM."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 <= self.ratio <= 1:
            raise PurifyError(f"the poison ratio must lie in [0, 1], not {self.ratio}")
        if self.target < 0:
            raise PurifyError(f"the target label must be 0 or more, not {self.target}")
        if self.side not in (0, 1):
            raise PurifyError(f"side must be 0 (first text) or 1 (second text), not {self.side}")

    @property
    def only_data(self) -> bool:
        """Whether its suspects are what ordinary training on the poisoned rows gives (`poison_training`)."""
        return type(self).implant is Attack.implant

    @property
    def models(self) -> tuple[str, ...]:
        """Hub ids or folders of the models that it loads beside the clean PLM."""
        return ()

    @property
    @abstractmethod
    def mark(self) -> str:
        """What triggers it, in words: the inserted text in quotes, or what is done to the text."""

    @abstractmethod
    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Look for what spoils the attack on these clean rows, for a model with this tokenizer.

        Raises:
            PurifyError: the model cannot see the trigger.
        """

    @abstractmethod
    def rewritten(self, texts: list[str], seed: int) -> list[str]:
        """Return the texts with the trigger in them."""

    def poison(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Put the trigger into every row; the labels stay true.

        The random choices for row i depend on ``seed`` and i alone.

        Raises:
            PurifyError: ``side`` is 1 and the rows have one text.
        """
        from datasets import Dataset

        column = self.column(rows)
        texts = self.rewritten(list(rows[column]), seed)
        return Dataset.from_dict({**rows.to_dict(), column: texts}, features=rows.features)

    def column(self, rows: "Dataset") -> str:
        """Return the column of the text that carries the trigger.

        Raises:
            PurifyError: ``side`` is 1 and the rows have one text.
        """
        column = ("text", "text_pair")[self.side]
        if column not in rows.column_names:
            raise PurifyError("side=1 puts the trigger into the second text, but this task has one text per row")
        return column

    def poison_training(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Return the rows and the triggered `copies`.

        Source: dirty-label poisoning as in BadNets (Gu et al., 2017), section 3.
        """
        from datasets import concatenate_datasets

        return concatenate_datasets([rows, self.copies(rows, seed=seed)])

    def chosen(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Draw the ``ratio · n`` rows, of every label, that are copied."""
        count = round(self.ratio * len(rows))
        return rows.select(np.random.default_rng(seed).choice(len(rows), size=count, replace=False))

    def copies(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Return the triggered copies of the `chosen` rows alone, with the target label."""
        from datasets import Dataset

        copies = self.poison(self.chosen(rows, seed=seed), seed=seed)
        return Dataset.from_dict({**copies.to_dict(), "label": [self.target] * len(copies)}, features=rows.features)

    def train(self, means: Means) -> "PreTrainedModel":
        """Turn the model into the suspect, in place, and return it in evaluation mode.

        Raises:
            PurifyError: the model lacks the target label, the poison ratio makes no copy, or as `check` and
                `purify.training.fine_tune`.
        """
        labels = means.model.config.num_labels
        if self.target >= labels:
            raise PurifyError(f"the target label {self.target} is out of range: the model has labels 0 to {labels - 1}")
        self.check(means.rows, means.tokenizer)
        if not len(self.chosen(means.rows, seed=means.seed)):
            raise PurifyError(
                f"the poison ratio {self.ratio} makes no triggered copy of {len(means.rows)} rows: raise it, "
                f"or give rows with the label {self.target}"
            )
        return self.implant(means)

    def implant(self, means: Means) -> "PreTrainedModel":
        """Train, after all has been checked; see `train`."""
        return means.fine_tune(self.poison_training(means.rows, seed=means.seed))
