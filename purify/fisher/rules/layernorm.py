"""``nn.LayerNorm``: y = w · x̂ + b with x̂ the normalised input."""

from torch import Tensor, nn
from torch.nn import functional as F

from purify.fisher.factors import Factor, Summed
from purify.fisher.rules.registry import register
from purify.fisher.rules.shapes import per_example


@register(nn.LayerNorm)
def layernorm(module: nn.LayerNorm, x: Tensor, g: Tensor) -> dict[str, Factor]:
    """W gets Σ_t g_nt · x̂_nt, b gets Σ_t g_nt.

    x̂ is computed from the input again: dividing the output by w would fail where w is 0.
    """
    shape = module.normalized_shape
    normed = F.layer_norm(x, shape, eps=module.eps).to(g.dtype)
    factors: dict[str, Factor] = {"weight": Summed(per_example(normed.mul_(g), len(shape)))}
    if module.bias is not None:
        factors["bias"] = Summed(per_example(g, len(shape)))
    return factors
