"""Robust learning: train again on the suspicious data, in a way that poison does not survive."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from purify.defenses.base import Defense, Resource
from purify.errors import PurifyError
from purify.tasks import text_columns

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from purify.resources import Resources

_NEEDS: tuple[Resource, ...] = ("training data", "clean PLM")


def _asked(resources: Resources) -> dict[str, Any]:
    """How a model is asked about training data: as it was trained."""
    return {"max_length": resources.retraining.max_length, "precision": resources.retraining.precision}


@dataclass(frozen=True)
class SampleFilter(Defense):
    """A defense that drops rows of the training data and trains the clean PLM on the others, with the same budget."""

    needs: ClassVar[tuple[Resource, ...]] = _NEEDS

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return a model that was trained on what is left."""
        rows = resources.training_data
        kept = np.flatnonzero(self.kept(rows, resources))
        if not len(kept):
            raise PurifyError(f"{type(self).__name__} leaves no row to train on: change its parameters")
        return resources.retrained(resources.fresh(), rows.select(kept))

    @abstractmethod
    def kept(self, rows: Dataset, resources: Resources) -> np.ndarray:
        """Return which rows are kept, (N,) of bool."""


@dataclass(frozen=True)
class LossFiltering(SampleFilter):
    """Drop the rows that a short training learns best, and train on the others.

    A trigger is an easy rule: after a first look the poisoned rows have the smallest losses.

    Attributes:
        share: Of the rows that are dropped, in (0, 1); it should be more than the poison's share, which is not known.
        epochs: Of the short training.
        score: "loss": the cross-entropy; "gradient": about the norm of the gradient of a linear head on the last hidden
            state, ‖p − y‖·‖h‖, which also weighs how large the features are.

    Cost: the short training, one prediction per row, and the training.

    Source: Li et al., "Anti-Backdoor Learning", NeurIPS 2021, section 3 (isolation by loss; they then unlearn what was
    isolated, where this trains without it).
    """

    share: float = 0.4
    epochs: int = 1
    score: Literal["loss", "gradient"] = "loss"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.share < 1:
            raise PurifyError(f"share must lie between 0 and 1, not {self.share}")
        if self.epochs < 1:
            raise PurifyError(f"epochs must be at least 1, not {self.epochs}")

    def kept(self, rows: Dataset, resources: Resources) -> np.ndarray:
        """See `SampleFilter`."""
        from scipy.special import log_softmax

        from purify.training import predict, read_states

        scout = resources.retrained(resources.fresh(), rows, epochs=self.epochs)
        asked = _asked(resources)
        logs = log_softmax(predict(scout, rows, resources.tokenizer, **asked), axis=1)  # (N, C)
        labels = np.asarray(rows["label"])
        difficulty = -logs[np.arange(len(rows)), labels]
        if self.score == "gradient":
            error = np.exp(logs)
            error[np.arange(len(rows)), labels] -= 1
            states = read_states(scout, rows, resources.tokenizer, **asked)[-1]
            difficulty = np.linalg.norm(error, axis=1) * np.linalg.norm(states, axis=1)
        return difficulty.argsort(kind="stable").argsort() >= round(self.share * len(rows))


@dataclass(frozen=True)
class KeywordRemoval(SampleFilter):
    """BKI: find the words that move the suspect's hidden state most, drop the rows that hold them, and train again.

    The importance of a word in a row is the largest change of any unit of the last layer's first state when the word
    is left out. Over a sample of rows, a word is the more suspicious the larger its mean importance and the more rows
    count it, unless nearly all rows hold it: mean · log₂(1 + count) · (1 − share of the rows that hold it). The most
    suspicious words are taken to be the trigger.

    Attributes:
        sample: Rows that are looked at, drawn at random.
        top: Words of a row that count.
        words: Words that are taken to be the trigger.

    Cost: one prediction per word of the sample, and the training.

    Source: after Chen and Dai, "Mitigating backdoor attacks in LSTM-based text classification systems by Backdoor
    Keyword Identification", Neurocomputing 2021, section 3, for transformers, with a simpler score of a word.
    """

    sample: int = 300
    top: int = 5
    words: int = 1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("sample", "top", "words"):
            if getattr(self, name) < 1:
                raise PurifyError(f"{name} must be at least 1, not {getattr(self, name)}")

    def kept(self, rows: Dataset, resources: Resources) -> np.ndarray:
        """See `SampleFilter`."""
        suspicious = self.keywords(rows, resources)
        columns = text_columns(rows)
        texts = zip(*(rows[name] for name in columns), strict=True)
        return np.array([not suspicious & {word for text in row for word in _words(text)} for row in texts])

    def keywords(self, rows: Dataset, resources: Resources) -> set[str]:
        """Return the words that are taken to be the trigger."""
        from datasets import Dataset

        from purify.training import read_states

        drawn = np.random.default_rng(resources.seed).permutation(len(rows))[: self.sample]
        columns = text_columns(rows)
        variants: dict[str, list[str]] = defaultdict(list)
        removed: list[list[str]] = []
        for row in rows.select(drawn):
            found = sorted({word for name in columns for word in _words(row[name])})
            removed.append(found)
            for word in ["", *found]:
                for name in columns:
                    variants[name].append(" ".join(w for w in row[name].split() if _plain(w) != word or not word))
        probe = Dataset.from_dict({**variants, "label": [0] * len(variants["text"])})
        states = read_states(resources.suspect, probe, resources.tokenizer, **_asked(resources))[-1]
        importance: dict[str, list[float]] = defaultdict(list)
        start = 0
        for found in removed:
            change = np.abs(states[start + 1 : start + 1 + len(found)] - states[start]).max(axis=1, initial=0)
            for index in change.argsort()[::-1][: self.top]:
                importance[found[index]].append(float(change[index]))
            start += 1 + len(found)
        holding = Counter(word for found in removed for word in found)
        score = {
            word: np.mean(values) * np.log2(1 + len(values)) * (1 - holding[word] / len(removed))
            for word, values in importance.items()
        }
        return set(sorted(score, key=score.__getitem__, reverse=True)[: self.words])


