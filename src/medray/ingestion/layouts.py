"""What a source folder says of itself: BIDS names, an MSD ``dataset.json``, a ``dseg.tsv``, a ``labels.csv``.

BIDS: https://bids-specification.readthedocs.io (entities, ``dseg.tsv``); MSD: the Medical Segmentation Decathlon's layout
(Antonelli et al., Nature Communications 13 (2022) 4128).
"""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from medray import config
from medray.errors import ConfigError
from medray.imaging.labels import LabelSchema
from medray.storage.location import Location

__all__ = ["LABEL_FILES", "Layout", "NamedAs", "named_as", "read_layout", "stem"]

LABEL_FILES = "*_dseg.nii*"
"""BIDS's names of label maps."""
LABEL_NAMES, MSD, CLASS_TABLE = "dseg.tsv", "dataset.json", "labels.csv"
MR_SUFFIXES = {"T1w", "T2w", "PDw", "FLAIR", "T2star", "inplaneT1", "inplaneT2", "bold", "dwi"}
MR_WORDS = ("MRI", "MR", "T1", "T2", "FLAIR", "ADC", "PD")
SUFFIXES = (".gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg")
NOBODY = {
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "images",
    "image",
    "data",
    "scans",
    "sourcedata",
}
"""Folders that name a part of a set, and no subject."""
FILE_COLUMNS = ("file", "filename", "image", "image index", "path")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a source says of itself.

    Attributes:
        labels: What label values mean, or None where nothing says.
        glob: Names of files that are label maps.
        pairs: Label map to image, where the source lists them.
        modality: Of all files whose names don't tell; ``"OT"`` where nothing says.
        findings: File (path or name) to the findings that a table gives it; None without a table.
    """

    labels: LabelSchema | None
    glob: str
    pairs: Mapping[str, str] = field(default_factory=dict)
    modality: str = "OT"
    findings: Mapping[str, tuple[str, ...]] | None = None

    def is_label(self, path: str) -> bool:
        """Tell whether a file is a label map."""
        return path in self.pairs or any(fnmatch.fnmatch(text, self.glob) for text in (path, PurePosixPath(path).name))

    def findings_of(self, path: str) -> tuple[str, ...]:
        """Return what the table says of a file, by its path or else by its name."""
        table = self.findings or {}
        return table.get(path, table.get(PurePosixPath(path).name, ()))


@dataclass(frozen=True, slots=True)
class NamedAs:
    """Who and when a file is by its name. Holds identifiers."""

    subject: str
    study: str
    modality: str


def read_layout(source: Location, names: Sequence[str], glob: str) -> Layout:
    """Read the tables at a source's top.

    Args:
        source: The folder.
        names: Of its files, relative.
        glob: For label maps where the source doesn't list them.

    Raises:
        ConfigError: If a table can't be understood.
    """
    present = set(names)
    labels = _label_names(source.join(LABEL_NAMES)) if LABEL_NAMES in present else None
    findings = _findings(source.join(CLASS_TABLE)) if CLASS_TABLE in present else None
    if MSD in present:
        described = _json(source.join(MSD))
        if "training" in described and "labels" in described:
            return _msd(described, labels, glob, findings)
    return Layout(labels, glob, findings=findings)


def named_as(path: str, layout: Layout) -> NamedAs:
    """Take subject and session from BIDS names, or else the folder for the subject and, at the top, the file."""
    parts = PurePosixPath(path)
    entities = dict(re.findall(r"(?:^|[/_])(sub|ses)-([A-Za-z0-9]+)", path))
    named = [part for part in parts.parts[:-1] if part.lower() not in NOBODY and not part.startswith(("images", "labels"))]
    folder = named[0] if named else stem(path)
    suffix = stem(path).rpartition("_")[2]
    by_suffix = "MR" if suffix in MR_SUFFIXES else "CT" if suffix.lower() == "ct" else layout.modality
    return NamedAs(
        subject=f"sub-{entities['sub']}" if "sub" in entities else folder,
        study=f"ses-{entities['ses']}" if "ses" in entities else str(parts.parent),
        modality=by_suffix,
    )


def stem(path: str) -> str:
    """Return a file's name without the endings of image files."""
    name = PurePosixPath(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def _label_names(file: Location) -> LabelSchema:
    """Read ``index`` and ``name`` columns, as BIDS has them."""
    lines = [line.split("\t") for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    try:
        index, name = lines[0].index("index"), lines[0].index("name")
        names = {line[name].strip(): int(line[index]) for line in lines[1:]}
    except (IndexError, ValueError):
        raise ConfigError(f"{LABEL_NAMES} must be a table with tab-separated columns index (1 to 255) and name") from None
    return _schema(names, LABEL_NAMES)


def _schema(names: Mapping[str, int], what: str) -> LabelSchema:
    return config.load(LabelSchema, {"names": {key: value for key, value in names.items() if value != 0}}, what=what)


def _msd(described: Mapping[str, Any], labels: LabelSchema | None, glob: str, findings: Any) -> Layout:
    try:
        pairs = {_relative(item["label"]): _relative(item["image"]) for item in described["training"]}
        names = {str(name): int(value) for value, name in described["labels"].items()}
        kinds = [str(kind).upper() for kind in dict(described.get("modality") or {}).values()]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{MSD} isn't as the Medical Segmentation Decathlon's: labels, training (image, label), modality"
        ) from None
    modality = "CT" if kinds == ["CT"] else "MR" if kinds and all(kind.startswith(MR_WORDS) for kind in kinds) else "OT"
    return Layout(labels or _schema(names, MSD), glob, pairs, modality, findings)


def _relative(path: str) -> str:
    return str(PurePosixPath(path))


def _json(file: Location) -> dict[str, Any]:
    try:
        described = json.loads(file.read())
    except ValueError:
        return {}
    return described if isinstance(described, dict) else {}


def _findings(file: Location) -> dict[str, tuple[str, ...]]:
    """Read a table of findings: ``file,label`` with ``|`` between several, or a column of 0 and 1 for each finding."""
    rows = list(csv.reader(io.StringIO(file.read().decode("utf-8-sig", "replace"))))
    head = [name.strip() for name in rows[0]] if rows else []
    lower = [name.lower() for name in head]
    where = next((lower.index(name) for name in FILE_COLUMNS if name in lower), None)
    if where is None or len(head) < 2:
        raise ConfigError(f"{CLASS_TABLE} needs a column file and a column label, or one column of 0 and 1 for each finding")
    others = [number for number in range(len(head)) if number != where]
    single = next((number for number in others if lower[number] in {"label", "labels", "finding labels"}), None)
    table: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(head):
            raise ConfigError(f"{CLASS_TABLE}, line {number}: {len(row)} columns where the head has {len(head)}")
        if single is not None:
            found = [part.strip() for part in row[single].split("|")]
        else:
            found = [head[column] for column in others if _is_one(row[column], number)]
        table[row[where].strip()] = tuple(sorted(part for part in found if part))
    return table


def _is_one(text: str, line: int) -> bool:
    if text.strip() not in {"0", "1", "", "0.0", "1.0"}:
        raise ConfigError(f"{CLASS_TABLE}, line {line}: a finding's column holds 0 or 1")
    return text.strip().startswith("1")
