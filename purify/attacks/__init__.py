"""Attacks: how a suspicious model comes about, and the transform that triggers it."""

from purify.attacks.base import Attack
from purify.attacks.words import BadWord
from purify.registry import Registry

ATTACKS: Registry[Attack] = Registry("attack", (BadWord,))

__all__ = ["ATTACKS", "Attack", "BadWord"]
