"""Pruning of attention heads, with a penalty on concentrated attention while fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from purify.defenses.pruning import PruningDefense
from purify.errors import PurifyError
from purify.registry import at_least_zero
from purify.structures import HEAD_OUTPUT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class HeadPruning(PruningDefense):
    """Prune the attention heads that clean text leaves unmoved, and fine-tune with normalised attention.

    A head's score is the variance, over the clean data, of the attention that the first token, which classifiers read,
    pays to the others: a head that pays the same attention to whatever it sees has nothing to do on clean text. The
    share ρ of all heads with the largest score is kept; the others' outputs are cut off for good. The fine-tuning adds
    a penalty on the squared attention weights of the first token, so that no single token can draw all of it.

    Attributes:
        strength: Of the penalty; 0 is plain fine-tuning.

    Source: after Zhao, Xu and Yuan, "Defense against Backdoor Attack on Pre-trained Language Models via Head Pruning
    and Attention Normalization", ICML 2024, who prune while validation accuracy holds; here ρ says how many.
    """

    frozen: bool = True
    strength: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        at_least_zero("strength", self.strength)

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the pruned suspect, fine-tuned."""
        import torch

        model = resources.with_weights()
        outputs = attention_outputs(model)
        used = model.config._attn_implementation
        model.set_attn_implementation("eager")  # the only one that says what it attends to
        scores = attention_variance(model, resources)  # (L, A)
        kept = torch.zeros(scores.numel(), device=scores.device)
        kept[scores.flatten().argsort(descending=True, stable=True)[: round(self.reserve * scores.numel())]] = 1
        keep = {}
        for name, heads in zip(outputs, kept.view_as(scores), strict=True):
            width = dict(model.named_parameters())[name].shape[1] // len(heads)
            keep[name] = heads.repeat_interleave(width)  # (A · width,), of the columns of (H, A · width)
        model = self.pruned(model, keep, resources, self._objective)
        model.set_attn_implementation(used)
        return model

    def _objective(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
        result = model(**batch, output_attentions=True)
        paid = [weights[:, :, 0].float().square().sum(-1).mean() for weights in result.attentions]  # of (B, A, T)
        return result.loss + self.strength * sum(paid) / len(paid)


def attention_outputs(model: PreTrainedModel) -> list[str]:
    """Return the names of the matrices (H, A · width) that collect what the heads of each layer say.

    Raises:
        PurifyError: the architecture has none that can be recognised.
    """
    found = [name for name, _ in model.named_parameters() if HEAD_OUTPUT.search(name)]
    if len(found) != model.config.num_hidden_layers:
        raise PurifyError(f"HeadPruning finds no attention heads in a '{model.config.model_type}' model")
    return found


def attention_variance(model: PreTrainedModel, resources: Resources) -> Tensor:
    """Return, for every layer and head (L, A), the variance of the first token's attention over the clean data.

    Shorter inputs pay no attention to the positions that they lack.
    """
    import torch

    firsts = []
    with torch.no_grad():
        for inputs in resources.clean_batches():
            attentions = model(**inputs, output_attentions=True).attentions
            first = torch.stack([weights[:, :, 0] for weights in attentions], dim=1)  # (B, L, A, T)
            firsts.append(torch.nn.functional.pad(first, (0, resources.training.max_length - first.shape[-1])))
    variance = torch.cat(firsts).var(dim=0, correction=0).mean(-1)
    if len(firsts[0]) > 1 and not variance.any():
        kind = model.config.model_type
        raise PurifyError(f"HeadPruning needs a model whose first token sees the others, and in '{kind}' it does not")
    return variance
