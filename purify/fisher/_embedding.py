"""``nn.Embedding``: the gradient of a row is the sum over the positions that looked it up."""

import torch
from torch import Tensor, nn

from purify.fisher._registry import register


@register(nn.Embedding)
def embedding(module: nn.Embedding, index: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Sum the gradients of each (example, token) pair, square, and add to the token's row.

    A token that occurs twice in one example has one gradient, the sum of the two: it is squared once.
    Nothing of size (B, V, D) is formed; the extra memory is that of ``g``.
    """
    rows, width = module.weight.shape  # V, D
    batch = index.shape[0]
    index = index.reshape(batch, -1)  # (B, T)
    g = g.reshape(batch * index.shape[1], width)  # (B T, D)
    example = torch.arange(batch, device=index.device).unsqueeze(1)  # (B, 1)
    pairs, which = (example * rows + index).flatten().unique(return_inverse=True)  # (P,), (B T,)
    per_pair = g.new_zeros(len(pairs), width).index_add_(0, which, g)  # (P, D)
    weight = g.new_zeros(rows, width).index_add_(0, pairs % rows, per_pair.square_())
    if module.padding_idx is not None:  # PyTorch gives the padding row no gradient
        weight[module.padding_idx] = 0
    return {"weight": weight}
