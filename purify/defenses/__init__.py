"""Defenses: how a suspicious model is cleaned."""

from purify.defenses.base import Defense, ReserveDefense
from purify.defenses.finetuning import FineTuning
from purify.defenses.mixing import FineMixing
from purify.defenses.pruning import FinePruning
from purify.defenses.purifying import FinePurifying
from purify.registry import Registry

DEFENSES: Registry[Defense] = Registry("defense", (FineTuning, FinePruning, FineMixing, FinePurifying))

__all__ = [
    "DEFENSES",
    "Defense",
    "FineMixing",
    "FinePruning",
    "FinePurifying",
    "FineTuning",
    "ReserveDefense",
]
