"""Take Thebe (live cells, loaded from another host) out of the pages: the book asks no other host for anything.

The theme and jupyter-book both add its script, twice and without being asked.
"""

from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the removal for when all extensions are loaded."""
    app.connect("config-inited", _remove, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _remove(app: Sphinx, config: Any) -> None:
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if getattr(listener.handler, "__name__", "") == "init_thebe_core":
                app.disconnect(listener.id)
