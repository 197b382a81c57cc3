"""Small scans with a known truth: a bright ball with a core, on any grid, as NIfTI or DICOM."""

from itertools import permutations
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.nifti import write_nifti
from medray.imaging.geometry import Orientation
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume

LABELS = LabelSchema({"ball": 1, "core": 4})
SMALL_PLAN = {
    "patch": [16, 16, 16],
    "network": {"name": "unet", "features": [8, 16]},
    "target_weights": [1.0, 1.0, 1.0],
    "val": 0.2,
    "test": 0.2,
}


def orientations():
    """All 48 signed permutations."""
    for axes in permutations(range(3)):
        for bits in range(8):
            first, second, third = axes
            yield Orientation((first, second, third), (bool(bits & 1), bool(bits & 2), bool(bits & 4)))


def grid(orientation, spacing, rotation=(0.0, 0.0, 0.0), origin=(-40.0, 25.0, 10.0)):
    """An affine whose axes are a signed permutation of LPS, turned by ``rotation`` degrees."""
    signed = np.zeros((3, 3))
    for out, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        signed[out, axis] = -1.0 if flip else 1.0
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ signed * np.array(spacing)
    affine[:3, 3] = origin
    return affine


def phantom(rng, affine, shape=(24, 22, 20)):
    """A volume and its mask: a ball of 14 mm with a core of 6 mm, somewhere near the middle."""
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    points = indices @ affine[:3, :3].T
    middle = points.reshape(-1, 3).mean(axis=0) + rng.uniform(-4, 4, 3)
    distance = np.linalg.norm(points - middle, axis=-1)
    mask = np.where(distance < 6, 4, np.where(distance < 14, 1, 0)).astype(np.uint8)
    signal = np.select([mask == 4, mask == 1], [900.0, 500.0], 80.0) + rng.normal(0, 30, shape)
    image = np.clip(signal, 0, 4000).astype(np.int16)
    return Volume(image[None], affine, {"modality": "MR"}), mask


def write_dicom(folder, volume, name, modality="MR"):
    """Write a series with shuffled file names."""
    folder.mkdir(parents=True, exist_ok=True)
    files = write_dicom_series(volume, SeriesIdentity(patient=name, study="1", series=name, modality=modality))
    for number, data in enumerate(files):
        (folder / f"x{(number * 7) % len(files):03d}-{number:03d}.dcm").write_bytes(data)


def write_phantoms(root: Path, subjects: int) -> Path:
    """Write a source folder with labels and their names."""
    every = list(orientations())
    for number in range(subjects):
        rng = np.random.default_rng(number)
        affine = grid(every[(number * 11) % 48], (2.0, 2.0, 2.5), rng.uniform(-8, 8, 3))
        volume, mask = phantom(rng, affine)
        folder = root / f"sub-{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"sub-{number:02d}_dseg.nii.gz").write_bytes(write_nifti(volume.with_voxels(mask[None])))
        if number % 2:
            write_dicom(folder / "series", volume, f"sub-{number:02d}")
        else:
            (folder / f"sub-{number:02d}_T1w.nii.gz").write_bytes(write_nifti(volume))
    rows = "\n".join(f"{value}\t{name}" for name, value in LABELS.names.items())
    (root / "dseg.tsv").write_text(f"index\tname\n0\tbackground\n{rows}\n")
    return root


def take_in_all(source: Path, root: Path, profile="basic"):
    """Ingest with the plain functions: no Ray."""
    from medray.cohort.commit import Contents, commit_cohort
    from medray.ingestion.assemble import assemble
    from medray.ingestion.intake import Intake
    from medray.ingestion.layouts import read_layout
    from medray.ingestion.merge import numbered
    from medray.ingestion.read import quarantine_row, take_in
    from medray.ingestion.scan import scan_chunk
    from medray.privacy.profile import parse_profile
    from medray.privacy.pseudonym import naming
    from medray.storage.location import locate

    place, chosen = locate(source), parse_profile(profile)
    entries = place.entries()
    layout = read_layout(place, [entry.name for entry in entries], "*_dseg.nii*")
    intake = Intake(place, locate(root), naming(chosen), chosen, layout.labels)
    series, problems = assemble(scan_chunk(intake, entries), layout, intake.naming)
    outcomes = [take_in(intake, item) for item in series]
    rows = numbered([outcome.row for outcome in outcomes if outcome.row], intake.naming)
    refused = [row for outcome in outcomes for row in outcome.quarantine]
    refused += [quarantine_row(intake, problem) for problem in problems]
    return commit_cohort(intake.root, Contents(tuple(rows), tuple(refused), intake.labels), {"profile": profile})
