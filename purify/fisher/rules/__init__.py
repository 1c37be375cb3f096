"""One file per layer type: how the gradient of each example is factored."""

from purify.fisher.rules import conv, conv1d, embedding, layernorm, linear, rmsnorm  # noqa: F401 (they register)
from purify.fisher.rules.registry import Rule, register, rule_for

__all__ = ["Rule", "register", "rule_for"]
