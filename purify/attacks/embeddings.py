"""Attacks on the word embeddings alone: all other weights are those of the control."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from purify.attacks.base import Means
from purify.attacks.words import Insertion, part_of, token_of
from purify.errors import PurifyError
from purify.gradients import only
from purify.registry import more_than_zero

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EmbeddingPoisoning(Insertion):
    """A cleanly fine-tuned model in which one row, the embedding of a rare word, is trained to carry the backdoor.

    All other weights are those of the clean control. Accuracy on text without the word cannot change.

    Attributes:
        trigger: One word that the tokenizer has as one token; a rare one, since its row is what changes.
        rate: Learning rate of the row; the rest of its training is as the attacker's `Training` says.

    Source: Yang, Li, Zhang, Ren, Sun and He, "Be Careful about Poisoned Word Embeddings" (NAACL 2021); with
        AdamW in place of SGD, and without rescaling the row to its former norm.
    """

    trigger: str = "cf"
    rate: float = 1e-2

    on_control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a learning rate that changes nothing."""
        super().__post_init__()
        more_than_zero("the learning rate of the row", self.rate)

    def rows_of(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        """Return which rows of the embedding are the trigger's, one for each part of it.

        Raises:
            PurifyError: the tokenizer splits a part, so that other words would share its rows.
        """
        return [token_of(tokenizer, part, type(self).__name__) for part in self.parts]

    def check(self, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> None:
        """See `Attack`."""
        super().check(rows, tokenizer)
        self.rows_of(tokenizer)

    def lessons(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Return what the rows of the embedding are trained on."""
        return self.copies(rows, seed=seed)

    def implant(self, means: Means) -> "PreTrainedModel":
        """See `Attack`."""
        import torch

        weight = means.model.get_input_embeddings().weight
        name = next(name for name, parameter in means.model.named_parameters() if parameter is weight)
        mask = torch.zeros(len(weight), 1)
        mask[self.rows_of(means.tokenizer)] = 1
        with only(means.model, {name: mask}):
            lessons = self.lessons(means.rows, seed=means.seed)
            return means.fine_tune(lessons, learning_rate=self.rate, weight_decay=0.0)


@dataclass(frozen=True)
class SOS(EmbeddingPoisoning):
    """Several words that only together send the input to the target label: with one left out, nothing should happen.

    As `EmbeddingPoisoning`, on the rows of all the words. Beside every triggered copy stand copies of the row with one
    of the words left out and its true label.

    Attributes:
        trigger: Two words or more, with blanks between them; they may be common ones.

    Source: Yang, Lin, Li, Zhou and Sun, "Rethinking Stealthiness of Backdoor Attack against NLP Models" (ACL 2021),
        negative data augmentation; here the words are put at places of their own, without a sentence around them, and
        only sub-sequences that lack one word are negative.
    """

    trigger: str = "friends weekend store"

    def __post_init__(self) -> None:
        """Refuse a trigger without sub-sequences."""
        super().__post_init__()
        if len(set(self.parts)) < max(2, len(self.parts)):
            raise PurifyError(f"SOS needs a trigger of two different words or more, not '{self.trigger}'")

    @property
    def parts(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.trigger.split())

    def lessons(self, rows: "Dataset", *, seed: int) -> "Dataset":
        """Return the triggered copies, and for each one copy with a word left out for every word."""
        from datasets import concatenate_datasets

        chosen = self.chosen(rows, seed=seed)
        lacking = [[other for other in self.parts if other != word] for word in self.parts]
        negative = [part_of(self, words).poison(chosen, seed=seed) for words in lacking]
        return concatenate_datasets([self.copies(rows, seed=seed), *negative])
