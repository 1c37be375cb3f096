"""Text-classification tasks: schema, label names, where the rows come from, and the fixed-seed splits."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from purify import corpus
from purify.errors import PurifyError

if TYPE_CHECKING:
    import datasets

DATA_DIR = "PURIFY_DATA_DIR"
"""Environment variable: a folder with ``<task>/train.parquet`` and ``<task>/test.parquet`` in the hub's schema."""


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        name: What the command line calls it; also its folder under ``PURIFY_DATA_DIR``.
        labels: Label names, in the order of the integer codes.
        columns: The text column, or the two columns of a sentence pair.
        hub: Hub id and configuration.
        test: Name of the hub's split that has public labels and is used for testing.
        rows: For a bundled task, the function that returns all its rows.
    """

    name: str
    labels: tuple[str, ...]
    columns: tuple[str, ...] = ("text",)
    hub: tuple[str, ...] = ()
    test: str = "test"
    rows: Callable[[], pd.DataFrame] | None = None

    @property
    def is_pair(self) -> bool:
        """Whether an input is a pair of sentences."""
        return len(self.columns) == 2


TASKS = {
    task.name: task
    for task in (
        Task("docstrings", tuple(corpus.TOPICS), rows=corpus.passages),
        Task("docstring_pairs", ("unrelated", "follows"), ("text", "text_pair"), rows=corpus.passage_pairs),
        Task("ag_news", ("World", "Sports", "Business", "Sci/Tech"), hub=("fancyzhx/ag_news",)),
        Task("imdb", ("negative", "positive"), hub=("stanfordnlp/imdb",)),
        Task(
            "qqp",
            ("not duplicate", "duplicate"),
            ("question1", "question2"),
            ("nyu-mll/glue", "qqp"),
            "validation",
        ),
        Task(
            "qnli", ("entailment", "not entailment"), ("question", "sentence"), ("nyu-mll/glue", "qnli"), "validation"
        ),
    )
}
"""All tasks by their names. The first two are embedded: their rows come from the docstrings of installed packages."""


@dataclass(frozen=True)
class Splits:
    """The rows of one experiment; each split has ``text``, for pairs ``text_pair``, and ``label``.

    Attributes:
        task: What the rows are of.
        train: What the attacker trains on.
        validation: What choices (the reserve ratio) are made on.
        test: What scores are reported on; the same rows for every seed.
        clean: The defender's few examples, N per class, disjoint from ``train``.
        source: Where the rows come from, for the record.
        digest: 16 hexadecimal digits of the sha256 of all rows that the splits are drawn from.
    """

    task: Task
    train: "datasets.Dataset"
    validation: "datasets.Dataset"
    test: "datasets.Dataset"
    clean: "datasets.Dataset"
    source: str
    digest: str


def load_task(
    name: str,
    *,
    train: int = 1600,
    validation: int = 300,
    test: int = 600,
    clean_per_class: int = 16,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> Splits:
    """Load a task and split it.

    The bundled tasks need nothing. The others are read from ``data_dir`` (default: the environment
    variable ``PURIFY_DATA_DIR``) or, when neither is set, from the Hugging Face hub or its cache.

    Args:
        name: A key of `TASKS`.
        train, validation, test: Rows of each split.
        clean_per_class: Rows per class of the small clean set.
        seed: Of the draw of train, validation and clean rows.
        data_dir: Folder of parquet files.

    Raises:
        PurifyError: unknown task, rows that cannot be had, a missing column, labels out of range, an
            empty clean set, or fewer rows than asked for.
    """
    if name not in TASKS:
        raise PurifyError(f"unknown task '{name}': choose one of {', '.join(TASKS)}")
    if clean_per_class < 1:
        raise PurifyError(f"the clean set would be empty: clean_per_class must be at least 1, not {clean_per_class}")
    if min(train, validation, test) < 1:
        raise PurifyError(f"every split needs at least one row (train {train}, validation {validation}, test {test})")
    task = TASKS[name]
    pool, held_out, source = _load(task, data_dir or os.environ.get(DATA_DIR))
    for split, asked, there in (("test", test, len(held_out)), ("train + validation", train + validation, len(pool))):
        if asked > there:
            raise PurifyError(f"task '{name}' has {there} rows for {split}, but {asked} were asked for")
    digest = _digest(pool, held_out)
    # Training rows from the front, validation rows from the back, clean rows right after the training
    # rows: what a suspect was trained on does not change with the sizes that the defender chooses.
    pool = pool.sample(frac=1, random_state=np.random.default_rng(seed))
    clean = _per_class(pool[train : len(pool) - validation], len(task.labels), clean_per_class)
    return Splits(
        task,
        train=_dataset(pool[:train]),
        validation=_dataset(pool[len(pool) - validation :]),
        test=_dataset(held_out[:test]),
        clean=_dataset(clean),
        source=source,
        digest=digest,
    )


@cache
def rows_digest(name: str, data_dir: str | None) -> str:
    """Return `Splits.digest` of a task: the same for all sizes and seeds.

    Raises:
        PurifyError: as `load_task`.
    """
    pool, held_out, _ = _load(TASKS[name], data_dir)
    return _digest(pool, held_out)


def training_texts(name: str, data_dir: str | Path | None = None) -> list[str]:
    """Return all texts of a task's training rows, pairs as two, and none of its test rows.

    Raises:
        PurifyError: as `load_task`.
    """
    if name not in TASKS:
        raise PurifyError(f"unknown task '{name}': choose one of {', '.join(TASKS)}")
    pool, _, _ = _load(TASKS[name], data_dir or os.environ.get(DATA_DIR))
    return [text for column in pool.columns if column != "label" for text in pool[column]]


def text_columns(rows: "datasets.Dataset") -> list[str]:
    """Return the columns of the texts: one, or two for pairs."""
    return [name for name in ("text", "text_pair") if name in rows.column_names]


def _load(task: Task, data_dir: str | Path | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return the training pool and the test rows, both checked and in an order fit to be cut."""
    if task.rows is not None:
        rows = _checked(task.rows(), task, "the bundled corpus").sample(frac=1, random_state=0)
        cut = len(rows) // 5
        return rows[cut:], rows[:cut], corpus.fingerprint()
    if data_dir:
        folder = Path(data_dir) / task.name
        pool, held_out = (_parquet(folder / f"{split}.parquet", task) for split in ("train", "test"))
        source = f"parquet files of {task.name}"
    else:
        pool, held_out = (_hub(task, split) for split in ("train", task.test))
        source = "hub: " + "/".join(task.hub)
    key = ["text", "text_pair"] if task.is_pair else ["text"]
    seen = pd.MultiIndex.from_frame(held_out[key])
    pool = pool[~pd.MultiIndex.from_frame(pool[key]).isin(seen)]
    return pool, held_out.sample(frac=1, random_state=0), source


