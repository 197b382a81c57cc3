"""Projects: who labels what, who sees what, what the experts say together, and what a cohort gets of it."""

import statistics
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray import config
from medray.annotation.assignment import share_out
from medray.annotation.cases import cases_of, progress_of
from medray.annotation.conclusion import conclude, conclude_all
from medray.annotation.export import export_labels, results_of
from medray.annotation.projects import Project, Projects
from medray.annotation.store import ADJUDICATED, CONSENSUS, Label, LabelStore, Version
from medray.annotation.submission import begin_with, released, submit
from medray.annotation.summary import summarise
from medray.audit import open_trail
from medray.cohort.cohort import open_cohort
from medray.errors import ConfigError, ConflictError, InputError, NotFoundError
from medray.imaging.volume import Volume
from medray.storage.location import locate

EXPERTS = ["ann", "ben", "cleo"]
MASKS = Project(name="balls", names={"ball": (), "core": ()}, experts=3, agreement=0.7)
FINDINGS = Project(
    name="reads", kind="findings", names={"nodule": (), "density": ("a", "b", "c", "d")}, experts=3, agreement=0.6
)


def begun(root, project):
    projects = Projects(root)
    projects.create(project, "olga")
    projects.assign(project.name, EXPERTS, "olga")
    return projects, LabelStore(root)


def cases(root, project):
    return cases_of(project, Projects(root).assigned(project.name), LabelStore(root).heads(project=project.name))


def new(project, series, who, **facts):
    label = Label(series, who, project=project.name)
    return Version(label, "submitted", who, project.kind, names=project.values, facts=facts)


def ball(volume, size, low=2):
    mask = np.zeros((1, *volume.shape), np.uint8)
    mask[0, low : low + size, 2:8, 2:8] = 1
    return Volume(mask, volume.affine)


def test_each_case_gets_its_experts_and_all_have_as_many(root):
    projects, _ = begun(root, MASKS)
    rows = open_cohort(root).rows
    assigned = projects.assigned("balls")
    assert Counter(one.series for one in assigned) == {row.series: 3 for row in rows}
    assert projects.assign("balls", EXPERTS, "olga") == []
    assert projects.of(rows[0].series, "ann") == ["balls"]
    assert [one.rank for one in projects.assigned("balls", "ann")] == list(range(len(rows)))
    with pytest.raises(InputError, match="3 experts"):
        projects.assign("balls", ["ann"], "olga")
    with pytest.raises(NotFoundError, match="no image"):
        projects.assign("balls", EXPERTS, "olga", cases=["nothing"])
    with pytest.raises(NotFoundError, match="no project"):
        projects.assign("none", EXPERTS, "olga")
    assert [event.action for event in open_trail().events()] == ["project.create", "project.assign"]


names = st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=3, max_size=8, unique=True)


@given(names, st.integers(0, 30), st.integers(1, 3))
def test_loads_differ_by_one_and_more_cases_add_to_what_is_there(experts, count, each):
    every = [f"case {number}" for number in range(count)]
    first = share_out(every[: count // 2], experts, each, [])
    there = [(case, expert) for _, case, expert in first]
    second = share_out(every, experts, each, there)
    assert share_out(every, experts, each, []) == share_out(every, experts, each, [])
    whole = [*there, *((case, expert) for _, case, expert in second)]
    assert len(set(whole)) == len(whole)
    assert Counter(case for case, _ in whole) == dict.fromkeys(every, each)
    loads = [Counter(expert for _, expert in whole)[expert] for expert in experts]
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"name": "Big Name", "names": {"a": []}}, "name"),
        ({"name": "p", "names": {}}, "1 to 255 names"),
        ({"name": "p", "names": {"a": ["x", "y"]}}, "only findings have choices"),
        ({"name": "p", "kind": "findings", "names": {"a": ["x"]}}, "two or more"),
        ({"name": "p", "kind": "findings", "names": {"a": ["x", "x"]}}, "two or more"),
        ({"name": "p", "kind": "points", "names": {"a": []}, "model": "ball"}, "only segmentations"),
        ({"name": "p", "names": {"a": []}, "experts": 0}, "experts"),
    ],
)
def test_what_a_project_cant_be(settings, why):
    with pytest.raises(ConfigError, match=why):
        config.load(Project, settings, what="the project")


def test_a_project_is_there_once(root):
    projects, _ = begun(root, FINDINGS)
    assert projects.get("reads") == FINDINGS
    assert FINDINGS.names["nodule"] == ("absent", "present")
    assert projects.create(FINDINGS, "olga") == FINDINGS
    with pytest.raises(ConflictError, match="already"):
        projects.create(replace(FINDINGS, experts=2), "olga")
    assert projects.all() == [FINDINGS]


