"""The rendered book in a real browser; run after `make book` with `pytest -m browser`."""

import functools
import http.server
import json
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from purify.report.book import _pages

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
PAGES = ["index", *_pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))]

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def server():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(scope="module")
def driver():
    from selenium import webdriver

    if not shutil.which("chromedriver"):
        pytest.fail("the browser tests need Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as running:
        running.set_page_load_timeout(60)
        yield running


@pytest.mark.parametrize("page", PAGES)
def test_page(driver, server, page):
    """It loads without a console error and without a request to another host, and its math is rendered."""
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": server, "storageTypes": "all"})  # a first visit
    driver.get_log("performance")
    driver.get_log("browser")
    driver.get(f"{server}/{page}.html")
    # MathJax says itself when it has typeset the page; pages without math do not load it.
    typeset = "const d = arguments[0]; window.MathJax?.startup ? MathJax.startup.promise.then(() => d(1)) : d(0)"
    loaded = driver.execute_async_script(typeset)
    formulas = driver.execute_script("return document.querySelectorAll('.math').length")
    rendered = driver.execute_script("return document.querySelectorAll('.math mjx-container').length")
    failed = driver.execute_script("return document.querySelectorAll('mjx-merror').length")
    if formulas:
        assert loaded
        assert rendered >= formulas
        assert not failed
    if folder := os.environ.get("SCREENSHOTS"):
        height = driver.execute_script("return document.documentElement.scrollHeight")
        driver.set_window_size(1280, min(height + 120, 12000))
        driver.save_screenshot(f"{folder}/{page.replace('/', '_')}.png")
        driver.set_window_size(1280, 900)
    assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert requests
    assert {urlsplit(url).netloc for url in requests if url.startswith("http")} == {urlsplit(server).netloc}


def test_pages_without_math_are_not_all_pages(driver, server):
    """The math assertions above have something to bite on."""
    driver.get(f"{server}/notebooks/02-indicator.html")
    assert driver.execute_script("return document.querySelectorAll('.math').length") > 10
