"""Labels that others made of a cohort's images, taken in as somebody's: each beside what is there, none over it.

Folders as people have them: BIDS derivatives (``dseg.tsv``, ``sub-…_dseg.nii.gz``), the Medical Segmentation Decathlon's
``dataset.json``, MONAI Label's datastore (``datastore_v2.json`` with ``labels/final``), DICOM segmentations and structure sets.
"""

from __future__ import annotations

import getpass
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from medray.annotation.projects import Project, Projects
from medray.annotation.store import Label, LabelStore, Version
from medray.annotation.submission import renamed, submit
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort, open_cohort
from medray.cohort.manifest import SeriesRow
from medray.errors import ImageError, InputError, LabelError, StorageError
from medray.formats.dicom import is_dicom
from medray.formats.dicom_header import DicomHeader
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.ingestion.layouts import LABEL_FILES, Layout, named_as, read_layout, stem
from medray.ingestion.read import label_map
from medray.ingestion.scan import HEAD_BYTES, header_at
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import Naming, naming
from medray.storage.location import Location, locate

__all__ = ["Imported", "import_labels"]

MONAI_LABEL = "datastore_v2.json"
IMAGES = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of it.

    Attributes:
        taken: Label maps that are in the store now, those of an earlier run included.
        refused: Reason to number of files.
        problems: One line each: the file's pseudonym and what is wrong.
    """

    taken: int
    refused: Mapping[str, int]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A label map in a source.

    Attributes:
        path: Relative to the source.
        names: What its values mean.
        images: What its image may be called: files' paths, or a series' UID.
        subject: The patient by its name, empty where it tells none.
        study: The study by its name.
    """

    path: str
    names: Mapping[str, int]
    images: tuple[str, ...]
    subject: str = ""
    study: str = ""


def import_labels(
    root: str | Path,
    source: str | Path,
    annotator: str,
    *,
    project: str = "",
    tag: str = "final",
    labels: str = LABEL_FILES,
    site: str = "",
) -> Imported:
    """Take label maps in; call it again and nothing is there twice.

    A label map is of the series that its source lists, refers to, or names, or of the one image of its subject and study that
    lies on its grid.

    Args:
        root: The cohort.
        source: Folder with label maps: a path or a URI.
        annotator: Whose they are to be.
        project: In which; outside of any where it is empty.
        tag: What they are for, outside of projects; of MONAI Label's, which of its tags is read.
        labels: Names of files that are label maps, in folders that don't list them.
        site: As it was given to `medray.ingest`.

    Raises:
        NotFoundError: If there is no cohort or no such project.
        InputError: If the source has no label maps, or the project isn't one of segmentations.
        ConfigError: If names need the pseudonym key, or a table can't be understood.
        StorageError: If the source or the cohort can't be reached.
    """
    place, cohort = locate(source), open_cohort(locate(root))
    rules = Projects(cohort.root).get(project) if project else None
    if rules and rules.kind != "segmentation":
        raise InputError(f"project {project} is one of {rules.kind}: label maps can't be taken in")
    importing = _Import(cohort, place, naming(parse_profile(cohort.index.lineage.get("profile", "basic")), site=site), rules)
    found = list(_found(place, labels, tag, _names_of(cohort, rules)))
    if not found:
        raise InputError(f"{place.path} has no label maps: name them with --labels, such as --labels '*_seg.nii.gz'")
    refused: Counter[str] = Counter()
    problems = []
    for one in found:
        try:
            importing.take(one, annotator, tag)
        except StorageError:
            raise
        except (ImageError, InputError) as error:
            refused[error.reason if isinstance(error, ImageError) else "refused"] += 1
            problems.append(f"{importing.names.name('source', one.path)}: {error}")
    taken = len(found) - len(problems)
    open_trail().record([Event("label.import", cohort.index.id, detail=f"{taken} of {len(found)} label maps")])
    return Imported(taken, dict(refused), tuple(problems))


