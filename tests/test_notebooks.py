import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import yaml

from purify import PurifyError
from purify.attacks import FAMILIES
from purify.defenses import FAMILIES as DEFENSE_FAMILIES
from purify.grid import experiment, load_grid, measurement, variants
from purify.grid.spec import fingerprint
from purify.registry import parse_assignments
from purify.report.comparison import page_cells
from purify.report.execution import run_if_changed
from purify.report.notebooks import defaults, resolve, run_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DEFENSE_PAGES = ("15-pruning", "16-mixing", "17-distillation", "18-detection", "19-robust-learning", "20-beyond")
ATTACK_PAGES = ("11-poisoned-data", "12-poisoned-weights", "13-adaptive-attacks")

# Jupyter's own libraries warn about each other; the notebooks' code runs in another process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)


def write(path, *cells, tag="parameters"):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    notebook.cells[0].metadata["tags"] = [tag]
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    parameters = 'task = "a"  # a comment\nseed = 0\nratio = 0.5\nflag = True\nsizes = [1, 2]'
    return write(tmp_path / "n.ipynb", parameters, "result = (task, seed, ratio, flag, sizes)\nprint(result)")


def test_values_are_read_as_the_type_of_the_default(notebook):
    given = parse_assignments(["task=1", "seed=3", "ratio=1", "flag=false", "sizes=[4]"])
    assert resolve(notebook, given) == {"task": "1", "seed": 3, "ratio": 1.0, "flag": False, "sizes": [4]}
    assert resolve(notebook, {"sizes": []}) == {"sizes": []}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sede": 1}, "n.ipynb has no parameter 'sede': choose from task, seed, ratio, flag, sizes"),
        ({"seed": "x"}, "'seed' must be a whole number, like 0, not 'x'"),
        ({"seed": "1.5"}, "must be a whole number"),
        ({"seed": True}, "must be a whole number"),
        ({"ratio": "half"}, "must be a number"),
        ({"flag": "1"}, "must be true or false"),
        ({"sizes": "[1, 'a']"}, "must be a list, each item a whole number"),
        ({"sizes": "3"}, "must be a list"),
        ({"task": 3}, "must be a text"),
        ({"seed": "__import__('os').getcwd()"}, "must be a whole number"),
    ],
)
def test_what_the_notebook_does_not_know_is_refused(notebook, given, message):
    with pytest.raises(PurifyError, match=message):
        resolve(notebook, given)


@pytest.mark.parametrize("assignments", [["seed"], ["=3"], ["seed=1", "seed=2"]])
def test_bad_assignments(assignments):
    with pytest.raises(PurifyError):
        parse_assignments(assignments)


def test_notebooks_that_cannot_be_run(tmp_path, notebook):
    with pytest.raises(PurifyError, match=r"no notebook .*m\.ipynb; .* has n\.ipynb"):
        defaults(tmp_path / "m.ipynb")
    (tmp_path / "text.ipynb").write_text("no json")
    with pytest.raises(PurifyError, match="not a Jupyter notebook"):
        defaults(tmp_path / "text.ipynb")
    with pytest.raises(PurifyError, match="one cell tagged 'parameters', it has 0"):
        defaults(write(tmp_path / "untagged.ipynb", "a = 1", tag="other"))
    with pytest.raises(PurifyError, match="default of 'a' is not a plain literal"):
        defaults(write(tmp_path / "computed.ipynb", "a = len('x')"))
    with pytest.raises(PurifyError, match="line 2 of the parameters cell"):
        defaults(write(tmp_path / "code.ipynb", "a = 1\nimport os"))


def test_a_run_keeps_the_executed_copy(notebook, tmp_path, capsys):
    output = tmp_path / "out" / "copy.ipynb"
    run_notebook(notebook, {"seed": "7"}, output)
    assert "('a', 7, 0.5, True, [1, 2])" in nbformat.read(output, 4).cells[-1].outputs[0].text
    assert "n:" in capsys.readouterr().err


def test_a_failing_cell_is_named_and_the_copy_kept(tmp_path):
    output = tmp_path / "copy.ipynb"
    failing = write(tmp_path / "fails.ipynb", "seed = 0", "before = 1", "1 / seed", "after = 1")
    message = r"fails.ipynb failed in cell \[3\], which begins with '1 / seed', with ZeroDivisionError: .*copy.ipynb"
    with pytest.raises(PurifyError, match=message):
        run_notebook(failing, {}, output)
    assert any(cell.get("outputs") for cell in nbformat.read(output, 4).cells)


