"""What a suspect's drift looks like, found block by block: never is a second copy of the model held."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from purify.anatomy import place_of
from purify.gamma import Mixture, fit_mixture, kolmogorov_smirnov, log_histogram
from purify.indicator import drift, indicator
from purify.memory import let_go
from purify.plm import word_embeddings
from purify.reference import Reference

BLOCK = 1 << 18
"""The most elements of a parameter that are looked at together."""

SAMPLE = 1 << 19
"""The most values of r that the law is fitted to, drawn at random."""

TOP = 0.05
"""The share of the dimensions that moved and have Ĥ > 0, those with the largest r, whose places are told."""


@dataclass(frozen=True)
class Place:
    """A kind of parameter in a layer.

    Attributes:
        where: "embeddings", "layer 1", …
        kind: "query", "feed-forward in", …
        moved: How many of its dimensions drifted and have Ĥ > 0.
        abnormal: How many of these are among the `TOP` of the whole model by r.
    """

    where: str
    kind: str
    moved: int
    abnormal: int


@dataclass(frozen=True)
class Survey:
    """The drift of a suspect.

    Attributes:
        distance: ‖δ‖ / ‖w_clean‖.
        dimensions: Those with a clean counterpart.
        moved: How many of them drifted at all.
        judged: How many have Ĥ > 0 on the clean data.
        unvouched: How many drifted and have Ĥ = 0: r = ∞.
        histogram: Counts of log₁₀ r in the bins of `purify.gamma.EDGES`, over judged dimensions that
            moved, in the sample.
        law: The Gamma mixture of their r; None if there are fewer than two.
        ks: Kolmogorov–Smirnov distance of r to that mixture.
        places: Where the largest r sit.
        lengths: ‖δ‖ of each row of the word embeddings, (V,); empty if they have no clean counterpart.
    """

    distance: float
    dimensions: int
    moved: int
    judged: int
    unvouched: int
    histogram: tuple[int, ...]
    law: Mixture | None
    ks: float
    places: tuple[Place, ...]
    lengths: Tensor


def survey(model: PreTrainedModel, fisher: dict[str, Tensor], reference: Reference, *, seed: int = 0) -> Survey:
    """Look at the drift of every parameter of ``reference``; their Fisher is overwritten by r.

    Args:
        model: The suspect.
        fisher: Ĥ of at least these parameters. Changed: it holds r afterwards, and no other parameter.
        reference: The clean weights.
        seed: Of the sample.

    Raises:
        PurifyError: shapes differ, or a weight is not finite.

    Cost: two passes over the weights. Memory: blocks of `BLOCK`; clean weights that are mapped from a file are let go.
    """
    parameters = {name: torch.atleast_1d(value.detach()) for name, value in model.named_parameters()}
    words = word_embeddings(model)
    lengths = torch.zeros(len(parameters[words]) if words in reference else 0)
    for name in fisher.keys() - reference.keys():
        del fisher[name]
    total = sum(parameters[name].numel() for name in reference)
    generator = torch.Generator().manual_seed(seed)
    sample: list[Tensor] = []
    counts, sums = dict.fromkeys(("moved", "judged", "unvouched"), 0), {"apart": 0.0, "size": 0.0}
    for name in reference:
        clean, values = torch.atleast_1d(reference[name]), torch.atleast_1d(fisher[name])
        for rows in _blocks(clean):
            part = values[rows]  # a view: what is written here is written to the Fisher
            delta = drift({name: parameters[name][rows]}, {name: clean[rows]})[name]
            judged, moved = part > 0, delta != 0
            part.copy_(indicator({name: delta}, {name: part})[name])
            counts["moved"] += int(moved.sum())
            counts["judged"] += int(judged.sum())
            counts["unvouched"] += int((moved & ~judged).sum())
            sums["apart"] += float(delta.norm().double()) ** 2
            sums["size"] += float(clean[rows].norm().double()) ** 2
            if name == words:
                lengths[rows] = delta.norm(dim=1).cpu()
            sample.append(_drawn(part[judged & moved], SAMPLE / total, generator))
            let_go(clean[rows])
    r = torch.cat(sample).double().numpy() if sample else np.empty(0)
    r = r[np.isfinite(r) & (r > 0)]
    law = fit_mixture(r) if len(r) > 1 else None
    return Survey(
        distance=math.sqrt(sums["apart"] / sums["size"]) if sums["size"] else 0.0,
        dimensions=total,
        **counts,
        histogram=tuple(log_histogram(r).tolist()),
        law=law,
        ks=kolmogorov_smirnov(r, law) if law else float("nan"),
        places=_places(fisher, float(np.quantile(r, 1 - TOP)) if len(r) else math.inf),
        lengths=lengths,
    )


def _blocks(value: Tensor) -> Iterator[slice]:
    """Yield slices of the first dimension with at most `BLOCK` elements, or one row."""
    step = max(1, BLOCK * len(value) // max(1, value.numel()))
    for start in range(0, len(value), step):
        yield slice(start, start + step)


def _drawn(values: Tensor, share: float, generator: torch.Generator) -> Tensor:
    values = values.flatten().cpu()
    return values if share >= 1 else values[torch.rand(len(values), generator=generator) < share]


def _places(r: Mapping[str, Tensor], limit: float) -> tuple[Place, ...]:
    """Count the judged dimensions, and those above the limit, by place, in the order of the network."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for name, whole in r.items():
        found, value = counts[place_of(name)], torch.atleast_1d(whole)
        for rows in _blocks(value):
            finite = value[rows].isfinite() & (value[rows] > 0)
            found[0] += int(finite.sum())
            found[1] += int((finite & (value[rows] > limit)).sum())
    return tuple(Place(*place, *found) for place, found in counts.items())
