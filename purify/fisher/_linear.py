"""``nn.Linear``: y = x Wᵀ + b, on any number of positions per example."""

import torch
from torch import Tensor, nn

from purify.fisher._registry import register


@register(nn.Linear)
def linear(module: nn.Linear, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Square ``Σ_t g_nt x_ntᵀ`` per example n, then sum over n; the bias has ``Σ_t g_nt``.

    The product is formed one example at a time, so the extra memory is one (out, in) matrix.
    """
    x = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)  # (B, T, I)
    g = g.flatten(1, -2) if g.dim() > 2 else g.unsqueeze(1)  # (B, T, O)
    x = x.to(g.dtype)
    weight = g.new_zeros(g.shape[-1], x.shape[-1])  # (O, I)
    product = torch.empty_like(weight)
    for g_n, x_n in zip(g, x, strict=True):
        torch.mm(g_n.T, x_n, out=product)
        weight.addcmul_(product, product)
    squares = {"weight": weight}
    if module.bias is not None:
        squares["bias"] = g.sum(1).square().sum(0)
    return squares
