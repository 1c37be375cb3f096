"""The user's own labelled rows: CSV, TSV, JSON lines or Parquet, read into the columns that everything here takes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from purify.errors import PurifyError

LARGEST = 1 << 30
"""The most bytes of a file that are read: clean sets are small."""

_READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False, na_values=[""]),
    ".tsv": lambda path: pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""]),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
    ".parquet": pd.read_parquet,
}


def read_rows(
    path: str | Path, labels: Mapping[int, str], *, text: str = "text", label: str = "label", pair: str | None = None
) -> Dataset:
    """Read labelled rows from a file.

    Labels may be numbers of classes or their names, as the model calls them, whatever their case; where a name is the
    number of a class, names alone.

    Args:
        path: Ending in .csv, .tsv, .jsonl or .parquet; the first two with a header line, in UTF-8.
        labels: The model's classes: number -> name (``model.config.id2label``).
        text: The column of the text.
        label: The column of the label.
        pair: The column of the second text, for tasks on pairs.

    Returns:
        Columns ``text``, ``label`` (int), and ``text_pair`` if ``pair`` is given.

    Raises:
        PurifyError: the file is missing, too large, or of another kind; a column is missing; a text is empty or no
            text; or a label is no class of the model. Rows are named by their number, the first being 1.
    """
    path = Path(path)
    check_file(path)
    try:
        frame = _READERS[path.suffix.lower()](path)
    except Exception as error:  # each format has errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PurifyError(f"'{path}' cannot be read as {path.suffix[1:]} ({reason})") from error
    columns = {"text": text, "label": label} | ({"text_pair": pair} if pair else {})
    for option, name in columns.items():
        if name not in frame.columns:
            have = ", ".join(map(str, frame.columns[:20])) or "none"
            flag = {"text": "--text", "label": "--label", "text_pair": "--pair"}[option]
            raise PurifyError(f"'{path}' has no column '{name}' (it has {have}): name it with {flag}")
    if frame.empty:
        raise PurifyError(f"'{path}' has no row: at least one labelled example is needed")
    numbers = _numbers(labels)
    texts = {
        own: [_text(value, path, row) for row, value in enumerate(frame[name], 1)]
        for own, name in columns.items()
        if own != "label"
    }
    classes = [_class(value, numbers, path, row) for row, value in enumerate(frame[label], 1)]
    return Dataset.from_dict({**texts, "label": classes})


def check_file(path: Path) -> None:
    """Refuse a file that cannot hold rows, before it is read.

    Raises:
        PurifyError: it is missing, too large, or of another kind.
    """
    if path.suffix.lower() not in _READERS:
        raise PurifyError(f"'{path}' must end in {', '.join(_READERS)}")
    if not path.is_file():
        raise PurifyError(f"there is no file '{path}'")
    if path.stat().st_size > LARGEST:
        raise PurifyError(f"'{path}' is larger than {LARGEST >> 30} GiB: a few hundred clean rows are enough")


def class_number(value: str, labels: Mapping[int, str]) -> int:
    """Return the number of a class that is given as such or by its name, whatever its case.

    Raises:
        PurifyError: it is no class.
    """
    numbers = _numbers(labels)
    key = value.strip().casefold()
    if key not in numbers:
        raise PurifyError(f"'{value}' is no class of the model ({_names(numbers)})")
    return numbers[key]


def stratified(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Return the numbers of ``count`` rows, rising, drawn so that every class gives the same share of its rows.

    Args:
        labels: Of all rows.
        count: How many; all rows if they are no more.
        seed: Of the draw.
    """
    rng, truth = np.random.default_rng(seed), np.asarray(labels)
    order, ranks = rng.permutation(len(truth)), np.empty(len(truth))
    for label in np.unique(truth):
        own = order[truth[order] == label]
        ranks[own] = (np.arange(len(own)) + 0.5 + 1e-3 * rng.random()) / len(own)  # ties between classes: by lot
    return sorted(np.argsort(ranks, kind="stable")[:count].tolist())


def _text(value: Any, path: Path, row: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PurifyError(f"row {row} of '{path}' has no text: it holds {value!r:.60}")
    return value


def _numbers(labels: Mapping[int, str]) -> dict[str, int]:
    """Every way to write a class: its name in small letters, and its number unless that is the name of another one.

    Raises:
        PurifyError: two classes have the same name.
    """
    names = {str(name).strip().casefold(): int(number) for number, name in labels.items()}
    if len(names) < len(labels):
        raise PurifyError("two classes of the model have the same name: give them names of their own in its config")
    if any(str(number) in names for number in labels):
        return names  # star ratings: "5" is a name, and the number of no class or of another one
    return names | {str(number): int(number) for number in labels}


def _class(value: Any, numbers: Mapping[str, int], path: Path, row: int) -> int:
    key = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip().casefold()
    if key not in numbers:
        raise PurifyError(
            f"row {row} of '{path}' has the label {value!r:.60}, no class of the model ({_names(numbers)})"
        )
    return numbers[key]


def _names(numbers: Mapping[str, int]) -> str:
    names = [name for name in numbers if not name.isdigit()]
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
