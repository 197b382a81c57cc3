"""Several experts label the same cases over HTTP: who may do what, who sees what, and what is never lost."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from medray.annotation.cases import mixed
from medray.annotation.store import LabelStore
from medray.audit import open_trail
from medray.cohort.cohort import open_cohort
from medray.formats.nrrd import read_nrrd, write_nrrd
from medray.imaging.volume import Volume
from medray.serving.auth import make_token
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from tests.phantoms import take_in_all
from tests.serving.inside import endpoint
from tests.serving.viewer import Viewer

BALLS = {"name": "balls", "names": {"ball": [], "core": []}, "experts": 2, "model": "ball", "guidelines": "Draw it all."}
FIRST = {"If-None-Match": "*"}


@pytest.fixture
def server(root):
    with endpoint(limits=Limits(cohort=str(root)), doors=Doors()) as client:
        yield client


@pytest.fixture
def people(server):
    """Ann, Ben and Cleo label, Rita reviews, Olga runs it."""
    roles = {
        "ann": "annotator",
        "ben": "annotator",
        "cleo": "annotator",
        "rita": "reviewer",
        "olga": "operator",
        "vic": "viewer",
    }
    made = {
        name: httpx.Client(base_url=server.base_url, headers={"Authorization": f"Bearer {make_token(name, role)}"}, timeout=60)
        for name, role in roles.items()
    }
    yield made
    for client in made.values():
        client.close()


@pytest.fixture
def case(people, root):
    """A project whose two experts are Ann and Ben; its first case."""
    assert people["olga"].post("/v1/projects", json=BALLS).status_code == 201
    said = people["olga"].post("/v1/projects/balls/assignments", json={"experts": ["ann", "ben"]})
    rows = open_cohort(root).rows
    assert len(said.json()["assigned"]) == 2 * len(rows)
    return f"/v1/projects/balls/cases/{rows[0].series}"


def mask_of(root, size=5, value=1, case=0):
    cohort = open_cohort(root)
    volume = cohort.volume(cohort.rows[case])
    mask = np.zeros((1, *volume.shape), np.uint8)
    mask[0, 2 : 2 + size, 2:7, 2:7] = value
    return write_nrrd(Volume(mask, volume.affine))


def rater(case, name, names=("ann", "ben")):
    """What an expert of a case is called where names are not to be known."""
    series = case.rpartition("/")[2]
    return f"rater {mixed(series, names).index(name) + 1}"


def test_a_case_from_the_worklist_to_the_consensus(people, case, root):
    ann, ben, rita = (people[name] for name in ("ann", "ben", "rita"))
    work = ann.get("/v1/projects/balls/worklist").json()["cases"]
    assert [one["status"] for one in work] == ["new"] * len(open_cohort(root).rows)
    assert case.endswith(work[0]["image"])
    begun = ann.get(f"{case}/labels/model")
    assert begun.headers["X-Medray-Label"] == "submitted"
    start = begun.headers["ETag"].strip('"')
    assert ben.get(f"{case}/labels/model").headers["ETag"] == begun.headers["ETag"], "all start from the same"

    draft = ann.put(f"{case}/labels/mine?status=draft", content=begun.content, headers=FIRST)
    assert (draft.status_code, draft.json()["status"]) == (201, "draft")
    done = ann.put(
        f"{case}/labels/mine?seconds=83.5&start={start}&tool=brush",
        content=mask_of(root),
        headers={"If-Match": draft.headers["ETag"]},
    )
    assert done.status_code == 201
    facts = done.json()["facts"]
    assert (facts["seconds"], facts["tool"]) == (83.5, "brush")
    assert 0 < facts["changed"] <= 1
    assert np.array_equal(read_nrrd(ann.get(f"{case}/labels/mine").content).voxels, read_nrrd(mask_of(root)).voxels)
    assert ann.get("/v1/projects/balls/worklist").json()["cases"][-1]["status"] == "submitted"
    assert rita.post(f"{case}/consensus").status_code == 409
    assert ben.put(f"{case}/labels/mine", content=mask_of(root, 6), headers=FIRST).status_code == 201

    agreed = rita.post(f"{case}/consensus")
    assert agreed.status_code == 201
    assert 0.9 < agreed.json()["facts"]["agreement"] < 1
    assert "raters" not in agreed.json()["facts"]
    assert rita.get(case).json()["state"] == "agreed"
    shown = rita.get(f"{case}/labels/consensus")
    assert read_nrrd(shown.content).voxels.any()
    differ = read_nrrd(rita.get(f"{case}/disagreement").content).voxels
    assert differ.sum() == 25
    assert [one["tag"] for one in rita.get(f"{case}/history").json()["versions"]] == [
        "prelabel", "final", "final", "final", "consensus",
    ]  # fmt: skip
    assert rita.get("/v1/projects/balls/summary").status_code == 403, "it has experts' names"
    summary = people["olga"].get("/v1/projects/balls/summary").json()
    assert summary["experts"]["ann"]["seconds"] == 83.5
    assert summary["experts"]["ann"]["changed"] == facts["changed"]
    assert summary["states"] == {"agreed": 1, "open": len(open_cohort(root).rows) - 1}
    assert people["vic"].get("/v1/projects/balls").json()["states"] == summary["states"]
    decided = rita.put(f"{case}/labels/adjudicated", content=mask_of(root, 4), headers=FIRST)
    assert decided.status_code == 201
    assert rita.get("/v1/projects/balls/cases").json()["cases"][0]["state"] == "adjudicated"


def test_of_two_who_saw_the_same_the_second_is_told(people, case, root):
    ann = people["ann"]
    draft = {"params": {"status": "draft"}}
    first = ann.put(f"{case}/labels/mine", content=mask_of(root, 3), headers=FIRST, **draft)
    assert first.headers["ETag"] == f'"{first.json()["version"]}"'
    again = ann.put(f"{case}/labels/mine", content=mask_of(root, 4), headers=FIRST, **draft)
    assert (again.status_code, again.headers["content-type"]) == (412, "application/problem+json")
    blind = ann.put(f"{case}/labels/mine", content=mask_of(root, 4), **draft)
    assert blind.status_code == 409
    assert "If-Match" in blind.json()["detail"]
    seen = {"If-Match": first.headers["ETag"]}
    assert ann.put(f"{case}/labels/mine", content=mask_of(root, 4), headers=seen, **draft).status_code == 201
    repeated = ann.put(f"{case}/labels/mine", content=mask_of(root, 4), headers=seen, **draft)
    assert repeated.status_code == 201, "who never heard that it was taken sends it again"
    assert ann.put(f"{case}/labels/mine", content=mask_of(root, 5), headers=seen, **draft).status_code == 412
    assert ann.put(f"{case}/labels/mine", content=mask_of(root, 5), headers={"If-Match": '"x"'}).status_code == 412
    assert [one["by"] for one in people["olga"].get(f"{case}/history").json()["versions"]] == ["ann", "ann"]
    assert [one["by"] for one in people["rita"].get(f"{case}/history").json()["versions"]] == [rater(case, "ann")] * 2


def test_others_are_seen_only_afterwards_and_under_no_name(people, case, root):
    ann, ben, rita = (people[name] for name in ("ann", "ben", "rita"))
    assert ann.put(f"{case}/labels/mine", content=mask_of(root, 5), headers=FIRST).status_code == 201
    assert ben.get(case).json()["labels"] == []
    for other in ("ann", "rater 1", "rater 2", "consensus"):
        assert ben.get(f"{case}/labels/{other}").status_code == 404
    assert ben.put(f"{case}/labels/mine", content=mask_of(root, 6), headers=FIRST).status_code == 201
    [seen] = ben.get(case).json()["labels"]
    assert seen["whose"] == rater(case, "ann")
    assert read_nrrd(ben.get(f"{case}/labels/{rater(case, 'ann')}").content).voxels.sum() == 125
    mine = ben.get(f"{case}/labels/mine").headers["ETag"]
    late = ben.put(f"{case}/labels/mine", content=mask_of(root, 5), headers={"If-Match": mine})
    assert (late.status_code, "stands" in late.json()["detail"]) == (409, True), "who has seen others' may not change theirs"

    assert {one["whose"] for one in rita.get(case).json()["labels"]} == {"rater 1", "rater 2"}
    assert {one["whose"] for one in people["olga"].get(case).json()["labels"]} == {"ann", "ben"}
    back = rita.post(
        f"{case}/labels/{rater(case, 'ben')}/review",
        json={"decision": "rejected", "comment": "too large"},
        headers={"If-Match": mine},
    )
    assert (back.status_code, back.json()["status"]) == (201, "rejected")
    assert ben.get(case).json()["labels"] == []
    assert ben.get(case).json()["mine"]["facts"]["comment"] == "too large"
    changed = ben.put(f"{case}/labels/mine", content=mask_of(root, 5), headers={"If-Match": back.headers["ETag"]})
    assert changed.status_code == 201
    good = {"decision": "approved"}
    assert rita.post(f"{case}/labels/{rater(case, 'ben')}/review", json=good, headers={"If-Match": mine}).status_code == 412
    assert rita.post(f"{case}/labels/{rater(case, 'ben')}/review", json=good).status_code == 409
    seen = {"If-Match": changed.headers["ETag"]}
    assert rita.post(f"{case}/labels/{rater(case, 'ben')}/review", json=good, headers=seen).json()["status"] == "approved"


def test_a_reviewer_who_labels_a_case_is_an_expert_of_it(people, root):
    """Rita labels, too: she sees nothing of the others before, and decides nothing that she has labelled."""
    olga, rita, ann = (people[name] for name in ("olga", "rita", "ann"))
    olga.post("/v1/projects", json={**BALLS, "name": "both", "model": ""})
    olga.post("/v1/projects/both/assignments", json={"experts": ["ann", "rita"]})
    case = f"/v1/projects/both/cases/{open_cohort(root).rows[0].series}"
    first = ann.put(f"{case}/labels/mine", content=mask_of(root), headers=FIRST)
    assert first.status_code == 201
    for path in ("disagreement", "history"):
        assert rita.get(f"{case}/{path}").status_code == 403
    assert rita.get(case).json()["labels"] == []
    guess = rita.put(
        f"{case}/labels/mine?status=draft&start={first.json()['version']}", content=mask_of(root, 1), headers=FIRST
    )
    assert guess.status_code == 404, "how far hers is from Ann's would tell where Ann's lies"
    assert rita.put(f"{case}/labels/mine", content=mask_of(root, 6), headers=FIRST).status_code == 201
    assert len(rita.get(f"{case}/history").json()["versions"]) == 2
    assert rita.put(f"{case}/labels/adjudicated", content=mask_of(root), headers=FIRST).status_code == 403
    agreed = olga.post(f"{case}/consensus")
    refused = olga.post(
        f"{case}/labels/consensus/review", json={"decision": "approved"}, headers={"If-Match": agreed.headers["ETag"]}
    )
    assert refused.status_code == 422
    decided = olga.put(f"{case}/labels/adjudicated", content=mask_of(root), headers=FIRST)
    seen = {"If-Match": decided.headers["ETag"]}
    assert olga.post(f"{case}/labels/adjudicated/review", json={"decision": "approved"}, headers=seen).status_code == 422


def test_nobody_approves_what_they_decided_nor_decides_what_they_labelled(people, root, server):
    olga, rita, ann = (people[name] for name in ("olga", "rita", "ann"))
    rob = httpx.Client(base_url=server.base_url, headers={"Authorization": f"Bearer {make_token('rob', 'reviewer')}"})
    olga.post("/v1/projects", json={**BALLS, "name": "both", "model": ""})
    olga.post("/v1/projects/both/assignments", json={"experts": ["ann", "rob"]})
    case = f"/v1/projects/both/cases/{open_cohort(root).rows[0].series}"
    ann.put(f"{case}/labels/mine", content=mask_of(root), headers=FIRST)
    labelled = rob.put(f"{case}/labels/mine", content=mask_of(root, 4), headers=FIRST)
    given_back = {"decision": "rejected"}, {"If-Match": labelled.headers["ETag"]}
    whose = rater(case, "rob", ("ann", "rob"))
    assert rita.post(f"{case}/labels/{whose}/review", json=given_back[0], headers=given_back[1]).status_code == 201
    assert olga.delete("/v1/projects/both/assignments/rob").json()["released"] > 0
    late = rob.put(f"{case}/labels/adjudicated", content=mask_of(root), headers=FIRST)
    assert late.status_code == 403, "it is no longer his case, but he has labelled it"

    decided = rita.put(f"{case}/labels/adjudicated", content=mask_of(root), headers=FIRST)
    assert decided.status_code == 201
    path = f"{case}/labels/adjudicated/review"
    refused = olga.post(path, json={"decision": "rejected"}, headers={"If-Match": decided.headers["ETag"]})
    assert refused.status_code == 201
    own = rita.post(path, json={"decision": "approved"}, headers={"If-Match": refused.headers["ETag"]})
    assert (own.status_code, "of their own" in own.json()["detail"]) == (422, True)
    rob.close()


def test_what_experts_say_together_tells_none_from_another(people, root):
    """Lists are in the order of their names, so that there are none."""
    olga, ann = people["olga"], people["ann"]
    for kind, names, said in (
        ("segmentation", {"ball": []}, None),
        ("findings", {"oedema": ["present", "absent"]}, {"oedema": "present"}),
    ):
        project: dict[str, Any] = {"name": kind, "names": names, "experts": 2, "kind": kind}
        assert olga.post("/v1/projects", json=project).status_code == 201
        olga.post(f"/v1/projects/{kind}/assignments", json={"experts": ["ann", "ben"]})
        case = f"/v1/projects/{kind}/cases/{open_cohort(root).rows[0].series}"
        for name in ("ann", "ben"):
            sent = {"content": mask_of(root)} if said is None else {"json": said}
            assert people[name].put(f"{case}/labels/mine", headers=FIRST, **sent).status_code == 201
        assert olga.post(f"{case}/consensus").status_code == 201
        [facts] = ann.get(case).json()["consensus"]["facts"]["names"].values()
        assert facts
        assert all(isinstance(value, float) for value in facts.values()), facts


def test_names_of_experts_may_have_slashes_and_none_is_taken(people, root, server):
    olga = people["olga"]
    name = "auth0|x/y"
    olga.post("/v1/projects", json={**BALLS, "name": "slashes", "model": "", "experts": 1, "blinded": False})
    olga.post("/v1/projects/slashes/assignments", json={"experts": [name]})
    case = f"/v1/projects/slashes/cases/{open_cohort(root).rows[0].series}"
    headers = {"Authorization": f"Bearer {make_token(name, 'annotator')}"}
    with httpx.Client(base_url=server.base_url, headers=headers) as expert:
        done = expert.put(f"{case}/labels/mine", content=mask_of(root), headers=FIRST)
    quoted = quote(name, safe="")
    assert olga.get(f"{case}/labels/{quoted}").status_code == 200
    approved = olga.post(
        f"{case}/labels/{quoted}/review", json={"decision": "approved"}, headers={"If-Match": done.headers["ETag"]}
    )
    assert approved.status_code == 201
    assert olga.delete(f"/v1/projects/slashes/assignments/{quoted}").json()["released"] > 0
    taken = olga.post("/v1/projects/slashes/assignments", json={"experts": ["mine"]})
    assert (taken.status_code, "no expert can be called mine" in taken.json()["detail"]) == (422, True)


def test_images_may_be_called_like_files(home, phantom_source, tmp_path, monkeypatch):
    """A cohort of profile ``none`` names images by their paths."""
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    cohort = take_in_all(phantom_source, tmp_path / "plain", "none")
    row = next(row for row in cohort.rows if "/" in row.series)
    with endpoint(limits=Limits(cohort=cohort.root.path)) as client:
        assert client.post("/v1/projects", json={**BALLS, "model": "", "experts": 1}).status_code == 201
        assert client.post("/v1/projects/balls/assignments", json={"experts": ["anybody"]}).status_code == 200
        volume = cohort.volume(row)
        mask = write_nrrd(Volume(np.ones((1, *volume.shape), np.uint8), volume.affine))
        case = f"/v1/projects/balls/cases/{quote(row.series, safe='')}"
        assert client.put(f"{case}/labels/mine", content=mask, headers=FIRST).status_code == 201
        assert client.get(case).json()["mine"]["status"] == "submitted"


def test_who_may_not_is_told_so(people, case, root):
    mask = mask_of(root)
    assert people["cleo"].put(f"{case}/labels/mine", content=mask, headers=FIRST).status_code == 403
    assert people["vic"].get(f"{case}/labels/mine").status_code == 403
    assert people["ann"].put(f"{case}/labels/adjudicated", content=mask, headers=FIRST).status_code == 403
    assert people["ann"].post("/v1/projects", json=BALLS).status_code == 403
    assert people["ann"].get("/v1/projects/balls/cases").status_code == 403
    assert people["ann"].post(f"{case}/labels/mine/review", json={"decision": "approved"}).status_code == 403
    assert people["ann"].put(f"{case}/labels/ben", content=mask, headers=FIRST).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "status", "why"),
    [
        ("labels/mine", b"nonsense", 400, "neither a file"),
        ("labels/mine", None, 400, "unknown-label"),
        ("labels/mine?status=approved", b"x", 422, "status"),
        ("labels/mine?start=99999", b"mask", 404, "no version 99999"),
        ("labels/mine?start=100000000000000000000", b"mask", 422, "start"),
    ],
)
def test_what_cant_be_a_label(people, case, root, path, body, status, why):
    body = mask_of(root, value=9) if body is None else mask_of(root) if body == b"mask" else body
    reply = people["ann"].put(f"{case}/{path}", content=body, headers=FIRST)
    assert reply.status_code == status, reply.text
    assert why in reply.text


def test_what_cant_be_a_project(people):
    olga = people["olga"]
    assert olga.post("/v1/projects", json={**BALLS, "kind": "holograms"}).status_code == 422
    assert olga.post("/v1/projects", json={**BALLS, "model": "nobody"}).status_code == 404
    assert olga.post("/v1/projects", content=b"[]").status_code == 422
    assert olga.get("/v1/projects/none").status_code == 404
    assert olga.post("/v1/projects", json=BALLS).headers["Location"] == "/v1/projects/balls"
    assert olga.post("/v1/projects", json={**BALLS, "experts": 3}).status_code == 409
    assert [one["values"] for one in olga.get("/v1/projects").json()["projects"]] == [{"ball": 1, "core": 2}]


def test_findings_are_json(people, root):
    olga, ann = people["olga"], people["ann"]
    assert olga.post("/v1/projects", json={"name": "reads", "kind": "findings", "names": {"nodule": []}}).status_code == 201
    assert olga.post("/v1/projects/reads/assignments", json={"experts": ["ann"]}).status_code == 200
    case = f"/v1/projects/reads/cases/{open_cohort(root).rows[0].series}"
    assert ann.put(f"{case}/labels/mine", json={"nodule": "maybe"}, headers=FIRST).status_code == 422
    assert ann.put(f"{case}/labels/mine", json={"nodule": "present"}, headers=FIRST).status_code == 201
    assert ann.get(f"{case}/labels/mine").json() == {"nodule": "present"}
    assert people["rita"].get(f"{case}/disagreement").status_code == 404
    assert ann.get(f"{case}/labels/model").status_code == 404


def test_who_leaves_gives_up_their_cases(people, case, root):
    left = people["olga"].delete("/v1/projects/balls/assignments/ben")
    assert left.json() == {"released": len(open_cohort(root).rows)}
    assert people["ben"].get("/v1/projects/balls/worklist").json()["cases"] == []
    assert people["ann"].delete("/v1/projects/balls/assignments/ann").status_code == 403


def test_every_act_is_in_the_trail(people, case, root):
    done = people["ann"].put(f"{case}/labels/mine", content=mask_of(root), headers=FIRST)
    people["rita"].post(
        f"{case}/labels/{rater(case, 'ann')}/review", json={"decision": "approved"}, headers={"If-Match": done.headers["ETag"]}
    )
    found = [(event.actor, event.action) for event in open_trail().events()]
    wanted = [
        ("olga", "project.create"), ("olga", "project.assign"), ("ann", "label.submitted"), ("rita", "label.approved"),
    ]  # fmt: skip
    assert [one for one in found if one in wanted] == wanted
    assert open_trail().verify().problems == ()


def test_twenty_experts_at_once_lose_nothing(people, root, server):
    """Each labels each case while others send what is outdated: what was acknowledged is there, and the log verifies."""
    experts = [f"expert {number}" for number in range(20)]
    olga = people["olga"]
    olga.post("/v1/projects", json={**BALLS, "name": "many", "experts": 20, "model": ""})
    assert olga.post("/v1/projects/many/assignments", json={"experts": experts}).status_code == 200
    rows = open_cohort(root).rows
    masks = [mask_of(root, case=case) for case in range(len(rows))]

    def label_all(expert):
        kept, refused = [], 0
        token = {"Authorization": f"Bearer {make_token(expert, 'annotator')}"}
        with httpx.Client(base_url=server.base_url, headers=token, timeout=120) as client:
            for number, row in enumerate(rows):
                path = f"/v1/projects/many/cases/{row.series}/labels/mine"
                reply = client.put(path, content=masks[number], headers=FIRST)
                assert reply.status_code == 201, reply.text
                kept.append(reply.json()["version"])
                stale = client.put(path, content=mask_of(root, 4, case=number), headers={"If-Match": '"0"'})
                refused += stale.status_code in {409, 412}
        return kept, refused

    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(label_all, experts))
    acknowledged = [number for kept, _ in done for number in kept]
    from medray.storage.location import locate

    stored = LabelStore(locate(root)).history(project="many")
    assert sorted(acknowledged) == sorted(one.number for one in stored)
    assert sum(refused for _, refused in done) == 20 * len(rows)
    assert open_trail().verify().problems == ()


def test_slicer_labels_what_is_assigned_to_its_user(people, root, server):
    """Two experts with MONAI Label's clients: each has their own label of the same image, in the project."""
    rows = open_cohort(root).rows
    olga = people["olga"]
    olga.post("/v1/projects", json={**BALLS, "model": ""})
    olga.post("/v1/projects/balls/assignments", json={"experts": ["ann", "ben"], "cases": [rows[2].series, rows[1].series]})
    claimed = {"label_info": [{"name": "core", "idx": 1}, {"name": "ball", "idx": 2}]}
    for size, name in enumerate(("ann", "ben"), start=4):
        viewer = Viewer(f"{server.base_url}/monailabel".replace("//monai", "/monai"), make_token(name, "annotator"))
        assert "assigned" in viewer.info()["strategies"] or not viewer.info()["trainers"]
        status, sample = viewer.next_sample("assigned", {})
        assert (status, sample["id"]) == (200, rows[2].series)
        status, said = viewer.save_label(sample["id"], "label.nrrd", mask_of(root, size, 2, case=2), claimed)
        assert (status, said["tag"]) == (200, "final")
        assert viewer.next_sample("assigned", {})[1]["id"] == rows[1].series
        data = viewer.ask("GET", f"/datastore/label?label={sample['id']}&tag=final")[2]
        assert np.array_equal(read_nrrd(data).voxels, read_nrrd(mask_of(root, size, 1, case=2)).voxels), (
            "by the project's values"
        )
        status, _ = viewer.save_label(sample["id"], "label.nrrd", mask_of(root, 3, case=2), claimed)
        assert status == 409, "in a blinded project it stands"
        odd = {"label_info": [{"name": "vessel", "idx": 1}]}
        assert viewer.save_label(rows[1].series, "label.nrrd", mask_of(root, 3, case=1), odd)[0] == 400
    case = f"/v1/projects/balls/cases/{rows[2].series}"
    assert olga.post(f"{case}/consensus").json()["facts"]["agreement"] > 0.7
    cleo = Viewer(f"{server.base_url}/monailabel".replace("//monai", "/monai"), make_token("cleo", "annotator"))
    assert cleo.next_sample("assigned", {}) == (200, {})
    assert cleo.save_label(rows[2].series, "label.nrrd", mask_of(root, 3, case=2), claimed)[0] == 200, "outside of any project"
