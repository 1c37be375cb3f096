"""How r spreads over the dimensions of one model, and what laws are fitted to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from purify.errors import PurifyError
from purify.measures.base import Measure, Stage, rounded

if TYPE_CHECKING:
    import numpy as np

    from purify.grid.bench import Bench
    from purify.grid.spec import Cell


@dataclass(frozen=True)
class IndicatorLaw(Measure):
    r"""Histogram of :math:`\delta_i^2 / \hat H_i^{\alpha}` on the defender's clean set, with fitted Gamma laws.

    It looks at the suspect of its cell alone; a control is a cell of its own. Beside the law it names the words whose
    embeddings drifted abnormally (`purify.findings`).

    Attributes:
        exponents: The values of α.

    Source: the paper, section 3, for α = 1.
    """

    exponents: tuple[float, ...] = (1.0, 0.5)

    needs: ClassVar[tuple[Stage, ...]] = ("suspect", "Fisher")

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not self.exponents or not all(0 <= exponent < float("inf") for exponent in self.exponents):
            raise PurifyError(f"exponents must be one or more numbers of 0 or more, not {list(self.exponents)}")

    def examples(self, cell: "Cell") -> float:
        """Nothing is passed through the model; the fits cost a few seconds."""
        return 1.0

    def measure(self, work: "Bench") -> dict[str, Any]:
        """Return the law of r per exponent, and the abnormal words with their scores."""
        import numpy as np

        from purify.findings import abnormal_words
        from purify.indicator import indicator

        have = work.resources
        laws = {}
        for exponent in self.exponents:
            r = indicator(have.drift, have.fisher, exponent=exponent)
            laws[str(exponent)] = law_of(np.concatenate([value.flatten().cpu().numpy() for value in r.values()]))
        words = abnormal_words(have.drift, have.suspect, work.clean.tokenizer)
        return {"laws": laws, "words": [[word.word, rounded(word.times), word.token] for word in words]}


def law_of(r: "np.ndarray") -> dict[str, Any]:
    """Return the law of r (n,) over the dimensions where it is positive and finite, as plain data.

    That is: how many ``moved``, a ``histogram`` of log₁₀ r in the bins of `purify.gamma.EDGES`, ``quantiles`` (10, 25,
    50, 75, 90 %), and ``fits`` with Kolmogorov–Smirnov distance ``ks`` and automatic ρ ``reserve``: one Gamma law of
    the same median, a mixture of two, and a mixture with a shape of its own.
    """
    import numpy as np
    from scipy import stats

    from purify.gamma import Mixture, fit_mixture, kolmogorov_smirnov, log_histogram

    positive = r[np.isfinite(r) & (r > 0)]
    scale = float(np.median(positive) / stats.chi2(1).median())  # a mean would be that of the tail
    laws = {
        "one Gamma": Mixture(scale, scale, 0.0),
        "mixture": fit_mixture(positive),
        "free shape": fit_mixture(positive, shape=None),
    }
    fits = {
        name: rounded({**vars(law), "ks": kolmogorov_smirnov(positive, law), "reserve": law.reserve})
        for name, law in laws.items()
    }
    quantiles = np.quantile(positive, [0.1, 0.25, 0.5, 0.75, 0.9])
    histogram = log_histogram(positive).tolist()
    return {"moved": len(positive), "histogram": histogram, "quantiles": rounded(quantiles), "fits": fits}
