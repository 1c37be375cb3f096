"""Where the project's own files are."""

from pathlib import Path


def project_root() -> Path:
    """Return the folder of the companion book that the working directory is in, else the working directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").exists() and (folder / "book" / "grids").is_dir():
            return folder
    return here
