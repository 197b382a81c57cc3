"""MONAI Bundles: what they say of themselves, what they may do, and that they answer as MONAI's own workflow does."""

import json
import subprocess
import sys
from pathlib import Path

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import medray
from medray.errors import ConfigError, ImageError, InputError, NotFoundError
from medray.formats.nifti import read_nifti, write_nifti
from medray.imaging.volume import Volume
from medray.inference.bundled import BundlePredictor, load_predictor
from medray.models.bundle import read_bundle
from medray.models.runtime import Runtime
from medray.registry.bundles import import_bundle
from tests.phantoms import grid, orientations, phantom

VERSIONS = {"version": "0.1.0", "monai_version": "1.4.0", "pytorch_version": "2.4.0", "numpy_version": "1.24.4"}
UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "norm": "batch",
}
BEFORE = [
    {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [2.5, 2.5, 2.5], "mode": "bilinear"},
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 1000, "b_min": 0, "b_max": 1, "clip": True},
    {"_target_": "EnsureTyped", "keys": "image"},
]
INVERT = {
    "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False,
    "to_tensor": True,
}  # fmt: skip
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"}
SLIDE = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.5}


def compose(*steps):
    return {"_target_": "Compose", "transforms": list(steps)}


def spleen(**changes):
    """A plain segmentation as the zoo's spleen_ct_segmentation: ``#`` between ids, expressions where MONAI runs them."""
    config = {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": UNET,
        "network": "$@network_def.to(@device)",
        "preprocessing": compose(*BEFORE),
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in glob.glob('*')]", "transform": "@preprocessing"},
        "inferer": {**SLIDE, "roi_size": "@side#0"},
        "side": [[16, 16, 16]],
        "postprocessing": compose(
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            INVERT,
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            SAVE,
        ),
        "evaluator": {"_target_": "SupervisedEvaluator", "network": "@network"},
    }
    copied: dict = json.loads(json.dumps({**config, **changes}))
    return copied


def described(modality="CT", channels=1, outputs=2, names=("background", "spleen"), **changes):
    image = {"type": "image", "modality": modality, "num_channels": channels, "spatial_shape": [16, 16, 16], "dtype": "float32"}
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": outputs,
        "channel_def": {str(n): name for n, name in enumerate(names)},
    }
    said = {**VERSIONS, "name": "Spleen CT segmentation", "optional_packages_version": {"nibabel": "4.0.1", "nowhere": "1"}}
    return {**said, "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}, **changes}


def bundle(folder, config=None, metadata=None, *, weights=None, suffix="json"):
    """Write a bundle with weights that fit its network."""
    config, metadata = config or spleen(), metadata or described()
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / f"inference.{suffix}").write_text(json.dumps(config))
    torch.manual_seed(5)
    network = ConfigParser({"network_def": config["network_def"]}).get_parsed_content("network_def")
    torch.save(network.state_dict() if weights is None else weights(network), folder / "models" / "model.pt")
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "home"))


@pytest.fixture
def scan():
    volume, _ = phantom(np.random.default_rng(3), grid(list(orientations())[20], (2.0, 2.0, 2.5), (5, 4, 3)))
    return Volume(volume.voxels, volume.affine, {"modality": "CT"})


def served(folder, **options):
    version = import_bundle(folder, **options)
    return load_predictor(medray.Registry().fetch(version))


def monais_own(folder, scan, place):
    """What MONAI's own parts make of a file: preprocessing, inferer, network and postprocessing as they are configured."""
    (place / "scan.nii.gz").write_bytes(write_nifti(scan))
    parser = ConfigParser(json.loads(next((folder / "configs").glob("inference.*")).read_text()))
    parser["device"] = torch.device("cpu")
    parser["postprocessing"]["transforms"] = [
        item for item in parser["postprocessing"]["transforms"] if item["_target_"] != "SaveImaged"
    ]
    before, after, inferer, network = (
        parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing", "inferer", "network_def")
    )
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    data = before({"image": str(place / "scan.nii.gz")})
    with torch.inference_mode():
        said = inferer(data["image"][None], network.eval())[0]
    return np.asarray(after({**data, "pred": said})["pred"])


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # of MONAI's own reader
def test_a_segmentation_answers_as_monais_own_workflow(scan, tmp_path):
    folder = bundle(tmp_path / "spleen")
    predictor = served(folder)
    assert isinstance(predictor, BundlePredictor)
    stored = read_nifti(write_nifti(scan))  # its affine as a file keeps it, which MONAI reads
    prediction = predictor.predict(stored)
    expected = monais_own(folder, scan, tmp_path)[0]
    assert 0.01 < expected.mean() < 0.99
    assert np.array_equal(prediction.mask.voxels[0], expected)
    assert prediction.shape == scan.shape
    assert np.array_equal(prediction.affine, stored.affine)
    assert set(prediction.volumes_ml) == {"spleen"}
    card = medray.Registry().card("spleen-ct-segmentation")
    assert (card.about.task, card.targets, card.dimension, card.about.modalities) == ("segmentation", {"spleen": 1}, 3, ("CT",))


