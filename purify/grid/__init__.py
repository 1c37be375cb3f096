"""Experiments as frozen specs, run in stages into a store that survives being killed."""

from purify.grid.runner import run, splits_of, suspect_model
from purify.grid.spec import Cell, Named, Suspect, experiment, load_grid, variants
from purify.grid.store import Store

__all__ = [
    "Cell",
    "Named",
    "Store",
    "Suspect",
    "experiment",
    "load_grid",
    "run",
    "splits_of",
    "suspect_model",
    "variants",
]
