"""What can be wrong with a rendered page: it is missing, a link is dead, a picture says nothing, a host is asked."""

import os
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADING = ("script", "img", "iframe", "link")


def faults(html: Path, pages: Iterable[str]) -> list[str]:
    """Return one sentence for everything wrong with the pages in the folder ``html``.

    Checked are the files and anchors that links lead to inside the book, the alt texts of pictures, and
    that nothing is loaded from another host (a link that a reader may follow is no load).
    """
    read = cache(_Page)
    exists = cache(os.path.exists)
    found = []
    for name in ("index.html", *pages):
        page = str(html.absolute() / name)
        if not exists(page):
            found.append(f"{name} is missing")
            continue
        found += [f"{name}: {fault}" for fault in read(page).faults()]
        for link in dict.fromkeys(read(page).links):
            path, fragment = _target(page, link)
            if not exists(path):
                found.append(f"{name}: the link {link} leads nowhere")
            elif fragment and path.endswith(".html") and fragment not in read(path).anchors:
                found.append(f"{name}: the link {link} leads to a page without that anchor")
    return found


def _target(page: str, link: str) -> tuple[str, str]:
    """Return the file and the anchor that a link of a page leads to."""
    parts = urlsplit(link)
    path = os.path.normpath(f"{os.path.dirname(page)}/{unquote(parts.path)}") if parts.path else page  # noqa: PTH120
    return path, unquote(parts.fragment)


class _Page(HTMLParser):
    """What the check needs of a page, in one pass over it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self._tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep anchors, links inside the book, and what may load something."""
        have = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := have.get(key))}
        if tag in _LOADING:
            self._tags.append((tag, have))
        if tag in ("a", "script", "img", "link"):
            address = have.get("href") or have.get("src") or ""
            parts = urlsplit(address)
            if not (parts.scheme or parts.netloc):
                self.links.append(address)

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the page itself."""
        for tag, have in self._tags:
            address = have.get("src") or have.get("href") or ""
            loads = tag != "link" or "canonical" not in (have.get("rel") or "").split()
            if loads and urlsplit(address).netloc:
                yield f"loads {address} from another host"
            if tag == "img" and not (have.get("alt") or "").strip():
                yield f"the picture {address} has no alt text"