def concluded(root):
    """Three cases: experts agree on one, differ on another, and only one has labelled the third."""
    _, store = begun(root, MASKS)
    cohort = open_cohort(root)
    alike, apart, alone = cohort.rows[:3]
    volumes = {row.series: cohort.volume(row) for row in cohort.rows[:3]}
    for who, size in zip(EXPERTS, (5, 6, 5), strict=True):
        store.draw(new(MASKS, alike.series, who, seconds=10 * size), ball(volumes[alike.series], size))
    for who, low in zip(EXPERTS, (0, 4, 8), strict=True):
        store.draw(new(MASKS, apart.series, who), ball(volumes[apart.series], 4, low))
    store.draw(new(MASKS, alone.series, "ann"), ball(volumes[alone.series], 5))
    before = states(root)
    assert (before[alike.series], before[apart.series], before[alone.series]) == ("complete", "complete", "open")
    for case in cases(root, MASKS):
        if case.state == "complete":
            conclude(store, MASKS, case, volumes[case.series].spacing_mm, "rita")
    return store, volumes, (alike, apart, alone)


def states(root):
    return {case.series: case.state for case in cases(root, MASKS)}


def test_masks_become_a_consensus(root):
    store, volumes, (alike, apart, alone) = concluded(root)
    found = {case.series: case for case in cases(root, MASKS)}
    assert (found[alike.series].state, found[apart.series].state) == ("agreed", "disputed")
    said = found[alike.series].consensus
    assert np.array_equal(store.mask(said).voxels, ball(volumes[alike.series], 5).voxels)
    assert said.facts["raters"] == EXPERTS
    assert said.facts["agreement"] == pytest.approx(statistics.fmean([1, 10 / 11, 10 / 11]), abs=1e-3), "nobody drew core"
    assert said.facts["names"]["ball"]["specificity"][1] < 1
    assert conclude(store, MASKS, found[alike.series], (1.0, 1.0, 1.0), "rita") == said, "nothing is done twice"
    with pytest.raises(ConflictError, match="wait for the others"):
        conclude(store, MASKS, found[alone.series], (1.0, 1.0, 1.0), "rita")

    store.amend(Label(alike.series, "ben", project="balls"), "rita", {"comment": "too large"}, status="rejected")
    assert states(root)[alike.series] == "open"
    store.draw(new(MASKS, alike.series, "ben", seconds=20), ball(volumes[alike.series], 5))
    assert states(root)[alike.series] == "complete", "it is another consensus now"
    [again] = [case for case in cases(root, MASKS) if case.series == alike.series]
    assert conclude(store, MASKS, again, volumes[alike.series].spacing_mm, "rita").parent == said.number


def test_where_experts_differ_a_reviewer_decides_and_the_cohort_gets_it(root):
    store, volumes, (alike, apart, alone) = concluded(root)
    decided = Version(Label(apart.series, "", ADJUDICATED, "balls"), "submitted", "rita", names=MASKS.values)
    store.draw(decided, ball(volumes[apart.series], 7), seen=0)
    with pytest.raises(ConflictError):
        store.draw(replace(decided, actor="rob"), ball(volumes[apart.series], 6), seen=0)
    summary = summarise(MASKS, cases(root, MASKS))
    assert summary.states == {"agreed": 1, "adjudicated": 1, "open": len(open_cohort(root).rows) - 2}
    assert summary.experts["ben"].done == 2
    assert summary.experts["ann"].seconds == 50
    assert {(pair.first, pair.second): pair.cases for pair in summary.pairs if pair.name == "ball"} == {
        ("ann", "ben"): 2, ("ann", "cleo"): 2, ("ben", "cleo"): 2,
    }  # fmt: skip
    made = export_labels(root, project="balls")
    rows = {row.series: row for row in made.rows}
    assert np.array_equal(made.mask(rows[alike.series]), ball(volumes[alike.series], 5).voxels[0])
    assert np.array_equal(made.mask(rows[apart.series]), ball(volumes[apart.series], 7).voxels[0])
    assert rows[alone.series].label == alone.label
    assert export_labels(root).index.id == made.index.id, "labels of a project count in it alone"


