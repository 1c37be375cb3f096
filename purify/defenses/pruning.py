"""Pruning: neurons or single weights that clean inputs do not use are set to zero; then fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from purify.defenses.base import ReserveDefense
from purify.errors import PurifyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from purify.resources import Resources
    from purify.training import Objective


@dataclass(frozen=True)
class PruningDefense(ReserveDefense):
    """A defense that keeps a share ρ of something, sets the rest to zero, and fine-tunes.

    Attributes:
        frozen: What is pruned stays zero; else fine-tuning may bring it back.
    """

    frozen: bool = False

    def pruned(
        self,
        model: PreTrainedModel,
        keep: Mapping[str, Tensor],
        resources: Resources,
        objective: Objective | None = None,
    ) -> PreTrainedModel:
        """Multiply weights by their masks (of their shapes, or broadcast to them) and fine-tune."""
        import torch

        from purify.gradients import only

        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, mask in keep.items():
                parameters[name].mul_(mask)
        with only(model, keep, freeze_others=False) if self.frozen else nullcontext():
            return resources.fine_tuned(model, objective)


@dataclass(frozen=True)
class FinePruning(PruningDefense):
    """Keep the share ρ of the feed-forward neurons that clean inputs excite most, zero the others, and fine-tune.

    A neuron is a hidden unit of a transformer layer's feed-forward block; pruning zeroes the weights that enter and
    leave it. Then no gradient reaches it, and it stays cut. With ``frozen=False`` only the weights that leave it are
    zeroed, which makes the same function, and fine-tuning can bring the neuron back.

    Source: Liu, Dolan-Gavitt and Garg, "Fine-Pruning", RAID 2018, section 3, which prunes convolutional
    channels; the feed-forward neuron is the transformer's counterpart.
    """

    frozen: bool = True

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the pruned suspect, fine-tuned."""
        import torch

        model = resources.with_weights()
        names = {module: name for name, module in model.named_modules()}
        blocks = feed_forward_blocks(model)
        activity = token_sums([leave for _, leave in blocks], model, resources, torch.abs)
        neurons = torch.cat(activity)
        kept = torch.ones_like(neurons)
        count = len(neurons) - round(self.reserve * len(neurons))
        kept[neurons.argsort(stable=True)[:count]] = 0
        keep: dict[str, Tensor] = {}
        for (enter, leave), mask in zip(blocks, kept.split([len(a) for a in activity]), strict=True):
            if self.frozen:
                keep[f"{names[enter]}.weight"] = mask.unsqueeze(1)  # (I, H)
                if enter.bias is not None:
                    keep[f"{names[enter]}.bias"] = mask
            keep[f"{names[leave]}.weight"] = mask  # (H, I)
        return self.pruned(model, keep, resources)


@dataclass(frozen=True)
class MagnitudePruning(PruningDefense):
    """Keep the share ρ of the weights of every matrix in the layers that are largest, zero the others, and fine-tune.

    Source: Han et al., "Learning both Weights and Connections", NeurIPS 2015, section 3.
    """

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the pruned suspect, fine-tuned."""
        from purify.indicator import reserve_mask

        model = resources.with_weights()
        keep: dict[str, Tensor] = {}
        for name, module in layer_matrices(model).items():
            size = {f"{name}.weight": -module.weight.detach().abs()}
            keep |= reserve_mask(size, self.reserve, seed=resources.seed)
        return self.pruned(model, keep, resources)


@dataclass(frozen=True)
class Wanda(PruningDefense):
    """Keep, for every output, the share ρ of the weights that do most on clean inputs; then fine-tune.

    What a weight does is ``|w| · ‖x‖``, its size times the norm of its input over all tokens of the clean data: a large
    weight that clean text never uses goes too.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, section 3.
    """

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the pruned suspect, fine-tuned."""
        import torch

        model = resources.with_weights()
        matrices = layer_matrices(model)
        squares = token_sums(list(matrices.values()), model, resources, torch.square)
        keep = {}
        for (name, module), square in zip(matrices.items(), squares, strict=True):
            score = module.weight.detach().abs() * square.sqrt()  # (O, I)
            mask = torch.zeros_like(score)
            best = score.topk(round(self.reserve * score.shape[1]), dim=1).indices
            keep[f"{name}.weight"] = mask.scatter_(1, best, 1.0)
        return self.pruned(model, keep, resources)


def feed_forward_blocks(model: PreTrainedModel) -> list[tuple[nn.Linear, nn.Linear]]:
    """Return the (entering, leaving) linear layers of every feed-forward block, found by their sizes.

    Raises:
        PurifyError: the architecture has none that can be recognised.
    """
    from torch import nn

    config = model.config
    inner = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    entering = [m for m in linear if m.out_features == inner and m.in_features != inner]
    leaving = [m for m in linear if m.in_features == inner and m.out_features != inner]
    if not entering or len(entering) != len(leaving):
        raise PurifyError(f"there are no feed-forward neurons to be found in a '{config.model_type}' model")
    return list(zip(entering, leaving, strict=True))


def layer_matrices(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return the linear maps of the numbered layers by name: not embeddings, pooler or head.

    Raises:
        PurifyError: the architecture has none that can be recognised.
    """
    from torch import nn

    named = model.named_modules()
    found = {name: m for name, m in named if isinstance(m, nn.Linear) and re.search(r"\.\d+\.", name)}
    if not found:
        raise PurifyError(f"there are no matrices of layers to be found in a '{model.config.model_type}' model")
    return found


def token_sums(
    modules: Sequence[nn.Linear],
    model: PreTrainedModel,
    resources: Resources,
    value: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Add up ``value`` of the inputs of some linear maps over the real tokens of the clean data: one (I,) each."""
    import torch

    sums = [torch.zeros(module.in_features, device=module.weight.device) for module in modules]
    mask = torch.empty(0)

    def record(total: Tensor, args: tuple[Tensor, ...]) -> None:
        total += (value(args[0]) * mask.unsqueeze(-1)).flatten(0, -2).sum(0)  # (B, T, I) -> (I,)

    handles = [
        module.register_forward_pre_hook(lambda _, args, total=total: record(total, args))
        for module, total in zip(modules, sums, strict=True)
    ]
    model.eval()
    try:
        with torch.no_grad():
            for inputs in resources.clean_batches():
                mask = inputs["attention_mask"]
                model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sums
