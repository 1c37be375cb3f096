"""The exact diagonal of the Fisher information of a classifier, at the cost of an ordinary backward pass."""

from purify.fisher._driver import fisher_diagonal
from purify.fisher._ranks import share
from purify.fisher.factors import Each, Factor, Outer, Rows, Summed
from purify.fisher.rules import Rule, register

__all__ = ["Each", "Factor", "Outer", "Rows", "Rule", "Summed", "fisher_diagonal", "register", "share"]
