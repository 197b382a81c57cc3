"""One image more in a cohort, without an ingestion: what a person sends from a viewer."""

from __future__ import annotations

from medray.cohort.cohort import Cohort
from medray.cohort.commit import Contents, base_of, commit_cohort
from medray.cohort.fingerprint import measure
from medray.cohort.manifest import SeriesRow
from medray.cohort.shards import write_shard
from medray.errors import ConfigError, InputError, NotFoundError
from medray.imaging.volume import Volume
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import Naming, naming
from medray.storage.location import Location

__all__ = ["add_image", "naming_of"]


def naming_of(cohort: Cohort) -> Naming:
    """Return how a cohort names things.

    Raises:
        ConfigError: If that needs the pseudonym key and there is none.
    """
    return naming(parse_profile(cohort.index.lineage.get("profile", "basic")))


def add_image(root: Location, volume: Volume, name: str) -> SeriesRow:
    """Commit a version of the cohort with one image more; the same image again changes nothing.

    Args:
        root: The cohort.
        volume: From a format that holds no identifiers, such as NIfTI or NRRD.
        name: What its sender calls it: may be a patient's, and becomes a pseudonym.

    Raises:
        NotFoundError: If there is no cohort.
        ConfigError: If the cohort removes faces, which takes an ingestion, or the pseudonym key is missing.
        InputError: If the cohort has another image of this name.
    """
    base = base_of(root)
    if base.cohort is None:
        raise NotFoundError(f"no complete cohort at {root.path}: run medray ingest SRC {root.path}")
    if "faces" in parse_profile(base.cohort.index.lineage.get("profile", "basic")).options:
        raise ConfigError("this cohort's images have no faces: take them in by medray ingest, which removes them")
    names, upright = naming_of(base.cohort), volume.reoriented()
    stored = write_shard(root.join("volumes"), volume)
    row = SeriesRow(
        subject=names.name("subject", name),
        study=names.name("study", name),
        series=names.name("series", name),
        time_point=0,
        when=names.seal(""),
        modality=volume.meta.get("modality", "OT"),
        plane=(),
        channels=volume.voxels.shape[0],
        shape=upright.shape,
        spacing_mm=upright.spacing_mm,
        source_hash=stored.digest,
        intake=f"upload-{stored.digest}",
        instances=1,
        volume=stored.digest,
        volume_checksum=stored.checksum,
        label="",
        label_checksum="",
        findings=(),
        statistics=measure(volume, None, None),
    )
    held = next((other for other in base.cohort.rows if other.series == row.series), None)
    if held is not None and held.volume != row.volume:
        raise InputError("the cohort has another image of this name: give this one a name of its own")
    if held is None:
        contents = Contents((*base.cohort.rows, row), base.cohort.quarantine, base.cohort.index.labels)
        commit_cohort(root, contents, base.cohort.index.lineage, base=base)
    return held or row
