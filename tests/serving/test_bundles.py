"""A MONAI Bundle behind the endpoint, like any other model."""

import numpy as np

import medray
from medray.formats.nifti import read_nifti, write_nifti
from medray.formats.nrrd import read_nrrd
from medray.imaging.volume import Volume
from medray.inference.bundled import load_predictor
from medray.registry.bundles import import_bundle
from tests.models.test_bundle import bundle
from tests.serving.inside import endpoint
from tests.serving.viewer import Viewer


def test_a_bundle_is_served_as_any_model(tmp_path, monkeypatch, scan):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "home"))
    version = import_bundle(bundle(tmp_path / "spleen"), name="spleen")
    stored = read_nifti(write_nifti(Volume(scan.voxels, scan.affine)))
    expected = load_predictor(medray.Registry().fetch(version)).predict(stored)
    with endpoint() as client:
        [said] = client.get("/v1/models").json()["models"]
        assert (said["model"], said["task"], said["targets"]) == ("spleen/1", "segmentation", {"spleen": 1})
        reply = client.post("/v1/segment/spleen", content=write_nifti(scan), headers={"accept": "application/x-nifti"})
        assert np.array_equal(read_nifti(reply.content).voxels, expected.mask.voxels)
        volumes = client.post("/v1/segment/spleen", content=write_nifti(scan)).json()["volumes_ml"]
        assert volumes == {"spleen": round(expected.volumes_ml["spleen"], 4)}
        viewer = Viewer(f"http://{client.base_url.host}:{client.base_url.port}/monailabel")
        name, data, params = viewer.infer("spleen", files={"file": ("scan.nii.gz", write_nifti(scan))})
        assert (name, params["label_names"]) == ("result.nrrd", {"spleen": 1})
        assert np.array_equal(read_nrrd(data).voxels, expected.mask.voxels)
        assert client.get("/readyz").status_code == 200
