"""The images of a cohort that the endpoint shows: what viewers list, open, ask about and label."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from medray.annotation.projects import Project, Projects
from medray.annotation.store import FINAL, PRELABEL, Label, LabelStore, Version
from medray.annotation.submission import label_of, renamed, submit
from medray.cohort.addition import add_image, naming_of
from medray.cohort.cohort import CURRENT, Cohort, open_cohort
from medray.cohort.manifest import SeriesRow
from medray.cohort.shards import read_shard
from medray.errors import ConfigError, ImageError, InputError, LabelError, NotFoundError
from medray.formats.image import declared_bytes, read_file, sniff
from medray.formats.nrrd import write_nrrd
from medray.formats.raw import stored_array
from medray.imaging.labels import LabelSchema, onto
from medray.imaging.volume import Volume
from medray.storage.location import locate

__all__ = ["Worklist"]

MOST_BYTES = 2 << 30
"""Of an image that a person adds, when it is read."""


class Worklist:
    """A cohort's newest version and what people submitted about it.

    Attributes:
        uri: Of the cohort.
        root: The same, opened.
        labels: What people submitted.
        projects: In which they do.

    Args:
        root: The cohort.
    """

    def __init__(self, root: str) -> None:
        self.uri = root
        self.root = locate(root)
        self.labels = LabelStore(self.root)
        self.projects = Projects(self.root)
        self._lock = threading.Lock()
        self._opened: tuple[int, Cohort] | None = None
        self._rows: dict[str, SeriesRow] = {}

    @property
    def cohort(self) -> Cohort:
        """The version that is current now."""
        changed = self.root.join(CURRENT).modified_ns()
        with self._lock:
            if self._opened is None or self._opened[0] != changed:
                self._opened = changed, open_cohort(self.root)
                self._rows = {row.series: row for row in self._opened[1].rows}
            return self._opened[1]

    def find(self, image: str) -> SeriesRow:
        """Return an image's row.

        Args:
            image: The series' pseudonym, or the name under which it was added.

        Raises:
            NotFoundError: If there is none.
        """
        cohort = self.cohort
        if image in self._rows:
            return self._rows[image]
        try:
            named = naming_of(cohort).name("series", image)
        except ConfigError:  # without the key no other name can be known
            named = ""
        if named not in self._rows:
            raise NotFoundError("the cohort has no such image")
        return self._rows[named]

    def volume(self, row: SeriesRow) -> Volume:
        """Read an image."""
        return self.cohort.volume(row)

    def nrrd(self, row: SeriesRow) -> bytes:
        """Return an image as NRRD, not compressed: the same bytes each time."""
        return write_nrrd(self.volume(row), level=None)

    def add(self, name: str, data: bytes) -> SeriesRow:
        """Take an image in.

        Raises:
            InputError: If it is DICOM, whose header must be de-identified first, or the name is taken.
            ImageError: If it can't be read.
        """
        if sniff(data) in {"dicom", "zip"}:
            raise InputError("DICOM holds identifiers: bring it in by medray ingest or medray receive, which remove them")
        require_modest(data, MOST_BYTES)
        return add_image(self.root, read_file(data), name)

    def submit(self, row: SeriesRow, tag: str, annotator: str, data: bytes, facts: Mapping[str, Any]) -> Version:
        """Take a label map in.

        Args:
            row: The image.
            tag: What kind of label it is.
            annotator: Whose. In a project in which the image is assigned to them, it is that project's.
            data: NIfTI or NRRD on the image's grid, or raw voxels of it, I fastest, as OHIF sends them.
            facts: The client's; ``label_info`` lists name and idx of each value.

        Raises:
            LabelError: If it has another grid, or values without a name.
            ImageError: If it can't be read.
        """
        image, names = self.volume(row), self.names(facts)
        label = self.label_map(image, data)
        label = label.with_voxels(LabelSchema(names).checked(label.voxels))
        project = self._project_of(row, tag, annotator)
        if project is None:
            version = Version(Label(row.series, annotator, tag), "submitted", annotator, names=names, facts=facts)
            return self.labels.draw(version, label)
        work = Version(label_of(project, row.series, annotator), "submitted", annotator, facts={"tool": "MONAI Label"})
        return submit(self.labels, project, work, renamed(label, names, project.values), seen=None, shape=image.shape)

    def _project_of(self, row: SeriesRow, tag: str, annotator: str) -> Project | None:
        """Return the project in which an image is somebody's to draw; whose label is in several names one as its tag."""
        theirs = map(self.projects.get, self.projects.of(row.series, annotator))
        mine = [project for project in theirs if project.kind == "segmentation"]
        named = [project for project in mine if tag in {FINAL, project.name}]
        if len(named) > 1:
            known = ", ".join(project.name for project in named)
            raise InputError(f"this image is yours in several projects: give one of them as the label's tag ({known})")
        return named[0] if named else None

    def next_of(self, annotator: str) -> SeriesRow | None:
        """Return the image that somebody is to label next, in any project; None where all are done."""
        rows = {row.series: row for row in self.cohort.rows}
        for project in self.projects.all():
            done = {one.label.series for one in self.labels.heads(project=project.name, annotator=annotator) if one.live}
            for assigned in self.projects.assigned(project.name, annotator):
                if project.kind == "segmentation" and assigned.series not in done and assigned.series in rows:
                    return rows[assigned.series]
        return None

    @staticmethod
    def label_map(image: Volume, data: bytes) -> Volume:
        """Read a label map onto an image's grid: NIfTI or NRRD, or raw voxels, I fastest, as OHIF sends them.

        Raises:
            LabelError: If it has another grid or several channels.
            ImageError: If it can't be read.
        """
        require_modest(data, 8 * math.prod(image.shape))
        label = onto(image, read_file(data)) if sniff(data) else _raw(data, image)
        if len(label.voxels) != 1:
            raise LabelError("label-channels", "a label map has one channel: one value a voxel")
        return label

    def names(self, facts: Mapping[str, Any]) -> dict[str, int]:
        """Return what a client says that values mean, or what the cohort does.

        Raises:
            InputError: If that isn't said as ``[{"name": …, "idx": …}]``.
        """
        said = facts.get("label_info")
        if not said:
            known = self.cohort.index.labels
            return dict(known.names) if known else {}
        return dict(LabelSchema.listed(said).names)

    def tags(self) -> dict[str, list[str]]:
        """Return each labelled image's tags; a label that came with the cohort counts as final."""
        found: dict[str, list[str]] = {row.series: [FINAL] for row in self.cohort.rows if row.label}
        for series, tag in self.labels.current():
            if series in self._rows and tag not in found.setdefault(series, []):
                found[series].append(tag)
        return found

    def _own(self, project: Project, row: SeriesRow, annotator: str) -> tuple[Volume, Version]:
        found = self.labels.heads(project=project.name, series=row.series, annotator=annotator, tag=FINAL)
        found = found or self.labels.heads(project=project.name, series=row.series, tag=PRELABEL)
        if not found:
            raise NotFoundError(f"you have no label of this image in project {project.name} yet")
        return self.labels.mask(found[0]), found[0]

    def counts(self) -> dict[str, object]:
        """Return how many images there are, how many have a final label, and how many each tag has."""
        tags = self.tags()
        names = sorted({tag for found in tags.values() for tag in found})
        by_tag = {name: sum(name in found for found in tags.values()) for name in names}
        return {"total": len(self.cohort.rows), "completed": by_tag.get(FINAL, 0), "label_tags": by_tag}

    def label(self, row: SeriesRow, tag: str, annotator: str = "") -> tuple[Volume, Version | None]:
        """Return the newest label map of a tag; of ``final``, where nobody submitted one, the cohort's.

        In a project in which the image is somebody's own, it is theirs, and before they have one the model's.

        Raises:
            NotFoundError: If there is none.
        """
        project = self._project_of(row, tag, annotator) if annotator else None
        if project:
            return self._own(project, row, annotator)
        try:
            found = self.labels.latest(row.series, tag)
        except NotFoundError:
            if tag != FINAL or not row.label:
                raise
            return read_shard(self.root.join("labels"), row.label), None
        return self.labels.mask(found), found


def require_modest(data: bytes, most: int) -> None:
    """Refuse what would take more memory than it may when it is read.

    Raises:
        ImageError: ``too-large``.
    """
    if declared_bytes(data) > most:
        raise ImageError("too-large", f"the file's header promises more than {most >> 20} MB of voxels")


def _raw(data: bytes, image: Volume) -> Volume:
    """Read voxels without a header: as many bytes a voxel as there are."""
    size, rest = divmod(len(data), math.prod(image.shape))
    if rest or size not in {1, 2}:
        raise LabelError("label-grid", "the label map is neither a file of a known format nor as many voxels as the image has")
    return Volume(stored_array(data, np.dtype(f"<u{size}"), image.shape)[None], image.affine)
