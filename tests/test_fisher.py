import logging

import pytest
import torch
from conftest import bert_config
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_same, per_example_fisher, token_batch
from torch import nn
from transformers import (
    BertForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from purify import PurifyError, fisher_diagonal

SMALL = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}


def bert(seed=0, **options):
    torch.manual_seed(seed)
    return BertForSequenceClassification(bert_config(**{"vocab_size": 30, "num_labels": 3, **options})).double().eval()


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    extra=st.integers(0, 3),
    words=st.sampled_from([4, 30]),
    seed=st.integers(0, 100),
)
def test_agrees_with_the_loop_over_examples(sizes, extra, words, seed):
    model = bert(seed)
    data = [token_batch(sizes, length=max(sizes) + extra, seed=seed, words=words)]
    assert_same(fisher_diagonal(model, data), per_example_fisher(model, data))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_several_batches_of_different_shapes(attention):
    model = bert(attn_implementation=attention)
    data = [token_batch([5, 2, 3], length=6), token_batch([4], length=4, seed=1), token_batch([2, 1], length=2, seed=2)]
    assert_same(fisher_diagonal(model, data), per_example_fisher(model, data))


class Odd(nn.Module):
    """Whatever a rule cannot see, or can only with care; ``way`` says who is expected to find it out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 6)
        self.twice = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.full((6,), 1.5))  # of the whole model
        self.shift = Shift()  # a layer with a bare parameter
        self.positions = nn.Linear(2, 6)  # gets no examples
        self.elsewhere = nn.Linear(6, 6)  # its weight is also used where no hook can see it
        self.named = nn.Linear(6, 6)  # called with a keyword
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)  # uses its child without calling it
        self.experts = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])  # get some tokens each
        self.unused = nn.Linear(6, 6)
        self.out = nn.Linear(6, 30, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        x = x + self.positions(torch.ones(input_ids.shape[1], 2, dtype=x.dtype))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x)))) * self.scale
        x = self.shift(x, scale=torch.arange(6, dtype=x.dtype))["shifted"]
        x = self.elsewhere(x) + nn.functional.linear(x, self.elsewhere.weight).square()
        x = torch.tanh(self.named(input=x))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        routed = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            mine = input_ids % 2 == k
            routed[mine] = expert(x[mine])
        x = ((x + torch.tanh(routed)) * attention_mask.unsqueeze(-1)).sum(1)
        return SequenceClassifierOutput(logits=self.out(x))


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.linspace(-1, 1, 6))

    def forward(self, x, scale):
        return {"shifted": torch.tanh(x + self.by * scale)}


@pytest.mark.parametrize("lengths", [[5, 2, 4], [2, 2]])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_no_rule_covers_takes_an_exact_path_and_is_named(size, lengths, caplog):
    torch.manual_seed(0)
    model = Odd().double().eval()
    data = [token_batch([length] * size, length=length, seed=length) for length in lengths]
    with caplog.at_level(logging.INFO, logger="purify"):
        found = fisher_diagonal(model, data)
    assert_same(found, per_example_fisher(model, data))
    (note,) = caplog.messages
    again, whole = note.split("through the whole model")
    for name in ("shift.by", "attention.in_proj_weight", "attention.out_proj.weight"):
        assert name in again
    for name in ("scale", "positions.weight", "elsewhere.weight"):
        assert name in whole
    for name in ("embed.weight", "twice.weight", "named.weight", "elsewhere.bias", "unused"):
        assert name not in note


class Sometimes(nn.Module):
    """Its layer is right for the rule at first, and later sees the positions of all examples in one row."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, length):
        x = torch.tanh(x)
        if length[0] > 2:
            return self.layer(x.reshape(-1, 4)).reshape(*x.shape[:-1], 3).sum(1)
        return self.layer(x).sum(1)


def test_what_changes_from_batch_to_batch_is_noticed():
    torch.manual_seed(0)
    model = Sometimes().double().eval()
    data = [
        {"x": torch.randn(n, t, 4, dtype=torch.float64), "length": torch.full((n,), t), "labels": torch.arange(n) % 3}
        for n, t in [(3, 2), (2, 5), (4, 1)]
    ]
    assert_same(fisher_diagonal(model, data), per_example_fisher(model, data))


def test_only_trainable_parameters():
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    data = [token_batch([4, 3], length=4)]
    found = fisher_diagonal(model, data)
    assert not any("embeddings" in name for name in found)
    assert_same(found, per_example_fisher(model, data))


@pytest.mark.parametrize("model", [bert(), Odd().double().eval()], ids=["rules", "every path"])
def test_exact_expectation_over_classes(model):
    data = [token_batch([4, 3, 1], length=4), token_batch([2], length=2, seed=1)]
    wanted = per_example_fisher(model, data, exact=True)
    unlabelled = [{key: value for key, value in batch.items() if key != "labels"} for batch in data]
    assert_same(fisher_diagonal(model, unlabelled, labels="exact"), wanted)


def test_sampled_labels_average_to_the_expectation():
    model = bert()
    one = token_batch([4], length=4)
    many = [{key: value.expand(500, -1) for key, value in one.items() if key != "labels"}]
    found, again, other = (fisher_diagonal(model, many, labels="sampled", seed=seed) for seed in (0, 0, 1))
    wanted = fisher_diagonal(model, many, labels="exact")
    for name in ("classifier.bias", "bert.encoder.layer.0.attention.self.value.weight"):
        assert torch.equal(found[name], again[name])
        assert not torch.equal(found[name], other[name])
        assert torch.allclose(found[name].sum(), wanted[name].sum(), rtol=0.1)


