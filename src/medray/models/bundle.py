"""MONAI Bundles: read one, say what it is for, and build its parts, without running what nobody has agreed to.

After MONAI's bundle specification (``docs/source/mb_specification.rst``). A bundle's configuration is a program: expressions
are Python, and ``_target_`` may name any class. Where a bundle isn't trusted, its parts may only be MONAI's own networks,
inferers and transforms, put together by literals and arithmetic; weights are read without pickle.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medray.errors import InputError, NotFoundError
from medray.models.bundle_card import BundleCard, card_of, class_of
from medray.models.bundle_safety import Unsafe, harmless

__all__ = ["Bundle", "digest_of", "files_of", "read_bundle"]

REQUIRED = ("version", "monai_version", "pytorch_version", "numpy_version")
"""Of metadata.json; what MONAI's own loader asks for (``monai.bundle.properties.MetaProperties``)."""
OLDER = "optional_packages_version"
"""The former name of ``required_packages_version``, of which MONAI warns."""
CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
NETWORK, INFERER = "network_def", "inferer"
BEFORE, AFTER = ("preprocessing", "pre_transforms"), ("postprocessing", "post_transforms")
KEPT = ("configs", "scripts")
READERS = ("LoadImage", "LoadImaged", "LoadImageD", "LoadImageDict")
WRITERS = ("SaveImage", "SaveImaged", "SaveImageD", "SaveImageDict")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's folder and what its files say.

    Attributes:
        folder: With ``configs`` and perhaps ``models`` and ``scripts``.
        metadata: Of ``metadata.json``.
        config: Of the inference configuration, as it is written.
        trusted: Whether its code may be run.
    """

    folder: Path
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    trusted: bool

    def card(self) -> BundleCard:
        """Say what the bundle is for.

        Raises:
            InputError: If it is for something that medray doesn't serve.
        """
        inputs, outputs = self._formats()
        image = next(iter(inputs.values()))
        pred = outputs.get("pred") or next(iter(outputs.values()))
        who = {
            "name": str(self.metadata.get("name") or self.folder.name),
            "version": str(self.metadata["version"]),
            "trusted": self.trusted,
            "digest": digest_of(self.folder),
        }
        return card_of(image, pred, self._section(AFTER), who)

    def network(self) -> nn.Module:
        """Build the network, without its weights.

        Raises:
            InputError: If that can't be done.
        """
        built = self._built([NETWORK])[NETWORK]
        if not isinstance(built, nn.Module):
            raise InputError(f"bundle {self.folder.name}: {NETWORK} is no network but a {type(built).__name__}")
        return built

    def pipeline(self) -> tuple[Any, Any, Any]:
        """Build what goes before the network, how it is run, and what comes after: MONAI's own objects or None."""
        before, after = self._name(BEFORE), self._name(AFTER)
        built = self._built([name for name in (before, INFERER, after) if name])
        return built.get(before), built.get(INFERER), built.get(after)

    def require_safe(self) -> None:
        """Refuse a bundle that would run code of its own, unless it is trusted.

        Raises:
            InputError: Says what it would run.
        """
        self._parser([name for name in (NETWORK, self._name(BEFORE), INFERER, self._name(AFTER)) if name in self.config])

    def _formats(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        said = self.metadata.get("network_data_format") or {}
        inputs, outputs = said.get("inputs") or {}, said.get("outputs") or {}
        if not inputs or not outputs or "detector" in self.config:
            raise InputError(
                f"bundle {self.folder.name} is neither a segmentation nor a diagnosis of one image: it can't be served"
            )
        kinds = {str(item.get("type")) for item in (*inputs.values(), *outputs.values())}
        if len(inputs) > 1 or not kinds <= {"image", "probabilities", "labels", "tuples"} or "image" not in inputs:
            raise InputError(f"bundle {self.folder.name} takes {', '.join(inputs)}: only those of one image can be served")
        return inputs, outputs

    def _built(self, names: Sequence[str]) -> dict[str, Any]:
        parser = self._parser([name for name in names if name in self.config])
        try:
            with _own_modules(self.folder) if self.trusted else nullcontext():
                return {name: parser.get_parsed_content(name) for name in names if name in self.config}
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"bundle {self.folder.name} can't be built: {said[:300]}") from error

    def _parser(self, names: Sequence[str]) -> Any:
        """Read the configuration, without what reads and writes files; where it isn't trusted, only what is harmless of it."""
        import monai.inferers  # noqa: PLC0415 - two seconds; MONAI finds by their names only classes whose modules are there
        import monai.networks.nets  # noqa: PLC0415
        import monai.transforms  # noqa: F401, PLC0415
        from monai.bundle import ConfigParser  # noqa: PLC0415

        config = {name: _without_files(value) for name, value in deepcopy(dict(self.config)).items()}
        if not self.trusted:
            try:
                config = harmless(config, names)
            except Unsafe as error:
                hint = "read it, then import with --trust"
                raise InputError(f"bundle {self.folder.name} would run code of its own ({error}): {hint}") from None
        parser = ConfigParser(config, globals=None if self.trusted else False)
        if self.trusted:
            parser.read_meta({name: said for name, said in self.metadata.items() if name != OLDER})
            parser.resolve_macro_and_relative_ids()
            for name in (self._name(BEFORE), self._name(AFTER)):
                if name:
                    parser[name] = _without_files(parser[name])
        parser["bundle_root"] = str(self.folder)
        parser["device"] = torch.device("cpu")
        return parser

    def _name(self, names: Sequence[str]) -> str:
        return next((name for name in names if name in self.config), "")

    def _section(self, names: Sequence[str]) -> Any:
        return self.config.get(self._name(names), {})


