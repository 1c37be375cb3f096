"""Every page of the rendered book in a real browser; run after `make book` with `pytest -m browser`."""

import os
from urllib.parse import urlsplit

import pytest
from browser import DESKTOP, PAGES, PHONE, barriers, errors, size, traffic, visit

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

HEAVIEST = 1_500_000
"""Bytes of a page, of its scripts, styles and fonts, uncompressed; pictures and data: addresses do not count."""

_UNTYPESET = """
    const count = (what) => document.querySelectorAll(what).length;
    return [count(".math") - Math.min(count(".math"), count(".math mjx-container")), count("mjx-merror")]
"""
_TWICE = """
    const ids = [...document.querySelectorAll("[id]")].map(element => element.id);
    return ids.filter((id, place) => ids.indexOf(id) < place)
"""


def screenshot(driver, name, width):
    height = driver.execute_script("return document.documentElement.scrollHeight")
    size(driver, width, min(height, 15000))
    driver.save_screenshot(f"{os.environ['SCREENSHOTS']}/{name}.png")


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_page(driver, server, page, width, mode):
    """It loads whole, light and from here alone, fits the screen, is typeset, and has no barrier that axe-core sees."""
    visit(driver, f"{server}/{page}.html", width=width, mode=mode)
    theme, content, screen = driver.execute_script(
        "return [document.documentElement.dataset.theme, document.documentElement.scrollWidth, innerWidth]"
    )
    side_bar = driver.execute_script("return getComputedStyle(document.querySelector('.bd-sidebar-primary')).display")
    loaded = traffic(driver)
    hosts = {urlsplit(address).netloc for address in loaded if address.startswith("http")}
    weight = sum(length for kind, length in loaded.values() if kind != "Image")
    assert theme == mode
    assert loaded
    faults = {
        "console": errors(driver),
        "no side bar": side_bar == "none" and width == DESKTOP,
        "other hosts": sorted(hosts - {urlsplit(server).netloc}),
        "too heavy": weight if weight > HEAVIEST else 0,
        "wider than the screen": max(content - screen, 0),
        "formulas not typeset, or wrong": [number for number in driver.execute_script(_UNTYPESET) if number],
        "ids given twice": driver.execute_script(_TWICE),
        "barriers": barriers(driver, mode),
    }
    if "SCREENSHOTS" in os.environ:
        screenshot(driver, f"{page.replace('/', '_')}-{width}-{mode}", width)
    assert {what: found for what, found in faults.items() if found} == {}


def test_the_checks_have_something_to_bite_on(driver, server):
    """Formulas, and barriers and foreign hosts that are put into a page, are found."""
    visit(driver, f"{server}/notebooks/02-indicator.html")
    assert driver.execute_script("return document.querySelectorAll('.math').length") > 10
    driver.execute_script(
        "document.querySelector('main article h1').insertAdjacentHTML('afterend',"
        ' \'<h4>Skipped</h4><img src="http://other.invalid/x.png"><p style="color: #bbb; background: #ccc">pale</p>\')'
    )
    found = {fault.partition(":")[0] for fault in barriers(driver, "light")}
    assert found >= {"heading-order", "image-alt", "color-contrast"}
    assert {fault.partition(":")[0] for fault in barriers(driver, "dark")} == {"color-contrast"}
    assert any("other.invalid" in address for address in traffic(driver))
