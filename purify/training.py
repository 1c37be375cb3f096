"""Fine-tuning and prediction: the one place for tokenisation, batching, precision, progress and seeds."""

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from purify.budget import Precision, Training
from purify.errors import PurifyError
from purify.hardware import device, resolve_precision, rows_per_pass
from purify.progress import bar
from purify.tasks import text_columns

Objective = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]
"""What is minimised: takes the model and a batch with ``labels``, returns a scalar."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices).

    The seed policy of this project: one number per experiment. It draws the training, validation and clean rows,
    the head, the poisoned copies and the trigger's positions, the order of training and the defense's random
    choices; each from a generator of its own, or right after this call, so that no stage depends on what ran
    before it in the same process. Test rows are the same for every seed. On one CPU, with one number of threads,
    the same description therefore gives the same scores.
    """
    set_seed(seed)


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Tokenise ``text`` (and ``text_pair``) without padding; ``label`` becomes ``labels``.

    Inputs are cut to ``max_length`` tokens, or to the most that the tokenizer's model takes. Rows that are tokenised
    already are returned as they are.

    Raises:
        PurifyError: there is no row.
    """
    if not len(rows):
        raise PurifyError("there is no example: the data set is empty")
    if "input_ids" in rows.column_names:
        return rows
    max_length = min(max_length, tokenizer.model_max_length)
    texts = [list(rows[column]) for column in text_columns(rows)]
    tokens = tokenizer(*texts, truncation=True, max_length=max_length, padding=False)
    return Dataset.from_dict({**tokens, "labels": list(rows["label"])})


def batches(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 32, max_length: int = 96
) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches with ``labels``, the longest inputs first, so that little padding is paid for."""
    for _, batch in _sorted_batches(encode(rows, tokenizer, max_length), tokenizer, batch_size):
        yield batch


def _sorted_batches(
    encoded: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield (row numbers, padded batch), the longest inputs first."""
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        yield index, _padded(encoded, index, tokenizer)


def shuffled_batches(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, max_length: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches with ``labels`` without end, in a new random order each time around."""
    encoded = encode(rows, tokenizer, max_length)
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(encoded))
        for start in range(0, len(order), batch_size):
            yield _padded(encoded, order[start : start + batch_size], tokenizer)


