"""The ways to the diagonal Fisher that `benchmarks/fisher.py` compares: this project's and its peers'."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, RobertaConfig
from transformers import RobertaForSequenceClassification as Roberta

from purify import fisher_diagonal

Batch = dict[str, Tensor]
Diagonal = dict[str, Tensor]
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 4}


def minilm(**options: int) -> PreTrainedModel:
    """The shape of all-MiniLM-L6-v2, 22.7 million parameters, or another width and depth."""
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(**{**shape, **options}, **QUIET))


def tiny() -> PreTrainedModel:
    """Small enough to compare every method with the definition in float64."""
    return minilm(vocab_size=50, hidden_size=24, num_hidden_layers=2, intermediate_size=48)


def roberta_large() -> PreTrainedModel:
    """The shape of RoBERTa-large, 355 million parameters."""
    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
    return Roberta(RobertaConfig(**shape, **sizes, **QUIET))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "MiniLM-L6": minilm,
    "BERT-base": lambda: BertForSequenceClassification(BertConfig(**QUIET)),
    "RoBERTa-large": roberta_large,
}


def random_batches(model: PreTrainedModel, length: int, size: int, count: int) -> list[Batch]:
    """Batches without padding, with all that a peer may need to be told: positions and types for each example."""
    generator = torch.Generator().manual_seed(0)
    first = 2 if model.config.model_type == "roberta" else 0
    made = []
    for _ in range(count):
        ids = torch.randint(5, model.config.vocab_size, (size, length), generator=generator)
        positions = torch.arange(first, first + length).expand(size, -1)
        labels = torch.randint(0, 4, (size,), generator=generator)
        batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "position_ids": positions, "labels": labels}
        made.append({key: value.to(model.device) for key, value in batch.items()})
    return made


@dataclass(frozen=True)
class Method:
    """One way to compute the Fisher.

    Attributes:
        run: (model, batches, examples at a time) -> diagonal, or nothing for what is only timed.
        peer: It is not part of this project.
    """

    run: Callable[[PreTrainedModel, list[Batch], int], Diagonal]
    peer: bool = True


def ordinary(model: PreTrainedModel, batches: list[Batch], together: int) -> Diagonal:
    """Forward and backward, as in training without dropout: the unit of time. It computes no Fisher."""
    for inputs, labels in _split(batches):
        F.cross_entropy(model(**inputs).logits, labels, reduction="sum").backward()
        model.zero_grad()
    return {}


def loop(model: PreTrainedModel, batches: list[Batch], together: int) -> Diagonal:
    """One forward and backward pass per example: the definition."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for inputs, labels in _split(batches):
        for n in range(len(labels)):
            logits = model(**{key: value[n : n + 1] for key, value in inputs.items()}).logits
            loss = F.cross_entropy(logits, labels[n : n + 1], reduction="sum")
            for square, g in zip(total.values(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
                square.addcmul_(g, g)
    return _mean(total, batches)


def vmap_of_grad(model: PreTrainedModel, batches: list[Batch], together: int) -> Diagonal:
    """``vmap(grad(...))`` of torch.func, which needs eager attention; ``together`` examples at a time."""
    model.set_attn_implementation("eager")
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: Diagonal, example: Batch, label: Tensor) -> Tensor:
        one = {key: value.unsqueeze(0) for key, value in example.items()}
        logits = functional_call(model, weights, (), one).logits
        return F.cross_entropy(logits, label.unsqueeze(0), reduction="sum")

    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    for inputs, labels in _split(batches, together):
        for name, g in vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, labels).items():
            total[name] += g.square_().sum(0)
    model.set_attn_implementation("sdpa")
    return _mean(total, batches)


def opacus(model: PreTrainedModel, batches: list[Batch], together: int) -> Diagonal:
    """``GradSampleModule`` of Opacus, ``together`` examples at a time.

    It records nothing outside training mode (dropout is zero here) and gives the positions a wrong gradient unless
    every example has position ids of its own.
    """
    from opacus import GradSampleModule

    inner = copy.deepcopy(model).train()
    wrapped = GradSampleModule(inner, loss_reduction="sum", strict=False)
    total = {name: torch.zeros_like(p) for name, p in inner.named_parameters()}
    for inputs, labels in _split(batches, together):
        F.cross_entropy(wrapped(**inputs).logits, labels, reduction="sum").backward()
        for name, p in inner.named_parameters():
            total[name] += p.grad_sample.square_().sum(0)
        wrapped.zero_grad()
    return _mean(total, batches)


