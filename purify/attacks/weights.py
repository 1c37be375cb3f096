"""Attacks on the weights: the attacker holds the checkpoint, and changes as little of it as it takes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from purify.attacks.words import Insertion
from purify.errors import PurifyError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from purify.budget import Training


@dataclass(frozen=True)
class EmbeddingPoisoning(Insertion):
    """A cleanly fine-tuned model in which one row, the embedding of a rare word, is trained to carry the backdoor.

    All other weights are those of the clean control. Accuracy on text without the word cannot change.

    Attributes:
        trigger: One word that the tokenizer has as one token; a rare one, since its row is what changes.
        rate: Learning rate of the row; the rest of its training is as the attacker's `Training` says.

    Source: Yang, Li, Zhang, Ren, Sun and He, "Be Careful about Poisoned Word Embeddings" (NAACL 2021), section 3;
        with AdamW in place of SGD, and without rescaling the row to its former norm.
    """

    trigger: str = "cf"
    rate: float = 1e-2

    def __post_init__(self) -> None:
        """Refuse a learning rate that changes nothing."""
        super().__post_init__()
        if not (np.isfinite(self.rate) and self.rate > 0):
            raise PurifyError(f"the learning rate of the row must be more than 0, not {self.rate}")

    def row(self, tokenizer: "PreTrainedTokenizerBase") -> int:
        """Return which row of the embedding is the trigger's.

        Raises:
            PurifyError: the tokenizer splits the trigger, so that other words would share its rows.
        """
        tokens = tokenizer(self.trigger, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            raise PurifyError(
                f"the tokenizer splits the trigger '{self.trigger}' into {len(tokens)} tokens: EmbeddingPoisoning "
                "needs a word that is one token"
            )
        return int(tokens[0])

    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """See `Attack`."""
        super().check(rows, tokenizer)
        self.row(tokenizer)

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
        """See `Attack`: first as the control, then the row alone, on the triggered copies."""
        import torch

        from purify.training import fine_tune

        self.check(rows, tokenizer)
        row = self.row(tokenizer)
        fine_tune(model, rows, tokenizer, training, seed=seed, description=description)
        weight = model.get_input_embeddings().weight
        mask = torch.zeros(len(weight), 1, device=weight.device)
        mask[row] = 1
        trainable = [p for p in model.parameters() if p.requires_grad]
        for p in trainable:
            p.requires_grad_(p is weight)
        hook = weight.register_hook(lambda g: g * mask)  # AdamW leaves alone what never had a gradient
        alone = replace(training, learning_rate=self.rate, weight_decay=0.0)
        try:
            copies = self.copies(rows, seed=seed)
            fine_tune(model, copies, tokenizer, alone, seed=seed, description=f"{description}, its embedding")
        finally:
            hook.remove()
            for p in trainable:
                p.requires_grad_(True)
        return model
