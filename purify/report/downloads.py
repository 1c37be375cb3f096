"""The copies of the notebooks that the book offers for download; on Colab they set up the project themselves."""

import copy
import subprocess
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

COLAB = "colab"
"""The tag of the cell that sets up the project on Colab, and the branch that has the copies for Colab."""

_SET_UP = """\
# On Colab: get the project and install it, with the versions that it was tested with. Elsewhere this does nothing.
import sys

if "google.colab" in sys.modules:
    !git clone --quiet --depth 1 --branch {ref} {url} project
    %cd project
    %pip install --quiet --constraint requirements.lock . matplotlib seaborn"""


class Repository(NamedTuple):
    """Where the project is published.

    Attributes:
        url: Of the repository, on GitHub.
        ref: The branch or the tag that a book is made of.
    """

    url: str
    ref: str

    def on_colab(self, name: str) -> str | None:
        """Return the address that opens a notebook on Colab, None if the repository is not on GitHub.

        Args:
            name: The notebook's, without its ending.
        """
        parts = urlsplit(self.url)
        if parts.hostname != "github.com":
            return None
        return f"https://colab.research.google.com/github{parts.path}/blob/{COLAB}/{name}.ipynb"


def repository(root: Path) -> Repository | None:
    """Return where the project in the folder ``root`` is published, None if it does not say.

    The address is ``Repository`` in the table ``[project.urls]`` of ``pyproject.toml``; the ref is the tag of the
    revision that is checked out, and ``main`` if it has none.
    """
    path = root / "pyproject.toml"
    urls = tomllib.loads(path.read_text(encoding="utf-8"))["project"].get("urls", {}) if path.is_file() else {}
    url = urls.get("Repository", "").removesuffix("/").removesuffix(".git")
    return Repository(url, _tag(root) or "main") if url else None


def for_download(notebook: NotebookNode, published: Repository | None) -> NotebookNode:
    """Return a copy of an executed notebook without what the run noted in it, and with a cell that serves Colab.

    Args:
        notebook: The executed notebook.
        published: Where the project is; without it there is nothing that Colab could get, and no such cell.
    """
    made = copy.deepcopy(notebook)
    for noted in (made, *made.cells):
        for key in ("papermill", "execution"):
            noted.metadata.pop(key, None)
    if published:
        source = _SET_UP.format(url=published.url, ref=published.ref)
        made.cells.insert(0, new_code_cell(source, id=COLAB, metadata={"tags": [COLAB]}))
    return made


def _tag(root: Path) -> str:
    command = ["git", "-C", str(root), "describe", "--tags", "--exact-match"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""
