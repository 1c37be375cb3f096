"""Fine-pruning: remove the neurons that clean inputs leave dormant, then fine-tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from purify.defenses.base import ReserveDefense
from purify.errors import PurifyError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from purify.resources import Resources


@dataclass(frozen=True)
class FinePruning(ReserveDefense):
    """Keep the share ρ of the feed-forward neurons that clean inputs excite most, zero the others, and fine-tune.

    A neuron is a hidden unit of a transformer layer's feed-forward block; pruning zeroes the weights that
    enter and leave it. Fine-tuning may bring pruned weights back, as in the original.

    Source: Liu, Dolan-Gavitt and Garg, "Fine-Pruning", RAID 2018, section 3, which prunes convolutional
    channels; the feed-forward neuron is the transformer's counterpart.
    """

    def apply(self, resources: Resources) -> PreTrainedModel:
        """Return the pruned suspect, fine-tuned."""
        import torch

        model = resources.with_weights()
        blocks = feed_forward_blocks(model)
        activity = _mean_activity(model, blocks, resources)
        neurons = torch.cat(activity)
        pruned = torch.zeros_like(neurons, dtype=torch.bool)
        count = len(neurons) - round(self.reserve * len(neurons))
        pruned[neurons.argsort(stable=True)[:count]] = True
        with torch.no_grad():
            for (enter, leave), dormant in zip(blocks, pruned.split([len(a) for a in activity]), strict=True):
                enter.weight[dormant] = 0  # (I, H)
                if enter.bias is not None:
                    enter.bias[dormant] = 0
                leave.weight[:, dormant] = 0  # (H, I)
        return resources.fine_tuned(model)


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
        raise PurifyError(f"Fine-pruning finds no feed-forward neurons in a '{config.model_type}' model")
    return list(zip(entering, leaving, strict=True))


def _mean_activity(
    model: PreTrainedModel, blocks: list[tuple[nn.Linear, nn.Linear]], resources: Resources
) -> list[Tensor]:
    """Mean absolute activation of each neuron over the real tokens of the clean data: one (I,) per block."""
    import torch

    from purify.training import batches

    sums = [torch.zeros(leave.in_features, device=leave.weight.device) for _, leave in blocks]
    mask = torch.empty(0)

    def record(total: Tensor, args: tuple[Tensor, ...]) -> None:
        total += (args[0].abs() * mask.unsqueeze(-1)).flatten(0, -2).sum(0)  # (B, T, I) -> (I,)

    handles = [
        leave.register_forward_pre_hook(lambda _, args, total=total: record(total, args))
        for (_, leave), total in zip(blocks, sums, strict=True)
    ]
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches(resources.clean_data, resources.tokenizer, max_length=resources.training.max_length):
                inputs = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
                mask = inputs["attention_mask"]
                model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sums
