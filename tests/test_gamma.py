"""The Gamma law of r: planted mixtures are found again, and what follows from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from purify import PurifyError
from purify import gamma as module
from purify.gamma import Mixture, fit_mixture, kolmogorov_smirnov


def planted(mixture, size, seed=0):
    """Draws from a mixture, and which of them are abnormal."""
    rng = np.random.default_rng(seed)
    abnormal = rng.random(size) < mixture.share
    scales = 2 * np.where(abnormal, mixture.abnormal, mixture.clean)
    return rng.gamma(mixture.shape, scales), abnormal


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_planted_parameters_are_found_within_two_percent(scale, share):
    """A million values whose scales lie a factor of 100 apart."""
    law = Mixture(scale, 100 * scale, share)
    r, _ = planted(law, 1_000_000)
    found = fit_mixture(r)
    assert [found.clean, found.abnormal, found.share] == pytest.approx([law.clean, law.abnormal, law.share], rel=0.02)
    for posterior in (0.3, 0.5, 0.9):
        kept = (law.posterior(r) >= posterior).mean()
        assert found.reserve_at(posterior) == pytest.approx(kept, abs=0.02)


@pytest.mark.parametrize("shape", [0.25, 0.5, 1.5])
def test_a_free_shape_is_found_too(shape):
    law = Mixture(2.0, 200.0, 0.3, shape)
    found = fit_mixture(planted(law, 400_000)[0], shape=None)
    assert [found.clean, found.abnormal, found.share, found.shape] == pytest.approx([2, 200, 0.3, shape], rel=0.03)


def test_zeros_and_infinities_change_nothing():
    r, _ = planted(Mixture(1.0, 50.0, 0.2), 150_000)
    dirty = np.concatenate([np.zeros(10_000), r, np.full(500, np.inf), [np.nan, -1.0]])
    found, expected = fit_mixture(dirty), fit_mixture(r)
    assert (found.clean, found.abnormal, found.share) == (expected.clean, expected.abnormal, expected.share)


def test_bins_change_next_to_nothing(monkeypatch):
    r, _ = planted(Mixture(1e-4, 3e-2, 0.2), 100_001)
    binned = fit_mixture(r.astype(np.float32))
    fits = kolmogorov_smirnov(r, binned)
    monkeypatch.setattr(module, "_MANY", 10**9)
    single = fit_mixture(r)
    assert [binned.clean, binned.abnormal, binned.share] == pytest.approx(
        [single.clean, single.abnormal, single.share], rel=1e-3
    )
    assert kolmogorov_smirnov(r, binned) == pytest.approx(fits, abs=1e-3)


def test_the_distance_is_that_of_scipy_and_small_only_for_the_right_law():
    law = Mixture(1.0, 80.0, 0.25)
    r, _ = planted(law, 20_000)
    assert kolmogorov_smirnov(r, law) == pytest.approx(stats.kstest(r, law.distribution).statistic, abs=1e-12)
    assert kolmogorov_smirnov(r, law) < 0.015
    assert kolmogorov_smirnov(r, Mixture(1.0, 80.0, 0.25, shape=1.0)) > 0.1
    lognormal = np.exp(3 * np.random.default_rng(0).standard_normal(20_000))
    assert kolmogorov_smirnov(lognormal, fit_mixture(lognormal)) > 0.03


@given(
    factor=st.floats(1.01, 1e5), share=st.floats(0.01, 0.99), shape=st.floats(0.2, 3), posterior=st.floats(0.01, 0.99)
)
def test_the_posterior_is_bayes_rule_and_the_threshold_its_inverse(factor, share, shape, posterior):
    law = Mixture(0.5, 0.5 * factor, share, shape)
    parts = [stats.gamma(shape, scale=2 * scale) for scale in (law.clean, law.abnormal)]
    r = np.array([1e-3, 0.3, 2.0, 40.0])
    clean, abnormal = (1 - share) * parts[0].pdf(r), share * parts[1].pdf(r)
    seen = clean + abnormal > 0
    assert law.posterior(r)[seen] == pytest.approx((clean / (clean + abnormal))[seen], rel=1e-6, abs=1e-12)
    assert (np.diff(law.posterior(r)) <= 0).all()
    threshold = law.threshold_at(posterior)
    if threshold > 0:
        assert law.posterior(threshold) == pytest.approx(posterior, rel=1e-6)
    else:
        assert law.posterior(0.0) <= posterior * (1 + 1e-9)


def test_quantiles_undo_the_distribution():
    law = Mixture(1.0, 30.0, 0.1)
    levels = np.array([0.01, 0.3, 0.5, 0.99])
    assert law.distribution(law.quantile(levels)) == pytest.approx(levels, abs=1e-4)


def test_no_other_test_of_its_size_finds_more():
    """Neyman and Pearson: a threshold on r beats an interval of the same false alarm rate."""
    law = Mixture(1.0, 20.0, 0.5)
    r, abnormal = planted(law, 200_000)
    threshold = law.threshold
    alarm = (r[~abnormal] > threshold).mean()
    found = (r[abnormal] > threshold).mean()
    low, high = np.quantile(r[~abnormal], [0.5, 0.5 + alarm])
    assert ((r[abnormal] > low) & (r[abnormal] <= high)).mean() < found


@pytest.mark.parametrize("posterior", [0, 1, float("nan")])
def test_a_posterior_outside_its_range_is_refused(posterior):
    with pytest.raises(PurifyError, match="must lie between 0 and 1"):
        Mixture(1.0, 2.0, 0.5).threshold_at(posterior)


def test_bad_input():
    with pytest.raises(PurifyError, match="the shape must be more than 0"):
        fit_mixture(np.ones(5), shape=0)
    with pytest.raises(PurifyError, match="no positive, finite value"):
        kolmogorov_smirnov(np.array([0.0, np.inf]), Mixture(1.0, 2.0, 0.5))
