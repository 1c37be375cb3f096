"""What models, inputs and surroundings can do to deceive hooks; each of these once gave a wrong Fisher or a crash."""

import gc
import weakref

import pytest
import torch
from oracles import assert_same, per_example_fisher
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2ForSequenceClassification
from transformers.pytorch_utils import Conv1D

from purify import PurifyError, fisher_diagonal
from purify.fisher import share
from purify.fisher.factors import along


class Model(nn.Module):
    """Words, a layer, and whatever ``how`` does with them."""

    def __init__(self, how, layer=None):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer, self.head = nn.Embedding(9, 4), layer or nn.Linear(4, 4), nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.how = how
        self.double().eval()

    def forward(self, ids):
        return self.head(self.how(self, ids))


def experts(model, ids):
    x = model.words(ids)
    y = torch.zeros_like(x)
    for k, expert in enumerate(model.experts):
        y[ids % 2 == k] = expert(x[ids % 2 == k])
    return torch.tanh(y).mean(1)


def shuffled(model, ids):
    x = model.words(ids).mean(1)
    order = ids[:, 0].argsort()
    return torch.tanh(model.layer(x)) + torch.tanh(model.layer(x[order]))[order.argsort()]


def positions_first(model, ids):
    return torch.tanh(model.layer(model.words(ids.T))).mean(0)


def functional(model, ids):
    h = model.layer(model.words(ids))
    return (h + 1e-3 * F.linear(h, model.layer.weight).square()).mean(1)


def functional_for_some(model, ids):
    h = model.layer(model.words(ids)).mean(1)
    far = (ids[:, :1] > 6).double()
    return h + far * torch.tanh(F.linear(h, model.layer.weight)) if far.any() else h


def changes_its_input(model, ids):
    ids += 1
    return torch.tanh(model.layer(model.words(ids % 9))).mean(1)


def starts_the_graph(model, ids):
    return torch.tanh(model.layer(model.words(ids).detach().requires_grad_())).mean(1)


def checkpointed(model, ids):
    return torch.tanh(checkpoint(model.layer, model.words(ids), use_reentrant=False)).mean(1)


def unbatched(model, ids):
    if len(ids) == 2:
        raise AssertionError("two examples cannot be had")
    return torch.tanh(model.layer(model.words(ids))).mean(1)


WAYS = [
    experts,
    shuffled,
    positions_first,
    functional,
    functional_for_some,
    changes_its_input,
    starts_the_graph,
    checkpointed,
    unbatched,
]


def ids(*rows):
    return {"ids": torch.tensor(rows), "labels": torch.arange(len(rows)) % 3}


@pytest.mark.parametrize("how", WAYS)
def test_ways_of_using_a_layer(how):
    model = Model(how)
    data = [
        ids([2, 3, 5], [6, 4, 4], [7, 1, 1], [1, 3, 5]),
        ids([8, 1, 1, 3], [0, 2, 3, 5], [2, 2, 1, 7], [3, 3, 3, 3]),
        ids([5], [2], [8], [1]),
        ids([7, 7]),
    ]
    before = [{key: value.clone() for key, value in batch.items()} for batch in data]
    for first in range(len(data)):  # another batch is tried first
        turned = data[first:] + data[:first]
        found = fisher_diagonal(model, turned)
        assert all(torch.equal(a[key], b[key]) for a, b in zip(data, before, strict=True) for key in a)
        copies = [{key: value.clone() for key, value in batch.items()} for batch in turned]
        assert_same(found, per_example_fisher(model, copies), relative=1e-7 if how is functional else 1e-9)


