import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from purify import PurifyError
from purify.report import book, layout
from purify.report.book import _pages, build
from purify.report.layout import changes, contents
from purify.report.links import faults

ROOT = Path(__file__).parents[1]
PAGE = '<html><body><h1 id="top">T</h1>{}</body></html>'


def site(tmp_path, **pages):
    for name, body in {"index": "", **pages}.items():
        (tmp_path / f"{name}.html").write_text(PAGE.format(body), encoding="utf-8")
    return tmp_path


def test_a_sound_site_has_no_faults(tmp_path):
    site(tmp_path, a='<a href="b.html#top">b</a><a href="#top">up</a><a href="https://example.org">out</a>', b="")
    assert faults(tmp_path, ["a.html", "b.html"]) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="c.html">c</a>', "leads nowhere"),
        ('<a href="index.html#none">c</a>', "without that anchor"),
        ('<img src="index.html">', "no alt text"),
        ('<script src="https://example.org/x.js"></script>', "from another host"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "from another host"),
    ],
)
def test_faults_are_found(tmp_path, body, fault):
    (found,) = faults(site(tmp_path, a=body), ["a.html"])
    assert found.startswith("a.html: ")
    assert fault in found


def test_a_missing_page_is_found(tmp_path):
    assert faults(site(tmp_path), ["gone.html"]) == ["gone.html is missing"]


def test_every_page_of_the_toc_has_a_source_and_every_notebook_a_page_and_a_smoke_size():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = list(_pages(toc))
    for page in pages:
        source = ROOT / f"{page}.ipynb" if page.startswith("notebooks/") else ROOT / "book" / f"{page}.md"
        assert source.is_file()
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {Path(page).name for page in pages if page.startswith("notebooks/")}
    assert notebooks == set(yaml.safe_load((ROOT / "book" / "smoke.yml").read_text(encoding="utf-8")))


def test_a_folder_without_a_book_is_refused(tmp_path):
    with pytest.raises(PurifyError, match=r"no .*_toc\.yml"):
        build(tmp_path, tmp_path)


@pytest.fixture
def project(tmp_path):
    """A book of one page and one notebook, and what was called to render it."""
    root = tmp_path / "root"
    files = ["book/intro.md", "book/smoke.yml", "results/benchmarks/t.md", "_config.yml", "_toc.yml"]
    for name in [*files, "CHANGELOG.md", "CONTRIBUTING.md", "book/teaching/assignment.ipynb"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# Title\n\n```{solution} e\nsecret\n```")]
    png = nbformat.v4.new_output("display_data", {"image/png": "aGk=", "image/svg+xml": "<svg/>"})
    notebook.cells.append(nbformat.v4.new_code_cell("figure;", outputs=[png]))
    (root / "executed").mkdir()
    nbformat.write(notebook, root / "executed" / "01.ipynb")
    return root


def laid_out(root, **options):
    return contents(root, [root / "executed" / "01.ipynb"], **{"published": None, "solutions": True, **options})


def render_with(root, monkeypatch, code=0):
    calls = []

    def stub(command, **options):
        calls.append("--all" in command)
        (root / "_build" / "html").mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, code, "out", "err")

    monkeypatch.setattr(book.subprocess, "run", stub)
    sources = root / "_build" / "src"
    found = changes(laid_out(root), sources)
    book.render(sources, root, found)
    return calls, {str(path.relative_to(sources)) for path in found}


