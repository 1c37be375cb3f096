"""Experiments as frozen specs, run in stages into a store that survives being killed."""

from purify.grid.runner import run, suspect_model
from purify.grid.spec import Cell, Named, Suspect, load_grid
from purify.grid.store import Store

__all__ = ["Cell", "Named", "Store", "Suspect", "load_grid", "run", "suspect_model"]
