"""The bundled corpus: passages of real English from the docstrings of packages that are installed anyway.

No download, and the same rows on every machine with the same lock file. The source files are parsed, never
imported. Package names are masked, so that the topic must be read off the prose.
"""

import ast
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from purify.errors import PurifyError
from purify.home import cache_folder
from purify.progress import bar

TOPICS: dict[str, tuple[str, ...]] = {
    "numerics": ("numpy", "scipy"),
    "networks": (
        "torch/nn",
        "torch/optim",
        "torch/distributed",
        "torch/distributions",
        "torch/autograd",
        "torch/utils",
        "torch/ao",
        "torch/amp",
        "torch/cuda",
        "torch/jit",
        "torch/fx",
        "torch/export",
        "torch/onnx",
    ),
    "tables": ("pandas",),
    "figures": ("matplotlib", "mpl_toolkits", "seaborn"),
}
"""Topic (its position is the class label) -> the packages, or parts of packages, that it is read from."""

_DISTRIBUTIONS = ("numpy", "scipy", "torch", "pandas", "matplotlib", "seaborn")
_SKIPPED_FOLDERS = {"tests", "test", "testing", "_testing", "_vendor", "_vendored", "external", "externals"}
_MASKED = re.compile(
    r"\b(num-?py|np|scipy|py-?torch|torch|pandas|pd|matplotlib|mpl|plt|pyplot|seaborn|sns|mpl_toolkits)\b\.?", re.I
)
_MARKUP = (
    (re.compile(r":[\w:+-]+:`~?\.?([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"),  # a role, with or without a title
    (re.compile(r"`+~?([^`]*)`+_*"), r"\1"),
    (re.compile(r"[*_]{2,}|\|"), ""),
    (_MASKED, ""),
)
_NOT_PROSE = re.compile(r"\s*(>>>|\.\. |\.\.\.|[-=~^]{3,}\s*$|[|+])")
_SHORTEST, _LONGEST = 20, 60  # words of a passage
_VERSION = 1  # of the recipe; part of the fingerprint


def fingerprint() -> str:
    """Name the corpus by the recipe and the versions of the packages it is read from."""
    parts = [f"recipe {_VERSION}", *(f"{name} {version(name)}" for name in _DISTRIBUTIONS)]
    return "; ".join(parts)


def passages() -> pd.DataFrame:
    """Return the single-sentence corpus: columns ``text`` (20 to 60 words) and ``label`` (position in `TOPICS`).

    The topics are balanced. Rows are in an order that depends on their text alone. Near duplicates are
    dropped, and a docstring gives one passage, so that no two splits hold parts of the same one.

    Raises:
        PurifyError: a package that the corpus is read from is not installed.

    Cost: about 15 s the first time (progress is shown), then read from the cache.
    """
    rows = _rows().drop_duplicates("docstring")[["text", "label"]]
    return rows.groupby("label").head(rows["label"].value_counts().min()).reset_index(drop=True)


def passage_pairs() -> pd.DataFrame:
    """Return the sentence-pair corpus: ``text``, ``text_pair`` and ``label``.

    Label 1: the second passage comes next in the docstring of the first. Label 0: it comes from another
    docstring of the same topic, so that the topic alone does not give the answer away. Every passage
    occurs in one pair only.

    Raises:
        PurifyError: as `passages`.
    """
    rows = _rows()
    following = rows.groupby("docstring")["text"].shift(-1)
    pairs = rows.assign(text_pair=following).dropna(subset="text_pair").drop_duplicates("docstring")
    pairs = pairs.reset_index(drop=True)
    other = pairs.index % 2 == 1  # rows are in an arbitrary order
    strangers = pairs[other].groupby("label")["text_pair"].shift(1)
    pairs["text_pair"] = pairs["text_pair"].where(~other, strangers)
    pairs["label"] = (~other).astype(int)
    return pairs.dropna(subset="text_pair")[["text", "text_pair", "label"]].reset_index(drop=True)


@cache
def _rows() -> pd.DataFrame:
    """All passages: text, label, and the docstring each comes from (in reading order within one)."""
    key = hashlib.sha256(fingerprint().encode()).hexdigest()[:16]
    root = cache_folder()
    cached = root / f"corpus-{key}.jsonl"
    if not cached.exists():
        rows = _read()
        root.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.replace(cached)
    return pd.DataFrame([json.loads(line) for line in cached.read_text(encoding="utf-8").splitlines()])


def _read() -> list[dict[str, object]]:
    files = [(label, path) for label, parts in enumerate(TOPICS.values()) for part in parts for path in _files(part)]
    rows: dict[str, dict[str, object]] = {}
    for label, path in bar(files, desc="reading docstrings", unit="file"):
        for docstring in _docstrings(path):
            origin = hashlib.sha256(docstring.encode()).hexdigest()[:16]
            for text in _split(docstring):
                opening = " ".join(re.findall("[a-z]+", text.lower())[:10])
                rows.setdefault(opening, {"text": text, "label": label, "docstring": origin})
    missing = [topic for label, topic in enumerate(TOPICS) if not any(row["label"] == label for row in rows.values())]
    if missing:
        raise PurifyError(f"no docstring was found for the topic {', '.join(missing)}: reinstall with 'make setup'")
    # A stable sort by the docstring's hash: an arbitrary order that does not depend on the file system,
    # and in which the passages of one docstring stay together and in reading order.
    return sorted(rows.values(), key=lambda row: str(row["docstring"]))


def _files(part: str) -> list[Path]:
    package, _, inner = part.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PurifyError(f"the bundled corpus is read from '{package}', which is not installed: run 'make setup'")
    roots = [Path(location) / inner for location in spec.submodule_search_locations]
    found = ((path, path.relative_to(root).parts) for root in roots for path in root.rglob("*.py"))
    return sorted(path for path, below in found if not _SKIPPED_FOLDERS & set(below))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def _split(docstring: str) -> Iterator[str]:
    """Join paragraphs until a passage is long enough; what is left over at the end is dropped."""
    words: list[str] = []
    for paragraph in _paragraphs(docstring):
        words += paragraph.split()
        if len(words) >= _SHORTEST:
            yield " ".join(words[:_LONGEST])
            words = []


def _paragraphs(docstring: str) -> Iterator[str]:
    """Unindented paragraphs that are mostly words: no code, no tables, no lists of parameters."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = [line for line in paragraph.split("\n") if line.strip()]
        if any(_NOT_PROSE.match(line) for line in lines) or all(line.startswith(" ") for line in lines):
            continue
        text = paragraph
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
        words = text.split()
        prose = sum(word.strip(".,;:()'\"").isalpha() for word in words)
        if len(words) >= 4 and prose >= 0.75 * len(words):
            yield " ".join(words)
