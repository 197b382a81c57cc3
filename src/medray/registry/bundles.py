"""From a MONAI Bundle on a disk to a registered model: its files pinned by their hash, its weights without pickle."""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from medray import config
from medray.errors import InputError, NotFoundError
from medray.models.bundle import Bundle, files_of, read_bundle
from medray.models.bundle_card import BundleCard
from medray.registry.about import INTENDED_USE, code_revision, environment
from medray.registry.card import ModelCard
from medray.registry.registry import REFERENCE, Registry
from medray.registry.version import ModelVersion
from medray.storage.location import locate

__all__ = ["import_bundle"]

WEIGHTS, SCRIPTED = "model.pt", "model.ts"


def import_bundle(folder: str | Path, *, name: str = "", trust: bool = False, registry: Registry | None = None) -> ModelVersion:
    """Register a MONAI Bundle as the next version of a model.

    Nothing of the bundle is run before it is known to be harmless, or trusted. Its weights are read once, held against its
    network, and stored as safetensors.

    Args:
        folder: The bundle's folder, unpacked.
        name: The model's; the bundle's own, in lower case, when empty.
        trust: Whether code of the bundle's own may be run, here and wherever it is served, and pickled weights read.
        registry: The default one when None.

    Raises:
        NotFoundError: If a file is missing.
        InputError: If it needs code that isn't trusted, isn't served by medray, or weights and network don't fit.
    """
    bundle = read_bundle(Path(folder).resolve(), trusted=trust)
    bundle.require_safe()
    card, chosen = bundle.card(), name or _slug(str(bundle.metadata.get("name") or bundle.folder.name))
    if REFERENCE.fullmatch(chosen) is None or "@" in chosen or "/" in chosen:
        raise InputError(f"{chosen!r} is no name for a model: give --name with letters, digits, dots, dashes")
    network = bundle.network()
    weights = _weights(bundle)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{WEIGHTS} doesn't fit the network of bundle {bundle.folder.name}: {str(error).splitlines()[0]}"
        ) from None
    bundle.pipeline()
    with tempfile.TemporaryDirectory() as place:
        _write(Path(place), bundle, card, network.state_dict())
        return (registry or Registry()).register(_card(bundle, card, chosen), locate(place))


def _weights(bundle: Bundle) -> dict[str, Any]:
    path = bundle.folder / "models" / WEIGHTS
    if not path.is_file():
        scripted = (bundle.folder / "models" / SCRIPTED).is_file()
        why = f"; {SCRIPTED} is a program, and isn't used" if scripted else ": download them first"
        raise NotFoundError(f"bundle {bundle.folder.name} has no models/{WEIGHTS}{why}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=not bundle.trusted)
    except Exception as error:
        hint = "" if bundle.trusted else ": they may hold code; where you know who made them, import with --trust"
        raise InputError(f"{WEIGHTS} of bundle {bundle.folder.name} can't be read as weights{hint}") from error
    found = found.get("model", found) if isinstance(found, dict) else found.state_dict()
    return {str(key): value for key, value in found.items()}


def _write(place: Path, bundle: Bundle, card: BundleCard, weights: dict[str, torch.Tensor]) -> None:
    for file in files_of(bundle.folder):
        target = place / "bundle" / file.relative_to(bundle.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    save_file({key: value.detach().clone().contiguous() for key, value in weights.items()}, place / "weights.safetensors")
    (place / "bundle.json").write_text(json.dumps(config.dump(card), indent=1), encoding="utf-8")


def _card(bundle: Bundle, card: BundleCard, name: str) -> ModelCard:
    said = bundle.metadata
    facts = {"bundle": card.digest, "bundle_version": card.version, "description": str(said.get("description", ""))[:500]}
    return ModelCard(
        name=name,
        intended_use=str(said.get("intended_use") or INTENDED_USE),
        licence=str(said.get("license") or said.get("copyright") or "")[:200],
        contact=str(said.get("authors") or "")[:200],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=None,
        bundle=card,
        scores={},
        subjects={},
        lineage={**facts, "monai": str(said["monai_version"])},
        revision=code_revision(),
        environment=environment(),
    )


def _slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() or letter in "._" else " " for letter in name.lower()).split())
