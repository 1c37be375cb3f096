import logging

import pytest
import torch
from conftest import bert_config
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import per_example_fisher, token_flattened_fisher
from torch import nn
from transformers import (
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from purify import PurifyError, fisher_diagonal
from purify.fisher.rules.linear import linear

SMALL = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}


def bert(seed=0, **options):
    torch.manual_seed(seed)
    return BertForSequenceClassification(bert_config(vocab_size=30, num_labels=3, **options)).double().eval()


def batch(sizes, *, length, seed=0, pad=0, words=30, labels=3):
    """Examples of the given lengths, padded to ``length``; few words, so that tokens repeat."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, words, (len(sizes), length), generator=generator)
    mask = torch.arange(length).expand(len(sizes), -1) < torch.tensor(sizes).unsqueeze(1)
    ids[~mask] = pad
    y = torch.randint(0, labels, (len(sizes),), generator=generator)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": y}


def assert_same(found, expected, relative=1e-9):
    """Relative to the largest value of the tensor; where the true gradient is zero (key bias), absolute."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        error = (found[name] - value).abs().max().item()
        assert error <= relative * scale + 1e-20, f"{name}: {error} of {scale}"


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    extra=st.integers(0, 3),
    words=st.sampled_from([4, 30]),
    seed=st.integers(0, 100),
)
def test_agrees_with_the_loop_over_examples(sizes, extra, words, seed):
    model = bert(seed)
    data = [batch(sizes, length=max(sizes) + extra, seed=seed, words=words)]
    assert_same(fisher_diagonal(model, data), per_example_fisher(model, data))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_several_batches_of_different_shapes(attention):
    model = bert(attn_implementation=attention)
    data = [batch([5, 2, 3], length=6), batch([4], length=4, seed=1), batch([2, 1], length=2, seed=2)]
    assert_same(fisher_diagonal(model, data), per_example_fisher(model, data))


def other_models():
    config = RobertaConfig(**SMALL, pad_token_id=1, num_labels=3)
    yield pytest.param(RobertaForSequenceClassification(config), 1, id="roberta")
    config = DistilBertConfig(vocab_size=30, dim=8, n_layers=2, n_heads=2, hidden_dim=12, num_labels=3)
    yield pytest.param(DistilBertForSequenceClassification(config), 0, id="distilbert")
    config = GPT2Config(vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=32, num_labels=3, pad_token_id=0)
    yield pytest.param(GPT2ForSequenceClassification(config), 0, id="gpt2")


@pytest.mark.parametrize(("model", "pad"), list(other_models()))
def test_other_architectures(model, pad):
    data = [batch([5, 2, 4], length=6, pad=pad)]
    assert_same(fisher_diagonal(model.double().eval(), data), per_example_fisher(model, data))


class Odd(nn.Module):
    """A tied weight, a module called twice, a bare parameter, and a layer that gets no batch dimension."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 6)
        self.twice = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.full((6,), 1.5))
        self.positions = nn.Linear(2, 6)
        self.elsewhere = nn.Linear(6, 6)  # its weight is also used where no hook can see it
        self.named = nn.Linear(6, 6)  # called with a keyword
        self.out = nn.Linear(6, 30, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        x = x + self.positions(torch.ones(input_ids.shape[1], 2, dtype=x.dtype))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x)))) * self.scale
        x = self.elsewhere(x) + nn.functional.linear(x, self.elsewhere.weight).square()
        x = torch.tanh(self.named(input=x))
        x = (x * attention_mask.unsqueeze(-1)).sum(1)
        return SequenceClassifierOutput(logits=self.out(x))


def test_what_no_rule_covers_takes_the_exact_path_and_is_named(caplog):
    torch.manual_seed(0)
    model = Odd().double().eval()
    data = [batch([3, 5, 2], length=5)]
    with caplog.at_level(logging.INFO, logger="purify"):
        found = fisher_diagonal(model, data)
    assert_same(found, per_example_fisher(model, data))
    (note,) = caplog.messages
    for name in ("embed.weight", "twice.weight", "scale", "positions.weight", "elsewhere.weight", "named.weight"):
        assert name in note


def test_only_trainable_parameters():
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    data = [batch([4, 3], length=4)]
    found = fisher_diagonal(model, data)
    assert not any("embeddings" in name for name in found)
    assert_same(found, per_example_fisher(model, data))


def test_squaring_per_token_is_another_quantity():
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(4, 5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    right = linear(nn.Linear(3, 3), x, g)["weight"]
    assert torch.allclose(right, torch.einsum("bto,bti->boi", g, x).square().sum(0))
    assert not torch.allclose(right, token_flattened_fisher(None, x, g), rtol=0.05)


def test_the_model_is_left_as_it_was():
    model = bert().train()
    model.classifier.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fisher_diagonal(model, [batch([3, 2], length=3)])
    assert model.training
    assert model.bert.training
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["classifier.bias"]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def bad_calls():
    good = batch([3, 2], length=3)
    yield "empty", lambda m: fisher_diagonal(m, [])
    yield "no 'labels'", lambda m: fisher_diagonal(m, [{"input_ids": good["input_ids"]}])
    yield r"labels must lie in \[0, 2\]", lambda m: fisher_diagonal(m, [{**good, "labels": torch.tensor([0, 3])}])
    yield "no trainable parameter", lambda m: fisher_diagonal(m.requires_grad_(False), [good])

    def overflow(m):
        with torch.no_grad():
            m.classifier.weight.fill_(float("inf"))
        fisher_diagonal(m, [good])

    yield "not finite", overflow


@pytest.mark.parametrize(("message", "call"), list(bad_calls()))
def test_bad_input(message, call):
    with pytest.raises(PurifyError, match=message):
        call(bert())