def test_the_padding_path_of_transformer_encoders():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0)

    def how(model, ids):
        return model.layer(model.words(ids), src_key_padding_mask=ids == 0).mean(1)

    model = Model(how, nn.TransformerEncoder(layer, 2, enable_nested_tensor=True))
    data = [ids([2, 3, 5], [6, 4, 0], [7, 0, 0])]
    assert_same(fisher_diagonal(model, data), per_example_fisher(model, data))
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_takes_one_example_at_a_time():
    config = GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1, num_labels=3)
    model = GPT2ForSequenceClassification(config).double().eval()  # it has no padding token
    data = [{"input_ids": torch.tensor([[3, 4, n]]), "labels": torch.tensor([n % 3])} for n in (5, 6)]
    assert_same(fisher_diagonal(model, data), per_example_fisher(model, data))


def test_a_layer_called_twice_in_bf16():
    def how(model, ids):
        return model.layer(torch.tanh(model.layer(model.words(ids)))).mean(1)

    model = Model(how, Conv1D(4, 4)).float()
    found = fisher_diagonal(model, [ids([2, 3], [4, 5])], precision="bf16")
    assert all(value.isfinite().all() for value in found.values())


def test_a_parameter_without_elements():
    model = Model(functional)
    model.empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    assert "empty" not in fisher_diagonal(model, [ids([2, 3])])


@pytest.mark.parametrize("around", [torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)])
def test_surroundings_change_nothing(around):
    model = Model(lambda model, ids: torch.tanh(model.layer(model.words(ids))).mean(1)).float()
    data = [ids([2, 3], [4, 5])]
    wanted = fisher_diagonal(model, data)
    with around:
        found = fisher_diagonal(model, data)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_batches_that_can_be_had_once_only():
    model = Model(functional)
    clean = {"layer.weight": torch.zeros(4, 4)}
    for once in (iter([ids([2, 3])]), share(iter([ids([2, 3])]))):
        with pytest.raises(PurifyError, match="give a list"):
            fisher_diagonal(model, once, at=2, clean=clean)


def test_one_process_is_all_there_is():
    model, data = Model(functional), [ids([2, 3], [4, 5])]
    assert_same(fisher_diagonal(model, share(data), across_ranks=True), fisher_diagonal(model, data))
    with pytest.raises(PurifyError, match="labels must lie"):
        fisher_diagonal(model, [{**data[0], "labels": torch.tensor([7, 7])}], across_ranks=True)


def test_an_exception_leaves_nothing_behind():
    seen = []

    def how(model, ids):
        x = model.words(ids)
        seen.append(weakref.ref(x))
        if len(seen) > 4:
            raise KeyError("no more")
        return torch.tanh(model.layer(x)).mean(1)

    model = Model(how).train()
    model.head.bias.requires_grad_(False)
    weights = {"layer.weight": torch.zeros(4, 4)}
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.warns(UserWarning, match="dropout"), pytest.raises(KeyError):
        fisher_diagonal(model, [ids([2, 3], [4, 5])] * 9, at="clean", clean=weights)
    assert model.training
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_memory_is_let_go_without_the_collector(monkeypatch):
    """Activations of earlier batches, and the gradients that the rules were compared with."""
    seen = []

    def noted(g, direction):
        seen.append(weakref.ref(g))
        return along(g, direction)

    monkeypatch.setattr("purify.fisher._plan.along", noted)

    def how(model, ids):
        x = model.words(ids)
        seen.append(weakref.ref(x))
        return torch.tanh(model.layer(x)).mean(1)

    model = Model(how)
    gc.disable()
    try:
        fisher_diagonal(model, [ids([2, 3], [4, 5])] * 4)
    finally:
        gc.enable()
    assert len(seen) >= 10
    assert not any(reference() is not None for reference in seen)


def test_gradients_of_the_user_survive():
    """Ordinary gradients are made to check the rules; they go neither into nor out of ``grad``."""
    model = Model(lambda model, ids: torch.tanh(model.layer(model.words(ids))).mean(1))
    model.layer.weight.grad = torch.full((4, 4), 7.0, dtype=torch.float64)
    fisher_diagonal(model, [ids([2, 3], [4, 5])])
    assert model.layer.weight.grad.eq(7).all()
    assert all(p.grad is None for name, p in model.named_parameters() if name != "layer.weight")
