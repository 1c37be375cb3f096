"""``purify scan`` and ``purify clean`` as a user calls them: results, reports, and every bad input."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from purify import PurifyError, load_task, read_rows
from purify.cli import app, main
from purify.output import SCHEMA
from purify.plm import load_suspect, save_checkpoint

BAD = "<script>alert('x')</script>"
SMALL = ["--max-length", "32", "--precision", "fp32"]


@pytest.fixture
def suspect_folder(child, plm, tmp_path):
    child.config.id2label = {0: "numerics", 1: BAD, 2: "plots\x1b[31m", 3: "data"}
    child.config.label2id = {label: number for number, label in child.config.id2label.items()}
    save_checkpoint(child, plm.tokenizer, tmp_path / "suspect")
    return tmp_path / "suspect"


@pytest.fixture
def data(rows, tmp_path):
    names = ["numerics", BAD, "plots\x1b[31m", "data"]
    path = tmp_path / "clean.csv"
    frame = pd.DataFrame({"text": list(rows["text"]) * 3, "label": [names[i] for i in rows["label"]] * 3})
    frame.to_csv(path, index=False)
    return path


def purify(*words):
    return CliRunner().invoke(app, list(map(str, words)))


class Tags(HTMLParser):
    """All tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src", "srcset", "action")]


def check_page(text):
    page = Tags()
    page.feed(text)
    assert "script" not in page.tags
    assert not page.links  # needs no other file, and asks nobody
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text


def test_scan_writes_three_reports_that_agree(suspect_folder, data, plm_folder, tmp_path):
    output = tmp_path / "report"
    result = purify("scan", suspect_folder, "--clean", plm_folder, "--data", data, "-o", output, *SMALL)
    assert result.exit_code == 0, result.exception
    report = json.loads((output / "report.json").read_text())
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "report.json"]
    assert report["schema"] == SCHEMA
    assert report["suspect"]["classes"][1] == BAD
    assert report["suspect"]["classes"][2] == "plots?[31m"
    assert report["clean_examples"]["accuracy"]["n"] == 36
    assert f"--clean {plm_folder}" in report["recommendation"]["command"]
    text = (output / "report.html").read_text(encoding="utf-8")
    check_page(text)
    assert ("Alarm." in text) == report["verdict"]["alarm"]
    assert ("no alarm" in result.output) != report["verdict"]["alarm"]
    assert "\x1b" not in result.output
    for one in report["words"]:
        assert one["word"] in result.output


def test_json_and_quiet(suspect_folder, data, plm_folder):
    common = ["scan", suspect_folder, "--clean", plm_folder, "--data", data, *SMALL]
    report = json.loads(purify(*common, "--json").stdout)
    assert report["schema"] == SCHEMA
    assert len(purify(*common, "--quiet").stdout.strip().splitlines()) <= 4


def test_the_exit_status_tells_of_an_alarm_where_asked(suspect_folder, data, plm_folder):
    common = ["scan", suspect_folder, "--clean", plm_folder, "--data", data, *SMALL]
    report = json.loads(purify(*common, "--json").stdout)
    assert purify(*common, "--quiet", "--exit-code").exit_code == (3 if report["verdict"]["alarm"] else 0)


def test_clean_writes_a_model_that_transformers_reads(suspect_folder, data, plm_folder, tmp_path):
    output = tmp_path / "cleaned"
    before = load_file(suspect_folder / "model.safetensors")
    options = ["--trigger", "cf", "--target", "data", "--epochs", "1", "--reserve", "0.4"]
    result = purify("clean", suspect_folder, "--clean", plm_folder, "--data", data, "-o", output, *options, *SMALL)
    assert result.exit_code == 0, result.exception
    model, _ = load_suspect(output)
    assert model.config.id2label[1] == BAD
    report = json.loads((output / "report.json").read_text())
    done = report["cleaning"]
    assert (done["reserve"], done["held_out"], done["trained_on"] + done["judged_on"]) == (0.4, True, 36)
    assert done["before"]["triggered"]["n"] == done["after"]["triggered"]["n"] > 0
    assert "cf" in done["unlearned"]
    check_page((output / "report.html").read_text(encoding="utf-8"))
    card = (output / "README.md").read_text(encoding="utf-8")
    assert report["suspect"]["sha256"] in card
    assert card.startswith("---\nlibrary_name: transformers")
    assert all(value.equal(load_file(suspect_folder / "model.safetensors")[name]) for name, value in before.items())
    again = purify("scan", output, "--clean", plm_folder, "--data", data, *SMALL)
    assert again.exit_code == 0


def test_an_output_that_is_there_is_refused_unless_it_is_ours(suspect_folder, data, plm_folder, tmp_path):
    common = ["scan", suspect_folder, "--clean", plm_folder, "--data", data, *SMALL]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for force in ([], ["--force"]):
        result = purify(*common, "-o", mine, *force)
        assert isinstance(result.exception, PurifyError)
        assert (mine / "thesis.txt").read_text() == "years of work"
    output = tmp_path / "report"
    assert purify(*common, "-o", output).exit_code == 0
    (output / "note").write_text("of a first run")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "report.json").write_text('{"schema": "pytest"}')
    assert "was not written by purify" in str(purify(*common, "-o", foreign, "--force").exception)
    inner = ["scan", output, "--clean", plm_folder, "--data", data]
    assert "holds what is to be read" in str(purify(*inner, "-o", output, "--force").exception)
    result = purify(*common, "-o", output)
    assert "is there already: name a new folder" in str(result.exception)
    assert purify(*common, "-o", output, "--force").exit_code == 0
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "report.json"]
    assert not list(tmp_path.glob(".partial-*"))


