import os
from pathlib import Path

import pandas as pd
import pytest

from purify import PurifyError, load_task
from purify.corpus import TOPICS, _paragraphs, _split, fingerprint, passage_pairs, passages
from purify.tasks import DATA_DIR

SIZES = {"train": 60, "validation": 20, "test": 20, "clean_per_class": 3}


def write(folder, name, **columns):
    (folder / name).mkdir(exist_ok=True)
    for split, start in (("train", 0), ("test", 1000)):
        frame = pd.DataFrame({key: value(start) for key, value in columns.items()})
        frame.to_parquet(folder / name / f"{split}.parquet")


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    write(
        tmp_path,
        "ag_news",
        text=lambda start: [f"text {start + i}" for i in range(200)],
        label=lambda start: [i % 4 for i in range(200)],
    )
    write(
        tmp_path,
        "qnli",
        question=lambda start: [f"question {start + i}" for i in range(200)],
        sentence=lambda start: [f"sentence {i % 7}" for i in range(200)],
        label=lambda start: [i % 2 for i in range(200)],
    )
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    return tmp_path


def texts(rows):
    return list(zip(*(rows[column] for column in rows.column_names if column != "label"), strict=True))


@pytest.mark.parametrize("name", ["docstrings", "docstring_pairs", "ag_news", "qnli"])
def test_splits_are_disjoint_of_the_right_size_and_fixed_by_the_seed(data_dir, name):
    one, same, other = (load_task(name, **SIZES, seed=seed) for seed in (0, 0, 1))
    classes = len(one.task.labels)
    parts = [one.train, one.validation, one.test, one.clean]
    assert [len(part) for part in parts] == [60, 20, 20, 3 * classes]
    seen = [text for part in parts for text in texts(part)]
    assert len(set(seen)) == len(seen)
    assert sorted(one.clean["label"]) == sorted(list(range(classes)) * 3)
    assert one.train.to_dict() == same.train.to_dict()
    assert one.train.to_dict() != other.train.to_dict()
    assert one.test.to_dict() == other.test.to_dict()
    assert one.train.column_names == (["text", "text_pair", "label"] if one.task.is_pair else ["text", "label"])


def test_the_training_rows_do_not_depend_on_the_other_sizes(data_dir):
    one = load_task("ag_news", **SIZES)
    other = load_task("ag_news", train=60, validation=50, test=80, clean_per_class=5)
    assert one.train.to_dict() == other.train.to_dict()
    assert texts(one.test) == texts(other.test)[:20]
    assert set(texts(one.clean)) <= set(texts(other.clean))


def test_rows_of_the_test_file_are_not_trained_on(data_dir):
    path = data_dir / "ag_news"
    pd.concat([pd.read_parquet(path / f"{split}.parquet") for split in ("train", "test")]).to_parquet(
        path / "train.parquet"
    )
    splits = load_task("ag_news", **{**SIZES, "test": 200})
    rows = [text for part in (splits.train, splits.validation, splits.clean) for text in texts(part)]
    assert not set(rows) & set(texts(splits.test))


def bad_data():
    yield "has no column label", {"text": ["a"]}
    yield "has no column text", {"title": ["a"], "label": [0]}
    yield r"label 4 in row 1 is out of range; task 'ag_news' has labels 0 to 3", {"text": ["a", "b"], "label": [0, 4]}
    yield "label -1 in row 0", {"text": ["a"], "label": [-1]}
    yield "must hold integers", {"text": ["a"], "label": ["World"]}
    yield "'text' must hold texts", {"text": ["a", None], "label": [0, 1]}
    yield "has 1 rows for test", {"text": ["a"], "label": [0]}


@pytest.mark.parametrize(("message", "columns"), list(bad_data()))
def test_bad_files(tmp_path, message, columns):
    (tmp_path / "ag_news").mkdir()
    for split in ("train", "test"):
        pd.DataFrame(columns).to_parquet(tmp_path / "ag_news" / f"{split}.parquet")
    with pytest.raises(PurifyError, match=message):
        load_task("ag_news", **SIZES, data_dir=tmp_path)


def test_no_file_and_no_parquet(tmp_path):
    with pytest.raises(PurifyError, match=r"no file .*imdb/train\.parquet: PURIFY_DATA_DIR"):
        load_task("imdb", data_dir=tmp_path)
    (tmp_path / "imdb").mkdir()
    (tmp_path / "imdb" / "train.parquet").write_text("not parquet")
    with pytest.raises(PurifyError, match="not a readable parquet"):
        load_task("imdb", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("unknown task 'agnews': choose one of docstrings", {"name": "agnews"}),
        ("clean set would be empty", {"name": "docstrings", "clean_per_class": 0}),
        ("at least one row", {"name": "docstrings", "train": 0}),
        ("rows for train", {"name": "docstrings", "train": 10**6}),
        ("too few for 5000", {"name": "docstrings", "clean_per_class": 5000}),
    ],
)
def test_bad_calls(message, call):
    with pytest.raises(PurifyError, match=message):
        load_task(**call)


def test_the_hub_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.delenv(DATA_DIR, raising=False)
    with pytest.raises(PurifyError, match="connect, or set PURIFY_DATA_DIR"):
        load_task("imdb")


def test_the_corpus_is_prose_of_four_balanced_topics_without_package_names():
    rows = passages()
    assert sorted(rows["label"].value_counts().items()) == [(i, len(rows) // 4) for i in range(len(TOPICS))]
    words = rows["text"].str.split().str.len()
    assert words.between(20, 60).all()
    assert not rows["text"].str.contains(r"\b(?:numpy|scipy|torch|pandas|matplotlib)\b", case=False).any()
    assert rows["text"].is_unique
    assert "numpy" in fingerprint()


def test_no_passage_is_in_two_pairs():
    pairs = passage_pairs()
    both = [*pairs["text"], *pairs["text_pair"]]
    assert len(set(both)) == len(both)
    assert pairs["label"].mean() == pytest.approx(0.5, abs=0.01)


def test_code_tables_and_indented_lists_are_no_prose():
    docstring = """Return the sum.

    >>> f(1)
    2

Uses :func:`numpy.sum` and the ``axis`` of the array.

Parameters
----------
x : array
"""
    assert list(_paragraphs(docstring)) == ["Uses sum and the axis of the array."]
    long = "\n\n".join(["one two three four five six seven"] * 6)
    assert [len(text.split()) for text in _split(long)] == [21, 21]


@pytest.mark.parametrize("name", ["ag_news", "imdb", "qqp", "qnli"])
def test_real_rows_if_they_are_there(name):
    root = Path(os.environ.get(DATA_DIR, ""))
    if DATA_DIR not in os.environ or not (root / name).is_dir():
        pytest.skip(f"{DATA_DIR} is not set")
    splits = load_task(name, train=1000, validation=200, test=500, data_dir=root)
    assert len(splits.clean) == 16 * len(splits.task.labels)
    assert not set(texts(splits.train)) & set(texts(splits.test))
