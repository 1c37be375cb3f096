"""``Conv1D`` of transformers (GPT-2): y = x W + b, a linear layer with the weight the other way round."""

from torch import Tensor, nn

from purify.fisher.factors import Factor, Outer, Summed
from purify.fisher.rules.registry import register
from purify.fisher.rules.shapes import by_position, per_example


@register("Conv1D")
def conv1d(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Factor]:
    """W gets Σ_t x_nt ⊗ g_nt, b gets Σ_t g_nt."""
    return {"weight": Outer((by_position(x), by_position(g))), "bias": Summed(per_example(g))}
