"""``nn.Linear``: y = x Wᵀ + b, on any number of positions per example."""

from torch import Tensor, nn

from purify.fisher.factors import Factor, Outer, Summed
from purify.fisher.rules.registry import register
from purify.fisher.rules.shapes import by_position, per_example


@register(nn.Linear)
def linear(module: nn.Linear, x: Tensor, g: Tensor) -> dict[str, Factor]:
    """W gets Σ_t g_nt ⊗ x_nt, b gets Σ_t g_nt."""
    factors: dict[str, Factor] = {"weight": Outer((by_position(g), by_position(x)))}
    if module.bias is not None:
        factors["bias"] = Summed(per_example(g))
    return factors