def read_bundle(folder: Path, *, trusted: bool = False) -> Bundle:
    """Read a bundle's metadata and inference configuration; nothing of it is run.

    Args:
        folder: The bundle's.
        trusted: Whether its code may be run.

    Raises:
        NotFoundError: If a file is missing.
        InputError: If a file can't be read, a field or a package that it needs is missing.
    """
    metadata = _read(folder / "configs" / "metadata.json")
    missing = [name for name in REQUIRED if not metadata.get(name)]
    if missing:
        raise InputError(f"metadata.json of bundle {folder.name} has no {', '.join(missing)}")
    # Of what older bundles list as optional, most is for training and evaluation: what serving lacks shows when it is built.
    for name, wanted in (metadata.get("required_packages_version") or {}).items():
        _require(folder.name, str(name), str(wanted))
    config = next((folder / "configs" / name for name in CONFIGS if (folder / "configs" / name).is_file()), None)
    if config is None:
        raise NotFoundError(f"bundle {folder.name} has none of {', '.join(CONFIGS)} in its configs")
    said = _read(config)
    if NETWORK not in said:
        raise InputError(f"bundle {folder.name} has no {NETWORK} in {config.name}")
    return Bundle(folder, metadata, said, trusted)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a bundle that are kept beside its weights: configurations and scripts; none that are hidden."""
    found = [path for part in KEPT for path in (folder / part).rglob("*") if path.is_file()]
    hidden = ("__pycache__", ".")
    return sorted(path for path in found if not any(word.startswith(hidden) for word in path.relative_to(folder).parts))


def digest_of(folder: Path) -> str:
    """Return a hash of `files_of`, their names and contents."""
    found = hashlib.sha256()
    for path in files_of(folder):
        found.update(f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


@contextmanager
def _own_modules(folder: Path) -> Iterator[None]:
    """Let a bundle find modules of its own, and nobody else find them afterwards: most bundles call them ``scripts``."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{folder}/"):
                del sys.modules[name]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"no {path.name} in {path.parent}: is it a MONAI Bundle?")
    try:
        if path.suffix == ".json":
            said = json.loads(path.read_text(encoding="utf-8"))
        else:
            import yaml  # noqa: PLC0415 - Ray brings it

            said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} can't be read: {str(error).splitlines()[0]}") from None
    if not isinstance(said, dict):
        raise InputError(f"{path.name} holds a {type(said).__name__}; a table is needed")
    return said


def _require(bundle: str, package: str, wanted: str) -> None:
    """Check a package that a bundle can't do without; MONAI Bundles say its version as ``1.2`` and mean that or a newer one."""
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    try:
        has = version(package)
        enough = Version(has) >= Version(wanted.lstrip("=>~ "))
    except PackageNotFoundError:
        raise InputError(f"bundle {bundle} needs the package {package} {wanted}: install it") from None
    except InvalidVersion:
        return
    if not enough:
        raise InputError(f"bundle {bundle} needs {package} {wanted}, and {has} is installed")


def _without_files(section: Any) -> Any:
    """Leave out the transforms that read and write files: images come from memory and go back to it."""
    if not isinstance(section, dict) or not isinstance(section.get("transforms"), list):
        return section
    files = (*READERS, *WRITERS)
    kept = [item for item in section["transforms"] if not (isinstance(item, dict) and class_of(item) in files)]
    return {**section, "transforms": kept}
