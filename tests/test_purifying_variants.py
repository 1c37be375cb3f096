"""What goes beyond the paper's r: other laws, ranks, soft resets, structures, and the Gamma mixture."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from purify import PurifyError
from purify.defenses import FinePurifying
from purify.gamma import Mixture, fit_mixture
from purify.indicator import indicator, judged, per_tensor, reserve_mask, reset, soft_mask
from purify.purification import purified
from purify.resources import Resources
from purify.structures import pooled
from purify.training import Training

STILL = Training(epochs=1, learning_rate=0.0, batch_size=4, precision="fp32")

numbers = st.sampled_from([0.0, 1e-12, 0.3, 1.0, 2.5, 40.0])
tensors = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12)


@pytest.fixture
def resources(suspect, plm, rows):
    return Resources(suspect, plm, rows, STILL)


@settings(deadline=None)
@given(first=tensors, second=tensors, exponent=st.sampled_from([0.0, 0.5, 1.0, 1.7]), damping=st.floats(0, 3))
def test_r_is_that_of_a_plain_loop_for_every_exponent_and_damping(first, second, exponent, damping):
    given_ = {"a": first, "b": second}
    delta = {name: torch.tensor([d for d, _ in pairs], dtype=torch.float64) for name, pairs in given_.items()}
    fisher = {name: torch.tensor([h for _, h in pairs], dtype=torch.float64) for name, pairs in given_.items()}
    found = indicator(delta, fisher, exponent=exponent, damping=damping)
    for name, pairs in given_.items():
        mean = sum(h for _, h in pairs) / len(pairs)  # of this tensor alone
        for value, (d, h) in zip(found[name].tolist(), pairs, strict=True):
            if d == 0:
                assert value == 0
            elif h == 0:
                assert value == math.inf
            else:
                assert value == pytest.approx(d**2 / (h + damping * mean) ** exponent, rel=1e-9)


def test_the_paper_s_r_is_the_default_and_damping_does_not_excuse_what_is_not_judged():
    delta, fisher = {"w": torch.tensor([2.0, 0.0, 3.0, 0.0])}, {"w": torch.tensor([4.0, 5.0, 0.0, 0.0])}
    assert torch.equal(indicator(delta, fisher)["w"], indicator(delta, fisher, exponent=1, damping=0)["w"])
    for law in ({"exponent": 0.0}, {"damping": 2.0}, {"exponent": 0.5, "damping": 2.0}):
        assert indicator(delta, fisher, **law)["w"].tolist()[1:] == [0, math.inf, 0]
    assert indicator(delta, fisher, exponent=0.0)["w"][0] == 4


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=30, unique=True), data=st.data())
def test_ranks_are_counted_within_a_tensor_and_among_what_counts(values, data):
    counts = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    r = {"a": torch.tensor(values, dtype=torch.float64), "b": torch.tensor([[3.0, 1.0], [math.inf, 2.0]])}
    among = {"a": torch.tensor(counts), "b": torch.ones(2, 2, dtype=torch.bool)}
    ranks = per_tensor(r, among)
    torch.testing.assert_close(ranks["b"], torch.tensor([[1.0, 1 / 3], [math.inf, 2 / 3]]))
    judged_values = [value for value, count in zip(values, counts, strict=True) if count]
    for rank, value, count in zip(ranks["a"].tolist(), values, counts, strict=True):
        wanted = sum(other <= value for other in judged_values) / len(judged_values) if count else math.inf
        assert rank == pytest.approx(wanted)
    assert torch.equal(per_tensor(r)["b"], ranks["b"])


def test_with_ranks_every_tensor_keeps_the_same_share(resources):
    _, keep = purified(resources, FinePurifying(reserve=0.4, ranked=True))
    among = judged(resources.fisher)
    for name, mask in keep.items():
        assert not (mask & ~among[name]).any()
        assert abs(int(mask.sum()) - 0.4 * int(among[name].sum())) <= 1
    _, plain = purified(resources, FinePurifying(reserve=0.4))
    shares = [float(mask.sum()) / max(1, int(among[name].sum())) for name, mask in plain.items()]
    assert max(shares) - min(shares) > 0.3  # which r alone does not give


@settings(deadline=None)
@given(
    values=st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=20, unique=True),
    reserve=st.floats(0.1, 0.9),
    softness=st.sampled_from([0.01, 0.5, 3.0]),
)
def test_a_soft_mask_is_the_formula(values, reserve, softness):
    r = {"w": torch.tensor([*values, 0.0, math.inf], dtype=torch.float64)}
    keep = reserve_mask(r, reserve)
    kept = [
        value for value, inside in zip(r["w"].tolist(), keep["w"].tolist(), strict=True) if inside and value < math.inf
    ]
    soft = soft_mask(r, keep, softness)["w"].tolist()
    if not max(kept, default=0):
        assert soft == keep["w"].double().tolist()
        return
    for value, share in zip(r["w"].tolist(), soft, strict=True):
        ratio = (
            min(math.log(value / max(kept)) / softness, 700) if 0 < value < math.inf else math.copysign(1e3, value - 1)
        )
        assert share == pytest.approx(1 / (1 + math.exp(min(ratio, 700))), rel=1e-6, abs=1e-12)


def test_a_soft_mask_falls_with_r_and_hardens_to_the_mask():
    r = {"a": torch.tensor([0.0, 1e-6, 1.0, 4.0]), "b": torch.tensor([2.0, 8.0, 1e6, math.inf])}
    r = {name: value.double() for name, value in r.items()}
    keep = reserve_mask(r, 0.625)  # up to 4
    soft = soft_mask(r, keep, 0.7)
    assert soft["a"].tolist()[0] == 1
    assert soft["a"].tolist()[3] == pytest.approx(0.5)
    assert soft["b"].tolist()[3] == 0
    ordered = torch.cat([soft["a"][:3], soft["b"][:1], soft["a"][3:], soft["b"][1:]])
    assert (ordered.diff() < 0).all()
    hard = soft_mask(r, keep, 1e-4)
    for name, mask in keep.items():
        at_the_quantile = r[name] == 4
        assert torch.equal(hard[name][~at_the_quantile], mask[~at_the_quantile].double())


def test_a_soft_mask_without_a_positive_r_that_is_kept_is_the_mask_itself():
    r = {"w": torch.tensor([0.0, 0.0, 1.0, math.inf])}
    for reserve, kept in ((0.0, [0, 0, 0, 0]), (0.5, [1, 1, 0, 0])):
        assert soft_mask(r, reserve_mask(r, reserve), 0.5)["w"].tolist() == kept


@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_a_reset_by_shares_lies_between_the_clean_and_the_suspect_s_weight(shares):
    generator = torch.Generator().manual_seed(len(shares))
    clean, suspect = (torch.randn(len(shares), generator=generator).double() for _ in range(2))
    keep = torch.tensor(shares, dtype=torch.float64)
    found = reset({"w": suspect, "head": suspect}, {"w": clean}, {"w": keep})
    wanted = [c + share * (s - c) for c, s, share in zip(clean.tolist(), suspect.tolist(), shares, strict=True)]
    assert found["w"].tolist() == pytest.approx(wanted)
    assert torch.equal(found["head"], suspect)
    for share, end in ((0.0, clean), (1.0, suspect)):
        assert torch.equal(reset({"w": suspect}, {"w": clean}, {"w": torch.full_like(keep, share)})["w"], end)


def test_soft_purifying_keeps_shares_of_the_drift_and_nothing_that_is_not_judged(resources):
    model, keep = purified(resources, FinePurifying(reserve=0.6, softness=0.8))
    r, among, weights = resources.indicator, judged(resources.fisher), dict(model.named_parameters())
    hard = reserve_mask(r, 0.6, among=among)
    largest = max(float(value[hard[name]].max()) for name, value in r.items() if hard[name].any())
    for name, value in r.items():
        share = 1 / (1 + (value.double() / largest) ** (1 / 0.8)) * among[name]
        torch.testing.assert_close(keep[name].double(), share, rtol=1e-4, atol=1e-6)
        wanted = resources.reference[name].double() + share * resources.drift[name].double()
        torch.testing.assert_close(weights[name].detach().double(), wanted, rtol=1e-4, atol=1e-6)


def groups(structure, shapes):
    """The plain definition: for each dimension of each parameter, the name of its group."""
    found = {}
    for name, shape in shapes.items():
        layer = re.search(r"layer\.(\d+)\.", name)
        place = np.empty(shape, dtype=object)
        for index in np.ndindex(*shape):
            group = (name, index[0])
            if structure == "head" and re.search(r"self\.(query|key|value)\.", name):
                group = ("head", layer[1], index[0] // 4)
            elif structure == "head" and name.endswith("attention.output.dense.weight"):
                group = ("head", layer[1], index[1] // 4)
            elif structure == "neuron" and "intermediate.dense." in name:
                group = ("neuron", layer[1], index[0])
            elif structure == "neuron" and re.search(r"\d\.output\.dense\.weight$", name):
                group = ("neuron", layer[1], index[1])
            place[index] = group
        found[name] = place
    return found


def without_the_vocabulary(model):
    return {name: p.detach() for name, p in model.named_parameters() if "word_embeddings" not in name}


@pytest.mark.parametrize(
    ("structure", "sizes"),
    [("row", None), ("neuron", {8 + 1 + 8}), ("head", {3 * (4 * 8 + 4) + 8 * 4})],
)
def test_pooled_values_are_the_sums_of_their_groups(suspect, structure, sizes):
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tuple(p.shape) for name, p in without_the_vocabulary(suspect).items()}
    values = {name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    place, sums, members = groups(structure, shapes), {}, {}
    for name, value in values.items():
        for index in np.ndindex(*shapes[name]):
            group = place[name][index]
            sums[group] = sums.get(group, 0) + float(value[index])
            members[group] = members.get(group, 0) + 1
    found = pooled(values, structure, suspect)
    assert found.keys() == values.keys()
    for name, value in found.items():
        wanted = np.vectorize(sums.__getitem__, otypes=[float])(place[name])
        assert value.shape == shapes[name]
        assert value.numpy() == pytest.approx(wanted)
    if sizes:
        large = {count for group, count in members.items() if group[0] == structure}
        assert large == sizes
        assert sum(group[0] == structure for group in members) == {"neuron": 24, "head": 4}[structure]


def test_single_dimensions_are_not_pooled(suspect):
    values = without_the_vocabulary(suspect)
    found = pooled(values, "dimension", suspect)
    assert all(torch.equal(found[name], value) for name, value in values.items())


@pytest.mark.parametrize("law", [{}, {"exponent": 0.5}, {"damping": 0.2}])
@pytest.mark.parametrize("structure", ["row", "neuron", "head"])
def test_whole_groups_are_kept_by_the_ratio_of_their_sums(resources, structure, law):
    _, keep = purified(resources, FinePurifying(reserve=0.5, structure=structure, **law))
    shapes = {name: tuple(mask.shape) for name, mask in keep.items() if "word_embeddings" not in name}
    place, members = groups(structure, shapes), {}
    for name, shape in shapes.items():
        for index in np.ndindex(*shape):
            drift, fisher = float(resources.drift[name][index]), float(resources.fisher[name][index])
            members.setdefault(place[name][index], []).append((drift**2, fisher, bool(keep[name][index])))
    ratio, kept, split = {}, {}, 0
    for group, values in members.items():
        squares, fisher, inside = (np.array(column) for column in zip(*values, strict=True))
        ratio[group] = squares.sum() / fisher.sum() ** law.get("exponent", 1) if fisher.sum() else math.inf
        split += 0 < inside.sum() < len(inside)
        kept[group] = bool(inside.all()) if inside.all() or not inside.any() else None
    assert split <= 1  # the one that the share ends in
    if "damping" not in law:
        inside, outside = ([ratio[group] for group in members if kept[group] is side] for side in (True, False))
        assert inside
        assert max(inside) <= min(outside) * (1 + 1e-4)


@pytest.mark.parametrize("scales", [(1.0, 300.0), (2e-7, 1e-4)])
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_fit_finds_the_scales_and_the_share_of_a_mixture(scales, share):
    rng = np.random.default_rng(0)
    abnormal = rng.random(20_000) < share
    r = stats.gamma(0.5, scale=2 * np.where(abnormal, scales[1], scales[0])).rvs(random_state=rng)
    r[:3] = 0, np.inf, np.nan
    mixture = fit_mixture(r)
    assert mixture.clean == pytest.approx(scales[0], rel=0.06)
    assert mixture.abnormal == pytest.approx(scales[1], rel=0.06)
    assert mixture.share == pytest.approx(share, abs=0.02)
    below = float((r[3:] <= mixture.threshold).mean())
    assert mixture.reserve == pytest.approx(below, abs=0.01)


@given(clean=st.floats(1e-9, 1e3), factor=st.floats(1.5, 1e6), share=st.floats(0.01, 0.99))
def test_the_threshold_is_where_the_two_parts_are_equally_likely(clean, factor, share):
    mixture = Mixture(clean, clean * factor, share)
    parts = [stats.gamma(0.5, scale=2 * scale) for scale in (clean, clean * factor)]

    def odds(r):
        return math.log(share / (1 - share)) + parts[1].logpdf(r) - parts[0].logpdf(r)

    if mixture.threshold > 0:
        assert odds(mixture.threshold) == pytest.approx(0, abs=1e-6)
        assert odds(2 * mixture.threshold) > 0 > odds(mixture.threshold / 2)
    else:
        assert odds(1e-6 * clean) > 0  # more likely abnormal from the start
    wanted = (1 - share) * parts[0].cdf(mixture.threshold) + share * parts[1].cdf(mixture.threshold)
    assert mixture.reserve == pytest.approx(wanted, abs=1e-9)


def test_a_mixture_of_one_part_resets_nothing():
    for mixture in (Mixture(1.0, 1.0, 0.5), Mixture(1.0, 9.0, 0.0)):
        assert mixture.threshold == math.inf
        assert mixture.reserve == 1


@pytest.mark.parametrize("r", [[], [1.0], [0.0, np.inf, np.nan, 2.0]])
def test_too_few_values_are_refused(r):
    with pytest.raises(PurifyError, match="at least two positive, finite values"):
        fit_mixture(np.array(r))


def test_equal_values_give_one_scale():
    mixture = fit_mixture(np.full(10, 3.0))
    assert (mixture.clean, mixture.abnormal) == pytest.approx((3.0, 3.0))


def test_an_underflowing_curvature_gives_no_nan():
    tiny = {"w": torch.tensor([1e-25])}
    assert indicator(tiny, tiny, exponent=2.0)["w"].item() == float("inf")
