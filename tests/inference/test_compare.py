import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from medray.audit import open_trail
from medray.cohort.cohort import Cohort
from medray.errors import ConflictError, InputError, NotFoundError
from medray.imaging.labels import LabelSchema
from medray.inference.card_page import card_page
from medray.inference.compare import MEAN, Comparison, Difference, Rule, compare, judged, promote_if_better
from medray.inference.dossier import check_dossier, write_dossier
from medray.inference.evaluate import evaluate
from medray.monitoring.record import PredictionRecord
from medray.preprocessing.planning import plan
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.registry.signing import public_key
from medray.storage.location import locate
from tests.inference.test_predictor import untrained
from tests.phantoms import SMALL_PLAN

GOOD = Difference(0.05, 0.02, 0.08, 20)


def comparison(mean=GOOD, targets=None, groups=None):
    overall = {"ball": GOOD, "core": GOOD, **(targets or {}), MEAN: mean}
    return Comparison("ball/2", "ball/1", "c0ffee", "dice", overall, groups or {})


def test_what_is_better_for_sure_and_worse_for_nobody_may_go():
    assert judged(comparison(groups={"sex": {"F": GOOD, "M": GOOD}}), Rule()) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (comparison(Difference(0.05, -0.001, 0.1, 20)), "not all above 0"),
        (comparison(Difference(-0.05, -0.1, -0.01, 20)), "not all above 0"),
        (comparison(Difference(float("nan"), float("nan"), float("nan"), 20)), "not all above 0"),
        (comparison(Difference(0.05, 0.02, 0.08, 4)), "4 patients, and the rule asks for 5"),
        (comparison(targets={"core": Difference(-0.03, -0.05, 0, 20)}), "core is worse by 0.030"),
        (comparison(groups={"site": {"north": Difference(-0.04, -0.1, 0.01, 3)}}), "site north .3 patients. is worse by 0.040"),
    ],
)
def test_a_refusal_says_why(found, said):
    with pytest.raises(ConflictError, match=said):
        promote_if_better(found, Rule())
    assert [event.outcome for event in open_trail().events(action="model.promote")] == ["refused"]


def test_small_groups_can_be_left_out():
    found = comparison(groups={"site": {"north": Difference(-0.04, -0.1, 0.01, 3)}})
    assert judged(found, Rule(group_patients=4)) == []
    assert judged(found, Rule(group_loss=0.05)) == []


@pytest.fixture
def two(tmp_path, phantom_cohort):
    recipe = plan(phantom_cohort, changes=SMALL_PLAN | {"val": 0.2, "test": 0.4})
    store = Registry(f"sqlite:///{tmp_path}/registry.db")
    for seed in (0, 1):
        folder = locate(untrained(tmp_path / f"model{seed}", recipe, seed))
        people = {"train": ("nobody",)} if seed else {}
        store.register(ModelCard(name="ball", created="2026", plan=recipe, scores={}, subjects=people), folder)
    store.promote("ball/1")
    return store


def test_two_versions_are_compared_image_by_image(two, phantom_cohort):
    found = compare("ball/2", "ball", phantom_cohort, registry=two)
    alone = [evaluate(f"ball/{number}", phantom_cohort, registry=two) for number in (2, 1)]
    for name in ("ball", "core"):
        apart = alone[0].overall.summary[name]["dice"] - alone[1].overall.summary[name]["dice"]
        assert found.overall[name].value == pytest.approx(apart)
        assert found.overall[name].low <= found.overall[name].value <= found.overall[name].high
    assert found.overall[MEAN].value == pytest.approx((found.overall["ball"].value + found.overall["core"].value) / 2)
    itself = compare("ball/1", "ball", phantom_cohort, registry=two)
    assert itself.overall[MEAN][:3] == (0, 0, 0)
    assert "not all above 0" in judged(itself, Rule(patients=1))[0], "no better than itself"


def test_who_is_better_is_promoted_and_the_trail_says_by_how_much(two, phantom_cohort):
    ahead = max(
        (2, 1), key=lambda number: evaluate(f"ball/{number}", phantom_cohort, registry=two).overall.summary["ball"]["dice"]
    )
    found = compare(f"ball/{ahead}", f"ball/{3 - ahead}", phantom_cohort, registry=two)
    promote_if_better(found, Rule(gain=-1, target_loss=1, group_loss=1, patients=1), registry=two, actor="Ada")
    told = [event for event in open_trail().events(action="model.promote") if event.actor == "Ada"]
    assert two.resolve("ball").version == ahead
    assert not told or f"on cohort {phantom_cohort.index.id}" in told[-1].detail


