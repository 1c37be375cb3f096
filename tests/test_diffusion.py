"""Simulated diffusions against exact solutions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg

from purify import PurifyError
from purify.diffusion import OrnsteinUhlenbeck, covariance, euler_maruyama, fokker_planck, sgd_cloud

PROCESS = OrnsteinUhlenbeck(hessian=2.0, diffusion=0.3, optimum=0.5)
TIMES = np.array([0.01, 0.2, 1.0, 5.0])


def test_exact_paths_have_the_moments_of_the_solution():
    """100,000 paths: mean and variance within 1 %."""
    paths = PROCESS.paths(np.full(100_000, 3.0), TIMES, np.random.default_rng(0))
    assert paths.mean(axis=1) == pytest.approx(PROCESS.mean(3.0, TIMES), rel=0.01)
    assert paths.var(axis=1) == pytest.approx(PROCESS.variance(TIMES), rel=0.01)


def test_euler_maruyama_has_the_moments_of_the_solution():
    """100,000 paths: mean and variance within 1 %."""
    end = euler_maruyama(
        lambda w: 2.0 * (w - 0.5), 0.3, np.full((100_000, 1), 3.0), step=0.002, steps=100, rng=np.random.default_rng(0)
    )
    assert end.mean() == pytest.approx(PROCESS.mean(3.0, 0.2), rel=0.01)
    assert end.var() == pytest.approx(PROCESS.variance(0.2), rel=0.01)


def test_short_times_spread_in_proportion_to_the_diffusion_and_long_ones_come_to_rest():
    assert PROCESS.variance(1e-6) == pytest.approx(2 * 0.3 * 1e-6, rel=1e-5)
    assert PROCESS.variance(50.0) == pytest.approx(0.3 / 2.0)
    assert PROCESS.mean(3.0, 50.0) == pytest.approx(0.5)


def averages(function, edges):
    """Mean over every cell, by Gauss–Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(5)
    half = np.diff(edges)[:, None] / 2
    points = (edges[1:] + edges[:-1])[:, None] / 2 + half * nodes
    return (function(points) * weights).sum(axis=1) / 2


def solved(cells, steps, start=2.0, begin=0.05, end=0.6):
    """The density at ``end`` from the exact one at ``begin``; also its L1 distance from the exact one."""
    edges = np.linspace(-3, 5, cells + 1)
    first = averages(lambda w: PROCESS.density(w, start, begin), edges)
    found = fokker_planck(lambda w: 2.0 * (w - 0.5), 0.3, first, edges, time=end - begin, steps=steps)
    exact = averages(lambda w: PROCESS.density(w, start, end), edges)
    return found, np.abs(found - exact).sum() * (edges[1] - edges[0])


def test_the_density_is_that_of_the_exact_solution():
    found, error = solved(800, 400)
    assert error < 1e-3
    assert found.min() > -1e-12


