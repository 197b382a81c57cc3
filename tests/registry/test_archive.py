import hashlib
import io
import json
import zipfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medray.audit import open_trail
from medray.errors import ConfigError, InputError, MedrayError
from medray.registry.archive import export_version, import_version
from medray.registry.registry import Registry
from medray.registry.signing import _signing_key, public_key

FACTS = {"cohort": "c", "split": "test", "at": "2026-01-02", "overall": {"cases": 3}}


@pytest.fixture
def archive(stored, tmp_path):
    store, card, folder = stored
    version = store.register(card, folder)
    store.beside(version).add_evaluation(FACTS)
    export_version("ball/1", tmp_path / "ball.zip", registry=store)
    return tmp_path / "ball.zip"


@pytest.fixture
def elsewhere(tmp_path):
    return Registry(f"sqlite:///{tmp_path}/elsewhere/registry.db")


def rewritten(archive, change):
    with zipfile.ZipFile(archive) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    change(files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    archive.write_bytes(buffer.getvalue())


def test_what_was_exported_is_what_is_imported(stored, archive, elsewhere):
    _, card, folder = stored
    version = import_version(archive, registry=elsewhere)
    assert str(version) == "ball/1"
    assert (elsewhere.fetch(version) / "weights.safetensors").read_bytes() == folder.join("weights.safetensors").read()
    assert elsewhere.beside(version).evaluations() == [FACTS]
    assert elsewhere.card(version).lineage["imported"].startswith("ball/1 signed by")
    assert elsewhere.card(version).plan == card.plan
    assert {"model.export", "model.import"} <= {event.action for event in open_trail().events()}


def test_it_can_have_another_name(archive, elsewhere):
    assert str(import_version(archive, name="tumour", registry=elsewhere)) == "tumour/1"
    assert elsewhere.card("tumour").name == "tumour"


def test_anybody_with_the_public_key_can_check_it(archive, elsewhere, monkeypatch):
    signer = public_key()
    monkeypatch.setenv("MEDRAY_KEY", "77" * 32)
    with pytest.raises(InputError, match="isn't signed by"):
        import_version(archive, registry=elsewhere)
    assert str(import_version(archive, signer=signer, registry=elsewhere)) == "ball/1"
    monkeypatch.delenv("MEDRAY_KEY")
    assert str(import_version(archive, signer=signer, name="other", registry=elsewhere)) == "other/1"
    with pytest.raises(ConfigError, match="MEDRAY_KEY"):
        import_version(archive, registry=elsewhere)


@pytest.mark.parametrize("name", ["model/weights.safetensors", "model/card.json", "manifest.json"])
def test_what_was_changed_is_refused_and_nothing_registered(archive, elsewhere, name):
    rewritten(archive, lambda files: files.update({name: files[name][:-1] + b" "}))
    with pytest.raises(InputError):
        import_version(archive, registry=elsewhere)
    assert elsewhere.names() == []


def test_a_manifest_signed_by_somebody_else_is_refused(archive, elsewhere):
    forger = Ed25519PrivateKey.generate()

    def forge(files):
        said = json.loads(files["manifest.json"]) | {"signer": forger.public_key().public_bytes_raw().hex()}
        files["manifest.json"] = json.dumps(said).encode()
        files["manifest.sig"] = forger.sign(files["manifest.json"])

    rewritten(archive, forge)
    with pytest.raises(InputError, match="isn't signed by"):
        import_version(archive, registry=elsewhere)


def signed(files, change):
    """Change an archive's files as somebody who may sign would."""
    change(files)
    manifest = json.loads(files["manifest.json"])
    inside = {name: data for name, data in files.items() if not name.startswith("manifest")}
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in inside.items()}
    files["manifest.json"] = json.dumps(manifest).encode()
    files["manifest.sig"] = _signing_key().sign(files["manifest.json"])


def test_code_that_the_card_says_nothing_of_is_refused(archive, elsewhere):
    facts = {"name": "b", "version": "1", "trusted": True, "digest": "0" * 64, "task": "segmentation", "channels": 1}
    bundle = json.dumps({**facts, "shape": [8, 8, 8], "targets": {"ball": 1}, "modalities": []}).encode()
    rewritten(archive, lambda files: signed(files, lambda found: found.update({"model/bundle.json": bundle})))
    with pytest.raises(MedrayError):
        import_version(archive, registry=elsewhere)
    rewritten(archive, lambda files: signed(files, lambda found: found.pop("model/bundle.json")))
    rewritten(archive, lambda files: signed(files, lambda found: found.update({"model/bundle/scripts/x.py": b"1"})))
    with pytest.raises(InputError, match="contradict each other"):
        import_version(archive, registry=elsewhere)
    assert elsewhere.names() == []


def test_files_that_the_manifest_does_not_name_are_left_out(archive, elsewhere):
    rewritten(archive, lambda files: files.update({"model/../../evil": b"x", "model/calibration.json": b"{}"}))
    version = import_version(archive, registry=elsewhere)
    assert not (elsewhere.fetch(version) / "calibration.json").exists()


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04 and then nothing"])
def test_what_is_no_archive_is_said_to_be_none(tmp_path, elsewhere, data):
    (tmp_path / "no.zip").write_bytes(data)
    with pytest.raises(InputError, match="no archive"):
        import_version(tmp_path / "no.zip", registry=elsewhere)


def test_a_signer_is_a_public_key(archive, elsewhere):
    with pytest.raises(ConfigError, match="64 hex digits"):
        import_version(archive, signer="me", registry=elsewhere)
