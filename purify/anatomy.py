"""Where in a network something sits: sums over layers and kinds of parameters."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = (
    ("word embedding", r"word_embeddings"),
    ("other embedding", r"embeddings"),
    ("query", r"query|q_lin"),
    ("key", r"key|k_lin"),
    ("value", r"value|v_lin"),
    ("attention output", r"attention.*(output\.dense|out_lin)"),
    ("feed-forward in", r"intermediate|lin1"),
    ("feed-forward out", r"output\.dense|lin2"),
    ("norm", r"norm"),
)

Place = tuple[str, str, float, int]
"""Layer, kind of parameter, sum of the values there, and how many there are: the form that records keep."""


def place_of(name: str) -> tuple[str, str]:
    """Return layer and kind of the parameter with this name."""
    layer = re.search(r"\.(\d+)\.", name)
    inner = name.split(".", 1)[1]
    is_norm = "norm" in inner.lower() and "embeddings" not in inner
    kind = "norm" if is_norm else next((k for k, pattern in _KINDS if re.search(pattern, inner, re.I)), "other")
    where = f"layer {int(layer[1]) + 1}" if layer else ("embeddings" if "embed" in inner else "top")
    return where, kind


def places(values: "Mapping[str, Tensor]") -> list[Place]:
    """Add values up by layer and kind of parameter, in the order of the network."""
    rows = []
    for name, value in values.items():
        where, kind = place_of(name)
        rows.append({"where": where, "kind": kind, "sum": value.double().sum().item(), "size": value.numel()})
    table = pd.DataFrame(rows).groupby(["where", "kind"], sort=False).sum()
    return list(table.reset_index().itertuples(index=False, name=None))


def mean_table(found: Iterable[Any]) -> pd.DataFrame:
    """Return the mean over all dimensions of each of the `places`, layers × kinds of parameters."""
    table = pd.DataFrame(list(found), columns=["where", "kind", "sum", "size"])
    kinds = [kind for kind in [k for k, _ in _KINDS] + ["other"] if kind in set(table["kind"])]
    table["value"] = table["sum"] / table["size"]
    wheres = table["where"].unique()
    return table.pivot_table(index="where", columns="kind", values="value").reindex(index=wheres, columns=kinds)


def by_layer(values: "Mapping[str, Tensor]") -> pd.DataFrame:
    """Return the mean over all dimensions of each place, layers × kinds of parameters."""
    return mean_table(places(values))
