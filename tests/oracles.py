"""Slow, plain computations that the fast ones are compared with."""

import torch


def per_example_fisher(model, batches):
    """The definition: one backward pass per example, the gradient squared, then averaged."""
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    parameters = [p for p in model.parameters() if p.requires_grad]
    count = 0
    for batch in batches:
        for n in range(len(batch["labels"])):
            inputs = {key: value[n : n + 1] for key, value in batch.items() if key != "labels"}
            log_p = model(**inputs).logits.log_softmax(-1)[0, batch["labels"][n]]
            gradients = torch.autograd.grad(log_p, parameters, allow_unused=True)
            for name, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient**2
            count += 1
    return {name: value / count for name, value in total.items()}


def token_flattened_fisher(module, x, g):
    """The mistake to avoid in a linear layer's weight: the square taken per token, before the sum over tokens."""
    return torch.einsum("bto,bti->oi", g**2, x**2)