def test_only_what_changed_is_rendered_again(project, monkeypatch):
    calls, changed = render_with(project, monkeypatch)
    assert calls == [True]
    included = {f"included/{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "gallery")}
    beside = {f"_extra/{name}" for name in ("downloads/01.ipynb", "figures/01-1.png", "figures/01-1.svg")}
    pages = {"intro.md", "notebooks/01.ipynb", "benchmarks/t.md", *included, *beside}
    assert changed == {*pages, "_config.yml", "_toc.yml"}
    assert render_with(project, monkeypatch) == ([], set())
    (project / "book" / "intro.md").write_text("other")
    assert render_with(project, monkeypatch) == ([False], {"intro.md"})
    copy = project / "executed" / "01.ipynb"
    copy.write_text(copy.read_text().replace("Title", "Heading"))  # files to be copied make no other page new
    pages = {"notebooks/01.ipynb", "included/gallery.md"}
    assert render_with(project, monkeypatch) == ([False], {*pages, "_extra/downloads/01.ipynb"})
    copy.write_text(copy.read_text().replace("<svg/>", "<svg><g/></svg>"))  # by themselves, Sphinx would not see them
    assert render_with(project, monkeypatch) == ([True], {"_extra/figures/01-1.svg"})
    (project / "_toc.yml").write_text("other")
    assert render_with(project, monkeypatch) == ([True], {"_toc.yml"})
    (project / "results" / "benchmarks" / "t.md").unlink()
    assert render_with(project, monkeypatch) == ([True], {"benchmarks/t.md"})


def test_a_page_that_is_made_from_the_code_is_rendered_again_when_the_code_changes(project, monkeypatch):
    (project / "book" / "reference").mkdir()
    (project / "book" / "reference" / "api.md").write_text("made")
    render_with(project, monkeypatch)
    assert render_with(project, monkeypatch) == ([], set())
    monkeypatch.setattr(layout, "code_digest", lambda: "other")
    assert render_with(project, monkeypatch) == ([False], {"reference/api.md"})


def test_after_a_failure_all_is_rendered_again(project, monkeypatch):
    render_with(project, monkeypatch)
    (project / "book" / "intro.md").write_text("broken")
    with pytest.raises(PurifyError, match="could not render"):
        render_with(project, monkeypatch, code=1)
    assert render_with(project, monkeypatch) == ([True], set())


def test_without_solutions_none_is_in_any_file(project):
    with_them, without = laid_out(project), laid_out(project, solutions=False)
    assert with_them.keys() == without.keys()
    for name in ("notebooks/01.ipynb", "_extra/downloads/01.ipynb"):
        assert b"secret" in with_them[Path(name)]
    assert not any(b"secret" in content for content in without.values())
    assert not any("teaching" in name.parts for name in with_them)


def test_figures_are_files_and_the_page_shows_one_format(project):
    files = laid_out(project)
    assert files[Path("_extra/figures/01-1.png")] == b"hi"
    assert files[Path("_extra/figures/01-1.svg")] == b"<svg/>"
    (cell,) = [
        cell for cell in nbformat.reads(files[Path("notebooks/01.ipynb")].decode(), 4).cells if cell.cell_type == "code"
    ]
    assert cell.outputs[0].data.keys() == {"image/png"}
    page = files[Path("included/gallery.md")].decode()
    assert "## [Title](notebooks/01)" in page
    assert 'src="figures/01-1.png"' in page
    assert 'href="figures/01-1.svg"' in page


def locked():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line and not line.startswith((" ", "#"))]
    return {name: Version(version) for name, _, version in (pin.partition("==") for pin in pins)}


def test_the_lock_holds_every_dependency_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    extras = [text for name, group in groups.items() if name != "peers" for text in group]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked()[requirement.name.lower()], prereleases=True), text
    assert not {Requirement(text).name for text in groups["peers"]} & locked().keys()


def test_the_conda_environment_installs_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    # Binder reads it only if none of these is there.
    assert not [name for name in ("binder", ".binder", "Dockerfile", "REQUIRE") if (ROOT / name).exists()]
    (python,) = [Requirement(text.replace("=", "==", 1)) for text in conda if text.startswith("python=")]
    written = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"Python {str(python.specifier).removeprefix('==')}\n" in written


def test_nothing_of_one_machine_or_of_a_registry_is_in_the_lock():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert "+cpu" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "notebooks/14-defenses.ipynb", "-p", "sede=1"], "choose from task, plm, attack"),
        (["run", "notebooks/nothing.ipynb"], "there is no notebook"),
        (["run", "notebooks/14-defenses.ipynb", "-p", "pruning=[/x]"], "not '[/x]'"),
        (["grid", "run", "none.yml"], "cannot read the grid file"),
    ],
)
def test_the_command_line_says_one_sentence_and_fails(arguments, message):
    command = [sys.executable, "-c", "from purify.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
