"""Experts paint in a real browser: what is drawn is where it was drawn, in the cohort, and others' outlines come afterwards."""

import re

import httpx
import numpy as np
import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from medray.annotation.store import LabelStore
from medray.cohort.cohort import open_cohort
from medray.formats.nrrd import write_nrrd
from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.serving.auth import make_token
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from medray.storage.location import locate
from tests.serving.chromium import BROWSER, coloured, find, log_in, says
from tests.serving.inside import endpoint
from tests.waiting import wait_until

pytestmark = BROWSER
FIRST = {"If-None-Match": "*"}


@pytest.fixture
def room(root, browser):
    """The page over a cohort with two projects, of Ann's and Ben's."""
    with endpoint(limits=Limits(cohort=str(root)), doors=Doors()) as client:
        client.headers["Authorization"] = f"Bearer {make_token('olga', 'operator')}"
        for project in (
            {"name": "balls", "names": {"ball": [], "core": []}, "experts": 2, "guidelines": "Draw the ball."},
            {"name": "from-model", "names": {"ball": [], "core": []}, "model": "ball"},
            {"name": "reads", "kind": "findings", "names": {"nodule": [], "density": ["a", "b"]}},
            {"name": "spots", "kind": "points", "names": {"nodule": [], "vessel": []}, "experts": 2},
            {"name": "rooms", "kind": "boxes", "names": {"nodule": [], "vessel": []}},
        ):
            assert client.post("/v1/projects", json=project).status_code == 201
            people = {"experts": ["ann", "ben"] if project.get("experts") == 2 else ["ann"]}
            assert client.post(f"/v1/projects/{project['name']}/assignments", json=people).status_code == 200
        browser.get(str(client.base_url))
        browser.execute_script("sessionStorage.clear()")
        browser.get_log("browser")
        browser.get(str(client.base_url))
        yield browser, client
        assert not [entry["message"] for entry in browser.get_log("browser") if "Uncaught" in entry["message"]]


def open_case(driver, number, project="balls"):
    wait_until(lambda: find(driver, "annotation").is_displayed())
    Select(find(driver, "project")).select_by_value(project)
    wait_until(lambda: driver.find_elements(By.CSS_SELECTOR, f"#cases[data-project={project}] li"))
    item = cases_in(driver)[number]
    image = item.get_attribute("data-image")
    item.click()
    says(driver, "is open")
    wait_until(lambda: find(driver, "case").is_displayed())
    return image


def cases_in(driver):
    return driver.find_elements(By.CSS_SELECTOR, "#cases li")


def pick(driver, tool):
    driver.find_element(By.CSS_SELECTOR, f"input[value={tool}]").click()


def stroke(driver, *offsets):
    """Draw through places of the canvas, in pixels from the middle of the axial view, the upper left one."""
    canvas = find(driver, "canvas")
    width, height = canvas.size["width"], canvas.size["height"]
    moves = ActionChains(driver)
    for turn, (x, y) in enumerate(offsets):
        moves.move_to_element_with_offset(canvas, int(-width / 4 + x), int(-height / 4 + y))
        if not turn:
            moves.click_and_hold()
    moves.release().perform()


def place(driver):
    """Where the crosshair is, in LPS mm."""
    x, y, z = (float(word) for word in re.findall(r"-?\d+(?:\.\d+)?", find(driver, "place").text)[:3])
    return np.array([-x, -y, z])


def kept(root, project, annotator="ann"):
    store = LabelStore(locate(root))
    [head] = store.heads(project=project, annotator=annotator, tag="final")
    return head, store.mask(head)


