import ast
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from packaging.requirements import Requirement

from purify.report.downloads import COLAB, Repository, for_download, repository

ROOT = Path(__file__).parents[1]
PUBLISHED = Repository("https://github.com/owner/name", "v1.2.0")


@pytest.fixture
def executed():
    notebook = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 1}, "language_info": {"name": "python"}})
    output = nbformat.v4.new_output("stream", text="seen")
    noted = {"papermill": {"duration": 1}, "execution": {}, "tags": ["hide-input"]}
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# A chapter", metadata={"papermill": {}}),
        nbformat.v4.new_code_cell("print('seen')", outputs=[output], metadata=noted),
    ]
    return notebook


def test_the_copy_sets_up_the_project_on_colab_first(executed):
    made = for_download(executed, PUBLISHED)
    nbformat.validate(made)
    cell = made.cells[0]
    assert cell.metadata.tags == [COLAB]
    assert "git clone --quiet --depth 1 --branch v1.2.0 https://github.com/owner/name " in cell.source
    assert [kept.source for kept in made.cells[1:]] == ["# A chapter", "print('seen')"]
    assert made.cells[2].outputs == executed.cells[1].outputs
    assert made.cells[2].metadata == {"tags": ["hide-input"]}
    assert made.metadata == {"language_info": {"name": "python"}}
    assert len(executed.cells) == 2  # the original is as it was
    assert "papermill" in executed.metadata


def test_without_an_address_there_is_no_such_cell(executed):
    assert len(for_download(executed, None).cells) == 2


def test_the_cell_does_nothing_elsewhere_and_calls_what_it_says_on_colab(executed, monkeypatch):
    shell, called = InteractiveShell(), []
    source = for_download(executed, PUBLISHED).cells[0].source
    monkeypatch.setattr(shell, "system", called.append)
    monkeypatch.setattr(shell, "run_line_magic", lambda name, line, *_: called.append(f"%{name} {line}"))
    shell.run_cell(source).raise_error()
    assert called == []
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    shell.run_cell(source).raise_error()
    assert [call.split()[0] for call in called] == ["git", "%cd", "%pip"]


def test_what_the_chapters_import_is_installed_on_colab(executed):
    """Of the lock only what the package needs, matplotlib and seaborn: the rest would replace Colab's own kernel."""
    source = for_download(executed, PUBLISHED).cells[0].source
    assert source.endswith("--constraint requirements.lock . matplotlib seaborn")
    assert (ROOT / "requirements.lock").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = {Requirement(text).name for text in project["dependencies"]} | {"matplotlib", "seaborn"}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                names = {name.partition(".")[0] for name in imports(cell.source)}
                assert names <= {*installed, *sys.stdlib_module_names, "purify", "IPython"}, path


def imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize(
    ("urls", "found"),
    [
        ("", None),
        ('[project.urls]\nDocumentation = "https://example.org"', None),
        ('[project.urls]\nRepository = "https://github.com/owner/name.git"', "https://github.com/owner/name"),
        ('[project.urls]\nRepository = "https://github.com/owner/name/"', "https://github.com/owner/name"),
    ],
)
def test_the_address_comes_from_one_place(tmp_path, urls, found):
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "p"\n{urls}\n')
    assert repository(tmp_path) == (Repository(found, "main") if found else None)
    assert repository(tmp_path / "nowhere") is None


def test_the_address_on_colab():
    there = "https://colab.research.google.com/github/owner/name/blob/colab/01-threat.ipynb"
    assert PUBLISHED.on_colab("01-threat") == there
    assert Repository("https://codeberg.org/owner/name", "main").on_colab("01-threat") is None


def test_the_citation_names_the_same_repository():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8")).get("repository-code")
    published = repository(ROOT)
    assert cited == (published and published.url)
