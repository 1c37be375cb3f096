"""Experiments as frozen specs, run in stages into a store that survives being killed."""

from typing import TYPE_CHECKING, Any

from purify.grid.files import experiment, load_grid, measurement, select, variants
from purify.grid.runner import execute, run
from purify.grid.spec import Cell, Policy, Suspect
from purify.grid.store import Store, records_of
from purify.registry import Named

if TYPE_CHECKING:
    from purify.grid.stages import splits_of, suspect_model

__all__ = [
    "Cell",
    "Named",
    "Policy",
    "Store",
    "Suspect",
    "execute",
    "experiment",
    "load_grid",
    "measurement",
    "records_of",
    "run",
    "select",
    "splits_of",
    "suspect_model",
    "variants",
]


def __getattr__(name: str) -> Any:
    if name not in ("splits_of", "suspect_model"):
        raise AttributeError(f"module 'purify.grid' has no attribute '{name}'")
    from purify.grid import stages  # noqa: PLC0415  (torch is loaded where stages are run, not where they are planned)

    return getattr(stages, name)
