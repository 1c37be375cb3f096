import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from purify import PurifyError
from purify.report.book import _pages, build
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
        (["run", "notebooks/03-defenses.ipynb", "-p", "sede=1"], "choose from task, plm, attack"),
        (["run", "notebooks/nothing.ipynb"], "there is no notebook"),
        (["run", "notebooks/03-defenses.ipynb", "-p", "pruning=[/x]"], "not '[/x]'"),
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
