import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import purify
from purify import PurifyError
from purify.report import execution, inputs
from purify.report.execution import Job, reason, run_changed, run_if_changed
from purify.report.inputs import changed, inputs_of, with_text_of
from purify.report.traced import name_of, path_of

# Jupyter's own libraries warn about each other; the notebook's code runs in another process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)

PACKAGE = Path(purify.__file__).parent
READING = """
from pathlib import Path

import purify.registry
from purify.grid.folder import Folder

Path("book/claims.yml").read_text()
Path("_build/made").write_text("made")
Path("_build/made").read_text()
Path(".purify/kept").read_text()
Folder("results").read("0123456789abcdef.json")


def later():
    import purify.scanning
"""


def made(path, *code):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Once"),
        nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, code),
    ]
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return made(tmp_path / "n.ipynb", "result = seed")


def edit(path, place, source):
    notebook = nbformat.read(path, 4)
    notebook.cells[place].source = source
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with one notebook, run once."""
    root = tmp_path_factory.mktemp("project")
    for name in ("book/grids", "results", "_build", ".purify"):
        (root / name).mkdir(parents=True)
    for name in ("_toc.yml", "book/claims.yml", ".purify/kept"):
        (root / name).write_text("x")
    long_ago = time.time() - 60
    os.utime(root / "book" / "claims.yml", (long_ago, long_ago))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = made(root / "n.ipynb", READING)
        assert run_if_changed(run, {}, root / "copy.ipynb")
    return root


def test_what_a_notebook_read_of_the_project_and_the_modules_it_loaded_are_its_inputs(project):
    read = json.loads((project / "copy.inputs.json").read_text())
    assert read.pop(inputs.CODE)
    absent = {name for name, digest in read.items() if digest is None}
    assert absent == {"results/0123456789abcdef.json"}
    modules = {name for name in read if name.startswith("purify/")}
    assert read.keys() == modules | absent | {"book/claims.yml"}
    assert {"purify/registry.py", "purify/errors.py", "purify/grid/folder.py"} <= modules
    assert "purify/scanning.py" not in modules  # what is imported in a function counts when that is called
    assert "purify/report/book.py" not in modules  # what runs the notebook is none of its inputs


def test_a_notebook_runs_again_when_an_input_changed_or_appeared(project, monkeypatch):
    monkeypatch.chdir(project)
    job = (project / "n.ipynb", {}, project / "copy.ipynb")
    executed = (project / "copy.ipynb").read_bytes()
    assert reason(*job) == ""
    assert (project / "copy.ipynb").read_bytes() == executed  # nothing is rendered again where nothing changed
    edit(project / "n.ipynb", 0, "# Twice")
    assert reason(*job) == ""
    assert nbformat.read(project / "copy.ipynb", 4).cells[0].source == "# Twice"
    (project / "results" / "fedcba9876543210.json").write_text("another")
    assert reason(*job) == ""
    (project / "book" / "claims.yml").write_text("y")
    assert reason(*job) == "book/claims.yml changed"
    (project / "results" / "0123456789abcdef.json").write_text("new")
    assert reason(*job) == "book/claims.yml changed, and 1 more"
    assert reason(job[0], {"seed": 1}, job[2]) == f"{inputs.CODE} changed, and 2 more"
    assert reason(job[0], {}, project / "other.ipynb") == "not run before"
    (project / "copy.inputs.json").unlink()
    assert reason(*job) == "not run before"


def test_text_is_no_input_and_code_is(notebook):
    before = inputs_of(notebook, {}, ())
    edit(notebook, 0, "# Twice")
    assert inputs_of(notebook, {}, ()) == before
    assert changed(notebook, {"seed": 1}, before) == [inputs.CODE]
    edit(notebook, 2, "result = 2 * seed")
    assert changed(notebook, {}, before) == [inputs.CODE]


def test_a_file_that_is_written_during_the_run_is_no_known_input(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "project_root", lambda: tmp_path)
    (tmp_path / "data.csv").write_text("1")
    now = time.time()
    found = inputs_of(notebook, {}, ["data.csv"], before=now - 60)
    assert changed(notebook, {}, found) == ["data.csv"]
    assert changed(notebook, {}, inputs_of(notebook, {}, ["data.csv"], before=now + 60)) == []


def test_names_of_files(tmp_path):
    assert name_of(f"{tmp_path}/results/a.json", tmp_path) == "results/a.json"
    assert name_of(f"{PACKAGE}/errors.py", tmp_path) == "purify/errors.py"  # the package is elsewhere
    assert name_of(f"{PACKAGE}/errors.py", PACKAGE.parent) == "purify/errors.py"
    made_or_installed = ("_build/a", ".purify/a", "purify/__pycache__/a.pyc", "v/site-packages/a", "p.egg-info/a")
    for other in [*(f"{tmp_path}/{name}" for name in made_or_installed), "/etc/hosts", f"{PACKAGE.parent}/README.md"]:
        assert name_of(other, tmp_path) is None, other
    assert path_of("results/a.json", tmp_path) == tmp_path / "results" / "a.json"
    assert path_of("purify/errors.py", tmp_path) == PACKAGE / "errors.py"
    assert path_of("purify/errors.py", PACKAGE.parent) == PACKAGE / "errors.py"


def test_nothing_is_started_where_nothing_changed(notebook, monkeypatch):
    monkeypatch.setattr(execution, "reason", lambda *job: "")
    monkeypatch.setattr(execution, "workers_here", lambda: pytest.fail("workers were asked for"))
    run_changed([Job(notebook, {}, notebook.with_name("copy.ipynb"))])


def test_what_builds_the_book_does_not_load_torch():
    """Which takes longer than rendering a page; it is loaded where something is run."""
    code = "import sys, purify.report.book, purify.report.landing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_failing_notebook_has_no_inputs_and_is_told(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(execution, "workers_here", lambda: 1)
    failing = Job(made(tmp_path / "fails.ipynb", "1 / 0"), {}, tmp_path / "copy.ipynb")
    (tmp_path / "copy.inputs.json").write_text(json.dumps({inputs.CODE: "other"}))
    failing.copy.write_text("")
    with pytest.raises(PurifyError, match="ZeroDivisionError"):
        run_changed([failing])
    assert "to run, its code or parameters changed: fails" in capfd.readouterr().err
    assert not (tmp_path / "copy.inputs.json").exists()


def test_the_copy_gets_the_new_text_and_keeps_its_outputs(notebook):
    executed = nbformat.read(notebook, 4)
    executed.cells.insert(2, nbformat.v4.new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}))
    executed.cells[3].outputs = [nbformat.v4.new_output("stream", text="seen")]
    edit(notebook, 0, "# Twice")
    fresh = nbformat.read(notebook, 4)
    fresh.cells[2].metadata["mystnb"] = {"image": {"alt": "new"}}
    nbformat.write(fresh, notebook)
    found = with_text_of(notebook, executed)
    assert [cell.source for cell in found.cells] == ["# Twice", "seed = 0", "seed = 1", fresh.cells[2].source]
    assert found.cells[3].outputs[0].text == "seen"
    assert found.cells[3].metadata["mystnb"]["image"]["alt"] == "new"
