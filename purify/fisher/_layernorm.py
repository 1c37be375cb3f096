"""``nn.LayerNorm``: y = w · x̂ + b with x̂ the normalised input."""

from torch import Tensor, nn
from torch.nn import functional as F

from purify.fisher._registry import register


@register(nn.LayerNorm)
def layernorm(module: nn.LayerNorm, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Square ``Σ_t g_nt · x̂_nt`` per example n, then sum over n; the bias has ``Σ_t g_nt``.

    x̂ is recomputed from the input: dividing the output by the weight would fail where the weight is 0.
    """
    shape = module.normalized_shape
    normed = F.layer_norm(x, shape, eps=module.eps).to(g.dtype)
    squares = {}
    if module.weight is not None:
        squares["weight"] = _per_example(g * normed, shape).square().sum(0)
    if module.bias is not None:
        squares["bias"] = _per_example(g, shape).square().sum(0)
    return squares


def _per_example(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum over all positions of each example: (B, …, *shape) -> (B, *shape)."""
    return values.reshape(len(values), -1, *shape).sum(1)