def _padded(encoded: Dataset, index: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    columns = encoded[index.tolist()]
    labels = torch.tensor(columns.pop("labels"))
    return {**tokenizer.pad(columns, return_tensors="pt"), "labels": labels}


def predict(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None = None,
    max_length: int = 96,
    precision: Precision = "auto",
) -> np.ndarray:
    """Return the logits (N, C) of every row, in the order of the rows; the model is left in evaluation mode."""
    found = np.empty((len(rows), model.config.num_labels), dtype=np.float32)
    parts = _asked(model, rows, tokenizer, batch_size=batch_size, max_length=max_length, precision=precision)
    for index, _, output in parts:
        found[index] = output.logits.float().cpu().numpy()
    return found


def read_states(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 96,
    precision: Precision = "auto",
) -> np.ndarray:
    """Return the hidden state of the token that the classifier reads, after every layer: (L, N, H); else as `predict`.

    It is the first token, or in classifiers of causal models, whose head is called ``score``, the last real one.
    """
    parts = _asked(
        model, rows, tokenizer, batch_size=64, max_length=max_length, precision=precision, output_hidden_states=True
    )
    found: dict[int, np.ndarray] = {}
    causal = hasattr(model, "score")
    for index, mask, output in parts:
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
        layers = torch.stack(output.hidden_states[1:], dim=1).float()  # (B, L, T, H)
        states = layers[torch.arange(len(index)), :, last] if causal else layers[:, :, 0]  # (B, L, H)
        found |= dict(zip(index.tolist(), states.cpu().numpy(), strict=True))
    return np.stack([found[row] for row in range(len(rows))], axis=1)


def mean_states(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None = None,
    max_length: int = 96,
    precision: Precision = "auto",
) -> np.ndarray:
    """Return the mean over the tokens of the last hidden states of a model without head: (N, H); else as `predict`."""
    parts = _asked(model, rows, tokenizer, batch_size=batch_size, max_length=max_length, precision=precision)
    found: dict[int, np.ndarray] = {}
    for index, mask, output in parts:
        states, weights = output.last_hidden_state.float(), mask[..., None].float()
        means = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        found |= dict(zip(index.tolist(), means.cpu().numpy(), strict=True))
    return np.stack([found[row] for row in range(len(rows))])


def _asked(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None,
    max_length: int,
    precision: Precision,
    **options: bool,
) -> Iterator[tuple[np.ndarray, Tensor, Any]]:
    """Yield (row numbers, attention mask, what the model returns for them), with a progress bar."""
    model.eval().to(device())
    encoded, batch_size = encode(rows, tokenizer, max_length), batch_size or rows_per_pass()
    bf16 = resolve_precision(precision) == "bf16"
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        parts = _sorted_batches(encoded, tokenizer, batch_size)
        for index, batch in bar(parts, total=-(-len(rows) // batch_size), desc="predicting", unit="batch"):
            del batch["labels"]
            inputs = {key: value.to(model.device) for key, value in batch.items()}
            yield index, inputs["attention_mask"], model(**inputs, **options)


def fine_tune(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    training: Training,
    *,
    seed: int,
    description: str = "fine-tuning",
    objective: Objective | None = None,
) -> PreTrainedModel:
    """Fine-tune ``model`` in place with the `transformers.Trainer` and return it in evaluation mode.

    Batches group inputs of like length. The same seed gives the same weights on the same CPU.

    Args:
        model: What is trained: its parameters that require a gradient.
        rows: With ``text``, for pairs ``text_pair``, and ``label``.
        tokenizer: Of the model.
        training: How much, and how.
        seed: Of the order of the rows and of dropout.
        description: For the progress bar.
        objective: What is minimised, in place of the cross-entropy.

    Raises:
        PurifyError: there is no row, or the loss stops being finite.
    """
    seed_everything(seed)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _Trainer(
            model,
            arguments(training, scratch, seed=seed),
            objective=objective,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=encode(rows, tokenizer, training.max_length),
            callbacks=[progress_callback(description)],
        )
        trainer.remove_callback(PrinterCallback)
        result = trainer.train()
    finite = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    if not (finite and np.isfinite(result.training_loss)):
        raise PurifyError("training diverged (NaN or infinity): lower the learning rate or use precision='fp32'")
    return model.eval()


def arguments(training: Training, folder: str, *, seed: int, **changes: Any) -> TrainingArguments:
    """Return what the Trainer is told: batches of like length, AdamW in one kernel, bf16 where it pays, no output.

    Args:
        training: How much, and how.
        folder: That the Trainer may write to.
        seed: Of the order of the rows and of dropout.
        changes: Settings of `transformers.TrainingArguments` in place of ours, to compare with.
    """
    settings = {
        "num_train_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "per_device_train_batch_size": training.batch_size,
        "train_sampling_strategy": "group_by_length",
        "optim": {"adamw": "adamw_torch_fused"}.get(training.optimizer, training.optimizer),
        "bf16": resolve_precision(training.precision) == "bf16",
        "use_cpu": device().type == "cpu",
        "seed": seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(output_dir=folder, **(settings | changes))


class _Trainer(Trainer):
    """Trainer, with an objective of our own if there is one."""

    def __init__(self, *args: Any, objective: Objective | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.objective = objective

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        return (
            self.objective(model, inputs) if self.objective else super().compute_loss(model, inputs, *args, **options)
        )


def progress_callback(description: str) -> TrainerCallback:
    """Return what shows the steps of a Trainer on our progress bar."""
    return _Bar(description)


class _Bar(TrainerCallback):
    def __init__(self, description: str) -> None:
        self.description = description

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = bar(total=state.max_steps, initial=state.global_step, desc=self.description, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()
