import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medray import config
from medray.errors import ImageError, InputError, NotFoundError
from medray.imaging.volume import Volume
from medray.inference.likely import SCALE
from medray.inference.predictor import Predictor
from medray.models.networks import build_model
from medray.models.runtime import Runtime
from medray.preprocessing.planning import plan
from medray.tasks.task import task_of
from tests.phantoms import SMALL_PLAN, grid, orientations, phantom


def model_folder(folder, cohort, *, task="segmentation", seed=0, **changes):
    """An untrained model: what matters here is that it is one and the same function everywhere."""
    return untrained(folder, plan(cohort, task=task, changes=SMALL_PLAN | changes), seed)


def untrained(folder, recipe, seed=0):
    """A model folder for a plan."""
    torch.manual_seed(seed)
    network = build_model(recipe.network, task_of(recipe).inputs, task_of(recipe).channels, recipe.patch)
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "plan.json").write_text(json.dumps(config.dump(recipe)))
    return folder


def activated(predictor, images):
    [(_, blocks)] = predictor.activate(images)
    return blocks.whole()


@pytest.fixture
def predictor(tmp_path, phantom_cohort):
    return Predictor.load(model_folder(tmp_path / "model", phantom_cohort))


@pytest.fixture
def scan():
    return phantom(np.random.default_rng(3), grid(next(iter(orientations())), (2.0, 2.0, 2.5), (5, 4, 3)))[0]


def test_the_mask_lies_on_the_source_grid(predictor, scan):
    found = predictor.predict(scan)
    assert found.mask.shape == scan.shape
    assert np.array_equal(found.mask.affine, scan.affine)
    assert set(np.unique(found.mask.voxels)) <= {0, 1, 4}
    assert found.volumes_ml.keys() == {"ball", "core"}
    assert found.latencies.keys() == {"preprocess", "network", "postprocess"}
    assert found.volumes_ml["ball"] == pytest.approx((found.mask.voxels == 1).sum() * 0.01)


@pytest.mark.parametrize("regions", [{}, {"ball": ["ball"], "core": ["core"]}])
def test_how_probable_targets_are_lies_on_the_source_grid(tmp_path, phantom_cohort, scan, regions):
    weights = (1.0,) * (2 if regions else 3)
    folder = model_folder(tmp_path / "model", phantom_cohort, regions=regions, target_weights=weights)
    predictor = Predictor.load(folder)
    plain, kept = predictor.predict(scan), predictor.keeping(["core", "ball"]).predict(scan)
    assert plain.likely == {}
    assert np.array_equal(kept.mask.voxels, plain.mask.voxels)
    assert [one.shape for one in kept.likely.values()] == [scan.shape] * 2
    core = kept.likely["core"].astype(float) / SCALE
    others = np.full(scan.shape, 0.5) if regions else np.maximum(ball := kept.likely["ball"] / SCALE, 1 - ball - core)
    sure = abs(core - others) > 0.02
    assert sure.mean() > 0.2
    said = plain.mask.voxels[list(plain.values).index("core")] if regions else plain.mask.voxels[0] == plain.values["core"]
    assert ((core > others) == said)[sure].mean() > 0.99


def test_a_scan_stored_another_way_gets_the_same_answer(predictor, scan):
    expected = predictor.predict(scan).mask.voxels[0]
    for orientation in list(orientations())[::5]:
        turned = Volume(orientation.apply(scan.voxels), orientation.apply_affine(scan.affine, scan.shape), scan.meta)
        found = predictor.predict(turned).mask.voxels[0]
        assert (orientation.inverse.apply(found) == expected).mean() > 0.999


def test_a_rim_of_one_value_changes_nothing_inside_it(predictor, scan):
    """Padding is cropped before the network sees it, and the mask is put back where it belongs."""
    core = Volume(np.maximum(scan.voxels, 1), scan.affine, scan.meta)
    affine = scan.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [4, 3, 5]
    padded = Volume(np.pad(core.voxels, ((0, 0), (4, 6), (3, 2), (5, 1))), affine, scan.meta)
    expected, found = predictor.predict(core).mask.voxels[0], predictor.predict(padded).mask.voxels[0]
    assert np.array_equal(found[4:-6, 3:-2, 5:-1], expected)
    assert found.sum(dtype=int) == expected.sum(dtype=int)


def test_the_same_scan_twice_is_the_same_mask(predictor, scan):
    assert np.array_equal(predictor.predict(scan).mask.voxels, predictor.predict(scan).mask.voxels)


def test_validation_and_serving_share_the_path(predictor, scan):
    from medray.preprocessing.case import prepare_image

    prepared = prepare_image(scan, predictor.plan)
    answer = predictor.answer(prepared.voxels.astype(np.float32))
    assert answer.mask.shape == (1, *prepared.shape)


def test_openvino_gives_the_same_mask(predictor, scan, tmp_path):
    other = Predictor.load(tmp_path / "model", runtime=Runtime("openvino", threads=1))
    assert np.mean(other.predict(scan).mask.voxels == predictor.predict(scan).mask.voxels) > 0.9999
    other.probe()


def test_mirrored_predictions_turn_with_the_image(tmp_path, phantom_cohort, rng):
    predictor = Predictor.load(model_folder(tmp_path / "model", phantom_cohort, mirror=True))
    image = rng.normal(size=(1, 16, 16, 16)).astype(np.float32)
    expected = activated(predictor, [image])
    assert np.allclose(activated(predictor, [image[:, ::-1, :, ::-1]])[:, ::-1, :, ::-1], expected, atol=1e-5)
    plain = Predictor.load(model_folder(tmp_path / "plain", phantom_cohort))
    assert not np.allclose(activated(plain, [image]), expected, atol=1e-3)


def test_bad_model_folders_are_refused(tmp_path, phantom_cohort):
    with pytest.raises(NotFoundError, match="no weights"):
        Predictor.load(tmp_path)
    folder = model_folder(tmp_path / "model", phantom_cohort)
    other = config.read_file(folder / "plan.json") | {"network": {"name": "unet", "features": [4, 8], "norm": "batch"}}
    (folder / "plan.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="doesn't fit its plan"):
        Predictor.load(folder)
    (folder / "plan.json").write_text(json.dumps(other | {"sharpen": True}))
    with pytest.raises(InputError, match="unknown key 'sharpen'"):
        Predictor.load(folder)


def test_the_wrong_modality_is_refused(predictor, scan):
    with pytest.raises(ImageError, match="wrong-modality"):
        predictor.predict(Volume(scan.voxels, scan.affine, {"modality": "CT"}))
