import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purify import PurifyError
from purify.indicator import drift, indicator, judged, random_mask, reserve_mask, reset


def kept(mask):
    return sum(int(value.sum()) for value in mask.values())


def test_ratio_and_edge_rules():
    delta = {"w": torch.tensor([2.0, 0.0, 3.0, 0.0, 1e-30])}
    fisher = {"w": torch.tensor([4.0, 5.0, 0.0, 0.0, 0.0]), "head": torch.ones(2)}
    r = indicator(delta, fisher)
    assert r.keys() == {"w"}
    assert r["w"].tolist() == [1.0, 0.0, math.inf, 0.0, math.inf]


def test_a_missing_or_misshapen_fisher_is_refused():
    with pytest.raises(PurifyError, match="no Fisher for 'w'"):
        indicator({"w": torch.ones(2)}, {})
    with pytest.raises(PurifyError, match="shape"):
        indicator({"w": torch.ones(2)}, {"w": torch.ones(3)})


values = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf]), min_size=1, max_size=40)


@settings(deadline=None)
@given(values=values, reserve=st.floats(0, 1), cut=st.integers(0, 40), seed=st.integers(0, 3))
def test_exactly_the_share_is_kept_and_nothing_larger_than_what_is_reset(values, reserve, cut, seed):
    flat = torch.tensor(values)
    r = {"a": flat[:cut], "b": flat[cut:].reshape(-1, 1)}
    mask = reserve_mask(r, reserve, seed=seed)
    assert kept(mask) == round(reserve * len(values))
    keep = torch.cat([mask["a"], mask["b"].flatten()])
    if keep.any() and not keep.all():
        assert flat[keep].max() <= flat[~keep].min()


@given(values=values, reserve=st.floats(0, 1), data=st.data())
def test_what_the_data_cannot_judge_is_reset_and_not_counted(values, reserve, data):
    counts = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    mask = reserve_mask({"w": torch.tensor(values)}, reserve, among={"w": counts})["w"]
    assert not (mask & ~counts).any()
    assert int(mask.sum()) == round(reserve * int(counts.sum()))


def test_judged_is_where_the_fisher_is_positive():
    assert judged({"w": torch.tensor([0.0, 1e-30, 2.0])})["w"].tolist() == [False, True, True]


def test_ties_do_not_favour_a_part_of_the_network():
    r = {"first": torch.zeros(2000), "second": torch.zeros(2000)}
    mask = reserve_mask(r, 0.5)
    assert kept(mask) == 2000
    assert 900 < int(mask["first"].sum()) < 1100
    assert not torch.equal(mask["first"], reserve_mask(r, 0.5, seed=1)["first"])
    assert torch.equal(mask["first"], reserve_mask(r, 0.5)["first"])


def test_random_mask_keeps_its_share_whatever_the_values():
    mask = random_mask({"w": torch.randn(100, 30), "v": torch.randn(7)}, 0.3)
    assert kept(mask) == round(0.3 * 3007)


@pytest.mark.parametrize("reserve", [-0.1, 1.1, math.nan])
def test_a_ratio_outside_the_unit_interval_is_refused(reserve):
    with pytest.raises(PurifyError, match=r"\[0, 1\]"):
        reserve_mask({"w": torch.ones(3)}, reserve)


def test_nan_and_nothing_are_refused():
    with pytest.raises(PurifyError, match="NaN"):
        reserve_mask({"w": torch.tensor([math.nan])}, 0.5)
    with pytest.raises(PurifyError, match="no parameter"):
        reserve_mask({}, 0.5)


def test_drift_leaves_the_head_out_and_reset_keeps_it():
    clean = {"w": torch.tensor([1.0, 2.0])}
    suspect = {"w": torch.tensor([1.5, 5.0]), "head": torch.tensor([7.0])}
    assert drift(suspect, clean)["w"].tolist() == [0.5, 3.0]
    weights = reset(suspect, clean, {"w": torch.tensor([True, False])})
    assert weights["w"].tolist() == [1.5, 2.0]
    assert weights["head"].tolist() == [7.0]
    assert suspect["w"].tolist() == [1.5, 5.0]
    weights["head"][0] = 0
    assert suspect["head"].tolist() == [7.0]


@pytest.mark.parametrize(
    ("suspect", "message"),
    [
        ({}, "no parameter 'w'"),
        ({"w": torch.ones(3)}, "shape"),
        ({"w": torch.tensor([1.0, math.nan])}, "'w' of the suspect holds NaN"),
        ({"w": torch.tensor([1.0, math.inf])}, "'w' of the suspect holds NaN or infinite"),
    ],
)
def test_drift_refuses_what_is_no_fine_tuned_copy(suspect, message):
    with pytest.raises(PurifyError, match=message):
        drift(suspect, {"w": torch.ones(2)})
