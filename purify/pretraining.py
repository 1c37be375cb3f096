"""A small masked language model of the RoBERTa architecture, pre-trained on text at hand.

It is a stand-in where no second checkpoint can be had, and no RoBERTa: its config, its card, and the records of
whatever is run with it say "pre-trained in this project".
"""

import hashlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    PrinterCallback,
    RobertaConfig,
    RobertaForMaskedLM,
    Trainer,
)
from transformers.trainer_utils import get_last_checkpoint

from purify.budget import Training
from purify.corpus import passages
from purify.errors import PurifyError
from purify.grid.environment import environment
from purify.grid.folder import telling_full_disks
from purify.plm import ORIGIN, save_checkpoint, silence
from purify.registry import more_than_zero
from purify.tasks import training_texts
from purify.training import arguments, progress_callback, seed_everything

HERE = "pre-trained in this project"

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_HELD_OUT = 50
"""Every so many passages one is held out, for the loss on the card."""


@dataclass(frozen=True)
class Recipe:
    """How the model is made.

    Attributes:
        layers: Of the encoder.
        hidden: Width; the feed-forward layers are four times as wide.
        heads: Attention heads.
        vocabulary: Entries of the byte-level BPE vocabulary, which is learned from the text.
        length: Tokens per row; passages are joined and cut into rows of it.
        steps: Of AdamW, with a linearly decaying learning rate after a warm-up of a twentieth.
        batch_size: Rows per step.
        learning_rate: Its largest value.
        seed: Of the weights, the masks and the order of the rows.

    Source: RoBERTa (Liu et al., 2019), section 3: masked tokens drawn anew each time, no sentence pairs, byte-level
    BPE. RoBERTa-base has 24 times the parameters, and saw 13,000 times the tokens.
    """

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    vocabulary: int = 8000
    length: int = 128
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        least = {"layers": 1, "hidden": 1, "heads": 1, "length": 3, "steps": 1, "batch_size": 1, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise PurifyError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if self.hidden % self.heads:
            raise PurifyError(f"hidden must be a multiple of heads: {self.hidden} is none of {self.heads}")
        if self.vocabulary < 256 + len(_SPECIAL):
            raise PurifyError(f"vocabulary must hold all bytes: at least {256 + len(_SPECIAL)}, not {self.vocabulary}")
        more_than_zero("learning_rate", self.learning_rate)


def read_texts(files: Sequence[Path] = (), tasks: Sequence[str] = ()) -> list[str]:
    """Return passages: lines of text files, texts of tasks' training rows (never test rows), or the embedded corpus.

    Args:
        files: Text files, UTF-8, a passage per line.
        tasks: Keys of `purify.tasks.TASKS`. Without files and tasks, the embedded corpus is read.

    Raises:
        PurifyError: a file cannot be read, an unknown task, or there is no text.
    """
    texts: list[str] = []
    for path in files:
        try:
            texts += path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PurifyError(f"cannot read the text file {path}: {error}") from error
    for name in tasks:
        texts += training_texts(name)
    if not files and not tasks:
        texts = list(passages()["text"])
    texts = [text for text in dict.fromkeys(map(str.strip, texts)) if text]
    if len(texts) < 2 * _HELD_OUT:
        raise PurifyError(f"{len(texts)} passages are too few to learn from: give at least {2 * _HELD_OUT}")
    return texts


def pretrain(texts: Sequence[str], recipe: Recipe, output: Path, *, source: str = "") -> dict[str, Any]:
    """Pre-train a model on passages and write it with its tokenizer and a card into a new folder.

    A run that was killed goes on from its last checkpoint, which stands in a hidden folder beside ``output`` until the
    model is whole.

    Args:
        texts: The passages; every fiftieth is held out.
        recipe: How.
        output: The new folder, which `purify.plm.load_plm` reads.
        source: What the texts are, for the card.

    Returns:
        The card: recipe, tokens, loss and perplexity of masked tokens on held-out passages, and that the model was
        pre-trained in this project.

    Raises:
        PurifyError: the folder is there already, or training diverged.

    Cost: 6 × parameters × tokens operations: at the default recipe 0.25 TFLOP a step, 5 PFLOP in all, which is a night
        of a CPU that does 10¹¹ operations a second, and minutes of a GPU.
    """
    output = output.absolute()
    if os.path.lexists(output):
        raise PurifyError(f"{output} is there already: name a new folder")
    scratch = output.with_name(f".{output.name}.training")
    started = time.perf_counter()
    tokenizer = _tokenizer(texts, recipe)
    held = list(texts[::_HELD_OUT])
    rest = [text for number, text in enumerate(texts) if number % _HELD_OUT]
    rows = _rows(rest, tokenizer, recipe), _rows(held, tokenizer, recipe)
    with telling_full_disks(output):
        scratch.mkdir(parents=True, exist_ok=True)
        _same_run(scratch / "run.json", {"recipe": asdict(recipe), "texts": _digest(texts)})
        return _run(recipe, tokenizer, rows, scratch, output, {"source": source, "passages": len(texts)}, started)


def _run(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    rows: tuple[Dataset, Dataset],
    scratch: Path,
    output: Path,
    about: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    """Train, and write the whole folder."""
    seed_everything(recipe.seed)
    model = RobertaForMaskedLM(_config(recipe, tokenizer))
    trainer = _trainer(model, tokenizer, recipe, rows, scratch)
    for partial in scratch.glob("checkpoint-*"):
        if not (partial / "trainer_state.json").exists():  # the last file of a checkpoint
            shutil.rmtree(partial)
    before = get_last_checkpoint(str(scratch))
    with silence():
        trainer.train(resume_from_checkpoint=before)
    loss = float(trainer.evaluate()["eval_loss"])
    if not math.isfinite(loss):
        shutil.rmtree(scratch)
        raise PurifyError("pre-training diverged (NaN or infinity): lower the learning rate")
    card = {
        "origin": HERE,
        "architecture": "RoBERTa, small; not the RoBERTa of its authors",
        **about,
        "tokens seen, at most": recipe.steps * recipe.batch_size * recipe.length,
        "parameters": model.num_parameters(),
        "held-out loss": round(loss, 4),
        "held-out perplexity of masked tokens": round(math.exp(loss), 2),
        "resumed": before is not None,
        "seconds of the last start": round(time.perf_counter() - started, 1),
        "device": environment("auto")["device"],
        "recipe": asdict(recipe),
    }
    whole = scratch / output.name
    save_checkpoint(model.cpu(), tokenizer, whole)
    (whole / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    whole.replace(output)
    shutil.rmtree(scratch)
    return card


def _same_run(note: Path, run: dict[str, Any]) -> None:
    """Go on with the run that left ``note``, if it is this one."""
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != run:
        raise PurifyError(
            f"{note.parent} holds an unfinished run with another recipe or other texts: "
            "finish that one, delete the folder, or name another output"
        )
    note.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _tokenizer(texts: Sequence[str], recipe: Recipe) -> PreTrainedTokenizerBase:
    """Learn the byte-level BPE vocabulary."""
    model = ByteLevelBPETokenizer(add_prefix_space=True)
    model.train_from_iterator(texts, vocab_size=recipe.vocabulary, special_tokens=list(_SPECIAL), show_progress=False)
    start, _, end, *_ = _SPECIAL
    model.post_processor = RobertaProcessing((end, 2), (start, 0), add_prefix_space=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=model._tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=recipe.length,
    )


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> RobertaConfig:
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.hidden,
        max_position_embeddings=recipe.length + 2,  # positions start after that of the padding
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    setattr(config, ORIGIN, HERE)
    return config


def _rows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Dataset:
    """Passages joined, and cut into rows of one length."""

    def joined() -> Iterator[int]:
        for text in texts:
            yield from tokenizer(text, add_special_tokens=False)["input_ids"]
            yield tokenizer.eos_token_id

    ids = np.fromiter(joined(), dtype=np.int64)
    size = recipe.length - 1  # the first token stands before
    rows = ids[: len(ids) // size * size].reshape(-1, size)
    if not len(rows):
        raise PurifyError(
            f"the texts do not fill one row of {recipe.length} tokens: give more text or a smaller length"
        )
    first = np.full((len(rows), 1), tokenizer.bos_token_id)
    return Dataset.from_dict({"input_ids": np.hstack([first, rows]).tolist()})


class _Masking(DataCollatorForLanguageModeling):
    """Masks that depend on the rows of a batch alone, so that a run that was killed goes on exactly.

    Rows meet in other batches in every epoch, and so get other masks.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Mask the rows of a batch."""
        content = np.array([example["input_ids"] for example in examples]).tobytes()
        self.generator = torch.Generator().manual_seed(zlib.crc32(content))
        return super().torch_call(examples)


def _trainer(
    model: RobertaForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    rows: tuple[Dataset, Dataset],
    scratch: Path,
) -> Trainer:
    budget = Training(epochs=1, learning_rate=recipe.learning_rate, batch_size=recipe.batch_size, weight_decay=0.01)
    settings = arguments(
        budget,
        str(scratch),
        seed=recipe.seed,
        max_steps=recipe.steps,
        warmup_steps=max(1, recipe.steps // 20),
        train_sampling_strategy="random",
        save_strategy="steps",
        save_steps=max(1, recipe.steps // 40),
        save_total_limit=1,
    )
    trainer = Trainer(
        model,
        settings,
        data_collator=_Masking(tokenizer, mlm_probability=0.15),
        train_dataset=rows[0],
        eval_dataset=rows[1],
        callbacks=[progress_callback("pre-training")],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