def test_openvino_answers_as_torch(scan, tmp_path):
    predictor = served(bundle(tmp_path / "spleen"))
    by = Runtime("openvino", threads=1)
    other = load_predictor(medray.Registry().fetch("spleen-ct-segmentation"), runtime=by)
    agree = other.predict(scan).mask.voxels == predictor.predict(scan).mask.voxels
    assert np.mean(agree) > 0.9999


@pytest.mark.filterwarnings("ignore:inverse has been called")  # there is nothing that moves a voxel
def test_regions_of_several_sequences(tmp_path, scan):
    """As brats_mri_segmentation: four channels in, three overlapping regions out, one by one."""
    unet = {**UNET, "in_channels": 4, "out_channels": 3}
    before = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
    ]
    after = compose(
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        INVERT,
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    )
    config = spleen(network_def=unet, preprocessing=compose(*before), postprocessing=after)
    names = ("tumour core", "whole tumour", "enhancing tumour")
    predictor = served(bundle(tmp_path / "brats", config, described("MR", 4, 3, names, name="BraTS")))
    four = Volume(np.concatenate([scan.voxels + shift for shift in (0, 10, 20, 30)]), scan.affine, {"modality": "MR"})
    prediction = predictor.predict(four)
    assert prediction.mask.voxels.shape == (3, *scan.shape)
    assert set(np.unique(prediction.mask.voxels)) <= {0, 1}
    assert list(prediction.volumes_ml) == list(names)
    with pytest.raises(ImageError, match="4 channels"):
        predictor.predict(Volume(scan.voxels, scan.affine, {"modality": "MR"}))
    with pytest.raises(ImageError, match="for MR"):
        predictor.predict(Volume(four.voxels, scan.affine, {"modality": "CT"}))


