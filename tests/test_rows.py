"""A user's own rows, in every format, and everything that can be wrong with them."""

import json

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purify import PurifyError
from purify import rows as rows_module
from purify.rows import read_rows, stratified

LABELS = {0: "World", 1: "Sports"}
FRAME = pd.DataFrame({"text": ["a, b", "zwei\nZeilen"], "label": [1, 0], "more": [0.5, None]})


def written(frame, path):
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, sep="\t", index=False)
        case ".jsonl":
            frame.to_json(path, lines=True, orient="records")
        case ".parquet":
            frame.to_parquet(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    found = read_rows(written(FRAME, tmp_path / f"rows.{ending}"), LABELS)
    assert found.to_dict() == {"text": ["a, b", "zwei\nZeilen"], "label": [1, 0]}


@pytest.mark.parametrize("values", [["sports", "WORLD "], ["1", "0"], [1.0, 0.0]])
def test_labels_are_numbers_or_names(tmp_path, values):
    frame = FRAME.assign(label=values)
    assert read_rows(written(frame, tmp_path / "rows.csv"), LABELS)["label"] == [1, 0]


def test_columns_by_other_names_and_pairs(tmp_path):
    frame = pd.DataFrame({"q": ["null", "NA"], "a": ["1", "nan"], "class": ["World", "World"]})
    found = read_rows(written(frame, tmp_path / "r.csv"), LABELS, text="q", pair="a", label="class")
    assert found.to_dict()["text"] == ["null", "NA"]  # words, not holes


@pytest.mark.parametrize(
    ("content", "ending", "message"),
    [
        ("text,label\n", "csv", "has no row"),
        ("", "csv", "cannot be read as csv"),
        ("sentence,label\na,1\n", "csv", r"no column 'text' \(it has sentence, label\): name it with --text"),
        ("text,y\na,1\n", "csv", r"name it with --label"),
        ("text,label\na,1\n,0\n", "csv", "row 2 of .* has no text"),
        ('{"text": 3, "label": 1}\n', "jsonl", "row 1 of .* has no text: it holds 3"),
        ("text,label\na,2\n", "csv", r"label 2, no class of the model \(world, sports\)"),
        ("text,label\na,\n", "csv", "no class of the model"),
        ("{", "jsonl", "cannot be read as jsonl"),
        ("no parquet", "parquet", "cannot be read as parquet"),
        ("a", "txt", "must end in .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, content, ending, message):
    path = tmp_path / f"rows.{ending}"
    path.write_text(content)
    with pytest.raises(PurifyError, match=message):
        read_rows(path, LABELS)


def test_a_missing_and_a_huge_file(tmp_path, monkeypatch):
    with pytest.raises(PurifyError, match="there is no file"):
        read_rows(tmp_path / "none.csv", LABELS)
    monkeypatch.setattr(rows_module, "LARGEST", 3)
    with pytest.raises(PurifyError, match="larger than"):
        read_rows(written(FRAME, tmp_path / "rows.csv"), LABELS)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), ending=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path, content, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content or json.dumps({}).encode())
    try:
        assert set(read_rows(path, LABELS)["label"]) <= set(LABELS)
    except PurifyError as error:
        assert "\n" not in str(error)  # noqa: PT017


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 60), st.integers(0, 5))
def test_a_stratified_draw_takes_the_same_share_of_every_class(labels, count, seed):
    drawn = stratified(labels, count, seed)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(count, len(labels))
    for label in set(labels):
        expected = labels.count(label) * len(drawn) / len(labels)
        assert abs(sum(labels[row] == label for row in drawn) - expected) <= 1.5
    assert drawn == stratified(labels, count, seed)


def test_names_that_are_numbers_are_names(tmp_path):
    """Star ratings: "5" is the class number 4."""
    stars = {number: str(number + 1) for number in range(5)}
    path = tmp_path / "stars.csv"
    pd.DataFrame({"text": ["a", "b"], "label": [1, 5]}).to_csv(path, index=False)
    assert list(read_rows(path, stars)["label"]) == [0, 4]
    with pytest.raises(PurifyError, match="two classes of the model have the same name"):
        read_rows(path, {0: "good", 1: "Good"})
