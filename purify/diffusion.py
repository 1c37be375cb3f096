r"""Fine-tuning as diffusion: stochastic differential equations, their densities, and what follows for the drift.

SGD with step η and batch size B near weights w is modelled by

.. math:: dw = -\nabla L(w)\, dt + \sqrt{2 D}\; dW, \qquad D = \frac{\eta}{2B} C(w),

with C the covariance of the gradients of single examples and t = η · steps. The density p of w then obeys the
Fokker–Planck equation

.. math:: \partial_t p = \nabla \cdot (p \nabla L) + \sum_{ij} \partial_i \partial_j (D_{ij} p).

The equations are Itô's. Arrays are NumPy's, in double precision.

Source: Risken, *The Fokker-Planck Equation* (1989), chapters 3 to 5; Mandt, Hoffman and Blei (2017), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from purify.errors import PurifyError

Array = np.ndarray
Field = Callable[[Array], Array]
"""Takes points, returns a value or vector at each."""


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """The exact solution in one dimension for the loss h (w − optimum)² / 2 under constant diffusion.

    Attributes:
        hessian: h > 0.
        diffusion: D ≥ 0.
        optimum: Where the loss is least.
    """

    hessian: float
    diffusion: float
    optimum: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not (np.isfinite(self.hessian) and self.hessian > 0):
            raise PurifyError(f"the Hessian must be more than 0, not {self.hessian}")
        if not (np.isfinite(self.diffusion) and self.diffusion >= 0):
            raise PurifyError(f"the diffusion must be 0 or more, not {self.diffusion}")

    def mean(self, start: float, time: Array | float) -> Array | float:
        """Return E[w(t)] from w(0) = ``start``: transport towards the optimum."""
        return self.optimum + (start - self.optimum) * np.exp(-self.hessian * np.asarray(time))

    def variance(self, time: Array | float) -> Array | float:
        """Return Var[w(t)] from a point: 2 D t for short times, D / h in the end."""
        return -self.diffusion / self.hessian * np.expm1(-2 * self.hessian * np.asarray(time))

    def density(self, w: Array, start: float, time: float) -> Array:
        """Return p(w, t) from a point, of the shape of ``w``; ``time`` > 0."""
        spread = self.variance(time)
        return np.exp(-((w - self.mean(start, time)) ** 2) / (2 * spread)) / np.sqrt(2 * np.pi * spread)

    def paths(self, start: Array, times: Array, rng: np.random.Generator) -> Array:
        """Return exact samples at rising ``times`` (T,), from starts (P,): an array (T, P), whatever the gaps."""
        found, now, before = np.empty((len(times), len(start))), np.asarray(start, dtype=float), 0.0
        for row, time in enumerate(times):
            gap = time - before
            noise = rng.standard_normal(len(now)) * np.sqrt(self.variance(gap))
            now = self.optimum + (now - self.optimum) * np.exp(-self.hessian * gap) + noise
            found[row], before = now, time
        return found


def euler_maruyama(
    gradient: Field, diffusion: Field | float, start: Array, *, step: float, steps: int, rng: np.random.Generator
) -> Array:
    """Simulate dw = −∇L dt + sqrt(2 D) dW, all paths at once, and return where they end.

    Args:
        gradient: Takes (P, n), returns ∇L at each, (P, n).
        diffusion: D ≥ 0: a number, or a function that returns the diagonal of D, (P, n).
        start: (P, n).
        step: Δt.
        steps: How many.
        rng: Of the noise.

    Raises:
        PurifyError: the step is not positive, or the paths leave the finite numbers (take a smaller step).

    Source: Kloeden and Platen (1992), section 10.2: strong order ½, weak order 1 in the step.
    """
    if step <= 0:
        raise PurifyError(f"the time step must be more than 0, not {step}")
    w = np.array(start, dtype=float)
    for _ in range(steps):
        spread = diffusion(w) if callable(diffusion) else diffusion
        w += -step * gradient(w) + np.sqrt(2 * step * spread) * rng.standard_normal(w.shape)
    if not np.isfinite(w).all():
        raise PurifyError(f"the paths diverge: the time step {step} is too large for this gradient")
    return w


def covariance(hessian: Array, diffusion: Array, time: float) -> Array:
    r"""Return the covariance (n, n) of w(t) from a point, for a quadratic loss with Hessian H and constant D.

    It solves :math:`\dot\Sigma = -H\Sigma - \Sigma H + 2D`: 2 D t for short times, and in the end the solution of
    Lyapunov's equation. Along an eigenvector of both with values h and d it is d (1 − e^{−2 h t}) / h.

    Args:
        hessian: H, (n, n), symmetric; directions without curvature are allowed.
        diffusion: D, (n, n), symmetric.
        time: t ≥ 0.
    """
    values, vectors = linalg.eigh(hessian)
    sums = values[:, None] + values[None, :]  # (n, n): of each pair of curvatures
    flat = np.abs(sums) * time < 1e-12
    growth = np.where(flat, time, -np.expm1(-sums * time) / np.where(flat, 1, sums))
    return vectors @ (2 * growth * (vectors.T @ diffusion @ vectors)) @ vectors.T


def fokker_planck(
    gradient: Field, diffusion: Field | float, density: Array, edges: Array, *, time: float, steps: int
) -> Array:
    """Solve the Fokker–Planck equation in one dimension by finite volumes and return the density at ``time``.

    Exponentially fitted fluxes between cells (Scharfetter and Gummel, 1969) and Crank–Nicolson steps: second order in
    cell width and time step. Nothing flows through the two ends, so that the mass is conserved up to rounding.

    Args:
        gradient: L′, takes and returns (m,).
        diffusion: D > 0: a number, or a function of the same form.
        density: (m,) mean density in every cell at time 0.
        edges: (m + 1,) equally spaced ends of the cells.
        time: t.
        steps: How many steps lead there.

    Returns:
        (m,) mean density in every cell.

    Raises:
        PurifyError: shapes do not fit, the cells are not equal, or D is not positive.

    Cost: ``steps`` solutions of a tridiagonal system of m equations.
    """
    edges, density = np.asarray(edges, dtype=float), np.asarray(density, dtype=float)
    if edges.shape != (len(density) + 1,):
        raise PurifyError(f"{len(density)} cells have {len(density) + 1} ends, not {len(edges)}")
    width = (edges[-1] - edges[0]) / len(density)
    if not np.allclose(np.diff(edges), width, rtol=1e-9):
        raise PurifyError("the cells must be equally wide")
    inner, centres = edges[1:-1], (edges[1:] + edges[:-1]) / 2
    spread = diffusion(inner) if callable(diffusion) else np.full(len(inner), float(diffusion))
    if not (spread > 0).all():
        raise PurifyError("the diffusion must be more than 0 everywhere")
    slope = np.diff(diffusion(centres)) / width if callable(diffusion) else 0.0
    peclet = width * (-gradient(inner) - slope) / spread  # transport over diffusion, across a cell
    right, left = spread / width**2 * _bernoulli(-peclet), spread / width**2 * _bernoulli(peclet)  # rates of leaving
    diagonal = np.zeros(len(density))
    diagonal[:-1] -= right
    diagonal[1:] -= left
    half = time / steps / 2
    implicit = np.zeros((3, len(density)))
    implicit[0, 1:], implicit[1], implicit[2, :-1] = -half * left, 1 - half * diagonal, -half * right
    for _ in range(steps):
        known = density + half * diagonal * density
        known[1:] += half * right * density[:-1]
        known[:-1] += half * left * density[1:]
        density = linalg.solve_banded((1, 1), implicit, known)
    return density


def _bernoulli(z: Array) -> Array:
    """Return z over (e^z − 1), which is 1 at 0."""
    near = np.abs(z) < 1e-8
    return np.where(near, 1 - z / 2, z / np.expm1(np.where(near, 1, z)))


def sgd_cloud(
    gradient: Callable[[Array, Array], Array],
    examples: int,
    start: Array,
    *,
    learning_rate: float,
    batch_size: int,
    steps: int,
    rng: np.random.Generator,
) -> Array:
    """Run plain SGD many times at once and return where the runs end: what the diffusion is a model of.

    Args:
        gradient: Takes weights (P, n) and the numbers of each run's examples (P, B), returns the mean gradient over
            those examples, (P, n).
        examples: How many there are to draw from, with replacement.
        start: (P, n).
        learning_rate: η.
        batch_size: B.
        steps: How many.
        rng: Of the draws.
    """
    w = np.array(start, dtype=float)
    for _ in range(steps):
        w -= learning_rate * gradient(w, rng.integers(examples, size=(len(w), batch_size)))
    return w
