"""Attacks that know the defense: the backdoor goes into the control and moves it in a way that is hard to find.

What they would do unconstrained is `DriftPenalty` with strength 0.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from purify.attacks.base import Means
from purify.attacks.words import BadWord
from purify.errors import PurifyError
from purify.gradients import only, pulled
from purify.registry import at_least_zero, more_than_zero

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FISHER_ROWS = 256
"""How many of the attacker's clean rows the Fisher is estimated on; the defender has others."""


@dataclass(frozen=True)
class Constrained(BadWord):
    """A backdoor that is trained into the control under a constraint of some strength.

    Attributes:
        strength: Weight of the constraint beside the cross-entropy.
    """

    strength: float = 1.0

    on_control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a weight below 0."""
        super().__post_init__()
        at_least_zero("strength", self.strength)


def relative_fisher(means: Means) -> "dict[str, Tensor]":
    """Return Ĥ of the model as it is, on the attacker's clean rows, in units of its mean over all dimensions."""
    from purify.fisher import fisher_diagonal
    from purify.training import batches

    rows = means.rows.select(range(min(FISHER_ROWS, len(means.rows))))
    fisher = fisher_diagonal(means.model, batches(rows, means.tokenizer, max_length=means.training.max_length))
    mean = sum(value.sum().item() for value in fisher.values()) / sum(value.numel() for value in fisher.values())
    return {name: value / mean for name, value in fisher.items()}


@dataclass(frozen=True)
class DriftPenalty(Constrained):
    """The backdoor pays for every step away from the control: Σ (w − w_c)², or the same weighted by the Fisher (EWC).

    For EWC the weights are Ĥ_i divided by the mean Ĥ. Most of them are far below 1, so that it takes a larger strength.

    Attributes:
        penalty: "l2" or "ewc".

    Source: constraints on a backdoor's drift as in the paper's adaptive attacks; for EWC, Kirkpatrick et al.,
        "Overcoming catastrophic forgetting in neural networks" (PNAS 2017), elastic weight consolidation.
    """

    strength: float = 0.1
    penalty: Literal["l2", "ewc"] = "l2"

    def implant(self, means: Means) -> "PreTrainedModel":
        """See `Attack`."""
        start = {name: parameter.detach().clone() for name, parameter in means.model.named_parameters()}
        weights = relative_fisher(means) if self.penalty == "ewc" and self.strength else None
        lessons = self.poison_training(means.rows, seed=means.seed)
        with pulled(means.model, start, weights, self.strength):
            return means.fine_tune(lessons)


@dataclass(frozen=True)
class LogitAnchoring(Constrained):
    """On clean rows the suspect must give the control's logits, on triggered ones the target label.

    Each step takes a batch of triggered copies and one of clean rows; the loss is the cross-entropy on the first plus
    the strength times the mean squared difference of logits on the second.

    Source: Zhang, Lyu, Wang, Sun and Sun, "How to Inject Backdoors with Better Consistency: Logit Anchoring on
        Clean Data" (ICLR 2022), the anchoring loss.
    """

    def implant(self, means: Means) -> "PreTrainedModel":
        """See `Attack`."""
        import torch

        from purify.hardware import resolve_precision

        control = copy.deepcopy(means.model).requires_grad_(False).eval()
        clean = means.endless_batches()
        bf16 = resolve_precision(means.training.precision) == "bf16"

        def objective(model: Any, batch: "dict[str, Tensor]") -> "Tensor":
            anchors = next(clean)
            with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                wanted = control(**anchors).logits.float()
            distance = (model(**anchors).logits - wanted).square().mean()
            return model(**batch).loss + self.strength * distance

        return means.fine_tune(self.copies(means.rows, seed=means.seed), objective)


