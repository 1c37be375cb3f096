"""Find and reset the poisoned parameters of a fine-tuned language model."""

from purify.errors import PurifyError
from purify.fisher import fisher_diagonal
from purify.indicator import drift, indicator, judged, random_mask, reserve_mask, reset
from purify.plm import CleanPLM, load_plm, load_suspect
from purify.purification import Purified, purify
from purify.tasks import TASKS, Splits, Task, load_task

__all__ = [
    "TASKS",
    "CleanPLM",
    "Purified",
    "PurifyError",
    "Splits",
    "Task",
    "drift",
    "fisher_diagonal",
    "indicator",
    "judged",
    "load_plm",
    "load_suspect",
    "load_task",
    "purify",
    "random_mask",
    "reserve_mask",
    "reset",
]