def test_a_notebook_runs_again_only_when_an_input_changed(notebook, tmp_path):
    copy = tmp_path / "copy.ipynb"
    assert run_if_changed(notebook, {}, copy)
    assert not run_if_changed(notebook, {}, copy)
    assert run_if_changed(notebook, {"seed": 1}, copy)
    assert not run_if_changed(notebook, {"seed": 1}, copy)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_their_pictures_described(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            draws = cell.source.endswith(";")  # a figure is the last value of its cell, and shown once
            assert draws == bool(cell.metadata.get("mystnb", {}).get("image", {}).get("alt"))
    assert all(isinstance(value, int | float | str | list) for value in defaults(path).values())


def test_the_chapters_share_their_defaults():
    """A chapter reads what the chapter before it stored, because the parameters of both are the same.

    Those on attacks and defenses look at a second draw, whose records are shipped.
    """
    first = defaults(NOTEBOOKS[0])
    for path in NOTEBOOKS[1:]:
        own = defaults(path)
        if "train" not in own:  # a chapter that only reads records
            continue
        expected = first | ({"seed": 1} if path.stem in (*ATTACK_PAGES, *DEFENSE_PAGES) else {})
        shared = first.keys() & own.keys()
        assert len(shared) >= len(first) - 3  # the chapters on attacks have several, each with a trigger of its own
        assert {name: own[name] for name in shared} == {name: expected[name] for name in shared}


@pytest.mark.parametrize("grid", ["default", "smoke"])
def test_the_grids_hold_every_cell_of_the_chapters(grid):
    """So that the chapters of `make book` read all of their numbers and run nothing themselves."""
    parameters = defaults(ROOT / "notebooks" / "22-results.ipynb")
    if grid == "smoke":
        parameters |= yaml.safe_load((ROOT / "book" / "smoke.yml").read_text(encoding="utf-8"))["22-results"]
    attack = {name: parameters[name] for name in ("trigger", "target", "ratio")}
    sizes = ("task", "plm", "attack", "train", "epochs", "clean_per_class", "validation", "test", "tuning_epochs")
    base = experiment(attack_parameters=attack, seed=0, **{name: parameters[name] for name in sizes})
    ratios = {"FinePruning": "pruning", "FineMixing": "mixing", "FinePurifying": "purifying"}
    defenses = {"FineTuning": None} | {name: {"reserve": parameters[key]} for name, key in ratios.items()}
    control = replace(base, suspect=replace(base.suspect, control=True))
    assert parameters["seeds"] == [0]
    assert {*variants(base, defenses), control} <= set(load_grid(ROOT / "book" / "grids" / f"{grid}.yml"))


@pytest.fixture(scope="module")
def shipped():
    """The cells of the grid ``embedded`` that have a record in ``results/``."""
    cells = load_grid(ROOT / "book" / "grids" / "embedded.yml")
    return {cell for cell in cells if (ROOT / "results" / f"{fingerprint(cell)}.json").is_file()}


@pytest.mark.parametrize("name", ATTACK_PAGES)
def test_the_suspects_of_the_chapters_on_attacks_are_shipped(name, shipped):
    parameters = defaults(ROOT / "notebooks" / f"{name}.ipynb")
    attacks, options = parameters.pop("attacks"), parameters.pop("options")
    assert options == []
    target = {"target": parameters.pop("target")}
    for attack in attacks:
        cell = experiment(attack=attack, attack_parameters=target, **parameters)
        assert {cell, replace(cell, suspect=cell.suspect.as_control)} <= shipped


@pytest.mark.parametrize("name", DEFENSE_PAGES)
def test_the_cells_of_the_chapters_on_defenses_are_shipped(name, shipped):
    parameters = defaults(ROOT / "notebooks" / f"{name}.ipynb")
    written, options = parameters.pop("defenses"), parameters.pop("options")
    assert options == []
    assert set(page_cells(experiment(attack_parameters={}, **parameters), written)) <= shipped


def test_what_the_chapters_measure_is_shipped(shipped):
    """Beside what the tests above hold: false triggers, laws of r, and short runs."""
    law = sorted(
        (cell.suspect.attack.name, cell.suspect.control) for cell in shipped if _measures(cell, "IndicatorLaw")
    )
    assert law == [
        ("BadWord", False),
        ("BadWord", True),
        ("DriftPenalty", False),
        ("DriftPenalty", True),
        ("IndicatorEvasion", False),
    ]
    assert [cell.suspect.attack.name for cell in shipped if _measures(cell, "FalseTriggers")] == ["SOS"]
    parameters = defaults(ROOT / "notebooks" / "05-drift.ipynb")
    where = {name: parameters.pop(name) for name in ("task", "plm", "seed")}
    parameters.pop("kind")
    assert measurement("DriftLaw", parameters, **where) in shipped


def _measures(cell, name):
    return cell.measure is not None and cell.measure.name == name


def test_the_default_grid_holds_the_suspect_of_the_chapter_for_users():
    parameters = defaults(ROOT / "notebooks" / "25-your-model.ipynb")
    assert parameters.pop("options") == []
    cell = experiment(attack_parameters={}, **parameters)
    held = set(load_grid(ROOT / "book" / "grids" / "default.yml"))
    assert {cell, replace(cell, suspect=cell.suspect.as_control)} <= held


READ = {
    "21-comparison": "book/grids/defenses.yml",
    "22-results": "book/grids/companion.yml",
    "23-tables": "plms/small-roberta/card.json",
    "24-claims": "book/claims.yml",
    "25-your-model": "purify/honest.json",
    "26-fisher": "results/benchmarks/fisher-gpu.csv",
}
"""What a chapter reads, among other things; it runs again when that changes."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_smoke(path, monkeypatch):
    """Every notebook runs from start to end at tiny sizes, as the smoke book runs it, which need not do it again.

    Of the code that scans a user's model no other chapter than that on it depends.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PURIFY_STORE", str(ROOT / "_build" / "store-smoke"))
    tiny = yaml.safe_load((ROOT / "book" / "smoke.yml").read_text(encoding="utf-8"))[path.stem]
    copy = ROOT / "_build" / "executed-smoke" / path.name
    run_if_changed(path, tiny, copy)
    inputs = json.loads(copy.with_suffix(".inputs.json").read_text(encoding="utf-8"))
    assert READ.get(path.stem, "purify/home.py") in inputs
    assert ("purify/scanning.py" in inputs) == (path.stem == "25-your-model")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["docstrings", "docstring_pairs"])
