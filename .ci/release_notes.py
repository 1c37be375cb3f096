"""Print the section of CHANGELOG.md on a release, after a look whether all files speak of the same version."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str, root: Path = ROOT) -> str:
    """Return what CHANGELOG.md says about the version of a tag, ``v0.1.0``.

    Raises:
        ValueError: there is no such section, or pyproject.toml or CITATION.cff is of another version.
    """
    version = tag.removeprefix("v")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    for file, found in {"pyproject.toml": project, "CITATION.cff": cited and cited[1]}.items():
        if found != version:
            raise ValueError(f"the tag is {tag}, but {file} says {found}: set the version there, and tag again")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(version)}\b[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if not (section and section[1].strip()):
        raise ValueError(f"CHANGELOG.md says nothing under '## {version}': write what is new, and tag again")
    return section[1].strip()


if __name__ == "__main__":
    try:
        print(notes(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"error: {error}")
