"""The rendered book in use: search, colours, copying, unfolding, menus, by pointer and by keyboard."""

import pytest
from browser import DESKTOP, HTML, PHONE, errors, visit, wait

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

CHAPTER = "notebooks/04-fokker-planck"
_BRIGHTNESS = """
    const [red, green, blue] = getComputedStyle(arguments[0]).backgroundColor.match(/[0-9.]+/g).map(Number);
    return (red + green + blue) / 765
"""


@pytest.fixture
def chapter(driver, server):
    """A chapter with exercises, code, tables and figures, on a desktop, in light colours."""
    visit(driver, f"{server}/{CHAPTER}.html")
    return driver


def find(driver, what):
    return driver.find_element("css selector", what)


def press(driver, element, key):
    """Focus an element and press a key on it, as somebody without a pointer would."""
    driver.execute_script("arguments[0].focus({focusVisible: true})", element)
    assert driver.switch_to.active_element == element
    element.send_keys(key)


def results(driver):
    return [link.text for link in driver.find_elements("css selector", "#search-results li a")]


@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_search_finds_a_word(driver, server, width):
    from selenium.webdriver.common.keys import Keys

    visit(driver, f"{server}/start.html", width=width)
    buttons = driver.find_elements("css selector", ".search-button__button")
    next(button for button in buttons if button.is_displayed()).click()
    field = find(driver, "#pst-search-dialog input[name=q]")
    wait(driver, field.is_displayed)
    field.send_keys("Fokker", Keys.ENTER)
    wait(driver, lambda: any("The equation of the cloud" in title for title in results(driver)))
    assert errors(driver) == []
    find(driver, "#search-results li a").click()
    wait(driver, lambda: "Fokker" in find(driver, "main").text)


def test_the_search_works_from_the_file_system(driver):
    visit(driver, (HTML / "search.html").as_uri() + "?q=Fokker")
    wait(driver, lambda: any("The equation of the cloud" in title for title in results(driver)))
    assert errors(driver) == []


def test_the_colours_are_switched_and_remembered(chapter, server):
    def brightness():
        return chapter.execute_script(_BRIGHTNESS, find(chapter, "body"))

    def theme():
        return chapter.execute_script("return document.documentElement.dataset.theme")

    assert (theme(), brightness() > 0.9) == ("light", True)
    for _ in range(3):  # the switch goes through light, dark, and what the system says
        if chapter.execute_script("return document.documentElement.dataset.mode") != "dark":
            find(chapter, ".theme-switch-button").click()
    assert (theme(), brightness() < 0.2) == ("dark", True)
    chapter.get(f"{server}/start.html")
    assert (theme(), brightness() < 0.2) == ("dark", True)


def test_figures_keep_a_light_ground_in_dark_colours(driver, server):
    from io import BytesIO

    from PIL import Image

    visit(driver, f"{server}/{CHAPTER}.html", mode="dark")
    picture = find(driver, ".cell_output img")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    wait(driver, lambda: picture.get_property("complete"))
    with Image.open(BytesIO(picture.screenshot_as_png)) as shot:
        grey = shot.convert("L")
        ground, (ink, _) = grey.getpixel((3, 3)), grey.getextrema()
    light, dark = ((value / 255) ** 2.2 for value in (ground, ink))
    assert (light + 0.05) / (dark + 0.05) > 7  # contrast as WCAG counts it, for the theme dims what is white


def test_code_is_copied(chapter, server):
    from selenium.webdriver import ActionChains

    permissions = {"origin": server, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    chapter.execute_cdp_cmd("Browser.grantPermissions", permissions)
    block = find(chapter, ".cell_input .highlight")
    chapter.execute_script("arguments[0].closest('details').open = true", block)  # the parameters are folded
    button = block.find_element("css selector", "button.copybtn")
    chapter.execute_script("arguments[0].scrollIntoView({block: 'center'})", block)
    ActionChains(chapter).move_to_element(block).move_to_element(button).click().perform()
    wait(chapter, lambda: "success" in button.get_attribute("class"))
    copied = chapter.execute_async_script("navigator.clipboard.readText().then(arguments[0], arguments[0])")
    assert copied.strip() == block.find_element("css selector", "pre").text.strip()
    assert copied.startswith("hessian = 1.0")


def test_a_solution_unfolds_by_click_and_by_keyboard(chapter):
    from selenium.webdriver.common.keys import Keys

    title = find(chapter, ".solution.dropdown > .admonition-title")
    button = title.find_element("tag name", "button")
    content = find(chapter, ".solution.dropdown > section")

    def is_open():
        visible = content.value_of_css_property("visibility") == "visible" and content.size["height"] > 10
        assert button.get_attribute("aria-expanded") == str(visible).lower()
        return visible

    assert not is_open()
    title.click()
    wait(chapter, is_open)
    press(chapter, button, Keys.ENTER)
    wait(chapter, lambda: not is_open())
    press(chapter, button, Keys.SPACE)
    wait(chapter, is_open)
    assert button.value_of_css_property("outline-style") == "solid"  # one sees where the keyboard is
    assert button.accessible_name.startswith("Solution to Exercise 4.1")


def test_the_link_in_a_solution_leads_to_its_exercise(chapter):
    link = find(chapter, ".solution.dropdown > .admonition-title a")
    link.click()
    assert chapter.current_url.endswith("#ex-fp-short")
    assert errors(chapter) == []
    assert find(chapter, ".solution.dropdown button").get_attribute("aria-expanded") == "false"


def test_hidden_code_unfolds_by_click_and_by_keyboard(chapter):
    from selenium.webdriver.common.keys import Keys

    summary = find(chapter, ".tag_hide-input summary")
    code = find(chapter, ".tag_hide-input .cell_input")
    assert not code.is_displayed()
    assert summary.text == "Show code cell source"
    summary.click()
    wait(chapter, code.is_displayed)
    assert summary.text == "Hide code cell source"
    press(chapter, summary, Keys.ENTER)
    wait(chapter, lambda: not code.is_displayed())


@pytest.mark.parametrize("which", ["primary", "secondary"])
def test_the_menus_of_a_phone_open_and_close(driver, server, which):
    from selenium.webdriver.common.keys import Keys

    visit(driver, f"{server}/{CHAPTER}.html", width=PHONE)
    menu = find(driver, f"#pst-{which}-sidebar-modal")
    buttons = driver.find_elements("css selector", f".{which}-toggle")
    assert not menu.is_displayed()
    next(button for button in buttons if button.is_displayed()).click()
    wait(driver, menu.is_displayed)
    assert menu.find_elements("css selector", "a")
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(driver, lambda: not menu.is_displayed())


def test_what_is_too_wide_for_a_phone_scrolls_in_itself_and_is_reached_by_keyboard(driver, server):
    wide = """
        return [...document.querySelectorAll("main pre, main .cell_output > .output, main mjx-container")]
            .filter(part => part.scrollWidth > part.clientWidth && getComputedStyle(part).overflowX != "visible")
            .map(part => [part.tagName.toLowerCase(), part.tabIndex])
    """
    visit(driver, f"{server}/{CHAPTER}.html", width=PHONE)
    wait(driver, lambda: {kind for kind, _ in driver.execute_script(wide)} >= {"pre", "mjx-container", "div"})
    assert {place for _, place in driver.execute_script(wide)} == {0}
