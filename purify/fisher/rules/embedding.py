"""``nn.Embedding``: the gradient of a row is the sum over the positions that looked it up."""

from torch import Tensor, nn

from purify.fisher.factors import Factor, Rows
from purify.fisher.rules.registry import register


@register(nn.Embedding)
def embedding(module: nn.Embedding, index: Tensor, g: Tensor) -> dict[str, Factor]:
    """PyTorch gives the row of ``padding_idx`` no gradient, and neither does this."""
    batch = len(index)
    values = g.reshape(batch, -1, g.shape[-1])
    return {"weight": Rows(index.reshape(batch, -1), values, module.num_embeddings, module.padding_idx)}
