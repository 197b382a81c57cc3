"""A real browser, and how to find one's way in the reading room."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from medray.serving.auth import make_token
from tests.waiting import wait_until

PLAIN = 12
"""How far apart red, green and blue of a grey image may be."""
BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs Debian's chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--window-size=1400,900",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def find(browser, name):
    return browser.find_element(By.ID, name)


def says(browser, words):
    wait_until(lambda: words in find(browser, "status").text)


def log_in(browser, role="annotator", name="kim"):
    wait_until(lambda: find(browser, "token").is_displayed())
    find(browser, "token").send_keys(make_token(name, role), Keys.ENTER)
    wait_until(lambda: find(browser, "who").is_displayed())


def coloured(browser):
    """Share of the canvas whose pixels have a colour: the image is grey, and only an overlay isn't."""
    picture = np.asarray(Image.open(io.BytesIO(find(browser, "canvas").screenshot_as_png)).convert("RGB")).astype(int)
    return float((np.ptp(picture, axis=-1) > PLAIN).mean())
