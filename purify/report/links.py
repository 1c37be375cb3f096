"""What can be wrong with a rendered page: it is missing, a link is dead, a picture says nothing, a host is asked."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup


def faults(html: Path, pages: Iterable[str]) -> list[str]:
    """Return one sentence for everything wrong with the pages in the folder ``html``.

    Checked are the files and anchors that links lead to inside the book, the alt texts of pictures, and
    that nothing is loaded from another host (a link that a reader may follow is no load).
    """
    found = []
    for page in ("index.html", *pages):
        if not (html / page).is_file():
            found.append(f"{page} is missing")
        else:
            found += [f"{page}: {fault}" for fault in _page_faults(html / page)]
    return found


@cache
def _soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def _anchors(page: Path) -> frozenset[str]:
    return frozenset(str(tag[key]) for key in ("id", "name") for tag in _soup(page).select(f"[{key}]"))


def _page_faults(page: Path) -> Iterator[str]:
    soup = _soup(page)
    for tag in soup.find_all(["script", "img", "iframe", "link"]):
        address = str(tag.get("src") or tag.get("href") or "")
        loads = tag.name != "link" or "canonical" not in (tag.get("rel") or [])
        if loads and urlsplit(address).netloc:
            yield f"loads {address} from another host"
    for tag in soup.find_all("img"):
        if not str(tag.get("alt") or "").strip():
            yield f"the picture {tag.get('src')} has no alt text"
    for tag in soup.find_all(["a", "script", "img", "link"]):
        link = urlsplit(str(tag.get("href") or tag.get("src") or ""))
        if link.scheme or link.netloc:
            continue
        target = (page.parent / unquote(link.path)).resolve() if link.path else page.resolve()
        if not target.exists():
            yield f"the link {link.geturl()} leads nowhere"
        elif link.fragment and target.suffix == ".html" and unquote(link.fragment) not in _anchors(target):
            yield f"the link {link.geturl()} leads to a page without that anchor"
