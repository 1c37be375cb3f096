"""RMSNorm: y = w · x / RMS(x), of torch and of the models of transformers, which have their own copies."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify.fisher.factors import Factor, Summed
from purify.fisher.rules.registry import register
from purify.fisher.rules.shapes import per_example


@register(nn.RMSNorm)
def rmsnorm(module: nn.RMSNorm, x: Tensor, g: Tensor) -> dict[str, Factor]:
    """The weight gets Σ_t g_nt · x̂_nt with x̂ = x / RMS(x)."""
    normed = F.rms_norm(x, module.normalized_shape, eps=module.eps).to(g.dtype)
    return {"weight": Summed(per_example(normed.mul_(g), len(module.normalized_shape)))}


@register("*RMSNorm", "T5LayerNorm")
def rmsnorm_in_fp32(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Factor]:
    """The same, where x̂ is computed in fp32 whatever the input's type is; also where 1 + w multiplies (Gemma)."""
    x = x.float()
    eps = getattr(module, "variance_epsilon" if hasattr(module, "variance_epsilon") else "eps")
    normed = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).to(g.dtype)
    return {"weight": Summed(per_example(normed.mul_(g)))}