@pytest.mark.parametrize(("page", "family"), list(zip(ATTACK_PAGES, FAMILIES, strict=True)))
def test_every_attack_runs_from_its_notebook(page, family, task, plm_folder, parrot, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PURIFY_STORE", str(tmp_path / "store"))
    tiny = yaml.safe_load((ROOT / "book" / "smoke.yml").read_text(encoding="utf-8"))[page]
    notebook = ROOT / "notebooks" / f"{page}.ipynb"
    names = [cls.__name__ for cls in FAMILIES[family]]
    runs = [([name for name in names if name != "Paraphrase"], []), (["Paraphrase"], [f"model={parrot}"])]
    for attacks, options in runs if "Paraphrase" in names else runs[:1]:
        chosen = {"task": task, "plm": str(plm_folder), "attacks": attacks, "options": options}
        run_notebook(notebook, tiny | chosen, tmp_path / f"{len(attacks)}.ipynb")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "families"),
    [
        ("15-pruning", ["fine-tuning", "pruning"]),
        ("16-mixing", ["mixing and resetting"]),
        ("17-distillation", ["distillation"]),
        ("18-detection", ["detection"]),
        ("19-robust-learning", ["robust learning"]),
        ("20-beyond", ["purifying"]),
    ],
)
def test_every_defense_runs_from_its_notebook_on_pairs(page, families, plm_folder, tmp_path, monkeypatch):
    """Single texts: the smoke runs, and tests/test_defend.py."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PURIFY_STORE", str(tmp_path / "store"))
    tiny = yaml.safe_load((ROOT / "book" / "smoke.yml").read_text(encoding="utf-8"))[page]
    quick = {"RAP": "RAP epochs=1", "KeywordRemoval": "KeywordRemoval sample=8"}
    names = [cls.__name__ for family in families for cls in DEFENSE_FAMILIES[family]]
    chosen = {"task": "docstring_pairs", "plm": str(plm_folder), "defenses": [quick.get(name, name) for name in names]}
    run_notebook(ROOT / "notebooks" / f"{page}.ipynb", tiny | chosen, tmp_path / f"{page}.ipynb")
