"""The workflows cannot run here; what they call and rely on is held against the project."""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
LOADED = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in WORKFLOWS.items()}
JOBS = {f"{name}.{job}": body for name, loaded in LOADED.items() for job, body in loaded["jobs"].items()}
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
SCRIPTS = [(name, step["run"]) for name, step in STEPS if "run" in step]
WRITERS = {"ci.publish", "ci.colab", "release.publish", "links.links"}


@pytest.fixture(scope="module")
def notes():
    spec = importlib.util.spec_from_file_location("release_notes", ROOT / ".ci" / "release_notes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.notes


def test_they_may_read_and_only_the_jobs_that_publish_may_write():
    assert all(loaded["permissions"] == {"contents": "read"} for loaded in LOADED.values())
    assert {name for name, job in JOBS.items() if "write" in job.get("permissions", {}).values()} == WRITERS
    built = [name for name, script in SCRIPTS if "make " in script or ".ci/run" in script]
    assert set(built) & WRITERS == {"links.links"}  # no other job that may write runs code of packages
    (checkout,) = [step for name, step in STEPS if name == "links.links" and "checkout" in step.get("uses", "")]
    assert checkout["with"] == {"persist-credentials": False}  # and there that code does not see what lets it write
    assert "env" not in JOBS["links.links"]


@pytest.mark.parametrize("name", JOBS)
def test_jobs_have_an_end_and_wait_for_jobs_that_exist(name):
    assert JOBS[name]["timeout-minutes"] <= 120
    if needed := JOBS[name].get("needs"):
        assert f"{name.partition('.')[0]}.{needed}" in JOBS


def test_actions_have_a_version():
    used = [step["uses"] for _, step in STEPS if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", action), action


def test_pythons_are_those_that_the_project_and_the_lock_are_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (locked,) = re.findall(r"pip-compile with Python (\S+)$", lock, re.M)
    versions = {step["with"]["python-version"] for _, step in STEPS if "python-version" in step.get("with", {})}
    versions |= {
        re.fullmatch(r"python:([\d.]+)-\w+", job["container"])[1] for job in JOBS.values() if "container" in job
    }
    assert versions == {locked}
    assert all(SpecifierSet(project["requires-python"]).contains(version) for version in versions)


@pytest.mark.parametrize(("name", "script"), SCRIPTS, ids=lambda value: value.partition("\n")[0][:40])
def test_scripts_are_sound_and_call_what_there_is(name, script):
    assert "${{" not in script  # values come in by the environment, so that none of them is run
    done = subprocess.run([shutil.which("bash"), "-n", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z]\w*)", script):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for file in re.findall(r"(?:bash|python) (\.ci/\S+)", script):
        assert (ROOT / file).is_file(), file
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for module in re.findall(r"\.venv/bin/python -m (\w+)", script):
        assert re.search(rf"^{module}==", lock, re.M), module


def test_the_caches_depend_on_the_lock():
    caches = [step for _, step in STEPS if "cache" in step.get("uses", "") or "cache" in step.get("with", {})]
    assert len(caches) == 4
    assert all("requirements.lock" in str(step["with"]) for step in caches)


def write(root, changelog, version="1.2.0", cited="1.2.0"):
    (root / "CHANGELOG.md").write_text(changelog)
    (root / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    (root / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {cited}\n")


CHANGELOG = "# Changelog\n\n## Unreleased\n\n- a\n\n## 1.2.0, in May\n\n- b\n- c\n\n## 1.1.0\n\n- d\n"


def test_the_notes_of_a_release_are_its_section(tmp_path, notes):
    write(tmp_path, CHANGELOG)
    assert notes("v1.2.0", tmp_path) == "- b\n- c"


@pytest.mark.parametrize(
    ("changelog", "versions", "message"),
    [
        (CHANGELOG, ("1.2.1", "1.2.0"), r"tag is v1\.2\.0, but pyproject\.toml says 1\.2\.1"),
        (CHANGELOG, ("1.2.0", "1.2.1"), r"but CITATION\.cff says 1\.2\.1"),
        ("## 1.2.01\n\n- b\n", ("1.2.0", "1.2.0"), r"says nothing under '## 1\.2\.0'"),
        ("## 1.2.0\n\n## 1.1.0\n\n- d\n", ("1.2.0", "1.2.0"), "says nothing under"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(tmp_path, notes, changelog, versions, message):
    write(tmp_path, changelog, *versions)
    with pytest.raises(ValueError, match=message):
        notes("v1.2.0", tmp_path)


def test_the_real_files_are_of_one_version(tmp_path, notes):
    for file in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / file, tmp_path)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    (tmp_path / "CHANGELOG.md").write_text(f"## {version}\n\n- all\n")
    assert notes(f"v{version}", tmp_path) == "- all"
