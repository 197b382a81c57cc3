"""A registered version as one signed file, and back.

A zip of ``manifest.json``, which names each file with its SHA-256 and the signer's public key, ``manifest.sig``, the signature
of its bytes (`medray.registry.signing`), and below ``model/`` and ``evaluations/`` the files. Nothing of an archive is
read before its signature is found to be that of a signer who is trusted.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medray import config
from medray.audit import Event, open_trail
from medray.errors import InputError
from medray.models.bundle_card import BundleCard
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.registry.signing import public_key, require_signature, signature
from medray.registry.version import ModelVersion
from medray.storage.location import Location, locate

__all__ = ["export_version", "import_version"]

MANIFEST, SIGNATURE, CARD = "manifest.json", "manifest.sig", "model/card.json"
BUNDLE = "model/bundle.json"
MOST_FILES, MOST_MANIFEST = 20_000, 4 << 20


def export_version(reference: str, target: str | Path | Location, *, registry: Registry | None = None) -> ModelVersion:
    """Write a version with its card and evaluations as one signed archive.

    Args:
        reference: Of the version.
        target: The file to write: a path or a URI.
        registry: The default one when None.

    Raises:
        ConfigError: If there is no ``MEDRAY_KEY`` to sign with.
        NotFoundError: If there is no such version.
    """
    store = registry or Registry()
    version = store.resolve(reference)
    folder = store.fetch(version)
    files = {f"model/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in _files(folder)}
    for number, facts in enumerate(store.beside(version).evaluations()):
        files[f"evaluations/{number}.json"] = json.dumps(facts, indent=1).encode()
    said: dict[str, Any] = {
        "schema_version": 1,
        "model": str(version),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "signer": public_key(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    manifest = json.dumps(said, indent=1).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # weights are noise to a compressor
        for name, data in {MANIFEST: manifest, SIGNATURE: signature(manifest), **files}.items():
            archive.writestr(name, data)
    open_trail().record([Event("model.export", str(version), detail=hashlib.sha256(manifest).hexdigest())])
    locate(target).write(packed.getvalue())
    return version


def import_version(
    source: str | Path | Location, *, signer: str = "", name: str = "", trust: bool = False, registry: Registry | None = None
) -> ModelVersion:
    """Register what an archive holds as the next version of its model.

    Args:
        source: The archive: a path or a URI.
        signer: The public key of who must have signed it, hex, which its sender told by another way; one's own when empty.
        name: The model's; the archive's own when empty.
        trust: Whether code of a MONAI Bundle inside may be run.
        registry: The default one when None.

    Raises:
        ConfigError: If neither a signer is given nor a ``MEDRAY_KEY`` is there.
        InputError: If the archive is damaged, isn't signed by that signer, or needs code that isn't trusted.
    """
    wanted = signer.strip().lower() or public_key()
    manifest, files = _opened(locate(source).read(), wanted)
    try:
        card = config.load(ModelCard, json.loads(files[CARD]), what="the archive's card")
    except (KeyError, ValueError) as error:
        raise InputError(f"the archive's card can't be read ({type(error).__name__}): export it again") from None
    _require_same(card, files)
    if card.bundle is not None and card.bundle.trusted and not trust:
        raise InputError(
            f"{manifest['model']} is a MONAI Bundle with code of its own: where you know who wrote it, add --trust"
        )
    lineage = {**card.lineage, "imported": f"{manifest['model']} signed by {wanted[:16]}"}
    card = replace(card, name=name or card.name, lineage=lineage)
    store = registry or Registry()
    with tempfile.TemporaryDirectory() as place:
        for path, data in files.items():
            if path.startswith("model/") and path != CARD:
                locate(place).join(path.removeprefix("model/")).write(data)
        version = store.register(card, locate(place))
    open_trail().record([Event("model.import", str(version), detail=lineage["imported"])])
    for path, data in files.items():
        if path.startswith("evaluations/"):
            store.beside(version).add_evaluation(json.loads(data))
    return version


def _require_same(card: ModelCard, files: Mapping[str, bytes]) -> None:
    """Check that what a model's own files say of code is what its card does: loading goes by the files."""
    has = {path for path in files if path == BUNDLE or path.startswith("model/bundle/")}
    try:
        inside = config.load(BundleCard, json.loads(files[BUNDLE]), what="the archive's bundle") if BUNDLE in has else None
    except ValueError as error:
        raise InputError(f"the archive's bundle can't be read ({type(error).__name__}): export it again") from None
    if inside != card.bundle or (has and card.bundle is None):
        raise InputError("the archive's card and its bundle contradict each other: don't use it, and ask who signed it")


def _opened(data: bytes, signer: str) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    """Check an archive and return its manifest and files, the manifest's own alone."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            manifest = _bounded(archive, MANIFEST, MOST_MANIFEST)
            require_signature(manifest, _bounded(archive, SIGNATURE, 64), signer)
            said: Mapping[str, Any] = json.loads(manifest)
            if len(said["files"]) > MOST_FILES:
                raise InputError(f"the archive names {len(said['files'])} files, more than any model has")
            files = {name: archive.read(name) for name in said["files"]}
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"this is no archive of medray models export, or it is damaged ({type(error).__name__})") from None
    changed = [name for name, digest in said["files"].items() if hashlib.sha256(files[name]).hexdigest() != digest]
    if changed:
        raise InputError(f"{changed[0]} in the archive isn't what was signed: get it again from its source")
    return said, files


def _bounded(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if archive.getinfo(name).file_size > most:
        raise InputError(f"{name} in the archive is larger than any: it is none of medray models export")
    return archive.read(name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
