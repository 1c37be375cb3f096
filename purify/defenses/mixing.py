"""Mixtures of the suspect's weights with clean ones, or with those of a second model, then fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from purify.defenses.base import ReserveDefense, Resource
from purify.errors import PurifyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class FineMixing(ReserveDefense):
    """Keep a random share ρ of all dimensions, reset the others to the clean PLM, and fine-tune.

    Source: Zhang et al., "Fine-mixing: Mitigating Backdoors in Fine-tuned Language Models", Findings of EMNLP 2022,
    section 3.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM")

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the mixture, fine-tuned."""
        from purify.indicator import random_mask

        keep = random_mask(resources.drift, self.reserve, seed=resources.seed)
        return resources.fine_tuned(resources.with_reset(keep))


@dataclass(frozen=True)
class FineMixingSelected(ReserveDefense):
    """Keep the share ρ of all dimensions that drifted least, reset the others to the clean PLM, and fine-tune.

    Fine-mixing with a selection in place of the random draw. It is `FinePurifying` without a Fisher and with the
    paper's plain count: what did not drift at all is kept first, so that the useful ρ lie near 1.

    Source: our reading of the selecting variant of Zhang et al., Findings of EMNLP 2022.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM")

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the mixture, fine-tuned."""
        from purify.indicator import reserve_mask

        size = {name: delta.abs() for name, delta in resources.drift.items()}
        keep = reserve_mask(size, self.reserve, seed=resources.seed)
        return resources.fine_tuned(resources.with_reset(keep))


@dataclass(frozen=True)
class ModelMerging(ReserveDefense):
    """Average the weights: ρ parts of the suspect and 1 − ρ of the clean PLM or a second model; then fine-tune.

    Attributes:
        method: "linear", or "slerp": along the arc between the two, per parameter tensor taken as one vector.
        other: Folder or hub id of a second fine-tuned classifier of the same architecture and labels, which may be
            poisoned in another way; its head is merged too. Empty: the clean PLM, which has no head to merge.

    Source: Arora et al., "Here's a Free Lunch: Sanitizing Backdoored Models with Model Merge", Findings of ACL 2024,
    section 3; Shoemake (1985) for the arc.
    """

    needs: ClassVar[tuple[Resource, ...]] = ("clean data", "clean PLM")

    method: Literal["linear", "slerp"] = "linear"
    other: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        """See `Defense`."""
        return (self.other,) if self.other else ()

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the merged model, fine-tuned."""
        merge = slerp if self.method == "slerp" else _lerp
        own = dict(resources.suspect.named_parameters())
        others = self._others(own, resources)
        weights = {name: merge(others[name], own[name].detach(), self.reserve) for name in others}
        return resources.fine_tuned(resources.with_weights(weights))

    def _others(self, own: Mapping[str, Tensor], resources: Resources) -> Mapping[str, Tensor]:
        if not self.other:
            return resources.reference
        from purify.plm import load_classifier

        second = {name: value.detach() for name, value in load_classifier(self.other).named_parameters()}
        wrong = sorted(name for name in own if name not in second or second[name].shape != own[name].shape)
        if wrong:
            raise PurifyError(
                f"'{self.other}' cannot be merged with the suspect: they differ in the parameter '{wrong[0]}'; "
                "give a classifier of the same architecture and number of labels"
            )
        return {name: second[name].to(value) for name, value in own.items()}


def _lerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    return start.lerp(end.to(start), share)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Return the point at ``share`` of the arc from ``start`` to ``end``, tensors of one shape taken as vectors.

    Angle and direction turn along the great circle, as the weights of the two ends follow from it. Where the arc is
    not defined (a zero vector, opposite directions) or is shorter than rounding, it is the straight line.
    """
    import torch

    a, b = start.double(), end.double()  # in fp32 the angle of opposite vectors is all rounding
    norms = a.norm() * b.norm()
    angle = ((a * b).sum() / norms).clamp(-1, 1).arccos() if norms > 0 else torch.zeros(())
    if angle.sin() < 1e-4:
        return _lerp(start, end, share)
    near = (((1 - share) * angle).sin() / angle.sin()).to(start)
    far = ((share * angle).sin() / angle.sin()).to(start)
    return near * start + far * end
