import json

import pytest

from medray.errors import ConfigError
from medray.ingestion.layouts import read_layout
from medray.storage.location import locate


def layout(folder):
    place = locate(folder)
    return read_layout(place, [entry.name for entry in place.entries()], "*_dseg.nii*")


def test_dseg_tsv(tmp_path):
    (tmp_path / "dseg.tsv").write_text("name\tindex\nbackground\t0\nliver\t1\ntumour\t7\n")
    assert layout(tmp_path).labels.names == {"liver": 1, "tumour": 7}


@pytest.mark.parametrize("text", ["", "index,name\n1,x\n", "index\tname\none\tx\n", "index\tname\n300\tx\n"])
def test_a_bad_dseg_tsv_is_told(tmp_path, text):
    (tmp_path / "dseg.tsv").write_text(text)
    with pytest.raises(ConfigError, match=r"dseg\.tsv"):
        layout(tmp_path)


def test_msd(tmp_path):
    described = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": ["./imagesTs/b.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    found = layout(tmp_path)
    assert found.labels.names == {"liver": 1}
    assert found.pairs == {"labelsTr/a.nii.gz": "imagesTr/a.nii.gz"}
    assert found.modality == "CT"
    assert found.is_label("labelsTr/a.nii.gz")
    described["modality"] = {"0": "FLAIR", "1": "T1w"}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert layout(tmp_path).modality == "MR"
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [1], "labels": {}}))
    with pytest.raises(ConfigError, match="Decathlon"):
        layout(tmp_path)
    (tmp_path / "dataset.json").write_text("not json")
    assert layout(tmp_path).pairs == {}


def test_tables_of_findings(tmp_path):
    (tmp_path / "labels.csv").write_text("Image Index,Finding Labels,Age\na.png,Effusion|Mass,5\nsub/b.png,,9\n")
    found = layout(tmp_path)
    assert found.findings_of("x/y/a.png") == ("Effusion", "Mass")
    assert found.findings_of("sub/b.png") == ()
    (tmp_path / "labels.csv").write_text("file,effusion,mass\na.png,1,0\nb.png,1,1\n")
    assert layout(tmp_path).findings == {"a.png": ("effusion",), "b.png": ("effusion", "mass")}


@pytest.mark.parametrize("text", ["x,y\na,b\n", "file\na\n", "file,mass\na.png,maybe\n", "file,label\na.png\n"])
def test_a_bad_table_is_told(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"labels\.csv"):
        layout(tmp_path)
