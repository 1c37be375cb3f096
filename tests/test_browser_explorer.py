"""The results explorer in a real browser; run after `make book` with `pytest -m browser`."""

import json
from itertools import product
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import HTML, PHONE, errors, traffic, visit

from purify.report import protocol

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

PAGE = "notebooks/explorer.html"
CHOSEN = """
const found = Chart.getChart(document.querySelector("#explorer canvas")).data.datasets;
return Object.fromEntries(found.filter((one) => one.label.endsWith(", chosen") && one.data.length)
  .map((one) => [one.label.replace(", chosen", ""), [one.data[0].x, one.data[0].y]]));
"""
SET = """
const form = document.querySelector("#explorer form");
for (const [name, value] of Object.entries(arguments[0])) {
  const control = form.elements[name];
  control.value = value;
  (control.length && !control.options ? control[0] : control).dispatchEvent(new Event("input", { bubbles: true }));
}
"""


@pytest.fixture
def page(driver, server):
    """The browser with the page in it, fresh."""
    visit(driver, f"{server}/{PAGE}")
    return driver


@pytest.fixture(scope="module")
def frame():
    return protocol.tables_frame("tables", ["task=imdb", "attack=BadSent", "clean_per_class=16"])


@pytest.fixture
def suspect(page):
    """The page with the suspect of the frame."""
    page.execute_script(SET, {"task": "imdb", "attack": "BadSent", "clean": "32", "seed": "1"})
    return page


def data_of(page):
    return json.loads(page.execute_script("return document.getElementById('explorer-data').textContent"))


def table(page, which="#explorer-numbers"):
    """The rows of a table: name -> the other cells."""
    rows = page.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))",
        which,
    )
    return {name: cells for name, *cells in rows}


def status(page):
    return page.execute_script("return document.querySelector('#explorer [role=status]').textContent")


def written(row):
    ratio = "" if np.isnan(row["reserve"]) else f"{row['reserve']:g}"
    scores = [f"{row[s]:.1f} [{row[f'{s}_low']:.1f},\u00a0{row[f'{s}_high']:.1f}]" for s in ("acc", "asr")]
    return [ratio, *scores, f"{row['validation']:.1f}"]


@pytest.mark.parametrize("drop", protocol.DROPS)
def test_at_every_drop_the_numbers_are_those_of_the_protocol(suspect, frame, drop):
    suspect.execute_script(SET, {"drop": str(data_of(suspect)["drops"].index(drop))})
    shown, markers = table(suspect), suspect.execute_script(CHOSEN)
    chosen = protocol.at_drops(frame[frame["seed"] == 1], [drop])
    assert set(shown) == {"as received", "clean control", *chosen["defense"]}
    for row in chosen.to_dict("records"):
        ratio, *scores = written(row)
        assert shown[row["defense"]] == [ratio + " (ΔACC not met)" * (not row["within"]), *scores]
        assert markers[row["defense"]] == [round(row["acc"], 1), round(row["asr"], 1)]
    received = frame[(frame["seed"] == 1) & (frame["defense"] == "as received")].iloc[0]
    assert shown["as received"] == written(received)


def test_the_markers_move_with_the_drop_and_with_the_reserve_ratio(suspect, frame):
    seen = []
    for name, steps in (("drop", (0, 20)), ("reserve", (2, 3, 4))):
        for step in steps:
            suspect.execute_script(SET, {name: str(step)})
            seen.append(suspect.execute_script(CHOSEN))
    assert seen[0] != seen[1]
    for reserve, shown in zip((0.4, 0.5, 0.6), seen[2:], strict=True):
        own = frame[(frame["seed"] == 1) & (frame["reserve"] == reserve)]
        wanted = {row["defense"]: [round(row["acc"], 1), round(row["asr"], 1)] for row in own.to_dict("records")}
        assert {name: at for name, at in shown.items() if name != "FineTuning"} == wanted
    assert status(suspect).endswith("ρ = 0.6: 3 of 5 defenses were run with it, or have none.")
    assert table(suspect)["FineMixing"][0] == "not run"