def test_models_for_different_things_are_not_compared(two, phantom_cohort, tmp_path):
    recipe = plan(phantom_cohort, changes=SMALL_PLAN | {"targets": ["core"], "target_weights": [1.0, 1.0]})
    folder = locate(untrained(tmp_path / "other", recipe))
    two.register(ModelCard(name="core", created="2026", plan=recipe, scores={}, subjects={}), folder)
    with pytest.raises(InputError, match="tell different things apart"):
        compare("core", "ball", phantom_cohort, registry=two)


def test_an_evaluation_is_kept_beside_the_model_and_on_its_card(two, phantom_cohort):
    for _ in range(2):
        evaluate("ball/1", phantom_cohort, registry=two)
    version = two.resolve("ball/1")
    [facts] = two.beside(version).evaluations()
    assert (facts["cohort"], facts["split"], facts["measure"]) == (phantom_cohort.index.id, "test", "dice")
    card = replace(two.card(version), population="Adults <of> two sites", licence="CC-BY-4.0")
    page = card_page(version, card, [facts])
    for text in ("Adults &lt;of&gt; two sites", "CC-BY-4.0", "It is champion", "95 % interval", phantom_cohort.index.id):
        assert text in page
    assert "src='http" not in page
    assert "not evaluated" in card_page(version, card, [])
    assert "medray monitor baseline" in page
    numbers = [{"noise": value, "volume ball": 2.0, "slope_p": float("nan")} for value in (0.01, 0.02, 0.03)]
    some = [PredictionRecord(id="a", at=datetime.now(UTC), model="ball", version=1, task="s", numbers=one) for one in numbers]
    page = card_page(version, card, [], some)
    assert "3 studies" in page
    assert "what changes from voxel to voxel" in page
    assert "0.02" in page
    assert "slope_p" not in page, "nothing is known of it"


def test_a_dossier_has_all_that_is_known_of_a_model(two, phantom_cohort, tmp_path):
    evaluate("ball/1", phantom_cohort, registry=two)
    two.promote("ball/2", why="because", actor="Ada")
    assert write_dossier("ball", locate(tmp_path / "dossier"), registry=two) == 2
    folder = tmp_path / "dossier"
    sums = json.loads((folder / "checksums.json").read_text())
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(sums) == files - {"checksums.json", "checksums.sig"}
    assert all(hashlib.sha256((folder / path).read_bytes()).hexdigest() == digest for path, digest in sums.items())
    audit = json.loads((folder / "audit.json").read_text())
    assert audit["trail"]["problems"] == []
    assert {"actor": "Ada", "detail": "champion after 1: because"}.items() <= audit["events"][-1].items()
    assert all(event["target"].split("/")[0] == "ball" for event in audit["events"])
    assert json.loads((folder / "versions/1/evaluations.json").read_text())[0]["cohort"] == phantom_cohort.index.id
    assert [one["version"] for one in json.loads((folder / "lineage.json").read_text())] == ["ball/1", "ball/2"]
    with pytest.raises(NotFoundError):
        write_dossier("nothing", locate(tmp_path / "nothing"), registry=two)
    with pytest.raises(ConflictError, match="give a new folder"):
        write_dossier("ball", locate(folder), registry=two)
    assert check_dossier(locate(folder), public_key()) == []
    (folder / "versions/1/card.json").write_text("{}")
    (folder / "lineage.json").unlink()
    (folder / "more.json").write_text("{}")
    assert check_dossier(locate(folder)) == ["lineage.json", "more.json", "versions/1/card.json"]
    (folder / "checksums.json").write_text("{}")
    with pytest.raises(InputError, match="isn't signed by"):
        check_dossier(locate(folder))


def test_labels_that_mean_something_else_are_refused(two, phantom_cohort):
    other = Cohort(phantom_cohort.root, replace(phantom_cohort.index, labels=LabelSchema({"ball": 2, "core": 4})))
    with pytest.raises(InputError, match="has others"):
        evaluate("ball", other, registry=two)