@pytest.mark.parametrize("number", [0, 3, 7])
def test_what_is_painted_is_kept_where_it_was_painted(room, root, number, tmp_path):
    driver, _ = room
    log_in(driver, name="ann")
    image = open_case(driver, number)
    assert find(driver, "guidelines").text == "Draw the ball."
    Select(find(driver, "pen")).select_by_visible_text("core")
    stroke(driver, (0, 0))
    wait_until(lambda: find(driver, "place").text)
    there = place(driver)
    find(driver, "submit").click()
    says(driver, "submitted")
    head, mask = kept(root, "balls")
    assert head.label.series == image
    assert np.unique(mask.voxels).tolist() == [0, 2]
    centre = to_world(mask.affine, np.argwhere(mask.voxels[0]).mean(axis=0))
    assert np.abs(centre - there).max() < 1.5 * max(mask.spacing_mm)
    row = next(row for row in open_cohort(root).rows if row.series == image)
    assert mask.shape == open_cohort(root).volume(row).shape
    assert (head.facts["edits"], head.facts["tool"]) == (1, "reading room")
    assert head.facts["seconds"] > 0
    driver.save_screenshot(str(tmp_path / "painted.png"))


def test_draw_fill_erase_undo_and_go_on_with_a_draft(room, root):
    driver, _ = room
    log_in(driver, name="ann")
    open_case(driver, 0)

    def drawn():
        find(driver, "draft").click()
        says(driver, "draft is kept")
        driver.execute_script("document.getElementById('status').textContent = ''")
        return int(np.count_nonzero(kept(root, "balls")[1].voxels))

    ring = [(-40, -40), (40, -40), (40, 40), (-40, 40), (-40, -40)]
    find(driver, "size").send_keys(Keys.HOME)
    pick(driver, "draw")
    stroke(driver, *ring)
    line = drawn()
    assert line > 0
    find(driver, "undo").click()
    assert drawn() == 0
    pick(driver, "fill")
    stroke(driver, *ring)
    full = drawn()
    assert full > 1.5 * line
    pick(driver, "erase")
    stroke(driver, (-20, 0), (20, 0))
    erased = drawn()
    assert 0 < erased < full
    open_case(driver, 1)
    open_case(driver, 0)
    assert "draft" in find(driver, "standing").text
    assert drawn() == erased, "the draft is gone on with"
    assert [one.status for one in LabelStore(locate(root)).history(project="balls")] == ["draft"] * 5


def test_others_outlines_come_after_ones_own_label(room, root):
    driver, client = room
    log_in(driver, name="ann")
    image = open_case(driver, 0)
    assert not find(driver, "others").is_displayed()
    cohort = open_cohort(root)
    volume = cohort.volume(next(row for row in cohort.rows if row.series == image))
    mask = np.zeros((1, *volume.shape), np.uint8)
    mask[0, 4:-4, 4:-4, 4:-4] = 1
    path = f"/v1/projects/balls/cases/{image}/labels/mine"
    ben = {"Authorization": f"Bearer {make_token('ben', 'annotator')}"}
    done = httpx.put(f"{client.base_url}{path}", content=write_nrrd(Volume(mask, volume.affine)), headers={**ben, **FIRST})
    assert done.status_code == 201
    open_case(driver, 0)
    assert not find(driver, "others").is_displayed()
    stroke(driver, (0, 0), (10, 10))
    find(driver, "submit").click()
    says(driver, "submitted")
    assert not find(driver, "brush").is_displayed()
    [row] = driver.find_elements(By.CSS_SELECTOR, "#others tbody tr")
    assert row.text.split()[0] == "rater"
    before = coloured(driver)
    row.find_element(By.TAG_NAME, "input").click()
    wait_until(lambda: before + 0.01 < coloured(driver) < before + 0.2)  # a line in a colour, and nothing within
    row.find_element(By.TAG_NAME, "input").click()
    wait_until(lambda: coloured(driver) < before + 0.005)


def test_what_isnt_saved_is_lost_only_by_who_wants_that(room, root):
    driver, _ = room
    log_in(driver, name="ann")
    image = open_case(driver, 0)
    stroke(driver, (0, 0))
    driver.find_elements(By.CSS_SELECTOR, "#cases li")[1].click()
    driver.switch_to.alert.dismiss()
    find(driver, "draft").click()
    says(driver, "draft is kept")
    assert kept(root, "balls")[0].label.series == image
    open_case(driver, 1)
    stroke(driver, (0, 0))
    driver.find_elements(By.CSS_SELECTOR, "#cases li")[2].click()
    driver.switch_to.alert.accept()
    says(driver, "is open")
    assert len(LabelStore(locate(root)).history(project="balls")) == 1