def test_a_curve_has_every_setting_and_goes_with_its_tick(suspect, frame):
    curve = (
        "return Chart.getChart(document.querySelector('#explorer canvas')).data.datasets"
        ".find((one) => one.label === 'FinePurifying')?.data.map((point) => [point.reserve, point.x, point.y])"
    )
    own = frame[(frame["seed"] == 1) & (frame["defense"] == "FinePurifying")].sort_values("reserve")
    assert suspect.execute_script(curve) == own[["reserve", "acc", "asr"]].round(1).to_numpy().tolist()
    suspect.find_element("xpath", "//*[@id='explorer']//label[normalize-space()='● FinePurifying']").click()
    assert suspect.execute_script(curve) is None
    assert "FinePurifying" not in table(suspect)


def test_the_keyboard_alone_is_enough(page):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(page).send_keys(*keys).perform()

    def focused():
        return page.execute_script("return document.activeElement.name")

    page.execute_script(
        "const first = document.querySelector('#explorer select'); first.focus(); first.scrollIntoView()"
    )
    names = []
    for _ in range(4):
        names.append(focused())
        before = status(page)
        press(Keys.ARROW_UP if names[-1] == "clean" else Keys.ARROW_DOWN)
        assert status(page) != before
        press(Keys.TAB)
    assert names == ["task", "attack", "clean", "seed"]
    rows = len(table(page))
    press(Keys.SPACE)  # the first defense
    assert len(table(page)) == rows - 1
    while focused() == "defense":
        press(Keys.TAB)
    assert focused() == "by"
    press(Keys.TAB)
    assert focused() == "drop"
    before = status(page)
    press(Keys.ARROW_RIGHT)
    assert status(page) != before
    press(Keys.TAB)
    while focused() != "reserve":
        press(Keys.TAB)
    press(Keys.ARROW_LEFT)
    assert "ρ = 0.4" in status(page)


def test_a_suspect_without_records_is_said_to_have_none(page):
    data = data_of(page)
    every = product(*(data["axes"][axis] for axis in ("task", "attack", "clean", "seed")))
    lacking = [key for key in every if "|".join(map(str, key)) not in data["suspects"]]
    for key in lacking[:1]:
        page.execute_script(SET, dict(zip(("task", "attack", "clean", "seed"), map(str, key), strict=True)))
        assert status(page).startswith("There are no records of ")
        assert (table(page), page.execute_script(CHOSEN)) == ({}, {})
        assert "(no records)" in page.execute_script("return document.querySelector('[name=seed]').textContent")


def test_every_control_has_a_name_and_the_chart_a_description(page):
    names = page.execute_script(
        "return [...document.querySelectorAll('#explorer :is(input, select)')]"
        ".map((one) => one.labels[0]?.textContent.trim())"
    )
    assert len(names) > 8
    assert all(names)
    assert "The table below has the numbers" in page.find_element("css selector", "canvas").get_attribute("aria-label")


def test_another_suspect_is_asked_of_no_other_host(page, server):
    page.execute_script(SET, {"task": "qqp", "drop": "3"})
    assert {urlsplit(url).netloc for url in traffic(page) if url.startswith("http")} == {urlsplit(server).netloc}
    assert errors(page) == []


def test_it_works_from_a_file(page):
    visit(page, (HTML / PAGE).as_uri())
    assert status(page)
    assert page.execute_script(CHOSEN)
    assert errors(page) == []


def test_the_chart_follows_the_colour_mode_and_fits_a_phone(page, server):
    colour = "return Chart.getChart(document.querySelector('#explorer canvas')).options.scales.x.ticks.color"
    seen = set()
    for mode in ("light", "dark"):
        page.execute_script("document.documentElement.dataset.theme = arguments[0]", mode)
        seen.add(
            page.execute_async_script(f"const done = arguments[0]; setTimeout(() => done((() => {{{colour}}})()))")
        )
    assert len(seen) == 2
    visit(page, f"{server}/{PAGE}", width=PHONE)
    assert 250 < page.execute_script("return document.querySelector('#explorer canvas').clientWidth") <= PHONE


def test_without_a_script_the_plain_table_is_there(page):
    suspects = len(data_of(page)["suspects"])
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert not page.find_element("css selector", "#explorer form").is_displayed()
        plain = page.find_element("css selector", "#explorer table.plain")
        assert not plain.is_displayed()
        page.find_element("xpath", "//summary[contains(., 'All suspects')]").click()
        assert plain.is_displayed()
        assert "need JavaScript" in page.find_element("css selector", "#explorer noscript").text
        assert len(plain.find_elements("css selector", "tbody tr")) == suspects
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