def test_the_order_of_convergence_is_two():
    errors = [solved(cells, cells // 2)[1] for cells in (100, 200, 400)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders == pytest.approx([2, 2], abs=0.15)


@settings(max_examples=25, deadline=None)
@given(
    hessian=st.floats(-3, 5), spread=st.floats(0.05, 2), tilt=st.floats(-0.9, 0.9), cells=st.integers(2, 60),
    time=st.floats(1e-3, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_mass_is_lost(hessian, spread, tilt, cells, time, seed):
    """Whatever the loss, also without a minimum, and for diffusion that depends on the place."""
    edges = np.linspace(-1, 1, cells + 1)
    density = np.random.default_rng(seed).random(cells)
    found = fokker_planck(lambda w: hessian * w, lambda w: spread * (1 + tilt * w), density, edges, time=time, steps=20)
    assert found.sum() == pytest.approx(density.sum(), rel=1e-10)


def test_the_density_comes_to_rest_where_the_flux_vanishes():
    """With D that depends on w the stationary density is exp(−∫ (L′ + D′) / D) up to a factor (Itô)."""
    edges = np.linspace(-2, 2, 401)
    centres = (edges[1:] + edges[:-1]) / 2
    found = fokker_planck(
        lambda w: w**3 - w, lambda w: 0.2 + 0.05 * w, np.full(400, 0.25), edges, time=200.0, steps=2000
    )
    rate = integrate.cumulative_trapezoid((centres**3 - centres + 0.05) / (0.2 + 0.05 * centres), centres, initial=0)
    exact = np.exp(-rate)
    exact /= exact.sum() * (edges[1] - edges[0])
    assert np.abs(found - exact).sum() * (edges[1] - edges[0]) < 1e-3


def test_the_covariance_solves_its_equation():
    rng = np.random.default_rng(0)
    root, noise = rng.standard_normal((2, 3, 3))
    hessian, diffusion = root @ root.T, noise @ noise.T
    step = 1e-5
    slope = (covariance(hessian, diffusion, 0.7 + step) - covariance(hessian, diffusion, 0.7 - step)) / (2 * step)
    now = covariance(hessian, diffusion, 0.7)
    assert slope == pytest.approx(-hessian @ now - now @ hessian + 2 * diffusion, abs=1e-7)
    assert covariance(hessian, diffusion, 1e4) == pytest.approx(
        linalg.solve_continuous_lyapunov(hessian, 2 * diffusion), rel=1e-6
    )
    flat = np.diag([0.0, 2.0])
    assert covariance(flat, np.eye(2), 3.0) == pytest.approx(np.diag([6.0, PROCESS.variance(3.0) / 0.3]))


def test_the_cloud_of_sgd_is_the_one_that_the_diffusion_predicts():
    """Linear regression, 20,000 runs, short steps: covariance within 5 % of D = η C / 2B under the mean Hessian."""
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((500, 2)) * [1.0, 0.4]
    truth = np.array([1.0, -1.0])
    labels = inputs @ truth + 0.5 * rng.standard_normal(500)
    best = linalg.lstsq(inputs, labels)[0]

    def gradient(w, index):
        rest = (inputs[index] @ w[:, :, None])[:, :, 0] - labels[index]  # (P, B)
        return (rest[:, :, None] * inputs[index]).mean(axis=1)

    eta, size, steps = 0.02, 4, 100
    end = sgd_cloud(gradient, 500, np.tile(best, (20_000, 1)), learning_rate=eta, batch_size=size, steps=steps, rng=rng)
    single = (inputs @ best - labels)[:, None] * inputs  # gradients of single examples at the start
    predicted = covariance(inputs.T @ inputs / 500, eta / (2 * size) * np.cov(single.T, bias=True), eta * steps)
    assert np.cov(end.T) == pytest.approx(predicted, rel=0.05, abs=0.02 * predicted.max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OrnsteinUhlenbeck(0.0, 1.0), "the Hessian must be more than 0"),
        (lambda: OrnsteinUhlenbeck(1.0, -1.0), "the diffusion must be 0 or more"),
        (lambda: fokker_planck(lambda w: w, 1.0, np.ones(3), np.arange(3), time=1, steps=1), "3 cells have 4 ends"),
        (lambda: fokker_planck(lambda w: w, 1.0, np.ones(2), np.array([0, 1, 3]), time=1, steps=1), "equally wide"),
        (lambda: fokker_planck(lambda w: w, 0.0, np.ones(2), np.arange(3), time=1, steps=1), "more than 0 everywhere"),
        (
            lambda: euler_maruyama(lambda w: w, 1.0, np.ones((1, 1)), step=0, steps=1, rng=np.random.default_rng()),
            "time step must be more than 0",
        ),
        (
            lambda: euler_maruyama(
                lambda w: -(w**3), 0.0, np.full((1, 1), 1e90), step=1.0, steps=9, rng=np.random.default_rng()
            ),
            "the paths diverge",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_bad_input(call, message):
    with pytest.raises(PurifyError, match=message):
        call()