def test_a_flat_image_is_diagnosed(tmp_path):
    """As breast_density_classification: two dimensions, probabilities; its own word is ``import``, not ``imports``."""
    net = {
        "_target_": "DenseNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 3,
        "init_features": 8,
        "growth_rate": 4,
        "block_config": [1, 1],
    }
    before = compose(
        {"_target_": "LoadImaged", "keys": "image"}, {"_target_": "Resized", "keys": "image", "spatial_size": [32, 32]}
    )
    after = compose({"_target_": "Activationsd", "keys": "pred", "softmax": True})
    config = {
        "import": ["$import os"],
        "network_def": net,
        "preprocessing": before,
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": after,
    }
    said = described("n/a", 1, 3, ("fatty", "scattered", "dense"), name="Density")
    said["network_data_format"]["outputs"]["pred"] |= {"type": "probabilities", "format": "classes"}
    said["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["*", "*"]
    predictor = served(bundle(tmp_path / "density", config, said))
    picture = Volume(np.random.default_rng(0).random((1, 40, 50, 1), np.float32), np.eye(4))
    prediction = predictor.predict(picture)
    assert list(prediction.plain()["probabilities"]) == ["fatty", "scattered", "dense"]
    assert sum(prediction.answer.probabilities.values()) == pytest.approx(1)
    other = Volume(picture.voxels[:, ::-1], picture.affine)
    prepared = [predictor.prepare(image) for image in (picture, other)]
    together = [blocks.whole().ravel() for _, blocks in predictor.activate(prepared)]
    alone = [next(predictor.activate([image]))[1].whole().ravel() for image in prepared]
    assert np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(alone[0], alone[1], atol=1e-3)


def test_without_an_inversion_the_answer_comes_back_to_the_source(tmp_path, scan):
    after = compose({"_target_": "AsDiscreted", "keys": "pred", "argmax": True})
    prediction = served(bundle(tmp_path / "plain", spleen(postprocessing=after))).predict(scan)
    assert prediction.mask.voxels.shape[1:] == scan.shape


@pytest.mark.parametrize("separator", ["#", "::"])
def test_both_separators_of_ids(tmp_path, scan, separator):
    config = spleen(inferer={**SLIDE, "roi_size": f"@side{separator}0"})
    config["preprocessing"]["transforms"][3]["pixdim"] = f"@sizes{separator}mm"
    config["sizes"] = {"mm": [2.5, 2.5, 2.5]}
    assert served(bundle(tmp_path / "b", config)).predict(scan).mask.voxels.shape[1:] == scan.shape


def test_yaml_is_read_too(tmp_path, scan):
    assert served(bundle(tmp_path / "b", suffix="yaml")).predict(scan).shape == scan.shape


EVIL = "$__import__('os').system('touch {0}') or 1"


@pytest.mark.parametrize(
    "change",
    [
        {"inferer": {**SLIDE, "overlap": EVIL}},
        {"inferer": {**SLIDE, "roi_size": "@hidden"}, "hidden": {"deep": [EVIL]}},
        {"inferer": {"_target_": "os.system", "command": "touch {0}"}},
        {"inferer": {"_target_": "subprocess.run", "args": ["touch", "{0}"]}},
        {"inferer": {"_target_": "scripts.evil.Inferer"}},
        {"inferer": {"_target_": "run", "config_file": "x"}},
        {"inferer": {**SLIDE, "_mode_": "debug"}},
        {"inferer": {**SLIDE, "overlap": "$(lambda: 1)()"}},
        {"inferer": {**SLIDE, "overlap": "$[x for x in (1,)][0]"}},
        {"preprocessing": compose({"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"})},
        {"preprocessing": compose({"_target_": "monai.transforms.Lambdad", "keys": "image", "func": "@f"}), "f": "$len"},
        {"postprocessing": compose({"_target_": "monai.bundle.scripts.run"})},
        {"network_def": {"_target_": "monai.networks.nets.hovernet.os.system", "command": "touch {0}"}},
        {"inferer": {"_target_": "monai.inferers.splitter.os.system", "command": "touch {0}"}},
        {"inferer": {"_target_": "monai.networks.utils.save_state", "src": {}, "path": "{0}"}},
        {"imports": ["$from os import system"], "network_def": {**UNET, "act": ["$system", {"command": "touch {0}"}]}},
        {"network_def": {**UNET, "act": ["$open", {"file": "{0}", "mode": "w"}]}},
        {"x::y": EVIL, "inferer": {**SLIDE, "overlap": "@x::y"}},
        {"inferer": "%b", "b": "%c", "c": {"_target_": "os.system", "command": "touch {0}"}},
        {"inferer": {**SLIDE, "overlap": "%/etc/hosts.json::x"}},
        {"inferer": {**SLIDE, "_debug_": True}},
        {"inferer": {**SLIDE, "overlap": "@nowhere"}},
        {"inferer": {**SLIDE, "_requires_": EVIL}},
        {"inferer": {**SLIDE, "_disabled_": EVIL}},
        {
            "network_def": {
                "_target_": "DenseNet121",
                "spatial_dims": 2,
                "in_channels": 3,
                "out_channels": 2,
                "pretrained": True,
            }
        },
    ],
)
def test_nothing_of_a_bundle_runs_unless_it_is_trusted(tmp_path, change):
    proof = tmp_path / "proof"
    config = json.loads(json.dumps(spleen(**change)).replace("{0}", str(proof)))
    folder = bundle(tmp_path / "evil", {**spleen(), "network_def": UNET})
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "scripts").mkdir()
    (folder / "scripts" / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Inferer:\n    pass\n")
    with pytest.raises(InputError, match="--trust"):
        import_bundle(folder)
    assert not proof.exists()
    assert medray.Registry().names() == []


def test_what_only_arithmetic_needs_no_trust(tmp_path, scan):
    config = spleen(inferer={**SLIDE, "overlap": "$1 / @parts"}, parts=4)
    assert served(bundle(tmp_path / "b", config)).predict(scan).shape == scan.shape


def test_what_is_planted_under_a_name_that_is_there_is_not_seen(tmp_path, scan):
    proof = tmp_path / "proof"
    config = spleen(inferer={**SLIDE, "overlap": "@x::y"})
    config = {"x::y": EVIL.replace("{0}", str(proof)), "x": {"y": 0.5}, **config}
    assert served(bundle(tmp_path / "b", config)).predict(scan).shape == scan.shape
    assert not proof.exists()


def test_a_trusted_bundle_runs_its_own_code(tmp_path, scan):
    folder = bundle(tmp_path / "own", spleen(inferer={"_target_": "scripts.mine_of_own.Twice", "roi_size": [16, 16, 16]}))
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("")
    code = "from monai.inferers import SlidingWindowInferer\nclass Twice(SlidingWindowInferer):\n    pass\n"
    (folder / "scripts" / "mine_of_own.py").write_text(code)
    predictor = served(folder, trust=True)
    assert predictor.predict(scan).shape == scan.shape
    place = medray.Registry().fetch("spleen-ct-segmentation")
    (Path(place) / "bundle" / "scripts" / "mine_of_own.py").write_text(code + "# changed\n")
    with pytest.raises(InputError, match="changed since"):
        load_predictor(place)


def test_pickled_weights_need_trust_and_are_never_stored(tmp_path, scan):
    folder = bundle(tmp_path / "pickled", weights=lambda network: network)
    with pytest.raises(InputError, match="may hold code"):
        import_bundle(folder)
    predictor = served(folder, trust=True)
    assert predictor.predict(scan).shape == scan.shape
    files = {path.name for path in Path(medray.Registry().fetch("spleen-ct-segmentation")).rglob("*")}
    assert "weights.safetensors" in files
    assert not any(name.endswith((".pt", ".ts", ".pkl")) for name in files)


def test_weights_may_be_wrapped(tmp_path, scan):
    assert (
        served(bundle(tmp_path / "b", weights=lambda network: {"model": network.state_dict()})).predict(scan).shape
        == scan.shape
    )


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(InputError, match="doesn't fit"):
        import_bundle(bundle(tmp_path / "b", weights=lambda network: {"other": torch.zeros(1)}))


def test_what_is_missing_is_said(tmp_path):
    folder = bundle(tmp_path / "b")
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(NotFoundError, match="download them first"):
        import_bundle(folder)
    with pytest.raises(NotFoundError, match="is it a MONAI Bundle"):
        read_bundle(tmp_path)
    for metadata, said in (
        (described(required_packages_version={"nothing-like-it": "1.0"}), "nothing-like-it 1.0: install it"),
        (described(required_packages_version={"numpy": "99.0"}), "needs numpy 99.0"),
        ({**described(), "version": ""}, "has no version"),
    ):
        other = bundle(tmp_path / f"b{len(said)}", metadata=metadata)
        with pytest.raises(InputError, match=said):
            import_bundle(other)


def test_what_cannot_be_served_is_said(tmp_path):
    latent = described()
    latent["network_data_format"]["inputs"] = {"latent": {"type": "tuples", "format": "latent"}}
    nothing = {key: value for key, value in described().items() if key != "network_data_format"}
    for number, (config, metadata) in enumerate(
        [(spleen(), latent), (spleen(), nothing), (spleen(detector={"_target_": "x"}), described())]
    ):
        with pytest.raises(InputError, match="served"):
            import_bundle(bundle(tmp_path / f"b{number}", config, metadata))


def test_a_bundle_is_neither_trained_nor_scored(tmp_path, phantom_cohort):
    import_bundle(bundle(tmp_path / "b"), name="spleen")
    with pytest.raises(InputError, match="MONAI Bundle"):
        medray.evaluate("spleen", phantom_cohort)
    with pytest.raises(ConfigError, match="plan or a bundle"):
        medray.config.load(
            medray.registry.card.ModelCard,
            {"name": "x", "created": "", "plan": None, "scores": {}, "subjects": {}},
            what="card",
        )


def test_parts_of_monai_are_still_what_they_were():
    """The list of forbidden words is about names that exist."""
    names = set(dir(mt))
    assert {"Lambdad", "SaveImaged", "LoadImaged", "CuCIMd", "TorchIOd"} <= names


def test_a_bundle_is_read_where_medray_has_loaded_only_a_part_of_monai(tmp_path):
    """As in a replica: MONAI finds classes by their names among the modules that are there."""
    folder = bundle(tmp_path / "b")
    code = "import medray.inference.predictor\nfrom medray.registry.bundles import import_bundle\n"
    code += f"print(import_bundle({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip().endswith("spleen-ct-segmentation/1"), done.stderr[-2000:]
