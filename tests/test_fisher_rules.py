"""Each rule, and each way to square, against backpropagation of one example after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_same, per_example_fisher, token_flattened_fisher
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from purify import fisher_diagonal
from purify.fisher import Outer, Rows, Summed, register
from purify.fisher.factors import Each, add_squares, merged
from purify.fisher.rules import rule_for
from purify.fisher.rules.registry import _RULES
from purify.fisher.sums import Scratch, Sum

SIZES = st.integers(1, 5)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Around(nn.Module):
    """A classifier around one layer, on inputs of any shape: what the layer returns is mixed, then averaged."""

    def __init__(self, layer, seed=0, calls=1):
        super().__init__()
        self.layer, self.seed, self.calls = layer, seed, calls

    def forward(self, x):
        for _ in range(self.calls):
            y = self.layer(x)
            x = torch.tanh(y) if self.calls > 1 else x
        y = torch.tanh(y.flatten(1))
        return y @ normal(y.shape[1], 3, seed=self.seed, dtype=y.dtype)


def check(layer, x, *, dtype=torch.float64, relative=1e-9, calls=1, **options):
    torch.manual_seed(1)
    for p in layer.parameters():
        nn.init.normal_(p, mean=0.3)
    if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
        nn.init.zeros_(layer.weight[layer.padding_idx].detach())
    model = Around(layer, calls=calls).to(dtype).eval()
    data = [{"x": x if x.dtype == torch.long else x.to(dtype), "labels": torch.arange(len(x)) % 3}]
    found = fisher_diagonal(model, data, **options)
    wanted = per_example_fisher(
        model.double(), [{key: v if v.dtype == torch.long else v.double() for key, v in data[0].items()}]
    )
    assert_same({name: value.double() for name, value in found.items()}, wanted, relative)


@settings(max_examples=40, deadline=None)
@given(
    batch=SIZES,
    positions=st.lists(SIZES, max_size=2),
    inputs=SIZES,
    outputs=SIZES,
    bias=st.booleans(),
    chunk=st.sampled_from([1, 3, 7, 1000]),
    seed=st.integers(0, 99),
)
def test_linear(batch, positions, inputs, outputs, bias, chunk, seed):
    x = normal(batch, *positions, inputs, seed=seed)
    check(nn.Linear(inputs, outputs, bias=bias), x, chunk=chunk)
    check(Conv1D(outputs, inputs), x, chunk=chunk)


@settings(max_examples=40, deadline=None)
@given(
    batch=SIZES,
    length=SIZES,
    rows=st.integers(2, 9),
    width=SIZES,
    padding=st.sampled_from([None, 0, 1]),
    chunk=st.sampled_from([1, 5, 1000]),
    seed=st.integers(0, 99),
)
def test_embedding_with_repeated_tokens(batch, length, rows, width, padding, chunk, seed):
    index = torch.randint(0, rows, (batch, length), generator=torch.Generator().manual_seed(seed))
    check(nn.Embedding(rows, width, padding_idx=padding), index, chunk=chunk)


@settings(max_examples=30, deadline=None)
@given(batch=SIZES, length=SIZES, width=st.integers(2, 6), seed=st.integers(0, 99))
def test_norms(batch, length, width, seed):
    x = normal(batch, length, width, seed=seed)
    check(nn.LayerNorm(width), x)
    check(nn.LayerNorm(width, bias=False), x)
    check(nn.LayerNorm((length, width)), x)
    check(nn.RMSNorm(width), x)
    check(LlamaRMSNorm(width), x, relative=1e-5)  # it computes in fp32


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@settings(max_examples=40, deadline=None)
@given(
    batch=SIZES,
    groups=st.sampled_from([1, 2]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, "same"]),
    dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "circular", "replicate"]),
    bias=st.booleans(),
)
def test_convolutions(batch, groups, kernel, stride, padding, dilation, mode, bias):
    options = {
        "groups": groups,
        "stride": 1 if padding == "same" else stride,
        "padding": padding,
        "dilation": dilation,
        "padding_mode": mode,
        "bias": bias,
    }
    check(nn.Conv1d(2, 4, kernel, **options), normal(batch, 2, 7))
    check(nn.Conv2d(2, 4, kernel, **options), normal(batch, 2, 6, 7))


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.15)])
@pytest.mark.parametrize("chunk", [5, 10_000])
def test_types(dtype, relative, chunk):
    """The bounds that the docstring of `fisher_diagonal` states, relative to a tensor's largest value."""
    check(nn.Linear(6, 5), normal(7, 4, 6), dtype=dtype, relative=relative, chunk=chunk)
    check(nn.LayerNorm(6), normal(7, 4, 6), dtype=dtype, relative=relative, chunk=chunk)


@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(3, 3, 1)], ids=["outer", "summed", "each"]
)
def test_called_several_times(layer):
    check(layer, normal(5, 3, 4), calls=3)


def factors(kind, batch=4, seed=0):
    """A factor of each kind for a (6, 3) parameter, whose gradients are known."""
    index = torch.tensor([[0, 1, 1], [2, 2, 2], [5, 0, 5], [3, 4, 1]])
    return {
        "outer": Outer((normal(batch, 3, 6, seed=seed), normal(batch, 3, 3, seed=seed + 1))),
        "rows": Rows(index, normal(batch, 3, 3, seed=seed), rows=6, ignore=1),
        "summed": Summed(normal(batch, 6, 3, seed=seed)),
        "each": Each(lambda n: normal(batch, 6, 3, seed=seed)[n], batch),
    }[kind]


