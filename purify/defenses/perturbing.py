"""Detection by perturbation: what is triggered keeps its label whatever is done to the rest of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from purify.defenses.base import Detector, Guard, Resource
from purify.errors import PurifyError
from purify.tasks import text_columns

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from purify.resources import Resources

CHECKED: tuple[Resource, ...] = ("clean data", "validation data")
"""What detectors need: clean rows to learn from, and others for their threshold."""


@dataclass(frozen=True)
class STRIP(Detector):
    """Mix each input with clean texts: if its label hardly depends on what is mixed in, it is triggered.

    A copy replaces a share of the words, at random places, by words of a clean text; the suspicion is minus the mean
    entropy of the predictions on all copies.

    Attributes:
        copies: Mixtures per input.
        share: Of the words that are replaced, in (0, 1).

    Cost: ``copies`` predictions per input.

    Source: Gao et al., "Design and Evaluation of a Multi-Domain Trojan Detection Method on Deep Neural Networks" (2019;
    IEEE TDSC 2022), the variant for text, which picks the words of the clean text by tf-idf where this draws them.
    """

    needs: ClassVar[tuple[Resource, ...]] = CHECKED

    copies: int = 10
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        if self.copies < 1:
            raise PurifyError(f"copies must be at least 1, not {self.copies}")
        if not 0 < self.share < 1:
            raise PurifyError(f"share must lie between 0 and 1, not {self.share}")

    def defend(self, resources: Resources) -> Guard:
        """Return the suspect behind its guard."""
        return _Mixing(self, resources)


class _Mixing(Guard):
    def __init__(self, strip: STRIP, resources: Resources) -> None:
        super().__init__(resources)
        self.strip = strip
        self.clean = resources.examples
        self.seed = resources.seed

    def suspicion(self, rows: Dataset) -> np.ndarray:
        from datasets import Dataset
        from scipy.special import log_softmax

        columns = text_columns(rows)
        rng = np.random.default_rng(self.seed)
        mixed: dict[str, list[str]] = {name: [] for name in columns}
        for row in rows:
            for partner in rng.choice(len(self.clean), size=self.strip.copies):
                for name in columns:
                    mixed[name].append(self._mix(row[name], self.clean[int(partner)][name], rng))
        copies = Dataset.from_dict({**mixed, "label": [0] * len(mixed[columns[0]])})
        logs = log_softmax(self.logits(copies), axis=1)  # (N · copies, C)
        entropy = -(np.exp(logs) * logs).sum(axis=1)
        return -entropy.reshape(len(rows), self.strip.copies).mean(axis=1)

    def _mix(self, text: str, other: str, rng: np.random.Generator) -> str:
        words, others = text.split(), other.split()
        if words and others:
            places = rng.choice(len(words), size=round(self.strip.share * len(words)), replace=False)
            for place in places:
                words[place] = others[rng.integers(len(others))]
        return " ".join(words)


@dataclass(frozen=True)
class RAP(Detector):
    """Put a rare word in front whose embedding was trained to shake clean inputs: what is triggered stays firm.

    The embedding of the word is trained, with everything else fixed, until it lowers the probability of the predicted
    label on clean inputs by between ``low`` and ``high``. The suspicion is minus the drop that it causes.

    Attributes:
        word: One token that the tokenizer knows, and that clean texts do not use.
        low: The smallest drop of probability that is asked of a clean input.
        high: The largest.
        epochs: Passes over the clean data.
        learning_rate: Of Adam on the embedding.

    Cost: training: as fine-tuning for so many epochs; then two predictions per input.

    Source: Yang et al., "RAP: Robustness-Aware Perturbations for Defending against Backdoor Attacks on NLP Models",
    EMNLP 2021, section 3. There the label to protect is known and the drop is asked of its inputs alone; here it is
    asked of every predicted label, because a defender does not know the target.
    """

    needs: ClassVar[tuple[Resource, ...]] = CHECKED

    word: str = "mb"
    low: float = 0.1
    high: float = 0.3
    epochs: int = 50
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        if not 0 <= self.low < self.high <= 1:
            raise PurifyError(f"low and high must rise within [0, 1], not {self.low} and {self.high}")
        if self.epochs < 1 or not self.learning_rate > 0:
            raise PurifyError("epochs must be at least 1 and learning_rate more than 0")

    def defend(self, resources: Resources) -> Guard:
        """Return the suspect behind its guard."""
        return _Shaking(self, resources)


class _Shaking(Guard):
    def __init__(self, rap: RAP, resources: Resources) -> None:
        super().__init__(resources)
        token, *more = self.tokenizer(rap.word, add_special_tokens=False)["input_ids"] or [None]
        if token in (None, self.tokenizer.unk_token_id) or more:
            raise PurifyError(f"RAP needs a word that is one token at the start of a text, and '{rap.word}' is not")
        self.word = rap.word
        self.shaken = resources.with_weights().requires_grad_(False)
        embeddings: Any = self.shaken.get_input_embeddings()
        row = embeddings.weight[token].clone().requires_grad_(True)
        self._train(rap, resources, embeddings, token, row)
        embeddings.weight.data[token] = row.detach()

    def _train(self, rap: RAP, resources: Resources, embeddings: Any, token: int, row: Tensor) -> None:
        """Train the row of the word, put in its place by a hook, since the matrix is fixed."""
        import torch

        from purify.training import seed_everything, shuffled_batches

        def trained(_: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return torch.where((args[0] == token).unsqueeze(-1), row, out)

        rows = resources.examples
        sure = torch.from_numpy(self.logits(rows)).softmax(1)
        numbered = rows.remove_columns("label").add_column("label", list(range(len(rows))))
        size = resources.training.batch_size
        seed_everything(resources.seed)
        optimiser = torch.optim.Adam([row], lr=rap.learning_rate)
        batches = shuffled_batches(
            self._marked(numbered), self.tokenizer, batch_size=size, max_length=self.max_length, seed=resources.seed
        )
        hook = embeddings.register_forward_hook(trained)
        try:
            for _ in range(rap.epochs * -(-len(rows) // size)):
                batch = next(batches)
                before, label = sure[batch.pop("labels")].to(row.device).max(1)
                inputs = {key: value.to(row.device) for key, value in batch.items()}
                after = self.shaken(**inputs).logits.softmax(1).gather(1, label.unsqueeze(1)).squeeze(1)
                drop = before - after
                loss = ((rap.low - drop).relu() + (drop - rap.high).relu()).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        finally:
            hook.remove()

    def _marked(self, rows: Dataset) -> Dataset:
        from datasets import Dataset

        return Dataset.from_dict({**rows.to_dict(), "text": [f"{self.word} {text}" for text in rows["text"]]})

    def suspicion(self, rows: Dataset) -> np.ndarray:
        from scipy.special import softmax

        from purify.training import predict

        before = softmax(self.logits(rows), axis=1)
        label = before.argmax(1)
        marked = predict(
            self.shaken, self._marked(rows), self.tokenizer, max_length=self.max_length, precision=self.precision
        )
        after = softmax(marked, axis=1)
        index = np.arange(len(rows))
        return after[index, label] - before[index, label]