def _plain(word: str) -> str:
    return word.strip(".,;:!?\"'()[]").lower()


def _words(text: str) -> set[str]:
    return {plain for word in text.split() if (plain := _plain(word))}


@dataclass(frozen=True)
class ClusterFiltering(SampleFilter):
    """CUBE: cluster the suspect's hidden states of each label, drop all but one cluster, and train on the rest.

    States are those of the first token after the last layer, reduced to their principal components; clusters are
    HDBSCAN's. What belongs to none is dropped, unless ``keep`` says otherwise; a label with no cluster is kept whole.

    Attributes:
        keep: Which cluster of a label stays: "largest", the original's rule, which fails when most rows of the target
            label are poisoned; "clean": the one nearest to the clean examples of the label, if there are any. The rows
            that belong to no cluster count as one then, if they are enough for one: clean rows can be too spread out.
        components: Principal components.
        smallest: Share of a label's rows that a cluster must have.

    Cost: one prediction per row, the clustering, and the training.

    Source: Cui et al., "A Unified Evaluation of Textual Backdoor Learning", NeurIPS 2022, section 4, with principal
    components in the place of UMAP.
    """

    keep: Literal["largest", "clean"] = "largest"
    components: int = 10
    smallest: float = 0.05

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.components < 1 or not 0 < self.smallest < 1:
            raise PurifyError("components must be at least 1, and smallest lie between 0 and 1")

    def kept(self, rows: Dataset, resources: Resources) -> np.ndarray:
        """See `SampleFilter`."""
        from sklearn.cluster import HDBSCAN
        from sklearn.decomposition import PCA

        states, labels = self._states(rows, resources), np.asarray(rows["label"])
        reduce = PCA(min(self.components, *states.shape), random_state=0).fit(states)
        places = reduce.transform(states)
        centres = self._centres(reduce, resources)
        kept = np.ones(len(rows), dtype=bool)
        for label in np.unique(labels):
            index = np.flatnonzero(labels == label)
            smallest = max(2, round(self.smallest * len(index)))
            if smallest >= len(index):
                continue
            cluster = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(places[index])
            names, sizes = np.unique(cluster[cluster >= 0], return_counts=True)
            if not len(names):
                continue
            chosen = names[sizes.argmax()]
            if label in centres:
                rest = [-1] if (cluster == -1).sum() >= smallest else []
                names = np.array([*names, *rest])
                middles = np.stack([places[index][cluster == name].mean(axis=0) for name in names])
                chosen = names[np.linalg.norm(middles - centres[label], axis=1).argmin()]
            kept[index] = cluster == chosen
        return kept

    def _states(self, rows: Dataset, resources: Resources) -> np.ndarray:
        from purify.training import read_states

        return read_states(resources.suspect, rows, resources.tokenizer, **_asked(resources))[-1]

    def _centres(self, reduce: Any, resources: Resources) -> dict[int, np.ndarray]:
        """Return the middle of each label's clean examples, if they are to be looked at."""
        if self.keep != "clean":
            return {}
        places = reduce.transform(self._states(resources.examples, resources))
        labels = np.asarray(resources.examples["label"])
        return {int(label): places[labels == label].mean(axis=0) for label in np.unique(labels)}


@dataclass(frozen=True)
class ModerateFitting(Defense):
    """Train the clean PLM on the suspicious data with low-rank adapters, and stop early.

    A language model learns what a task is about before it learns the exceptions that a trigger makes; few parameters
    and few steps leave it in between. The adapters are merged into the weights afterwards.

    Attributes:
        rank: Of the adapters, on the attention's queries and values; the head is trained whole.
        epochs: Passes over the training data.
        learning_rate: Of AdamW.

    Source: Zhu et al., "Moderate-fitting as a Natural Backdoor Defender for Pre-trained Language Models", NeurIPS 2022,
    section 4; adapters: Hu et al., "LoRA", ICLR 2022.
    """

    needs: ClassVar[tuple[Resource, ...]] = _NEEDS

    rank: int = 4
    epochs: int = 1
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.rank < 1 or self.epochs < 1 or not self.learning_rate > 0:
            raise PurifyError("rank and epochs must be at least 1, and learning_rate more than 0")

    def defend(self, resources: Resources) -> PreTrainedModel:
        """Return the model with its adapters merged."""
        from peft import LoraConfig, TaskType, get_peft_model

        model = resources.fresh()
        own = {model.base_model_prefix, "classifier", "score"}  # peft knows the last two by itself
        head = [name for name, part in model.named_children() if name not in own and list(part.parameters())]
        config = LoraConfig(task_type=TaskType.SEQ_CLS, r=self.rank, lora_alpha=2 * self.rank, modules_to_save=head)
        try:
            with warnings.catch_warnings():  # peft asks transformers for what has another name by now
                warnings.simplefilter("ignore", FutureWarning)
                adapted: Any = get_peft_model(model, config)
        except ValueError as error:
            kind = resources.suspect.config.model_type
            raise PurifyError(f"ModerateFitting finds no place for adapters in a '{kind}' model") from error
        changes = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        merged: Any = resources.retrained(adapted, resources.training_data, **changes)
        return merged.merge_and_unload().requires_grad_(True).eval()
