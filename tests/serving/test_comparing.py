"""A patient's time points side by side in a real browser, scrolled together, with what changed."""

import httpx
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

import medray
from medray.formats.nifti import write_nifti
from medray.serving.auth import make_token
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from tests.progression.people import motion, person, scanned
from tests.serving.chromium import BROWSER, find, log_in, says
from tests.serving.conftest import register_change
from tests.serving.inside import endpoint
from tests.waiting import wait_until

pytestmark = [*BROWSER, pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, local_ray):
    """One person, scanned twice."""
    folder = tmp_path_factory.mktemp("source")
    first, second = person(4)
    scans = scanned(first, 1)[0], scanned(second, 2, motion((8, -5, 4), (10, -6, 5)))[0]
    for session, scan in zip(("20200101", "20210101"), scans, strict=True):
        place = folder / "sub-a" / f"ses-{session}" / "anat"
        place.mkdir(parents=True)
        (place / f"sub-a_ses-{session}_T1w.nii.gz").write_bytes(write_nifti(scan))
    return medray.ingest(folder, tmp_path_factory.mktemp("cohort"), profile="none")


def views(driver):
    return driver.find_elements(By.CSS_SELECTOR, "#timepoints canvas")


def opened(browser, client):
    """The reading room, logged in, with its patients listed."""
    browser.get(str(client.base_url))
    browser.execute_script("sessionStorage.clear()")
    browser.get_log("browser")
    browser.get(str(client.base_url))
    log_in(browser)
    wait_until(lambda: find(browser, "patients").is_displayed())


@pytest.mark.timeout(400)
def test_a_model_of_progression_shows_what_became_of_voxels(home, cohort, phantom_cohort, browser, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    register_change(home, phantom_cohort)
    with endpoint(limits=Limits(cohort=cohort.root.path), doors=Doors(), work_mb=4096) as client:
        opened(browser, client)
        Select(find(browser, "model")).select_by_value("change/1")
        browser.find_element(By.CSS_SELECTOR, "#subjects li").click()
        wait_until(lambda: "2 time points over 1.00 years" in find(browser, "status").text, seconds=240)
        assert len(views(browser)) == 2
        [row] = browser.find_elements(By.CSS_SELECTOR, "#changes tbody tr")
        assert row.text.split()[0] == "ball"
        assert any(word in row.text for word in ("grown", "stable", "shrunk"))
        assert not find(browser, "run").is_enabled(), "it says nothing of one image"
        browser.save_screenshot(str(tmp_path / "learned.png"))
        assert not [entry["message"] for entry in browser.get_log("browser") if "Uncaught" in entry["message"]]


@pytest.mark.timeout(400)
def test_two_time_points_side_by_side(home, cohort, browser, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint(limits=Limits(cohort=cohort.root.path), doors=Doors(), work_mb=4096) as client:
        token = {"Authorization": f"Bearer {make_token('vic', 'viewer')}"}
        [subject] = httpx.get(f"{client.base_url}/v1/subjects", headers=token).json()["subjects"]
        assert [image["time_point"] for image in subject["images"]] == [0, 1]
        opened(browser, client)
        browser.find_element(By.CSS_SELECTOR, "#subjects li").click()
        wait_until(lambda: "2 time points over 1.00 years" in find(browser, "status").text, seconds=240)
        assert len(views(browser)) == 2
        assert {row.text.split()[0] for row in browser.find_elements(By.CSS_SELECTOR, "#changes tbody tr")} == {"ball", "core"}
        assert find(browser, "report").get_attribute("href").startswith("blob:")
        browser.save_screenshot(str(tmp_path / "compared.png"))
        before = views(browser)[1].screenshot_as_png
        ActionChains(browser).move_to_element_with_offset(views(browser)[0], 30, 40).click().perform()
        wait_until(lambda: views(browser)[1].screenshot_as_png != before)  # what moves in one moves in the other
        browser.find_element(By.CSS_SELECTOR, "#images li").click()
        says(browser, "is open")
        assert not find(browser, "timepoints").is_displayed()
        assert find(browser, "canvas").is_displayed()
        assert not [entry["message"] for entry in browser.get_log("browser") if "Uncaught" in entry["message"]]