def backpack(model: PreTrainedModel, batches: list[Batch], together: int) -> Diagonal:
    """``SumGradSquared`` of BackPACK."""
    from backpack import backpack as extension
    from backpack import extend
    from backpack.extensions import SumGradSquared

    extended, loss = extend(copy.deepcopy(model)), extend(nn.CrossEntropyLoss(reduction="sum"))
    total = {name: torch.zeros_like(p) for name, p in extended.named_parameters()}
    for inputs, labels in _split(batches):
        with extension(SumGradSquared()):
            loss(extended(**inputs).logits, labels).backward()
        for name, p in extended.named_parameters():
            total[name] += p.sum_grad_squared
    return _mean(total, batches)


def nngeometry(model: PreTrainedModel, batches: list[Batch], together: int) -> Diagonal:
    """``PMatDiag`` of nngeometry, which knows no embeddings: they are left out."""
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object import PMatDiag
    from torch.utils.data import DataLoader, TensorDataset

    words = model.get_input_embeddings()  # its first input must be differentiable
    rows = TensorDataset(
        words(torch.cat([batch["input_ids"] for batch in batches])).detach(),
        *(torch.cat([batch[key] for batch in batches]) for key in ("token_type_ids", "position_ids", "labels")),
    )

    def log_p(embedded: Tensor, types: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        logits = model(inputs_embeds=embedded, token_type_ids=types, position_ids=positions).logits
        return logits.log_softmax(-1).gather(1, labels.unsqueeze(1))

    layers = LayerCollection.from_model(model, ignore_unsupported_layers=True)
    backend = TorchHooksJacobianBackend(layer_collection=layers, model=model, function=log_p)
    diagonal = PMatDiag(generator=backend, examples=DataLoader(rows, batch_size=together)).data
    found, shapes = {}, dict(model.named_parameters())
    for layer, start in layers.p_pos.items():
        place = start
        for name in (f"{layer}.weight", f"{layer}.bias"):
            size = shapes[name].numel()
            found[name] = diagonal[place : place + size].view_as(shapes[name])
            place += size
    return found


METHODS: dict[str, Method] = {
    "ordinary": Method(ordinary, peer=False),
    "purify": Method(lambda model, batches, _: fisher_diagonal(model, batches), peer=False),
    "purify, bf16": Method(lambda model, batches, _: fisher_diagonal(model, batches, precision="bf16"), peer=False),
    "loop over examples": Method(loop),
    "vmap(grad)": Method(vmap_of_grad),
    "Opacus": Method(opacus),
    "BackPACK": Method(backpack),
    "nngeometry": Method(nngeometry),
}


def verdicts() -> Iterator[tuple[str, str]]:
    """Say of every peer what it gives for a tiny BERT: "exact", what is wrong or missing, or how it fails."""
    torch.manual_seed(0)
    model = tiny().double().eval()
    batches = random_batches(model, 6, 4, 2)
    wanted = loop(model, batches, 1)
    for name, method in METHODS.items():
        if name == "ordinary" or "bf16" in name:
            continue
        try:
            found = method.run(model, batches, 4)
        except ImportError:
            yield name, "not installed"
            continue
        except Exception as error:  # a peer may fail in any way
            yield name, f"fails: {type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        missing = [key for key in wanted if key not in found]
        wrong = [
            key
            for key in found
            if not torch.allclose(found[key], wanted[key], rtol=1e-6, atol=1e-9 * wanted[key].max().item() + 1e-18)
        ]
        if wrong:
            yield name, f"wrong for {len(wrong)} of {len(wanted)} parameters, such as {wrong[0]}"
        elif missing:
            yield name, f"no value for {len(missing)} of {len(wanted)} parameters, such as {missing[0]}"
        else:
            yield name, "exact"


def _split(batches: list[Batch], together: int | None = None) -> Iterator[tuple[Batch, Tensor]]:
    for batch in batches:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        step = together or len(batch["labels"])
        for start in range(0, len(batch["labels"]), step):
            part = slice(start, start + step)
            yield {key: value[part] for key, value in inputs.items()}, batch["labels"][part]


def _mean(total: Diagonal, batches: list[Batch]) -> Diagonal:
    count = sum(len(batch["labels"]) for batch in batches)
    return {name: value / count for name, value in total.items()}
