"""The exact diagonal of the empirical Fisher information of a classifier."""

from purify.fisher._driver import fisher_diagonal
from purify.fisher._registry import RULES, Rule, register

__all__ = ["RULES", "Rule", "fisher_diagonal", "register"]