def test_a_label_that_changed_elsewhere_is_not_overwritten_unseen(room, root):
    driver, client = room
    log_in(driver, name="ann")
    image = open_case(driver, 0)
    cohort = open_cohort(root)
    volume = cohort.volume(next(row for row in cohort.rows if row.series == image))
    other = write_nrrd(Volume(np.ones((1, *volume.shape), np.uint8), volume.affine))
    ann = {"Authorization": f"Bearer {make_token('ann', 'annotator')}"}
    path = f"{client.base_url}/v1/projects/balls/cases/{image}/labels/mine?status=draft"
    assert httpx.put(path, content=other, headers={**ann, **FIRST}).status_code == 201
    stroke(driver, (0, 0))
    find(driver, "draft").click()
    wait_until(lambda: alert(driver))
    driver.switch_to.alert.dismiss()
    says(driver, "newer than what was seen")
    assert len(LabelStore(locate(root)).history(project="balls")) == 1
    find(driver, "draft").click()
    wait_until(lambda: alert(driver))
    driver.switch_to.alert.accept()
    says(driver, "draft is kept")
    first, second = LabelStore(locate(root)).history(project="balls")
    assert second.parent == first.number
    assert LabelStore(locate(root)).mask(second).voxels.sum() < LabelStore(locate(root)).mask(first).voxels.sum()


def alert(driver):
    try:
        return driver.switch_to.alert
    except NoAlertPresentException:
        return None


def test_one_starts_from_the_models_answer(room, root):
    driver, _ = room
    log_in(driver, name="ann")
    open_case(driver, 0, "from-model")
    stroke(driver, (0, 0))
    find(driver, "submit").click()
    says(driver, "submitted")
    head, mask = kept(root, "from-model")
    store = LabelStore(locate(root))
    [model] = store.heads(project="from-model", tag="prelabel")
    assert head.facts["start"] == model.number
    assert 0 < head.facts["changed"] < 0.05
    same = mask.voxels == store.mask(model).voxels
    assert same.mean() > 0.99
    assert not same.all()


def test_findings_are_chosen_and_a_reviewer_gives_them_back(room, root):
    driver, _client = room
    log_in(driver, name="ann")
    open_case(driver, 0, "reads")
    selects = driver.find_elements(By.CSS_SELECTOR, "#findings select")
    Select(selects[0]).select_by_value("present")
    find(driver, "submit").click()
    says(driver, "nothing is said of density")
    Select(selects[1]).select_by_value("b")
    find(driver, "submit").click()
    says(driver, "submitted")
    assert LabelStore(locate(root)).heads(project="reads")[0].said == {"nodule": "present", "density": "b"}
    find(driver, "logout").click()
    log_in(driver, role="reviewer", name="rita")
    open_case(driver, 0, "reads")
    driver.execute_script("window.prompt = () => 'look again'")
    [back] = [button for button in driver.find_elements(By.CSS_SELECTOR, "#others button") if button.text == "Give back"]
    back.click()
    says(driver, "is rejected")
    head = LabelStore(locate(root)).heads(project="reads")[0]
    assert (head.status, head.facts["comment"], head.actor) == ("rejected", "look again", "rita")


def click(driver, x, y):
    """Put the crosshair somewhere in the axial view, and say where that is, in LPS mm."""
    stroke(driver, (x, y))
    wait_until(lambda: find(driver, "place").text)
    return place(driver)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3, 7])
