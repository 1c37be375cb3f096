"""The core of the method: the indicator r_i, the reserve mask, and the reset.

Pure functions over ``dict[str, Tensor]`` (parameter name -> tensor). A parameter without a pre-trained
counterpart, such as the classification head, has no drift; it stands in none of these dictionaries and
is always kept.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from purify.errors import PurifyError
from purify.selection import check_reserve

Tensors = Mapping[str, Tensor]


def drift(suspect: Tensors, clean: Tensors) -> dict[str, Tensor]:
    """Return δ = w_suspect − w_clean for every parameter of ``clean``.

    Raises:
        PurifyError: a parameter of ``clean`` is missing from ``suspect`` or has another shape there,
            or a weight is NaN or infinite.
    """
    delta = {}
    for name, reference in clean.items():
        if name not in suspect:
            raise PurifyError(f"the suspect has no parameter '{name}': it was not fine-tuned from this clean model")
        if suspect[name].shape != reference.shape:
            raise PurifyError(
                f"'{name}' has shape {tuple(suspect[name].shape)} in the suspect and {tuple(reference.shape)} "
                "in the clean model: it was not fine-tuned from this clean model"
            )
        for who, tensor in (("suspect", suspect[name]), ("clean model", reference)):
            if not torch.isfinite(tensor).all():
                raise PurifyError(f"'{name}' of the {who} holds NaN or infinite weights: the file is damaged")
        delta[name] = (suspect[name] - reference.to(suspect[name].device)).detach()
    return delta


def indicator(drift: Tensors, fisher: Tensors, *, exponent: float = 1.0, damping: float = 0.0) -> dict[str, Tensor]:
    r"""Return the indicator of poison, :math:`r_i = \delta_i^2 / (\hat H_i + \lambda \bar H)^\alpha`.

    The paper's is that of α = 1 and λ = 0, :math:`\delta_i^2 / \hat H_i`.

    Edge rules, whatever α and λ: no drift gives 0, whatever the Fisher (there is nothing to reset); a drift where the
    Fisher is 0 gives +inf (the clean data cannot vouch for it).

    Args:
        drift: δ per parameter, any shape.
        fisher: Ĥ ≥ 0 per parameter, of the same shapes; may hold more names.
        exponent: α ≥ 0: 0 leaves δ² alone.
        damping: λ ≥ 0, in units of the mean Ĥ of the parameter's tensor.

    Raises:
        PurifyError: a parameter has no Fisher, or shapes differ.

    Source: the paper, section 3 (definition of r_i) and section 4 (estimation).
    """
    r = {}
    for name, delta in drift.items():
        if name not in fisher:
            raise PurifyError(f"no Fisher for '{name}': compute it on the same model, with the parameter trainable")
        if fisher[name].shape != delta.shape:
            raise PurifyError(
                f"the Fisher of '{name}' has shape {tuple(fisher[name].shape)}, its drift {tuple(delta.shape)}"
            )
        curvature = fisher[name] + damping * fisher[name].mean() if damping else fisher[name]
        divisor = curvature if exponent == 1 else curvature.pow(exponent)
        ratio = delta.square() / divisor
        r[name] = torch.where(delta == 0, 0.0, ratio)  # 0/0 is 0; x/0 is inf by IEEE arithmetic
        # A drift so small that its square underflows is still a drift that Ĥ = 0 cannot vouch for.
        r[name][(delta != 0) & ((fisher[name] == 0) | (divisor == 0))] = torch.inf
    return r


def judged(fisher: Tensors) -> dict[str, Tensor]:
    """Return the mask (of bool, in the Fisher's shapes) of the dimensions that the clean data can judge: Ĥ > 0."""
    return {name: value > 0 for name, value in fisher.items()}


def reserve_mask(r: Tensors, reserve: float, *, among: Tensors | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Return the mask of the dimensions to keep: the share ρ with the smallest r.

    Exactly ``round(ρ · n)`` dimensions are kept, n being the number that count. Ties at the quantile
    (many dimensions can share r = 0 or r = inf) are drawn at random, so that neither the kept share
    nor a part of the network is favoured by the order of the parameters.

    Args:
        r: The indicator per parameter, any shape, values in [0, inf].
        reserve: The reserve ratio ρ in [0, 1]: 1 keeps all that count, 0 none.
        among: Which dimensions count towards ρ (see `judged`); the others are reset. By default every
            dimension counts, which is how the paper counts.
        seed: Of the draw among ties.

    Raises:
        PurifyError: ρ outside [0, 1], no parameter, or a NaN in r.

    Cost: one partial sort of all d dimensions; extra memory about 2 copies of r.
    """
    check_reserve(reserve)
    if not r:
        raise PurifyError("there is no parameter to rank: the suspect shares none with the clean model")
    flat = torch.cat([value.flatten() for value in r.values()])  # (d,)
    if flat.isnan().any():
        raise PurifyError("the indicator holds NaN: the drift or the Fisher is not finite")
    counts = torch.ones_like(flat, dtype=torch.bool)
    if among is not None:
        counts = torch.cat([among[name].flatten() for name in r])
    index = counts.nonzero().squeeze(1)  # (n,)
    kept = torch.zeros_like(counts)
    k = round(reserve * len(index))
    if k > 0:
        values = flat[index]
        quantile = values.kthvalue(k).values
        kept[index[values < quantile]] = True
        ties = index[values == quantile]
        missing = k - int(kept.sum())
        order = torch.randperm(len(ties), generator=torch.Generator().manual_seed(seed))
        kept[ties[order[:missing].to(ties.device)]] = True
    parts = kept.split([value.numel() for value in r.values()])
    return {name: part.view(r[name].shape) for name, part in zip(r, parts, strict=True)}


def random_mask(shapes: Tensors, reserve: float, *, seed: int = 0) -> dict[str, Tensor]:
    """Return a mask that keeps exactly ``round(ρ · d)`` dimensions, drawn at random (Fine-mixing).

    It is `reserve_mask` of an indicator that is the same everywhere: all ties.
    """
    return reserve_mask({name: torch.zeros_like(value) for name, value in shapes.items()}, reserve, seed=seed)


def per_tensor(r: Tensors, among: Tensors | None = None) -> dict[str, Tensor]:
    """Return the rank of r within its own tensor, in (0, 1]: every tensor then keeps the same share.

    Args:
        r: The indicator per parameter, any shape.
        among: Which dimensions are ranked; the others, and those with r = inf, get +inf.
    """
    ranks = {}
    for name, value in r.items():
        counts = value.isfinite() & (among[name] if among is not None else True)
        rank = torch.full_like(value, torch.inf)
        order = value[counts].argsort().argsort()
        rank[counts] = (order.to(value) + 1) / max(len(order), 1)
        ranks[name] = rank
    return ranks


def soft_mask(r: Tensors, keep: Tensors, softness: float) -> dict[str, Tensor]:
    r"""Return the share of its drift that every dimension keeps, :math:`1 / (1 + (r_i / q)^{1/\tau})`.

    q is the largest r of a dimension that ``keep`` keeps: there the share is ½. For τ → 0 it is ``keep`` itself. What
    has r = inf keeps nothing.

    Args:
        r: The indicator per parameter, any shape.
        keep: Of `reserve_mask`.
        softness: τ > 0, in units of the natural logarithm of r.
    """
    kept = torch.cat([value[keep[name]] for name, value in r.items()])
    finite = kept[kept.isfinite()]
    if not len(finite) or not finite.max() > 0:
        return {name: mask.to(r[name]) for name, mask in keep.items()}
    quantile = finite.max().log()
    return {name: torch.sigmoid((quantile - value.log()) / softness) for name, value in r.items()}


def reset(suspect: Tensors, clean: Tensors, keep: Tensors) -> dict[str, Tensor]:
    """Return the suspect's weights with the dimensions outside ``keep`` set to their clean values.

    Parameters without a mask are kept whole. Nothing is changed in place.

    Args:
        suspect: Its weights, any shape.
        clean: The clean weights of at least the parameters with a mask, in the same shapes.
        keep: In the same shapes; of bool, or the share in [0, 1] of its drift that a dimension keeps.

    Cost: one copy of the weights.
    """
    weights = {}
    for name, value in suspect.items():
        if name not in keep:
            weights[name] = value.clone()
        elif keep[name].dtype == torch.bool:
            weights[name] = torch.where(keep[name], value, clean[name].to(value.dtype))
        else:
            weights[name] = clean[name].to(value.dtype).lerp(value, keep[name].to(value.dtype))
    return weights
