"""Slow, plain computations that the fast ones are compared with."""

import torch


def per_example_fisher(model, batches, *, exact=False):
    """The definition: one backward pass per example, the gradient squared, then averaged.

    With ``exact``, the expectation over the model's own prediction instead of the label.
    """
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    parameters = [p for p in model.parameters() if p.requires_grad]
    count = 0
    for batch in batches:
        for n in range(len(next(iter(batch.values())))):
            output = model(**{key: value[n : n + 1] for key, value in batch.items() if key != "labels"})
            log_p = getattr(output, "logits", output).log_softmax(-1)[0]
            for c in range(len(log_p)) if exact else [batch["labels"][n]]:
                gradients = torch.autograd.grad(log_p[c], parameters, allow_unused=True, retain_graph=True)
                for name, gradient in zip(total, gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient**2 * (log_p[c].detach().exp() if exact else 1)
            count += 1
    return {name: value / count for name, value in total.items()}


def token_flattened_fisher(module, x, g):
    """The mistake to avoid in a linear layer's weight: the square taken per token, before the sum over tokens."""
    return torch.einsum("bto,bti->oi", g**2, x**2)


def token_batch(sizes, *, length, seed=0, pad=0, words=30, labels=3):
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


def restricted_product(model, poisoned, clean):
    """Return the loss on a poisoned batch, and the inner product of its gradient with that on a clean batch."""
    losses = [model(**batch).loss for batch in (poisoned, clean)]
    first, second = (torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses)
    return losses[0], sum((a * b).sum() for a, b in zip(first, second, strict=True))
