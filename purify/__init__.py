"""Find and reset the poisoned parameters of a fine-tuned language model.

What is named here is loaded when it is first used, so that the command line need not wait for torch. The core of
the method, functions over dictionaries of tensors, is in `purify.indicator`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purify.errors import PurifyError
    from purify.fisher import fisher_diagonal
    from purify.plm import CleanPLM, load_plm, load_suspect
    from purify.purification import Purified, purify
    from purify.rows import read_rows
    from purify.tasks import TASKS, Splits, Task, load_task

_HOMES = {
    "TASKS": "tasks",
    "CleanPLM": "plm",
    "Purified": "purification",
    "PurifyError": "errors",
    "Splits": "tasks",
    "Task": "tasks",
    "fisher_diagonal": "fisher",
    "load_plm": "plm",
    "load_suspect": "plm",
    "load_task": "tasks",
    "purify": "purification",
    "read_rows": "rows",
}

__all__ = [
    "TASKS",
    "CleanPLM",
    "Purified",
    "PurifyError",
    "Splits",
    "Task",
    "fisher_diagonal",
    "load_plm",
    "load_suspect",
    "load_task",
    "purify",
    "read_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'purify' has no attribute '{name}'")
    return getattr(importlib.import_module(f"purify.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
