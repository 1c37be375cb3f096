"""Measures: what is found out about a suspect, or about fine-tuning itself, without defending anything."""

from purify.measures.base import Measure
from purify.registry import Registry

MEASURES: Registry[Measure] = Registry(
    "measure",
    "purify.measures",
    {
        "measures": {
            "dimensions": ("Dimensions",),
            "driftlaw": ("DriftLaw",),
            "triggers": ("FalseTriggers",),
            "law": ("IndicatorLaw",),
            "userside": ("UserSide",),
        }
    },
)
"""All measures by their names."""

__all__ = ["MEASURES", "Measure"]
__getattr__ = MEASURES.attribute
