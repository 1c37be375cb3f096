"""``nn.Conv1d`` and ``nn.Conv2d``, with any stride, padding, dilation and groups."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight

from purify.fisher.factors import Each, Factor, Summed
from purify.fisher.rules.registry import register


@register(nn.Conv1d, nn.Conv2d)
def conv(module: nn.Conv1d | nn.Conv2d, x: Tensor, g: Tensor) -> dict[str, Factor]:
    """The weight gets one weight gradient of a convolution per example, the bias the sum over positions."""
    weight_gradient: Callable[..., Tensor] = conv1d_weight if isinstance(module, nn.Conv1d) else conv2d_weight
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x.to(g.dtype), module._reversed_padding_repeated_twice, mode=mode)

    def example(n: int) -> Tensor:
        return weight_gradient(
            x[n : n + 1],
            module.weight.shape,
            g[n : n + 1],
            stride=module.stride,
            dilation=module.dilation,
            groups=module.groups,
        )

    factors: dict[str, Factor] = {"weight": Each(example, len(x))}
    if module.bias is not None:
        factors["bias"] = Summed(g.flatten(2).sum(2))
    return factors
