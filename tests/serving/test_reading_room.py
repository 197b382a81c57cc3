"""The reading room in a real browser: open an image, run a model, see what it says over the image."""

import time

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from medray.cohort.cohort import open_cohort
from medray.formats.nifti import write_nifti
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from tests.serving.chromium import BROWSER, coloured, find, log_in, says
from tests.serving.inside import endpoint
from tests.waiting import wait_until

pytestmark = BROWSER


@pytest.fixture
def room(home, phantom_cohort, browser, monkeypatch, tmp_path):
    """The page over a cohort, for somebody with a token."""
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    with endpoint(limits=Limits(cohort=phantom_cohort.root.path), doors=Doors()) as client:
        browser.get(str(client.base_url))
        browser.execute_script("sessionStorage.clear()")
        browser.get_log("performance"), browser.get_log("browser")
        browser.get(str(client.base_url))
        yield browser


def test_an_image_is_opened_and_what_a_model_says_lies_over_it(room, scan, tmp_path):
    log_in(room)
    (tmp_path / "scan.nii.gz").write_bytes(write_nifti(scan))
    find(room, "file").send_keys(str(tmp_path / "scan.nii.gz"))
    says(room, "The file is open")
    before = coloured(room)
    assert find(room, "run").is_enabled()
    find(room, "run").click()
    says(room, "has answered")
    assert coloured(room) > before + 0.01
    rows = [row.text.split() for row in find(room, "answer").find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert {name for name, _ in rows} == {"ball", "core"}
    assert all(float(volume) >= 0 for _, volume in rows)
    stages = [row.text.split()[0] for row in find(room, "timing").find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert {"network", "total"} <= set(stages)
    room.save_screenshot(str(tmp_path / "room.png"))

    over = coloured(room)
    slider = find(room, "opacity")
    slider.send_keys(Keys.HOME)
    wait_until(lambda: coloured(room) < before + 0.01)
    slider.send_keys(Keys.END)
    wait_until(lambda: coloured(room) > over / 2)
    for box in find(room, "answer").find_elements(By.CSS_SELECTOR, "input"):
        box.click()
    wait_until(lambda: coloured(room) < before + 0.01)


def test_keys_are_enough(room, phantom_cohort):
    log_in(room)
    wait_until(lambda: find(room, "worklist").is_displayed())
    assert len(room.find_elements(By.CSS_SELECTOR, "#images li")) == len(open_cohort(phantom_cohort.root).rows)
    find(room, "images").send_keys(Keys.ARROW_DOWN)
    says(room, "is open")
    place = find(room, "place").text
    find(room, "canvas").send_keys(Keys.ARROW_UP, Keys.ARROW_LEFT)
    wait_until(lambda: find(room, "place").text not in {"", place})
    find(room, "run").send_keys(Keys.ENTER)
    says(room, "has answered")
    find(room, "card").find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert "Not a medical device" in find(room, "card").text


def test_an_answer_that_comes_late_is_shown_over_no_other_image(room):
    log_in(room)
    wait_until(lambda: find(room, "worklist").is_displayed())
    images = room.find_elements(By.CSS_SELECTOR, "#images li")
    images[0].click()
    says(room, "is open")
    room.execute_script("arguments[0].click(); arguments[1].click();", find(room, "run"), images[1])
    says(room, f"{images[1].find_element(By.TAG_NAME, 'span').text} is open")
    time.sleep(2)  # in which the answer for the first image arrives
    assert not find(room, "answer").is_displayed()
    assert "is open" in find(room, "status").text


def test_a_diagnosis_shows_what_speaks_for_it_and_a_detection_where_it_is(room):
    log_in(room)
    wait_until(lambda: find(room, "worklist").is_displayed())
    find(room, "images").send_keys(Keys.ARROW_DOWN)
    says(room, "is open")
    for model, heads in (("finds/1", ["finding", "probability"]), ("spots/1", ["finding", "score"])):
        Select(find(room, "model")).select_by_value(model)
        find(room, "run").click()
        says(room, f"{model} has answered")
        assert [head.text for head in find(room, "answer").find_elements(By.TAG_NAME, "th")] == heads
        for button in find(room, "answer").find_elements(By.TAG_NAME, "button")[:3]:
            button.click()
        assert "bad" not in find(room, "status").get_attribute("class")
    assert not [entry for entry in room.get_log("browser") if "Uncaught" in entry["message"]]


def test_light_and_dark_are_both_readable(room):
    def contrast():
        script = """
            const style = getComputedStyle(document.body);
            const lin = (c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
            const light = (text) => {
                const [r, g, b] = text.match(/\\d+/g).map(Number);
                return .2126 * lin(r) + .7152 * lin(g) + .0722 * lin(b);
            };
            const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
            return [style.backgroundColor, (a + .05) / (b + .05)];
        """
        return room.execute_script(script)

    found = []
    for scheme in ("light", "dark"):
        room.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        found.append(contrast())
    (light, one), (dark, other) = found
    assert light != dark
    assert min(one, other) > 7  # WCAG 2.2, 1.4.6


def test_nothing_is_asked_of_anybody_else_and_nothing_is_refused(room):
    log_in(room)
    find(room, "images").send_keys(Keys.ARROW_DOWN)
    says(room, "is open")
    import json

    sent = [json.loads(entry["message"])["message"] for entry in room.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    here = room.current_url.split("//")[1].split("/")[0]
    strangers = [url for url in asked if not url.startswith(("data:", "blob:", f"http://{here}", "chrome"))]
    assert not strangers
    complaints = [entry["message"] for entry in room.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("401" in complaint for complaint in complaints), complaints  # before the token was given


def test_who_may_not_is_told_so(room):
    log_in(room, role="viewer")
    find(room, "images").send_keys(Keys.ARROW_DOWN)
    says(room, "is open")
    find(room, "run").click()
    says(room, "needs the role annotator")


def test_without_npm_the_page_says_what_is_missing(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint() as client:
        assert client.get("/").status_code == 200
        assert client.get("/pages/vendor/swagger-ui-bundle.js").status_code == 200
        assert "npm" in client.get("/pages/vendor/nothing.js").json()["detail"]
        for path in ("/pages/../auth.py", "/pages/%2e%2e/auth.py", "/pages/fetch.py", "/pages/"):
            assert client.get(path).status_code == 404
        docs = client.get("/docs")
        assert "cdn" not in docs.text
        assert "https:" not in docs.headers["content-security-policy"]
