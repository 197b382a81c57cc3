"""The page of a project's agreement, and the commands from the first label to a new version of the cohort."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from medray.annotation.cases import cases_of
from medray.annotation.conclusion import conclude_all
from medray.annotation.projects import Project, Projects
from medray.annotation.report import write_agreement
from medray.annotation.store import Label, LabelStore, Version
from medray.cli.annotate import annotate_app
from medray.cohort.cohort import open_cohort
from medray.imaging.volume import Volume
from medray.samples.raters import drawn, raters

EXPERTS = ["ann", "ben", "cleo"]


def run(*words, code=0):
    done = CliRunner().invoke(annotate_app, [*map(str, words), "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.stdout)


def label_all(root, name, cases=3):
    """Three simulated experts label the first cases."""
    rng, cohort, store = np.random.default_rng(5), open_cohort(root), LabelStore(root)
    project = Projects(root).get(name)
    people = dict(zip(EXPERTS, raters(3, rng), strict=True))
    for row in cohort.rows[:cases]:
        volume = cohort.volume(row)
        truth = np.array([0, 1, 0, 0, 2], np.uint8)[cohort.mask(row)]
        for who, rater in people.items():
            mask = drawn(truth, volume.spacing_mm, rater, rng, (1, 2))
            made = Version(
                Label(row.series, who, project=name), "submitted", who, names=project.values, facts={"seconds": 60, "edits": 7}
            )
            store.draw(made, Volume(mask[np.newaxis], volume.affine), seen=0)


def test_from_the_first_label_to_a_new_version(root, tmp_path):
    path = root.path
    made = run("create", path, "balls", "--label", "ball", "--label", "core", "--experts", 3, "--agreement", 0.3)
    assert made["names"] == {"ball": [], "core": []}
    assert list(run("projects", path)) == ["balls"]
    queue = tmp_path / "queue.json"
    queue.write_text(json.dumps({"cases": [{"image": row.series} for row in open_cohort(root).rows]}))
    assert run("assign", path, "balls", *EXPERTS, "--queue", queue, "--first", 3)["experts"] == dict.fromkeys(EXPERTS, 3)
    label_all(root, "balls")
    before = open_cohort(root).index.id
    done = run("consensus", path, "balls", "-o", tmp_path / "report")
    assert (done["made"], done["failed"]) == (3, {})
    assert run("status", path, "balls")["experts"]["ann"]["done"] == 3
    assert len(run("results", path, "balls")["results"]) == 3 - done["disputed"]
    after = run("export", path, "--project", "balls")
    assert after["cohort"] != before
    page = (tmp_path / "report" / "agreement.html").read_text()
    assert all(word in page for word in ("<h2>Where they differ</h2>", "ann, ben", "Sensitivity", "60 s"))
    said = json.loads((tmp_path / "report" / "agreement.json").read_text())
    assert {pair["name"] for pair in said["pairs"]} == {"ball", "core"}
    assert all(0.4 < pair["dice"] < 1 for pair in said["pairs"] if pair["name"] == "ball")
    assert run("release", path, "balls", "ann")["released"] == 0
    with pytest.raises(Exception, match="--which"):
        CliRunner().invoke(annotate_app, ["export", path, "--which", "mine"], catch_exceptions=False)


def test_a_report_of_findings(root, tmp_path):
    project = Project(name="reads", kind="findings", names={"nodule": (), "density": ("a", "b", "c")}, experts=3)
    Projects(root).create(project, "olga")
    Projects(root).assign("reads", EXPERTS, "olga")
    store, rng = LabelStore(root), np.random.default_rng(1)
    for row in open_cohort(root).rows:
        for who in EXPERTS:
            said = {"nodule": str(rng.choice(["absent", "present"])), "density": str(rng.choice(["a", "b", "c"]))}
            made = Version(Label(row.series, who, project="reads"), "submitted", who)
            store.add(replace(made, kind="findings").saying(said), seen=0)
    done = conclude_all(root, "reads", "rita")
    assert done.made == len(open_cohort(root).rows)
    summary = write_agreement(root, "reads", root.join("report"))
    alpha = summary.alpha["nodule"]
    assert alpha is not None
    assert abs(alpha) < 0.5
    assert b"Krippendorff" in root.join("report", "agreement.html").read()


def test_a_damaged_label_map_costs_its_own_case_alone(root):
    Projects(root).create(Project(name="balls", names={"ball": (), "core": ()}, experts=3), "olga")
    Projects(root).assign("balls", EXPERTS, "olga")
    label_all(root, "balls")
    [damaged, *_] = LabelStore(root).heads(project="balls")
    root.join("labels", f"part-{damaged.content}.parquet").write(b"nothing")
    done = conclude_all(root, "balls", "rita")
    assert (done.made, list(done.failed)) == (2, [damaged.label.series])
    cases = cases_of(Projects(root).get("balls"), [], LabelStore(root).heads(project="balls"))
    assert sorted(case.state for case in cases) == ["agreed", "agreed", "complete"]
