"""Measures: what is found out about a suspect, or about fine-tuning itself, without defending anything."""

from purify.measures.base import Measure
from purify.measures.dimensions import Dimensions
from purify.measures.driftlaw import DriftLaw
from purify.measures.userside import UserSide
from purify.registry import Registry

MEASURES: Registry[Measure] = Registry("measure", (Dimensions, DriftLaw, UserSide))

__all__ = ["MEASURES", "Dimensions", "DriftLaw", "Measure", "UserSide"]
