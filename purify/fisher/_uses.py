"""Where parameters are used outside the modules that hold them."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from purify.fisher._sites import Site


class Uses(TorchFunctionMode):
    """Sees the parameters that are used outside the modules that tell their gradients.

    ``elsewhere`` names them.
    """

    def __init__(self, sites: Iterable[Site]) -> None:
        super().__init__()
        self.elsewhere: set[str] = set()
        self._inside: list[Site] = []
        self._hooks: list[RemovableHandle] = []
        self._names: dict[int, str] = {}
        self._sites = list(sites)
        for site in self._sites:
            self._names |= {id(p): name for name, (_, p) in site.parameters.items()}

    def __enter__(self) -> "Uses":
        for site in self._sites:
            self._hooks.append(site.module.register_forward_pre_hook(partial(self._enter, site)))
            self._hooks.append(site.module.register_forward_hook(partial(self._leave, site), always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def _enter(self, site: Site, *_: Any) -> None:
        self._inside.append(site)

    def _leave(self, site: Site, *_: Any) -> None:
        self._inside.remove(site)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and note what it computes from."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor | tuple) and not isinstance(result, torch.Size):
            for value in (*args, *(kwargs or {}).values()):
                for tensor in value if isinstance(value, tuple | list) else (value,):
                    name = self._names.get(id(tensor)) if isinstance(tensor, nn.Parameter) else None
                    if name and not any(name in site.parameters for site in self._inside):
                        self.elsewhere.add(name)
        return result
