"""RMSNorm: y = w · x / RMS(x), of torch and of the models of transformers, which have their own copies."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify.fisher.factors import Factor, Summed
from purify.fisher.rules.registry import register
from purify.fisher.rules.shapes import per_example


@register(nn.RMSNorm, "*RMSNorm", "T5LayerNorm")
def rmsnorm(module: nn.RMSNorm, x: Tensor, g: Tensor) -> dict[str, Factor]:
    """W gets Σ_t g_nt · x̂_nt with x̂ = x / RMS(x), also where 1 + w multiplies (Gemma)."""
    shape = module.weight.shape
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = F.rms_norm(wide, shape, eps=eps)
    return {"weight": Summed(per_example(normed.mul_(g), len(shape)))}