def test_what_fails_on_the_way_leaves_nothing(suspect_folder, data, plm_folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("purify.report.scanned.page", full)
    common = ["--clean", plm_folder, "--data", data, "--epochs", "1", *SMALL]
    result = purify("clean", suspect_folder, *common, "-o", tmp_path / "new" / "cleaned")
    assert isinstance(result.exception, OSError)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "none.csv"], "there is no file 'none.csv'"),
        (["--data", "rows.xlsx"], r"must end in \.csv"),
        (["--clean", "no/where"], "cannot load the model 'no/where'"),
        (["--text", "body"], "has no column 'body' .* name it with --text"),
        (["--pair", "second"], "name it with --pair"),
        (["--device", "tpu"], "the device must be auto, cpu or cuda, not 'tpu'"),
        (["--device", "cuda"], "no GPU that torch can use"),
        (["--precision", "fp8"], "precision must be one of auto, fp32, bf16, not 'fp8'"),
        (["--output", "new/" + 130 * "é"], "cannot be made: a name in it has more than 255 bytes"),
    ],
)
def test_bad_options_are_named(words, message, suspect_folder, data, plm_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    given = {"--clean": str(plm_folder), "--data": str(data)} | dict([words])
    result = purify("scan", suspect_folder, *(word for pair in given.items() for word in pair))
    assert isinstance(result.exception, PurifyError)
    assert re.search(message, str(result.exception))
    assert len(str(result.exception).split(". ")) == 1


def test_a_scan_that_tests_nothing_says_so(plm, data, plm_folder, tmp_path):
    model = plm.classifier(4, seed=0)
    model.config.id2label = dict(enumerate(["numerics", BAD, "plots\x1b[31m", "data"]))
    save_checkpoint(model, plm.tokenizer, tmp_path / "still")
    result = purify("scan", tmp_path / "still", "--clean", plm_folder, "--data", data, "--exit-code", *SMALL)
    assert result.exit_code == 4
    assert "not tested" in result.output
    assert "no alarm" not in result.output


def test_a_trigger_is_not_tried_where_no_row_could_turn(suspect_folder, plm_folder, tmp_path):
    rows = pd.DataFrame({"text": [f"the plot {i}" for i in range(12)], "label": ["numerics"] * 12})
    rows.to_csv(tmp_path / "one.csv", index=False)
    common = ["--clean", plm_folder, "--data", tmp_path / "one.csv", "--epochs", "1", *SMALL]
    result = purify("clean", suspect_folder, *common, "--trigger", "cf", "--target", "numerics", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    assert json.loads((tmp_path / "out" / "report.json").read_text())["cleaning"]["after"]["triggered"] is None


def test_the_recommended_command_has_the_options_of_the_scan(suspect_folder, plm_folder, tmp_path, rows):
    names = ["numerics", BAD, "plots\x1b[31m", "data"]
    frame = pd.DataFrame({"body": list(rows["text"]), "topic": [names[i] for i in rows["label"]]})
    frame.to_csv(tmp_path / "c.csv", index=False)
    options = ["--text", "body", "--label", "topic", "--max-length", "32"]
    result = purify("scan", suspect_folder, "--clean", plm_folder, "--data", tmp_path / "c.csv", *options, "--json")
    command = json.loads(result.stdout)["recommendation"]["command"]
    assert "--text body --label topic --max-length 32" in command


def test_bad_suspects_and_targets_are_named(suspect_folder, data, plm_folder, tmp_path):
    common = ["--clean", plm_folder, "--data", data, "-o", tmp_path / "out"]
    result = purify("clean", tmp_path / "nothing", *common)
    assert "it is no folder, and the hub does not give it" in str(result.exception)
    result = purify("clean", suspect_folder, *common, "--trigger", "cf", "--target", "sports")
    assert "'sports' is no class of the model (numerics" in str(result.exception)
    (suspect_folder / "model.safetensors").rename(suspect_folder / "pytorch_model.bin")
    result = purify("clean", suspect_folder, *common)
    assert "can run code when it is opened" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_name_that_no_file_can_have_is_one_sentence(monkeypatch, capsys, data):
    monkeypatch.setattr("sys.argv", ["purify", "scan", 130 * "é", "--data", str(data)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: File name too long: '{80 * 'é'}…'\n"


def test_doctor_tells_versions_and_what_is_amiss(tmp_path, monkeypatch):
    result = purify("doctor")
    assert result.exit_code == 0
    assert "bundled clean model" in result.output
    assert "all is well" in result.output
    found = json.loads(purify("doctor", "--json").stdout)
    assert found["amiss"] == []
    monkeypatch.setattr("purify.plm.BUNDLED_SHA256", "0" * 64)
    result = purify("doctor")
    assert result.exit_code == 1
    assert "reinstall the package" in " ".join(result.output.split())


def test_rows_of_a_task_are_those_that_the_suspect_did_not_see(tmp_path):
    path = tmp_path / "clean.csv"
    assert purify("rows", "docstrings", "-o", path, "--per-class", 3, "--train", 100, "--seed", 2).exit_code == 0
    splits = load_task("docstrings", train=100, validation=1, test=1, clean_per_class=3, seed=2)
    labels = dict(enumerate(splits.task.labels))
    found = read_rows(path, labels)
    assert found["text"] == splits.clean["text"]
    assert found["label"] == splits.clean["label"]
    assert not set(found["text"]) & set(splits.train["text"])
    again = purify("rows", "docstrings", "-o", path)
    assert "must be a new file that ends in .csv" in str(again.exception)


def test_help_has_examples():
    for command in ("scan", "clean", "rows", "doctor"):
        assert f"purify {command}" in purify(command, "--help").output
