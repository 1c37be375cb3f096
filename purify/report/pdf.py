"""The book as one PDF: Chromium prints every rendered page as it would on paper, and the prints are bound.

What is folded on the screen (solutions, code) is open on paper. Nothing is asked of another machine.
"""

import base64
import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml

from purify.errors import PurifyError
from purify.progress import bar
from purify.report.binding import Entry, Printed, bind, contents, entries

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OLDEST = 131
"""The first version of Chromium that prints running titles and page numbers from a style sheet."""

WIDTH = 658
"""Of a page's text on paper, in pixels of a style sheet (96 per inch): 174 mm."""

_ANCHOR = re.compile(r'href="[^"#]*#([^"]+)"')

_READY = """
const done = arguments[0];
const typeset = window.MathJax?.startup ? MathJax.startup.promise : Promise.resolve();
const pictures = [...document.images].map(one => { one.loading = "eager"; return one.decode().catch(() => null); });
Promise.all([typeset, document.fonts.ready, ...pictures]).then(() => done(true));
"""
"""Waits for formulas, fonts and pictures."""

_LAY_OPEN = """
const [anchors] = arguments;
document.documentElement.dataset.theme = document.documentElement.dataset.mode = "light";
document.querySelectorAll("details").forEach(one => { one.open = true; });
document.querySelectorAll(".toggle-hidden").forEach(one => one.classList.remove("toggle-hidden"));
const links = document.body.appendChild(document.createElement("div"));
links.hidden = true;
for (const id of anchors)
  if (document.getElementById(id))
    links.appendChild(document.createElement("a")).href = "#" + encodeURIComponent(id);
const text = one => {
  const copy = one.cloneNode(true);
  copy.querySelectorAll(".headerlink").forEach(link => link.remove());
  return copy.textContent.trim();
};
const fit = (one, room) => { if (room < one.scrollWidth) one.style.zoom = room / one.scrollWidth; };
document.querySelectorAll("article table").forEach(one => fit(one, one.parentElement.clientWidth));
document.querySelectorAll("article div.math mjx-math").forEach(one => {
  const box = one.closest("div.math"), number = box.querySelector(".eqno");
  fit(one, box.clientWidth - (number ? number.offsetWidth + 10 : 0));
});
const title = document.querySelector("article h1");
const sections = [...document.querySelectorAll("section[id] > h2")].map(one => [one.parentElement.id, text(one)]);
return [title ? text(title) : document.title, sections];
"""
"""Opens what is folded, shrinks what is too wide, tells the titles, and marks where links lead: Chromium keeps the
place of an anchor only if a link of the same page leads there."""

_STYLE = "document.head.appendChild(document.createElement('style')).textContent = arguments[0]"


def find_browser() -> tuple[str, str]:
    """Return the programs of Chromium and of its driver.

    Raises:
        PurifyError: one is not installed.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        raise PurifyError(
            f"a PDF needs Chromium and its driver, and {'chromedriver' if browser else 'Chromium'} is not installed: "
            "install both (Debian, Ubuntu: apt-get install chromium chromium-driver)"
        )
    return browser, driver


@contextmanager
def chromium() -> "Iterator[Chrome]":
    """Run Chromium, laid out as for paper, until the ``with`` block ends.

    Raises:
        PurifyError: it is not installed, is too old or fails.
    """
    from selenium import webdriver  # noqa: PLC0415  (only a PDF needs it)
    from selenium.common.exceptions import WebDriverException  # noqa: PLC0415

    browser, driver = find_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # No sandbox: the pages are our own, and as root, in a container, Chromium starts only without.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    try:
        with webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver)) as running:
            version = str(running.capabilities["browserVersion"])
            if int(version.split(".", maxsplit=1)[0]) < OLDEST:
                raise PurifyError(f"a PDF needs Chromium {OLDEST} or newer, and {browser} is {version}: update it")
            size = {"width": WIDTH, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            running.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            running.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
            running.set_page_load_timeout(300)
            running.set_script_timeout(300)
            yield running
    except WebDriverException as error:
        raise PurifyError(f"Chromium failed: {(error.msg or type(error).__name__).splitlines()[0]}") from error


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder, to this machine alone, until the ``with`` block ends; yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def copyfile(self, *files: Any) -> None:
            with suppress(ConnectionError):  # the browser left for the next page
                super().copyfile(*files)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def print_book(root: Path, html: Path, output: Path) -> int:
    """Print the rendered pages of a book into one PDF and return its number of sheets.

    Args:
        root: The project: ``_toc.yml``, and ``_config.yml`` with title and author.
        html: The folder of the pages.
        output: The PDF; replaced if it is there.

    Raises:
        PurifyError: a page has not been rendered, or Chromium is missing, too old, or fails.

    Cost: a few seconds for each page of the book, and several times the size of the PDF in memory.
    """
    toc, config = (yaml.safe_load((root / name).read_text(encoding="utf-8")) for name in ("_toc.yml", "_config.yml"))
    title, author = config["title"], config["author"]
    pages = entries(toc)
    wanted: set[str] = set()
    for entry in pages:
        file = html / f"{entry.page}.html"
        if not file.is_file():
            raise PurifyError(f"there is no page {file}: build the book first")
        wanted |= {unquote(anchor) for anchor in _ANCHOR.findall(file.read_text(encoding="utf-8"))}
    with serving(html) as address, chromium() as browser:
        printed: list[Printed] = []
        start = 0
        for entry in bar(pages, desc="printing", unit="page"):
            printed.append(_printed(browser, address, entry, sorted(wanted), start))
            start += printed[-1].sheets
        first = contents(printed, address, title, author)
        browser.get("data:text/html;base64," + base64.b64encode(first.encode()).decode())
        front = _print(browser)
    return bind(front, printed, output, address=address, title=title, author=author)


def _printed(browser: "Chrome", address: str, entry: Entry, anchors: Sequence[str], start: int) -> Printed:
    """Print a page of the book, ``start`` sheets after the first one."""
    browser.get(f"{address}{entry.page}.html")
    browser.execute_async_script(_READY)
    title, sections = browser.execute_script(_LAY_OPEN, anchors)
    above = f"@page {{ @top-left {{ content: {json.dumps(title, ensure_ascii=False)}; }} }}"
    browser.execute_script(_STYLE, f"html {{ counter-reset: page {start}; }} {above}")
    return Printed(entry, title, tuple((anchor, text) for anchor, text in sections), _print(browser))


def _print(browser: "Chrome") -> bytes:
    options = {"preferCSSPageSize": True, "printBackground": True, "generateTaggedPDF": False}
    return base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", options)["data"])
