"""Attacks: how a suspicious model comes about, and the transform that triggers it."""

from collections.abc import Mapping

from purify.attacks.base import Attack, Means
from purify.registry import Registry

ATTACKS: Registry[Attack] = Registry(
    "attack",
    "purify.attacks",
    {
        "data": {
            "words": ("BadWord", "BadWords", "BadSent", "BiasWord", "BiasSent"),
            "styles": ("Syntactic", "Archaic", "Paraphrase"),
            "labels": ("CleanLabel",),
        },
        "weights": {"embeddings": ("EmbeddingPoisoning", "SOS"), "weights": ("LayerWise", "RIPPLe")},
        "adaptive": {"adaptive": ("DriftPenalty", "LogitAnchoring", "Surgery", "IndicatorEvasion")},
    },
)
"""All attacks by their names."""

FAMILIES: Mapping[str, tuple[type[Attack], ...]] = ATTACKS.families
"""What is poisoned: training data, weights, or weights with the defense in mind."""

__all__ = ["ATTACKS", "FAMILIES", "Attack", "Means"]
__getattr__ = ATTACKS.attribute
