"""Where between the clean and the suspicious weights the Fisher is evaluated."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from purify.errors import PurifyError

At = Literal["suspect", "clean"] | int


def fractions(at: At) -> list[float]:
    """Return the points to average over, as fractions of the way from clean (0) to suspect (1).

    Raises:
        PurifyError: ``at`` is none of its values.
    """
    if at == "suspect":
        return [1.0]
    if at == "clean":
        return [0.0]
    if isinstance(at, int) and at >= 2:
        return [i / (at - 1) for i in range(at)]
    raise PurifyError(f"at must be 'suspect', 'clean' or a number of points, 2 or more, not {at!r}")


@contextmanager
def weights_at(model: nn.Module, clean: Mapping[str, Tensor] | None, fraction: float) -> Iterator[None]:
    """Move the model's weights to a point of the segment, and back to exactly what they were.

    Parameters without a clean counterpart, such as the head, stay where they are.

    Raises:
        PurifyError: the clean weights are missing, fit no parameter, or have another shape.
    """
    if fraction == 1:
        yield
        return
    if not clean:
        raise PurifyError("at other points than 'suspect', the Fisher needs the clean weights: give clean=")
    own = {name: p for name, p in model.named_parameters() if name in clean}
    if not own:
        raise PurifyError(f"no clean weight has the name of a parameter of the model, such as '{next(iter(clean))}'")
    for name, p in own.items():
        if clean[name].shape != p.shape:
            raise PurifyError(f"'{name}' has shape {tuple(p.shape)}, in the clean weights {tuple(clean[name].shape)}")
    before = {name: p.detach().clone() for name, p in own.items()}
    try:
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(torch.lerp(clean[name].to(p), p, fraction))
        yield
    finally:
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(before[name])