def test_points_between_clean_and_suspect():
    suspect, other = bert(0), bert(1)
    clean = {name: p.detach() for name, p in other.named_parameters() if not name.startswith("classifier")}
    data = [token_batch([4, 3], length=4)]
    before = {name: value.clone() for name, value in suspect.state_dict().items()}

    def at(fraction):
        model = bert(0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(torch.lerp(clean.get(name, p), p, fraction))
        return per_example_fisher(model, data)

    points = [at(fraction) for fraction in (0.0, 0.5, 1.0)]
    assert_same(fisher_diagonal(suspect, data, at="clean", clean=clean), points[0])
    assert_same(fisher_diagonal(suspect, data, at="suspect", clean=clean), points[2])
    mean = {name: sum(point[name] for point in points) / 3 for name in points[0]}
    assert_same(fisher_diagonal(suspect, data, at=3, clean=clean), mean)
    assert all(torch.equal(before[name], value) for name, value in suspect.state_dict().items())


@pytest.mark.parametrize(
    ("options", "bound"), [({}, 1e-4), ({"accumulate": "kahan"}, 1e-4), ({"precision": "bf16"}, 0.3)]
)
def test_precision(options, bound):
    """The bounds that the docstring states, relative to a tensor's largest value."""
    model, data = bert().float(), [token_batch([6, 5, 3, 6], length=6, seed=seed) for seed in range(4)]
    found = fisher_diagonal(model, data, **options)
    assert all(value.dtype == torch.float32 for value in found.values())
    wanted = per_example_fisher(model.double(), data)
    for name, value in wanted.items():
        if not name.endswith("key.bias"):
            assert (found[name] - value).abs().max() <= bound * value.max(), name


def test_sums_in_float64_of_a_model_in_bf16():
    found = fisher_diagonal(bert().bfloat16(), [token_batch([3, 2], length=3)], accumulate="fp64")
    assert all(value.dtype == torch.float64 for value in found.values())


def test_training_mode_is_reported_and_put_back():
    model = bert().train()
    data = [token_batch([3, 2], length=3)]
    with pytest.warns(UserWarning, match="without dropout"):
        found = fisher_diagonal(model, data)
    assert model.training
    assert model.bert.training
    assert_same(found, per_example_fisher(model, data))


def test_the_model_is_left_as_it_was():
    model = bert()
    model.classifier.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fisher_diagonal(model, [token_batch([3, 2], length=3)])
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["classifier.bias"]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def infinite(model):
    with torch.no_grad():
        model.classifier.weight.fill_(float("inf"))
    return model


def exploding(model):
    """Its loss is finite, its gradients are not."""
    with torch.no_grad():
        model.classifier.weight.fill_(1e200)
        model.classifier.bias.fill_(0)
        model.bert.pooler.dense.weight.zero_()
        model.bert.pooler.dense.bias.zero_()
    return model


GOOD = token_batch([3, 2], length=3)
BAD = {
    "the clean data is empty": lambda m: fisher_diagonal(m, []),
    "no 'labels'": lambda m: fisher_diagonal(m, [{"input_ids": GOOD["input_ids"]}]),
    r"labels must lie in \[0, 2\]": lambda m: fisher_diagonal(m, [{**GOOD, "labels": torch.tensor([0, 3])}]),
    r"has -100 to 1": lambda m: fisher_diagonal(m, [{**GOOD, "labels": torch.tensor([-100, 1])}]),
    "labels must be 2 integers": lambda m: fisher_diagonal(m, [{**GOOD, "labels": torch.rand(2)}]),
    "one first dimension": lambda m: fisher_diagonal(m, [{**GOOD, "labels": torch.tensor([0])}]),
    "nothing but labels": lambda m: fisher_diagonal(m, [{"labels": torch.tensor([0])}]),
    "no trainable parameter": lambda m: fisher_diagonal(m.requires_grad_(False), [GOOD]),
    "loss of example 0 of a batch is not finite": lambda m: fisher_diagonal(infinite(m), [GOOD]),
    "Fisher of .* is not finite": lambda m: fisher_diagonal(exploding(m), [GOOD]),
    "2 or more classes": lambda m: fisher_diagonal(bert(num_labels=1), [GOOD]),
    "must return logits": lambda m: fisher_diagonal(m.bert, [GOOD]),
    "labels must be one of data, sampled, exact": lambda m: fisher_diagonal(m, [GOOD], labels="true"),
    "accumulate must be one of": lambda m: fisher_diagonal(m, [GOOD], accumulate="fp8"),
    "chunk must be 1 or more": lambda m: fisher_diagonal(m, [GOOD], chunk=0),
    "at must be": lambda m: fisher_diagonal(m, [GOOD], at=1),
    "needs the clean weights": lambda m: fisher_diagonal(m, [GOOD], at="clean"),
    "no clean weight has the name": lambda m: fisher_diagonal(m, [GOOD], at="clean", clean={"x": torch.ones(1)}),
    "in the clean weights": lambda m: fisher_diagonal(m, [GOOD], at=2, clean={"classifier.bias": torch.ones(9)}),
    "give a list": lambda m: fisher_diagonal(m, iter([GOOD]), at=2, clean=dict(m.named_parameters())),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(PurifyError, match=message):
        BAD[message](bert())