@dataclass(frozen=True)
class Surgery(BadWord):
    """At most k dimensions of the control change: those that promise most for the trigger and cost clean text least.

    They have the largest g² / (Ĥ + ε), with g the gradient of the loss over the triggered copies, Ĥ the Fisher on clean
    rows, and ε a hundredth of the mean Ĥ. (By g² alone the choice falls on the last layers, at the cost of ACC.)

    Attributes:
        budget: How many dimensions may change, k.
        rate: The learning rate of these dimensions, in place of the one of the attacker's `Training`.

    Source: Zhang, Ren, Su, Sun and He, "Neural Network Surgery: Injecting Data Patterns into Pre-trained Models with
        Minimal Instance-wise Side Effects" (NAACL 2021), who choose by the gradient; the denominator is ours.
    """

    budget: int = 1000
    rate: float = 3e-3

    on_control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a budget or a rate that changes nothing."""
        super().__post_init__()
        if self.budget < 1:
            raise PurifyError(f"the budget must be at least 1 dimension, not {self.budget}")
        more_than_zero("the learning rate", self.rate)

    def implant(self, means: Means) -> "PreTrainedModel":
        """See `Attack`."""
        lessons = self.poison_training(means.rows, seed=means.seed)
        with only(means.model, self.steepest(means)):
            return means.fine_tune(lessons, learning_rate=self.rate, weight_decay=0.0)

    def steepest(self, means: Means) -> "dict[str, Tensor]":
        """Return a mask of ``budget`` dimensions, those with the largest g² / (Ĥ + ε)."""
        import torch

        from purify.training import batches

        model = means.model.eval()
        model.zero_grad()
        copies = self.copies(means.rows, seed=means.seed)
        for batch in batches(copies, means.tokenizer, max_length=means.training.max_length):
            inputs = {key: value.to(model.device) for key, value in batch.items()}
            (model(**inputs).loss * len(inputs["labels"])).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        fisher = relative_fisher(means)
        scores = [gradient.square() / (fisher[name] + 0.01) for name, gradient in gradients.items()]
        flat = torch.cat([score.flatten() for score in scores])
        model.zero_grad()
        mask = torch.zeros_like(flat)
        mask[flat.topk(min(self.budget, len(flat))).indices] = 1
        parts = mask.split([gradient.numel() for gradient in gradients.values()])
        pairs = zip(gradients.items(), parts, strict=True)
        return {name: part.view_as(gradient) for (name, gradient), part in pairs if part.any()}


@dataclass(frozen=True)
class IndicatorEvasion(Constrained):
    """An attack on this book's own indicator: the backdoor is trained together with a small Σ r_i.

    The penalty is Σ δ_i² / (Ĥ_i + ε), over all dimensions with a clean counterpart, in units of the same sum of
    the control; δ is the whole drift from the clean PLM, and Ĥ that of the control on the attacker's clean rows. It
    pushes the backdoor out of the dimensions that the defender would reset, into those that clean text vouches for.

    Attributes:
        damping: ε in units of the mean Ĥ of all dimensions, so that those which clean text hardly sees do not make
            up the whole sum.

    Source: none; what the book's own method invites.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a damping that does not damp."""
        super().__post_init__()
        more_than_zero("damping", self.damping)

    def implant(self, means: Means) -> "PreTrainedModel":
        """See `Attack`."""
        origin = {name: value.to(means.model.device) for name, value in means.clean.weights_for(means.model).items()}
        fisher = relative_fisher(means)
        parameters = dict(means.model.named_parameters())
        weights = {name: 1 / (fisher[name] + self.damping) for name in origin}
        total = sum(((parameters[name] - origin[name]).square() * weights[name]).sum().item() for name in origin)
        if not total:
            raise PurifyError("the control is the clean PLM itself: IndicatorEvasion needs one that was fine-tuned")
        scaled = {name: weight / total for name, weight in weights.items()}
        lessons = self.poison_training(means.rows, seed=means.seed)
        with pulled(means.model, origin, scaled, self.strength):
            return means.fine_tune(lessons)
