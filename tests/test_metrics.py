import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from purify import PurifyError
from purify.metrics import Proportion, accuracy, attack_success, mean_interval
from purify.selection import choose_reserve


@given(n=st.integers(1, 5000), data=st.data())
def test_wilson_interval_as_scipy_has_it(n, data):
    k = data.draw(st.integers(0, n))
    confidence = data.draw(st.sampled_from([0.8, 0.95, 0.99]))
    low, high = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert Proportion(k, n).interval(confidence) == pytest.approx((100 * low, 100 * high), abs=1e-9)


def test_nothing_counted_is_not_a_number():
    assert math.isnan(Proportion(0, 0).percent)
    assert all(math.isnan(end) for end in Proportion(0, 0).interval())


def test_attack_success_leaves_out_inputs_that_have_the_target_label():
    truth = np.array([0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 0, 1, 0])
    assert attack_success(predicted, truth, 0) == Proportion(2, 3)
    assert accuracy(predicted, truth) == Proportion(3, 5)


def test_interval_over_seeds():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert high - mean == pytest.approx(4.302652729911275 / math.sqrt(3))  # t quantile with 2 degrees of freedom
    assert mean - low == pytest.approx(high - mean)
    assert math.isnan(mean_interval([5.0])[1])
    with pytest.raises(PurifyError):
        mean_interval([])


def test_the_smallest_ratio_within_the_drop_is_chosen():
    accuracy_at = {0.2: 70.0, 0.4: 86.0, 0.6: 85.0, 0.8: 88.0}
    assert choose_reserve(accuracy_at, 88, 2) == choose_reserve(accuracy_at, 88, 2.9)
    assert choose_reserve(accuracy_at, 88, 2).reserve == 0.4
    assert choose_reserve(accuracy_at, 88, 20).reserve == 0.2
    fallback = choose_reserve(accuracy_at, 95, 2)
    assert (fallback.reserve, fallback.within) == (0.8, False)


@pytest.mark.parametrize(("accuracy_at", "drop"), [({}, 2), ({0.5: 80.0}, -1)])
def test_no_choice_is_refused(accuracy_at, drop):
    with pytest.raises(PurifyError):
        choose_reserve(accuracy_at, 80, drop)