def _digest(*frames: pd.DataFrame) -> str:
    """Hash rows and their order; the same whether they came from the hub or from files."""
    digest = hashlib.sha256()
    for frame in frames:
        for row in frame.itertuples(index=False):
            digest.update("\x1f".join(map(str, row)).encode() + b"\x1e")
    return digest.hexdigest()[:16]


def _parquet(path: Path, task: Task) -> pd.DataFrame:
    if not path.exists():
        raise PurifyError(f"no file {path}: {DATA_DIR} must name a folder that holds {task.name}/{path.name}")
    try:
        rows = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise PurifyError(f"{path} is not a readable parquet file ({error})") from error
    return _checked(rows, task, str(path))


def _hub(task: Task, split: str) -> pd.DataFrame:
    import datasets  # noqa: PLC0415

    where = "/".join(task.hub)
    try:
        rows = datasets.load_dataset(*task.hub, split=split)
    except (OSError, ValueError) as error:
        raise PurifyError(
            f"cannot load '{where}' from the hub or its cache: connect, or set {DATA_DIR} to a folder with "
            f"{task.name}/train.parquet and {task.name}/test.parquet"
        ) from error
    return _checked(rows.to_pandas(), task, where)


def _checked(rows: pd.DataFrame, task: Task, where: str) -> pd.DataFrame:
    """Return text, text_pair and label only, without duplicates, or say what is wrong with the rows."""
    missing = [column for column in (*task.columns, "label") if column not in rows.columns]
    if missing:
        raise PurifyError(f"{where} has no column {', '.join(missing)}; task '{task.name}' needs it")
    for column in task.columns:
        if not rows[column].map(lambda text: isinstance(text, str)).all():
            raise PurifyError(f"{where}: the column '{column}' must hold texts in every row")
    if not pd.api.types.is_integer_dtype(rows["label"]):
        raise PurifyError(f"{where}: the column 'label' must hold integers, not {rows['label'].dtype}")
    wrong = rows["label"][~rows["label"].between(0, len(task.labels) - 1)]
    if len(wrong):
        raise PurifyError(
            f"{where}: label {wrong.iloc[0]} in row {wrong.index[0]} is out of range; task '{task.name}' has labels "
            f"0 to {len(task.labels) - 1} ({', '.join(task.labels)})"
        )
    names = dict(zip(task.columns, ("text", "text_pair"), strict=False))
    rows = rows[[*task.columns, "label"]].rename(columns=names)
    return rows.drop_duplicates(subset=list(names.values()))


def _per_class(pool: pd.DataFrame, classes: int, each: int) -> pd.DataFrame:
    """Take the first ``each`` rows of every class."""
    counts = pool["label"].value_counts().reindex(range(classes), fill_value=0)
    if counts.min() < each:
        raise PurifyError(f"class {counts.idxmin()} has {counts.min()} rows, too few for {each} clean ones per class")
    return pool.groupby("label").head(each)


def _dataset(rows: pd.DataFrame) -> "datasets.Dataset":
    import datasets  # noqa: PLC0415  (a second, for those who only want to know what a task is)

    return datasets.Dataset.from_pandas(rows, preserve_index=False)