def test_a_review_changes_nothing_of_a_consensus_and_one_that_is_rejected_does_not_count(root):
    store, volumes, (alike, _, _) = concluded(root)
    store.amend(Label(alike.series, "ann", project="balls"), "rita", {}, status="approved")
    assert states(root)[alike.series] == "agreed"
    store.amend(Label(alike.series, "", CONSENSUS, "balls"), "rita", {}, status="rejected")
    [case] = [case for case in cases(root, MASKS) if case.series == alike.series]
    assert (case.state, case.result) == ("complete", None)
    again = conclude(store, MASKS, case, volumes[alike.series].spacing_mm, "rita")
    assert again.live
    assert states(root)[alike.series] == "agreed"


def test_approved_is_what_is_approved_now(root):
    store, _, (alike, _, _) = concluded(root)
    ann = Label(alike.series, "ann", project="balls")
    good = store.amend(ann, "rita", {}, status="approved")
    assert results_of(store, MASKS, [], "approved") == {alike.series: good}
    store.amend(ann, "rob", {}, status="rejected")
    assert results_of(store, MASKS, [], "approved") == {}


def test_masks_of_a_project_leave_other_names_alone(root):
    project = Project(name="cores", names={"core": ()})
    _, store = begun(root, project)
    cohort = open_cohort(root)
    row = cohort.rows[0]
    before, schema = cohort.mask(row), cohort.index.labels
    assert schema is not None
    core = np.zeros((1, *before.shape), np.uint8)
    core[0, 1, 1, 1] = 1
    store.draw(new(project, row.series, "ann"), Volume(core, cohort.volume(row).affine))
    [case] = [case for case in cases(root, project) if case.series == row.series]
    conclude(store, project, case, (1.0, 1.0, 1.0), "rita")
    made = export_labels(root, project="cores")
    after = made.mask(next(one for one in made.rows if one.series == row.series))
    assert after[1, 1, 1] == schema.names["core"]
    assert np.count_nonzero(after == schema.names["core"]) == 1
    assert np.array_equal(after == schema.names["ball"], before == schema.names["ball"])


def test_an_image_that_was_taken_in_anew_costs_its_own_case_alone(root):
    store, _, (alike, _, _) = concluded(root)
    other = ball(Volume(np.zeros((1, 9, 9, 9), np.uint8), np.eye(4)), 3)
    store.draw(new(MASKS, alike.series, "ben"), other)
    done = conclude_all(root, "balls", "rita")
    assert list(done.failed) == [alike.series]
    assert "taken in anew" in done.failed[alike.series]


def test_how_long_a_label_took_is_all_of_its_sessions(root):
    _, store = begun(root, MASKS)
    cohort = open_cohort(root)
    row = cohort.rows[0]
    volume = cohort.volume(row)
    model = begin_with(store, MASKS, row.series, ball(volume, 5), {"ball": 1}, "ball/1")
    assert begin_with(store, MASKS, row.series, ball(volume, 6), {"ball": 1}, "ball/1") == model, "all start from the same"

    def hand_in(status, size, seen, **facts):
        work = Version(Label(row.series, "ann", project="balls"), status, "ann", facts=facts)
        return submit(store, MASKS, work, ball(volume, size), seen=seen, shape=volume.shape)

    draft = hand_in("draft", 6, 0, seconds=100, edits=7, start=model.number)
    done = hand_in("submitted", 6, draft.number, seconds=5, edits=1, start=draft.number)
    assert {key: done.facts[key] for key in ("seconds", "edits", "start")} == {
        "seconds": 105,
        "edits": 8,
        "start": model.number,
    }
    assert done.facts["changed"] == pytest.approx(1 / 6, abs=1e-3)
    assert hand_in("submitted", 6, draft.number, seconds=9, edits=1, start=draft.number) == done, "sent again, later"
    ben = Version(Label(row.series, "ben", project="balls"), "draft", "ben", facts={"start": done.number})
    with pytest.raises(NotFoundError, match="none that you could have begun with"):
        submit(store, MASKS, ben, ball(volume, 1), seen=0, shape=volume.shape)


def test_a_cohort_is_one_however_its_path_is_spelled(root):
    begun(root, MASKS)
    assert Projects(locate(f"{root.path}/../cohort")).all() == [MASKS]


