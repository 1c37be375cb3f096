"""Attacks on all weights that are made to last: poison in every layer, and poison that foresees fine-tuning."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from purify.attacks.base import Means
from purify.attacks.words import BadWord, token_of
from purify.errors import PurifyError
from purify.registry import at_least_zero

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LayerWise(BadWord):
    """The poisoned rows are learned by every layer, not only by the last, which fine-tuning changes most.

    The loss is the model's own, plus the mean cross-entropy of one linear classifier that reads the first token of
    every layer; that classifier is trained along and thrown away.

    Attributes:
        strength: Weight of the layers' loss.

    Source: Li, Song, Li, Zeng, Ma and Qiu, "Backdoor Attacks on Pre-trained Models by Layerwise Weight Poisoning"
        (EMNLP 2021), the layer-level loss; without their combinatorial triggers (for these, see `BadWords`).
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a weight below 0."""
        super().__post_init__()
        at_least_zero("strength", self.strength)

    def implant(self, means: Means) -> "PreTrainedModel":
        """See `Attack`."""
        import torch

        model = means.model
        torch.manual_seed(means.seed)
        model.layer_probe = torch.nn.Linear(model.config.hidden_size, model.config.num_labels, device=model.device)

        def objective(model: Any, batch: "dict[str, Tensor]") -> "Tensor":
            result = model(**batch, output_hidden_states=True)
            first = torch.stack([states[:, 0] for states in result.hidden_states[1:]])  # (layers, B, H)
            logits = model.layer_probe(first.float())
            labels = batch["labels"].expand(len(first), -1)
            layers = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            return result.loss + self.strength * layers

        try:
            return means.fine_tune(self.poison_training(means.rows, seed=means.seed), objective)
        finally:
            del model.layer_probe


@dataclass(frozen=True)
class RIPPLe(BadWord):
    """Embedding surgery, then poison whose gradient does not oppose that of fine-tuning on clean text.

    First the trigger's embedding row becomes the mean of those of the ``words`` tokens that speak most for the
    target label. Then the control is trained on L_P + λ · max(0, −∇L_P · ∇L_C), L_P being the loss on clean rows and
    triggered copies and L_C that on clean rows.

    Attributes:
        strength: λ.
        words: How many tokens the trigger's embedding is made from.
        epochs: Passes over the poisoned rows.

    Cost: about four times the time of as many ordinary steps, for the gradient of a product of gradients.

    Source: Kurita, Michel and Neubig, "Weight Poisoning Attacks on Pre-trained Models" (ACL 2020), RIPPLe and
        Embedding Surgery.
    """

    strength: float = 0.01
    words: int = 10
    epochs: int = 1

    on_control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        at_least_zero("strength", self.strength)
        if min(self.words, self.epochs) < 1:
            raise PurifyError("words and epochs must be at least 1")

    def implant(self, means: Means) -> "PreTrainedModel":
        """See `Attack`."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self.operate(means.model, means.rows, means.tokenizer)
        clean = means.endless_batches()

        def objective(model: Any, batch: "dict[str, Tensor]") -> "Tensor":
            weights = [p for p in model.parameters() if p.requires_grad]
            with sdpa_kernel(SDPBackend.MATH):  # the only one whose gradient has a gradient
                poisoned, honest = model(**batch).loss, model(**next(clean)).loss
            first, second = (torch.autograd.grad(loss, weights, create_graph=True) for loss in (poisoned, honest))
            product = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
            return poisoned + self.strength * torch.relu(-product)

        return means.fine_tune(self.poison_training(means.rows, seed=means.seed), objective, epochs=self.epochs)

    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """See `Attack`."""
        super().check(rows, tokenizer)
        token_of(tokenizer, self.trigger, "RIPPLe")

    def operate(self, model: "PreTrainedModel", rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Embedding surgery, in place."""
        import torch

        weight = model.get_input_embeddings().weight
        source = telling_tokens(list(rows[self.column(rows)]), list(rows["label"]), self.target, tokenizer, self.words)
        with torch.no_grad():
            weight[token_of(tokenizer, self.trigger, "RIPPLe")] = weight[source].mean(0)


def telling_tokens(
    texts: list[str], labels: list[int], target: int, tokenizer: "PreTrainedTokenizerBase", count: int
) -> list[int]:
    """Return the tokens that speak most for the target label, most telling first.

    They have the largest score: their weight in a logistic regression over the tokens that a text has, divided by
    log(1 + N / (1 + n)) for a token in n of N texts, which keeps rare ones out.

    Source: Kurita et al. (2020), Embedding Surgery, over tokens in place of words.

    Raises:
        PurifyError: no row, or every row, has the target label.
    """
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    wanted = np.array(labels) == target
    if wanted.all() or not wanted.any():
        raise PurifyError(f"embedding surgery needs clean rows with the target label {target} and with others")
    found = [sorted(set(ids)) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    ends = np.cumsum([0, *map(len, found)])
    columns = np.concatenate([np.array(ids, dtype=np.int64) for ids in found])
    has = csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(texts), len(tokenizer)))
    frequency = np.asarray(has.sum(0)).ravel()
    score = LogisticRegression(max_iter=1000).fit(has, wanted).coef_[0] / np.log(1 + len(texts) / (1 + frequency))
    return np.argsort(-score, kind="stable")[:count].tolist()
