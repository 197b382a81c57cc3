"""A dossier: all that a regulator asks of a model, in one folder.

::

    FOLDER/versions/N/card.json, card.html, evaluations.json
    FOLDER/lineage.json     each version, what it learned from, what it began with, which aliases it has
    FOLDER/audit.json       what was done to the model, by whom, when and why, and whether the trail is whole
    FOLDER/checksums.json   SHA-256 of each of these files
    FOLDER/checksums.sig    signature of that, by `medray.registry.signing`
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from medray import config
from medray.audit import Event, open_trail
from medray.errors import ConflictError, NotFoundError
from medray.inference.baseline import read_reference
from medray.inference.card_page import card_page
from medray.registry.registry import Registry
from medray.registry.signing import public_key, require_signature, signature
from medray.storage.location import Location

__all__ = ["check_dossier", "write_dossier"]

SUMS, SIGNATURE = "checksums.json", "checksums.sig"


def write_dossier(name: str, folder: Location, *, registry: Registry | None = None) -> int:
    """Write a model's dossier, and return how many versions it has.

    Args:
        name: The model's.
        folder: Where to; a new one, for what an older dossier left would stand among it.
        registry: The default one when None.

    Raises:
        ConfigError: If there is no ``MEDRAY_KEY`` to sign with.
        ConflictError: If the folder has files.
        NotFoundError: If there is no such model.
    """
    if folder.exists() and folder.entries():
        raise ConflictError(f"{folder.path} has files already: give a new folder")
    store = registry or Registry()
    versions = store.versions(name)
    if not versions:
        raise NotFoundError(f"no model {name}: medray models list shows what there is")
    files: dict[str, bytes] = {}
    lineage = []
    for version in versions:
        card, evaluations = store.card(version), store.beside(version).evaluations()
        place = f"versions/{version.version}"
        files[f"{place}/card.json"] = _json(config.dump(card))
        files[f"{place}/card.html"] = card_page(version, card, evaluations, read_reference(version, store) or ()).encode()
        files[f"{place}/evaluations.json"] = _json(evaluations)
        made = {"created": card.created, "revision": card.revision}
        lineage.append({"version": str(version), "aliases": list(version.aliases), **made, **card.lineage})
    files["lineage.json"] = _json(lineage)
    files["audit.json"] = _json(_told_of(name))
    open_trail().record([Event("model.dossier", name, detail=f"{len(versions)} versions")])
    sums = _json({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
    files |= {SUMS: sums, SIGNATURE: signature(sums)}
    for path, data in files.items():
        folder.join(path).write(data)
    return len(versions)


def check_dossier(folder: Location, signer: str = "") -> list[str]:
    """Return the files of a dossier that aren't what was signed, that are missing, or that are none of it.

    Args:
        folder: With the dossier.
        signer: The public key of who must have signed it, hex; one's own when empty.

    Raises:
        ConfigError: If neither a signer is given nor a ``MEDRAY_KEY`` is there.
        InputError: If it isn't signed by that signer.
        NotFoundError: If there is no dossier.
    """
    sums = folder.join(SUMS).read()
    require_signature(sums, folder.join(SIGNATURE).read(), signer.strip().lower() or public_key())
    named, there = json.loads(sums), {entry.name for entry in folder.entries()} - {SUMS, SIGNATURE}
    changed = {path for path in there & named.keys() if hashlib.sha256(folder.join(path).read()).hexdigest() != named[path]}
    return sorted(changed | (there ^ named.keys()))


def _told_of(name: str) -> dict[str, Any]:
    """Return the trail's events about a model, and what its verification says."""
    trail = open_trail()
    verdict = trail.verify()
    events = [asdict(event) for event in trail.events() if _about(event.target, name)]
    return {"events": events, "trail": {"head": verdict.head, "keyed": verdict.keyed, "problems": list(verdict.problems)}}


def _about(target: str, name: str) -> bool:
    return target == name or target.startswith((f"{name}/", f"{name}@"))


def _json(said: Any) -> bytes:
    return json.dumps(said, indent=1).encode()
