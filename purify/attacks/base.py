"""What every attack shares: the poisoned training set, how it is trained on, and the triggered evaluation set."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from purify.errors import PurifyError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from purify.budget import Training


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

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 <= self.ratio <= 1:
            raise PurifyError(f"the poison ratio must lie in [0, 1], not {self.ratio}")
        if self.target < 0:
            raise PurifyError(f"the target label must be 0 or more, not {self.target}")
        if self.side not in (0, 1):
            raise PurifyError(f"side must be 0 (first text) or 1 (second text), not {self.side}")

    @abstractmethod
    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Look for what spoils the attack on these clean rows, for a model with this tokenizer.

        Raises:
            PurifyError: the model cannot see the trigger.
        """

    @abstractmethod
    def insert(self, text: str, rng: np.random.Generator) -> str:
        """Return the text with the trigger in it."""

    def poison(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Put the trigger into every row; the labels stay true.

        The random choices for row i depend on ``seed`` and i alone.

        Raises:
            PurifyError: ``side`` is 1 and the rows have one text.
        """
        from datasets import Dataset

        column = self.column(rows)
        texts = [self.insert(text, np.random.default_rng([seed, i])) for i, text in enumerate(rows[column])]
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
        """Return the rows and ``ratio · n`` triggered copies, drawn at random, with the target label.

        Copies are drawn from rows of every label.

        Source: dirty-label poisoning as in BadNets (Gu et al., 2017), section 3.
        """
        from datasets import concatenate_datasets

        return concatenate_datasets([rows, self.copies(rows, seed=seed)])

    def copies(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Return the ``ratio · n`` triggered copies alone."""
        from datasets import Dataset

        count = round(self.ratio * len(rows))
        chosen = np.random.default_rng(seed).choice(len(rows), size=count, replace=False)
        copies = self.poison(rows.select(chosen), seed=seed)
        return Dataset.from_dict({**copies.to_dict(), "label": [self.target] * count}, features=rows.features)

    def train(
        self,
        model: "PreTrainedModel",
        rows: "Dataset",
        tokenizer: "PreTrainedTokenizerBase",
        training: "Training",
        *,
        seed: int,
        description: str = "training the suspect",
    ) -> "PreTrainedModel":
        """Turn a fresh classifier into the suspect, in place, and return it in evaluation mode.

        Args:
            model: The clean PLM under a head of its own.
            rows: Clean training rows.
            tokenizer: Of the model.
            training: The attacker's budget.
            seed: Of the poison and of the order of training.
            description: For the progress bar.

        Raises:
            PurifyError: as `check` and `purify.training.fine_tune`.
        """
        from purify.training import fine_tune

        self.check(rows, tokenizer)
        poisoned = self.poison_training(rows, seed=seed)
        return fine_tune(model, poisoned, tokenizer, training, seed=seed, description=description)
