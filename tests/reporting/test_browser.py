"""The report in a real browser: the slider works, nothing is logged, and a screenshot is taken.

Needs the package selenium, and Chromium with its driver (Debian: chromium chromium-driver).
"""

import base64
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import co_probe

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on this machine"),
]


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> Path:
    """The report of two runs."""
    folder = tmp_path_factory.mktemp("browser")
    runs = Path(shutil.copytree(trained, folder / "runs"))
    return co_probe.report([runs / "fgsm", runs / "pgd"], folder / "report.html", device="cpu")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, page):
    """The browser with the page open, wide and light."""
    look(chromium, width=1300, scheme="light")
    chromium.get(page.as_uri())
    yield chromium
    assert chromium.get_log("browser") == []


def look(driver, *, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # scrolling at once, not smoothly
    media = {"features": [{"name": name, "value": value} for name, value in wishes.items()]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def picture(driver, element=None) -> np.ndarray:
    """A screenshot of an element, or of the whole page."""
    if element is not None:
        content = element.screenshot_as_png
    else:
        content = base64.b64decode(
            driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
        )
    return np.asarray(Image.open(BytesIO(content)).convert("L")).astype(int)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over pixels, of 255; scrolling changes those at the edges."""
    return np.abs(first - second).mean()


def shown(driver) -> str:
    return driver.find_element(By.ID, "epoch-number").text


def test_the_slider_moves_with_the_keyboard_and_changes_the_pictures(browser):
    slider = browser.find_element(By.ID, "epoch")
    tile = browser.find_element(By.CSS_SELECTOR, '.browser [data-row="1"] .tile')
    cursor = browser.find_element(By.CSS_SELECTOR, ".cursor")
    state = browser.find_element(By.CSS_SELECTOR, ".state")
    assert (shown(browser), state.text, slider.get_attribute("aria-valuetext")) == ("3", "epoch 3", "epoch 3")
    last, place = picture(browser, tile), cursor.get_attribute("x1")
    slider.send_keys(Keys.ARROW_LEFT)
    assert (shown(browser), state.text, slider.get_attribute("aria-valuetext")) == ("2", "epoch 2", "epoch 2")
    assert difference(picture(browser, tile), last) > 20 and cursor.get_attribute("x1") != place
    slider.send_keys(Keys.HOME)
    assert shown(browser) == "1" and cursor.get_attribute("x1") == "0"
    slider.send_keys(Keys.END)
    assert shown(browser) == "3" and difference(picture(browser, tile), last) < 5


def test_numbers_follow_the_slider(browser, page):
    run = co_probe.open_run(page.parent / "runs" / "pgd")
    panel = browser.find_elements(By.CSS_SELECTOR, ".browser")[1]
    for button, epoch in (("back", 2), ("back", 1), ("forward", 2)):
        browser.find_element(By.ID, button).click()
        number = panel.find_element(By.CSS_SELECTOR, '[data-key="pgd"]').text
        assert number == f"{100 * run.metrics(epoch)['pgd10']:.1f}%"
        model, (x, y) = run.load_model(epoch), run.test_data()
        right = (model(x[:8]).argmax(1) == y[:8]).tolist()
        marks = [cell.text[0] for cell in panel.find_elements(By.CSS_SELECTOR, '[data-row="0"] .prediction')]
        assert marks == ["✓" if each else "✗" for each in right]


def test_buttons_and_a_click_into_the_chart_choose_an_epoch(browser):
    browser.find_element(By.CSS_SELECTOR, '[data-epoch="1"]').click()
    assert shown(browser) == "1"
    chart = browser.find_element(By.CSS_SELECTOR, ".chart")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    webdriver.ActionChains(browser).move_to_element(chart).click().perform()
    assert shown(browser) == "2"


def test_nothing_is_requested_from_the_network(browser):
    browser.get_log("performance")
    browser.refresh()
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests and not any('"url":"http' in request for request in requests)


@pytest.mark.parametrize("width", [1300, 390])
def test_the_page_follows_the_colour_scheme_and_fits_the_screen(browser, width, tmp_path):
    brightness = {}
    for scheme in ("light", "dark"):
        look(browser, width=width, scheme=scheme)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        brightness[scheme] = np.median(picture(browser))
    assert brightness["light"] > 200 and brightness["dark"] < 60


def test_every_control_can_be_reached_and_is_named(browser):
    unnamed = browser.execute_script(
        """return [...document.querySelectorAll("button, input, summary, a, [role=img], [role=region]")]
        .filter((each) => !each.getAttribute("aria-label") && !each.textContent.trim() && !each.labels?.length)
        .map((each) => each.outerHTML)"""
    )
    assert unnamed == []
    dangling = browser.execute_script(
        """return [...document.querySelectorAll("[aria-labelledby]")].filter((each) =>
        !document.getElementById(each.getAttribute("aria-labelledby")))
        .length"""
    )
    assert dangling == 0