def test_points_are_kept_where_they_were_put(room, root, number):
    driver, client = room
    log_in(driver, name="ann")
    image = open_case(driver, number, "spots")
    before = coloured(driver)
    Select(find(driver, "place-label")).select_by_value("vessel")
    there = []
    for offset in ((0, 0), (20, -10), (5, 15)):
        there.append(click(driver, *offset))
        find(driver, "place-here").click()
    assert coloured(driver) > before
    driver.find_elements(By.CSS_SELECTOR, "#placed tbody tr")[1].find_elements(By.TAG_NAME, "button")[1].click()
    del there[1]
    find(driver, "submit").click()
    says(driver, "submitted")
    assert not find(driver, "placing").is_displayed()
    [head] = LabelStore(locate(root)).heads(project="spots", annotator="ann")
    volume = volume_of(root, image)
    assert [one["label"] for one in head.said] == ["vessel", "vessel"]
    for one, expected in zip(head.said, there, strict=True):
        found = to_world(volume.affine, np.array([one["voxel"]]))[0]
        assert np.abs(found - expected).max() < max(volume.spacing_mm)
    assert head.facts["edits"] == 4

    ben = {"Authorization": f"Bearer {make_token('ben', 'annotator')}", **FIRST}
    path = f"{client.base_url}/v1/projects/spots/cases/{image}/labels/mine"
    assert httpx.put(path, json=[{"label": "nodule", "voxel": [3, 3, 3]}], headers=ben).status_code == 201
    open_case(driver, [one.get_attribute("data-image") for one in cases_in(driver)].index(image), "spots")
    assert len(driver.find_elements(By.CSS_SELECTOR, "#placed tbody tr")) == 2, "one's own are shown again"
    [row] = driver.find_elements(By.CSS_SELECTOR, "#others tbody tr")
    row.find_element(By.TAG_NAME, "input").click()
    says(driver, "is open")


def test_a_box_lies_between_the_corners_that_were_chosen(room, root):
    driver, _ = room
    log_in(driver, name="ann")
    image = open_case(driver, 3, "rooms")
    first = click(driver, -20, -15)
    find(driver, "place-here").click()
    assert find(driver, "place-here").text == "Opposite corner is here"
    second = click(driver, 25, 20)
    find(driver, "place-here").click()
    find(driver, "draft").click()
    says(driver, "draft is kept")
    [head] = LabelStore(locate(root)).heads(project="rooms", annotator="ann")
    [box] = head.said
    volume = volume_of(root, image)
    low, high = np.array(box["voxels"])
    chosen = to_world(np.linalg.inv(volume.affine), np.array([first, second]))
    assert low == pytest.approx(np.round(chosen.min(axis=0)) - 0.5, abs=1)
    assert high == pytest.approx(np.round(chosen.max(axis=0)) + 0.5, abs=1)
    open_case(driver, 1, "rooms")
    open_case(driver, 3, "rooms")
    assert len(driver.find_elements(By.CSS_SELECTOR, "#placed tbody tr")) == 1, "the draft is gone on with"


def volume_of(root, image):
    cohort = open_cohort(root)
    return cohort.volume(next(row for row in cohort.rows if row.series == image))


@pytest.mark.slow
def test_a_reviewer_decides_from_what_the_experts_say(room, root):
    driver, client = room
    volume, image = None, open_cohort(root).rows[0].series
    volume = volume_of(root, image)
    path = f"{client.base_url}/v1/projects/balls/cases/{image}"
    for name, value in (("ann", 4), ("ben", 5)):
        mask = np.zeros((1, *volume.shape), np.uint8)
        mask[0, 2:10, 2:10, 2:value] = 1
        headers = {"Authorization": f"Bearer {make_token(name, 'annotator')}", **FIRST}
        sent = httpx.put(f"{path}/labels/mine", content=write_nrrd(Volume(mask, volume.affine)), headers=headers)
        assert sent.status_code == 201
    assert client.post(f"{path}/consensus").status_code == 201
    log_in(driver, role="reviewer", name="rita")
    open_case(driver, 0)
    find(driver, "draft").click()
    says(driver, "draft is kept")

    def decided():
        store = LabelStore(locate(root))
        return store.mask(store.heads(project="balls", tag="adjudicated")[0]).voxels

    store = LabelStore(locate(root))
    [consensus] = store.heads(project="balls", tag="consensus")
    assert np.array_equal(decided(), store.mask(consensus).voxels), "the consensus is under the pen"
    row = driver.find_elements(By.CSS_SELECTOR, "#others tbody tr")[0]
    [start] = [button for button in row.find_elements(By.TAG_NAME, "button") if button.text == "Start from it"]
    start.click()
    wait_until(lambda: not find(driver, "brush").get_attribute("aria-busy"))
    find(driver, "draft").click()
    says(driver, "draft is kept")
    wait_until(
        lambda: any(np.array_equal(decided(), store.mask(one).voxels) for one in store.heads(project="balls", tag="final"))
    )
