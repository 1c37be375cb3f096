"""Attacks: how a suspicious model comes about, and the transform that triggers it."""

from purify.attacks.base import Attack
from purify.attacks.weights import EmbeddingPoisoning
from purify.attacks.words import BadSent, BadWord, BadWords, BiasSent, BiasWord
from purify.registry import Registry

ATTACKS: Registry[Attack] = Registry("attack", (BadWord, BadWords, BadSent, BiasWord, BiasSent, EmbeddingPoisoning))

__all__ = ["ATTACKS", "Attack", "BadSent", "BadWord", "BadWords", "BiasSent", "BiasWord", "EmbeddingPoisoning"]