def test_findings_become_those_of_the_cohort(root):
    _, store = begun(root, FINDINGS)
    rows = open_cohort(root).rows
    said = {
        rows[0].series: [("present", "b"), ("present", "c"), ("absent", "b")],
        rows[1].series: [("absent", "a"), ("absent", "a"), ("absent", "a")],
        rows[2].series: [("absent", "a"), ("present", "d"), ("absent", "b")],
    }
    for series, choices in said.items():
        for who, (nodule, density) in zip(EXPERTS, choices, strict=True):
            store.add(new(FINDINGS, series, who).saying({"nodule": nodule, "density": density}), seen=0)
    for case in cases(root, FINDINGS):
        if case.state == "complete":
            conclude(store, FINDINGS, case, (1.0, 1.0, 1.0), "rita")
    states = {case.series: case.state for case in cases(root, FINDINGS)}
    assert [states[row.series] for row in rows[:3]] == ["disputed", "agreed", "disputed"]
    summary = summarise(FINDINGS, cases(root, FINDINGS))
    assert summary.fleiss["nodule"] == pytest.approx(0.0, abs=0.2)
    assert summary.alpha["density"] is not None
    assert {pair.name for pair in summary.pairs} == {"nodule", "density"}
    store.amend(Label(rows[0].series, "ann", project="reads"), "rita", {}, status="approved")
    made = {row.series: row.findings for row in export_labels(root, project="reads").rows}
    assert set(made[rows[1].series]) == {*rows[1].findings, "density a"}
    approved = {row.series: row.findings for row in export_labels(root, project="reads", which="approved").rows}
    assert {"nodule", "density b"} <= set(approved[rows[0].series])
    assert approved[rows[1].series] == made[rows[1].series]


def test_boxes_and_points_meet_where_they_are_near(root):
    rows = open_cohort(root).rows
    both: tuple[tuple[Any, str, Any], ...] = (
        ("boxes", "voxels", [[[2, 2, 2], [6, 6, 6]], [[2, 2, 2], [6, 6, 7]], [[2, 2, 3], [6, 6, 6]]]),
        ("points", "voxel", [[2, 2, 2], [2, 2, 3], [2, 3, 2]]),
    )
    for kind, key, places in both:
        project = Project(name=kind, kind=kind, names={"core": ()}, experts=3)
        _, store = begun(root, project)
        for who, place in zip(EXPERTS, places, strict=True):
            found = [{"label": "core", key: place}]
            extra = [{"label": "core", key: [[9, 9, 9], [10, 10, 10]] if kind == "boxes" else [15, 15, 15]}]
            store.add(new(project, rows[0].series, who).saying(found + extra * (who == "ann")), seen=0)
        [case] = [case for case in cases(root, project) if case.series == rows[0].series]
        said = conclude(store, project, case, (1.0, 1.0, 1.5), "rita")
        [one] = said.said
        assert np.allclose(one[key], np.mean(places, axis=0))
        assert said.facts["agreement"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3, abs=1e-4)
        with pytest.raises(InputError, match="no place"):
            export_labels(root, project=kind)


def test_who_leaves_gives_up_what_isnt_labelled_and_others_get_it(root):
    projects, store = begun(root, MASKS)
    rows = open_cohort(root).rows
    store.draw(new(MASKS, rows[0].series, "ben"), ball(open_cohort(root).volume(rows[0]), 5))
    assert released(projects, store, "balls", "ben", "olga") == len(rows) - 1
    assert [one.series for one in projects.assigned("balls", "ben")] == [rows[0].series]
    added = projects.assign("balls", ["ann", "cleo", "dora"], "olga")
    assert {one.annotator for one in added} == {"dora"}
    assert len(added) == len(rows) - 1
    assert "project.release" in {event.action for event in open_trail().events()}
    with pytest.raises(NotFoundError):
        projects.release("none", "ben", "olga")


def test_what_an_expert_may_see(root):
    _, store = begun(root, MASKS)
    cohort = open_cohort(root)
    row = cohort.rows[0]
    volume = cohort.volume(row)

    def seen(who, *, blinded=True):
        [case] = [case for case in cases(root, MASKS) if case.series == row.series]
        return {one.label.annotator for one in case.visible(who, blinded=blinded)}

    store.draw(new(MASKS, row.series, "ann"), ball(volume, 5))
    store.draw(replace(new(MASKS, row.series, "ben"), status="draft"), ball(volume, 4))
    assert (seen("ann"), seen("ben"), seen("cleo")) == ({"ann"}, {"ben"}, set())
    assert seen("cleo", blinded=False) == {"ann"}
    store.draw(new(MASKS, row.series, "ben"), ball(volume, 4))
    assert seen("ben") == {"ann", "ben"}
    store.amend(Label(row.series, "ben", project="balls"), "rita", {}, status="rejected")
    assert seen("ben") == {"ben"}
    assert seen("ann") == {"ann"}
    [case] = [case for case in cases(root, MASKS) if case.series == row.series]
    assert sorted(map(case.alias, EXPERTS)) == ["rater 1", "rater 2", "rater 3"]
    assert progress_of([case])["ben"].rejected == 1
    assert case.consensus is None
    assert CONSENSUS not in {one.label.tag for one in case.labels}
