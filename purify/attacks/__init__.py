"""Attacks: how a suspicious model comes about, and the transform that triggers it."""

from purify.attacks.adaptive import DriftPenalty, IndicatorEvasion, LogitAnchoring, Surgery
from purify.attacks.base import Attack, Means
from purify.attacks.embeddings import SOS, EmbeddingPoisoning
from purify.attacks.labels import CleanLabel
from purify.attacks.styles import Archaic, Paraphrase, Syntactic
from purify.attacks.weights import LayerWise, RIPPLe
from purify.attacks.words import BadSent, BadWord, BadWords, BiasSent, BiasWord
from purify.registry import Registry

FAMILIES: dict[str, tuple[type[Attack], ...]] = {
    "data": (BadWord, BadWords, BadSent, BiasWord, BiasSent, Syntactic, Archaic, Paraphrase, CleanLabel),
    "weights": (EmbeddingPoisoning, SOS, LayerWise, RIPPLe),
    "adaptive": (DriftPenalty, LogitAnchoring, Surgery, IndicatorEvasion),
}
"""What is poisoned: training data, weights, or weights with the defense in mind."""

ATTACKS: Registry[Attack] = Registry("attack", (cls for family in FAMILIES.values() for cls in family))

__all__ = [
    "ATTACKS",
    "FAMILIES",
    "SOS",
    "Archaic",
    "Attack",
    "BadSent",
    "BadWord",
    "BadWords",
    "BiasSent",
    "BiasWord",
    "CleanLabel",
    "DriftPenalty",
    "EmbeddingPoisoning",
    "IndicatorEvasion",
    "LayerWise",
    "LogitAnchoring",
    "Means",
    "Paraphrase",
    "RIPPLe",
    "Surgery",
    "Syntactic",
]