class _Import:
    """Puts one label map after another into the store."""

    def __init__(self, cohort: Cohort, source: Location, names: Naming, project: Project | None) -> None:
        self.names = names
        self._cohort = cohort
        self._source = source
        self._project = project
        self._store = LabelStore(cohort.root)
        self._projects = Projects(cohort.root)

    def take(self, found: _Found, annotator: str, tag: str) -> None:
        data = self._source.join(found.path).read()
        rows = self._candidates(found)
        if not rows:
            raise LabelError("label-without-image", "the cohort has no image of this name, subject or series")
        fitting = [(row, mask) for row in rows if (mask := self._onto(row, data, found.names)) is not None]
        if not fitting:
            raise LabelError("label-grid", f"none of {len(rows)} images of this name, subject or series lies on its grid")
        if len(fitting) > 1:
            raise LabelError("label-of-several", f"{len(fitting)} images of this subject and study lie on its grid")
        row, mask = fitting[0]
        label = Label(
            row.series, annotator, tag if self._project is None else "final", self._project.name if self._project else ""
        )
        made = Version(label, "submitted", getpass.getuser(), names=found.names, facts={"tool": "import"})
        if self._project is not None:
            mask = renamed(mask, found.names, self._project.values)
        held = self._store.heads(**asdict(label))
        stands = held and held[0].status in {"submitted", "approved", "rejected"}
        if stands and np.array_equal(self._store.mask(held[0]).voxels, mask.voxels):
            return  # an earlier run has taken it in, and whatever a reviewer said of it since stands
        self._require_theirs(row.series, annotator)
        if self._project is None:
            self._store.draw(made, mask)
        else:
            submit(self._store, self._project, made, mask, seen=None, shape=mask.shape)

    def _require_theirs(self, series: str, annotator: str) -> None:
        """Refuse what the project hasn't asked somebody for.

        Raises:
            LabelError: If the case isn't theirs.
        """
        if self._project is None:
            return
        assigned = self._projects.assigned(self._project.name, series=series)
        if annotator not in {one.annotator for one in assigned}:
            raise LabelError("not-assigned", f"the case isn't {annotator}'s: assign it with medray annotate assign")

    def _candidates(self, found: _Found) -> list[SeriesRow]:
        named = {self.names.name("series", image) for image in found.images}
        exact = [row for row in self._cohort.rows if row.series in named or row.origin in named]
        if exact or not found.subject:
            return exact
        subject = self.names.name("subject", found.subject)
        study = self.names.name("study", f"{found.subject}\0{found.study}")
        theirs = [row for row in self._cohort.rows if row.subject == subject and not row.synthetic]
        return [row for row in theirs if row.study == study] or theirs

    def _onto(self, row: SeriesRow, data: bytes, names: Mapping[str, int]) -> Volume | None:
        """Read a label map onto an image's grid; None where it doesn't lie there."""
        image = self._cohort.volume(row)
        try:
            return image.with_voxels(label_map(data, image, LabelSchema(names))[np.newaxis])
        except LabelError as error:
            if error.reason != "label-grid":
                raise
            return None


def _names_of(cohort: Cohort, project: Project | None) -> Mapping[str, int]:
    if project:
        return project.values
    return cohort.index.labels.names if cohort.index.labels else {}


def _found(place: Location, glob: str, tag: str, names: Mapping[str, int]) -> Iterator[_Found]:
    """Find a source's label maps, and what each says of its image."""
    entries = [entry.name for entry in place.entries()]
    if MONAI_LABEL in entries:
        yield from _monai_label(json.loads(place.join(MONAI_LABEL).read()), set(entries), tag, names)
        return
    layout = read_layout(place, entries, glob)
    known = layout.labels.names if layout.labels else names
    for name in entries:
        head = place.join(name).read(HEAD_BYTES)
        if is_dicom(head):
            header = header_at(place.join(name), head)
            if header.kind in {"segmentation", "structures"}:
                yield _of_dicom(name, header, names)
        elif layout.is_label(name):
            yield _of_file(name, layout, known)


def _of_dicom(name: str, header: DicomHeader, names: Mapping[str, int]) -> _Found:
    return _Found(name, names, tuple(header.references))


def _of_file(name: str, layout: Layout, names: Mapping[str, int]) -> _Found:
    if name in layout.pairs:
        return _Found(name, names, (layout.pairs[name],))
    parts = PurePosixPath(name).parts
    inside = str(PurePosixPath(*parts[2:])) if parts[0] == "derivatives" and len(parts) > 2 else name
    named = named_as(inside, layout)
    return _Found(name, names, (), named.subject, named.study)


def _monai_label(described: Mapping[str, Any], entries: set[str], tag: str, names: Mapping[str, int]) -> Iterator[_Found]:
    """Read MONAI Label's datastore: images by their ids, labels below ``labels/TAG``."""
    try:
        objects = {str(image): dict(found["labels"]) for image, found in described["objects"].items()}
        for image, by_tag in objects.items():
            label = by_tag.get(tag)
            if label is None:
                continue
            path = next((p for p in _paths(image, tag, str(label["ext"])) if p in entries), "")
            if path:
                info = dict(label.get("info") or {})
                said = info.get("label_info") or dict(info.get("params") or {}).get("label_info")
                meant = LabelSchema.listed(said).names if said else names
                yield _Found(path, meant, (image, *(f"{image}{ending}" for ending in IMAGES)), stem(image))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{MONAI_LABEL} isn't as MONAI Label writes it: objects, each with labels by tag") from None


def _paths(image: str, tag: str, ending: str) -> Sequence[str]:
    ending = ending if not ending or ending.startswith(".") else f".{ending}"
    return [f"labels/{tag}/{image}{ending}", f"{image}{ending}"]