@pytest.mark.parametrize("kinds", [("outer",), ("rows",), ("summed",), ("each",), ("rows", "rows"), ("rows", "outer")])
@pytest.mark.parametrize("accumulate", ["fp32", "kahan", "fp64"])
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_squares(kinds, accumulate, chunk):
    parts = [factors(kind, seed=i) for i, kind in enumerate(kinds)]
    factor, total = merged(parts, 4), Sum(torch.zeros(6, 3, dtype=torch.float64), accumulate)
    narrow = Sum(torch.zeros(6, 3), accumulate)  # of an fp32 parameter
    for _ in range(2):
        for sums in (total, narrow):
            add_squares({"": factor}, {"": sums}, Scratch(chunk))
    wanted = sum(2 * sum(part.example(n) for part in parts).square() for n in range(4))
    assert torch.allclose(total.value, wanted, rtol=1e-12)
    assert torch.allclose(narrow.value.double(), wanted, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(gone=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4))), column=st.integers(0, 2), both=st.booleans())
def test_positions_without_a_gradient_are_left_out(gone, column, both):
    """Whichever positions they are, and whether or not others have a zero in some column."""
    left, right = normal(4, 5, 3), normal(4, 5, 2, seed=1)
    left[:, :, column] *= normal(4, 5, seed=2) > 0
    for n, t in gone:
        (left if not both or t % 2 else right)[n, t] = 0
    factor, total = Outer((left, right)), Sum(torch.zeros(3, 2, dtype=torch.float64))
    factor.add_squares(total, Scratch(1000))
    wanted = torch.einsum("btr,btc->brc", left, right).square().sum(0)
    assert torch.allclose(total.value, wanted, rtol=1e-12, atol=1e-15)


def test_only_positions_with_a_gradient_cost_anything(monkeypatch):
    """The last layer of a classifier that reads its first position."""
    left, right, lengths = torch.zeros(4, 5, 3), normal(4, 5, 2, dtype=torch.float32), []
    left[:, 1:3] = 1
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: (lengths.append(a.shape[1]), multiply(a, b, out=out)))
    Outer((left, right)).add_squares(Sum(torch.zeros(3, 2)), Scratch(1000))
    assert lengths == [2] * 4


@pytest.mark.parametrize("kind", ["outer", "rows", "summed", "each"])
def test_a_gradient_along_a_direction(kind):
    factor, direction = factors(kind), normal(3, seed=9)
    for n in range(4):
        assert torch.allclose(factor.along(n, direction), factor.example(n) @ direction, rtol=1e-12)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
@pytest.mark.parametrize("chunk", [10, 80, 10_000])
def test_the_batched_product_of_a_gpu(shape, chunk, monkeypatch):
    """The path that a GPU takes, on this device."""
    left, right = normal(6, 4, shape[0]), normal(6, 4, shape[1], seed=1)
    one_by_one, batched = (Sum(torch.zeros(shape, dtype=torch.float64)) for _ in range(2))
    factor = Outer((left, right), (right[..., :1] * left, left[..., :1] * right))
    factor.add_squares(one_by_one, Scratch(chunk))
    monkeypatch.setattr("purify.fisher.factors._one_by_one_is_faster", lambda device: False)
    factor.add_squares(batched, Scratch(chunk))
    assert torch.allclose(batched.value, one_by_one.value, rtol=1e-12)


def test_compensation_keeps_what_fp32_loses():
    small = torch.full((1, 1), 1e-4)
    plain, kahan, wide = (Sum(torch.zeros(1, 1), how) for how in ("fp32", "kahan", "fp64"))
    for total in (plain, kahan, wide):
        total.add(torch.full((1, 1), 1e4))
        for _ in range(10_000):
            total.add(small)
    assert abs(wide.value.item() - 10_001) < 1e-3
    assert abs(kahan.value.item() - 10_001) < 1e-3
    assert abs(plain.value.item() - 10_001) > 0.5


def test_squaring_per_token_is_another_quantity():
    x, g = normal(4, 5, 3), normal(4, 5, 3, seed=1)
    total = Sum(torch.zeros(3, 3, dtype=torch.float64))
    rule_for(nn.Linear(3, 3))(nn.Linear(3, 3), x, g)["weight"].add_squares(total, Scratch(100))
    assert torch.allclose(total.value, torch.einsum("bto,bti->boi", g, x).square().sum(0))
    assert not torch.allclose(total.value, token_flattened_fisher(None, x, g), rtol=0.05)


class Scaled(nn.Linear):
    """A subclass of a known layer with another forward pass."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture
def own_rules():
    before = dict(_RULES)
    yield
    _RULES.clear()
    _RULES.update(before)


@pytest.mark.usefixtures("own_rules")
def test_a_rule_of_ones_own(caplog):
    layer = Scaled(4, 5)
    assert rule_for(layer) is None
    with caplog.at_level("INFO", logger="purify"):
        check(layer, normal(3, 2, 4))
    assert "layer.weight" in caplog.text

    @register(Scaled)
    def scaled(module, x, g):
        return {"weight": Outer((2 * g, x)), "bias": Summed(2 * g.sum(1))}

    caplog.clear()
    with caplog.at_level("INFO", logger="purify"):
        check(layer, normal(3, 2, 4))
    assert not caplog.messages


@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize(
    "wrong", [{"weight": Summed(torch.ones(2, 5, 4)), "bias": Summed(torch.ones(2, 5))}, {}, {"weight": None}]
)
def test_a_wrong_rule_is_not_used(wrong, caplog):
    register(Scaled)(lambda module, x, g: wrong)
    with caplog.at_level("INFO", logger="purify"):
        check(Scaled(4, 5), normal(3, 2, 4))
    assert "layer.weight" in caplog.text
