"""What the tests of the rendered book share: where it lies, which pages it has, how one is opened and looked at."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
import yaml

from purify.report.book import _pages

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
PAGES = ["index", *_pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))]
DESKTOP, PHONE = 1280, 390

_AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")  # the engine alone; its driver needs Playwright
_STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
_COLOURS = ["color-contrast", "link-in-text-block"]
_RUN_AXE = """
    const [only, done] = arguments;
    const inside = ["mjx-math", "mjx-assistive-mml"]; // thousands of glyphs, drawn by MathJax
    axe.run({exclude: inside}, {runOnly: only, resultTypes: ["violations"], preload: false}).then(
        result => done(result.violations.flatMap(rule => rule.nodes.map(
            node => `${rule.id}: ${node.html} ${node.failureSummary}`))),
        fault => done([String(fault)]))
"""
# The index sends its readers on to the first page: until then there is nothing to look at.
_ARRIVED = """
    return document.readyState === "complete" && !document.querySelector("meta[http-equiv=refresh i]")
"""
# MathJax says itself when it has typeset the page; pages without math do not load it.
_WAIT_FOR_MATH = "const done = arguments[0]; window.MathJax?.startup ? MathJax.startup.promise.then(done) : done()"


def size(driver, width: int, height: int = 900) -> None:
    """Give the page a size; a window would not become as narrow as a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait(driver, condition) -> Any:
    """Return what a condition says as soon as it is true; raise TimeoutException after 20 seconds."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 20).until(lambda _: condition())


def visit(driver, address: str, *, width: int = DESKTOP, mode: str = "light") -> None:
    """Open a page as somebody who was never here and whose system is set to light or dark colours."""
    driver.get("about:blank")
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(address))
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    wanted = [{"name": "prefers-color-scheme", "value": mode}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    size(driver, width)
    for log in ("performance", "browser"):
        driver.get_log(log)
    driver.get(address)
    wait(driver, lambda: driver.execute_script(_ARRIVED))
    driver.execute_async_script(_WAIT_FOR_MATH)


def errors(driver) -> list[str]:
    """Return what the console has complained about since the visit began."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def traffic(driver) -> dict[str, tuple[str, int]]:
    """Return what was loaded since the visit began: address -> (kind, bytes after decompression)."""
    addresses: dict[str, str] = {}
    kinds: dict[str, str] = {}
    lengths: dict[str, int] = {}
    for entry in driver.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        about: dict[str, Any] = event["params"]
        key = about.get("requestId", "")
        if event["method"] == "Network.requestWillBeSent":
            addresses[key], kinds[key] = about["request"]["url"], about.get("type", "Other")
        elif event["method"] == "Network.dataReceived":
            lengths[key] = lengths.get(key, 0) + about["dataLength"]
    return {address: (kinds[key], lengths.get(key, 0)) for key, address in addresses.items()}


def barriers(driver, mode: str) -> list[str]:
    """Return what axe-core finds against WCAG 2.1 AA and its best practices; in dark mode only what depends on colours.

    The other rules look at the same elements in both modes.
    """
    driver.execute_script(_AXE.read_text(encoding="utf-8"))
    only = {"type": "tag", "values": _STANDARDS} if mode == "light" else {"type": "rule", "values": _COLOURS}
    return driver.execute_async_script(_RUN_AXE, only)
