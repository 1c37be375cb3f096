"""One progress bar for everything that can take over ten seconds."""

import sys
from typing import Any

from tqdm import tqdm

_silent = False


def silence() -> None:
    """Show no bars in this process: it is one of several, and another one tells how all go."""
    global _silent  # noqa: PLW0603
    _silent = True


def bar(*args: Any, **options: Any) -> tqdm:
    """Return a tqdm bar on standard error: live in a terminal, a line every ten seconds elsewhere.

    It stays silent for work that ends before its first line is due.
    """
    live = sys.stderr.isatty()
    options.setdefault("disable", _silent)
    return tqdm(
        *args,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=live,
        delay=1 if live else 10,
        mininterval=0.2 if live else 10,
        miniters=1,
        **options,
    )
