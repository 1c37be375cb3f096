"""Groups of dimensions that belong together: rows, feed-forward neurons, attention heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Structure = Literal["dimension", "row", "neuron", "head"]
"""What is kept or reset as one: a single dimension; the row of a matrix (an embedding, or all that enters an output);
all weights of a feed-forward neuron, the rest by row; all weights of an attention head, the rest by row."""

_HEAD_IN = re.compile(r"\.\d+\..*(query|key|value|q_lin|k_lin|v_lin|q_proj|k_proj|v_proj)\.(weight|bias)$")
HEAD_OUTPUT = re.compile(r"\.\d+\..*(attention\.output\.dense|attention\.out_lin|o_proj|attn\.out_proj)\.weight$")
_NEURON_IN = re.compile(r"\.\d+\.(.*intermediate\.dense|ffn\.lin1)\.(weight|bias)$")
_NEURON_OUT = re.compile(r"\.\d+\.((?!attention).*output\.dense|ffn\.lin2)\.weight$")


def pooled(values: Mapping[str, Tensor], structure: Structure, model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the sum of the values of its group at every dimension.

    Args:
        values: Parameter name -> values, of the parameters' shapes.
        structure: The groups.
        model: Whose parameters these are; for its number of heads.

    Where an architecture names its neurons or heads in another way, their weights are grouped by row.
    """
    import torch  # noqa: PLC0415  (the names of the structures are needed without it)

    if structure == "dimension":
        return dict(values)
    sums = {name: _rows(value) for name, value in values.items()}
    if structure == "row":
        return sums
    heads = model.config.num_attention_heads
    inner, outer, split = (_HEAD_IN, HEAD_OUTPUT, heads) if structure == "head" else (_NEURON_IN, _NEURON_OUT, 0)
    layers: dict[str, list[str]] = {}
    for name in values:
        if inner.search(name) or outer.search(name):
            layer = re.search(r"\.\d+\.", name)
            assert layer
            layers.setdefault(name[: layer.end()], []).append(name)
    for names in layers.values():
        parts = {name: _units(values[name], bool(outer.search(name)), split) for name in names}
        total = torch.stack([part.sum(1) for part in parts.values()]).sum(0)  # (units,)
        for name in names:
            value, out = values[name], bool(outer.search(name))
            per_unit = (value.shape[1] if out else value.shape[0]) // len(total)
            along = total.repeat_interleave(per_unit)
            sums[name] = along.expand_as(value) if out or value.ndim == 1 else along.unsqueeze(1).expand_as(value)
    return sums


def _rows(value: Tensor) -> Tensor:
    """The sum of each row; a vector's entries are rows of their own."""
    return value if value.ndim < 2 else value.flatten(1).sum(1).view(-1, *[1] * (value.ndim - 1)).expand_as(value)


def _units(value: Tensor, out: bool, split: int) -> Tensor:
    """Return (units, …): what enters or leaves each neuron, or each of ``split`` heads."""
    along = value.T if out else value  # (units · width, …)
    return along.reshape(split or along.shape[0], -1)
