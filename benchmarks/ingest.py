"""How fast is ingestion: reading a DICOM series, de-identifying it, and the Ray Data pipeline as a whole?

Reading: 300 CT slices of 512 x 512, int16, uncompressed, a header of about 120 elements, warm cache, in turn, in one process:
medray, MONAI's PydicomReader, a loop over pydicom, SimpleITK's ImageSeriesReader with two threads, and dcm2niix as a child (its
user and system time, and it writes a file; from the extra ``bench`` or the path in ``MEDRAY_DCM2NIIX``). All but dcm2niix are
checked to give the same HU. De-identification: the same series with and without it, from the same open files.

Pipeline: the same `take_in` over the same series, by Ray Data and by a pool of processes, two workers each, both warm.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import ray
from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from report import bars, save

from medray.engine import join_ray, stream
from medray.formats.dicom import read_dicom_series
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.imaging.volume import Volume
from medray.ingestion.assemble import SeriesSource, assemble
from medray.ingestion.intake import Intake
from medray.ingestion.layouts import read_layout
from medray.ingestion.read import clean_series, take_in
from medray.ingestion.scan import scan_chunk
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import naming
from medray.storage.location import locate

SLICES, SIDE = 300, 512
ROUNDS = 5
PIPELINE_SERIES, PIPELINE_SHAPE = 80, (256, 256, 120)
WORKERS, TURNS = 2, 5


def main() -> None:
    """Run all and save the figures."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reading = compare_readers(write_ct(folder / "ct", (SIDE, SIDE, SLICES), header=True))
        pipeline = compare_pipelines(folder)
    save("ingest", {"reading": reading, "pipeline": pipeline})
    seconds = reading["seconds"]
    bars(
        "ingest",
        f"{SLICES} CT slices of {SIDE} x {SIDE}, uncompressed, warm cache",
        {
            "MONAI PydicomReader": seconds["monai"],
            "pydicom, loop": seconds["pydicom"],
            "SimpleITK, two threads": seconds["simpleitk"],
            "dcm2niix, CPU": seconds["dcm2niix_cpu"],
            "medray": seconds["medray"],
            "medray, de-identified": seconds["medray_deidentified"],
        },
        "seconds a series",
    )


def write_ct(folder: Path, shape: tuple[int, int, int], *, header: bool = False, patient: str = "DOE") -> Path:
    """Write a CT series of noise around a smooth body, with shuffled file names."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(patient))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    body = np.where((grid**2).sum(axis=0) < 0.8, 40.0, -1000.0) + rng.normal(0, 20, shape)
    voxels = np.clip(body, -1024, 3000).astype(np.int16)[np.newaxis]
    who = SeriesIdentity(patient=patient, study=patient, series=patient, modality="CT")
    for number, data in enumerate(write_dicom_series(Volume(voxels, np.diag([0.7, 0.7, 1.0, 1.0])), who)):
        (folder / f"{(number * 7919) % shape[2]:04d}.dcm").write_bytes(with_header(data) if header else data)
    return folder


def with_header(data: bytes) -> bytes:
    """Add what a scanner writes: about eighty more elements, a few sequences, private groups."""
    item = pydicom.dcmread(BytesIO(data))
    texts = (0x00080080, 0x00081010, 0x00081030, 0x0008103E, 0x00081090, 0x00181000, 0x00181020, 0x00181030)
    for tag in texts:
        item.add_new(tag, pydicom.datadict.dictionary_VR(tag), f"text {tag:08x}")
    block = item.private_block(0x0029, "VENDOR HEADER", create=True)
    for number in range(60):
        block.add_new(number, "LO", f"private value {number}")
    inner = Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "1", "99X", "a code"
    item.ProcedureCodeSequence, item.CTDIPhantomTypeCodeSequence = DicomSequence([inner]), DicomSequence([inner])
    item.RequestAttributesSequence = DicomSequence([inner])
    out = BytesIO()
    item.save_as(out)
    return out.getvalue()


def compare_readers(folder: Path) -> dict[str, Any]:
    """Time every reader on one folder."""
    files = sorted(folder.iterdir())
    profile, names = parse_profile("basic"), naming(parse_profile("basic"))

    def medray_side() -> Any:
        return read_dicom_series([file.read_bytes for file in files])

    def deidentified() -> Any:
        return clean_series(profile, names, medray_side())

    sides: dict[str, Callable[[], Any]] = {
        "medray": medray_side,
        "medray_deidentified": deidentified,
        "monai": partial(monai_side, folder),
        "pydicom": partial(pydicom_side, files),
        "simpleitk": partial(simpleitk_side, folder),
    }
    expected = np.sort(medray_side().volume.voxels[0, ::8, ::8].ravel())
    for name, side in sides.items():
        found = side()
        voxels = getattr(getattr(found, "volume", found), "voxels", found)
        plane = np.asarray(voxels[0] if getattr(voxels, "ndim", 3) == 4 else voxels)
        if name != "monai" and plane.size == SLICES * SIDE * SIDE and not np.array_equal(np.sort(picked(plane)), expected):
            raise SystemExit(f"{name} reads other values: the comparison would mean nothing")
    turns = [{name: timed(side) for name, side in sides.items()} for _ in range(ROUNDS)]  # in turn, so that all share a weather
    seconds = {name: min(turn[name] for turn in turns) for name in sides}
    seconds["dcm2niix_wall"], seconds["dcm2niix_cpu"] = dcm2niix_side(folder)
    ours = seconds["medray"]
    return {
        "slices": SLICES,
        "megabytes": sum(file.stat().st_size for file in files) / 1e6,
        "seconds": seconds,
        "ratios": {name: value / ours for name, value in seconds.items() if not name.startswith("medray")},
        "deidentification_adds": seconds["medray_deidentified"] / ours - 1,
    }


def picked(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return every eighth row and column, whichever axis the slices are."""
    along = plane.shape.index(SLICES)
    return np.moveaxis(plane, along, -1)[::8, ::8].ravel()


def monai_side(folder: Path) -> Any:
    """Read with MONAI."""
    from monai.data import PydicomReader

    reader = PydicomReader()
    return reader.get_data(reader.read(str(folder)))[0]


def pydicom_side(files: Sequence[Path]) -> np.ndarray[Any, Any]:
    """Read with pydicom as its documentation shows: each file, sorted along the normal, stacked."""
    slices = [pydicom.dcmread(file) for file in files]
    slices.sort(key=lambda item: float(item.ImagePositionPatient[2]))
    first = slices[0]
    stack = np.stack([item.pixel_array for item in slices])
    return np.asarray(stack.astype(np.int32) * int(first.RescaleSlope) + int(first.RescaleIntercept))


def simpleitk_side(folder: Path) -> np.ndarray[Any, Any]:
    """Read with SimpleITK's series reader."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetNumberOfWorkUnits(2)
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute()))


def dcm2niix_side(folder: Path) -> tuple[float, float]:
    """Return the shortest wall clock and CPU seconds of dcm2niix, written to memory."""
    beside = Path(sys.executable).with_name("dcm2niix")
    program = os.environ.get("MEDRAY_DCM2NIIX") or (str(beside) if beside.exists() else shutil.which("dcm2niix"))
    if not program:
        return float("nan"), float("nan")
    walls, cpus = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as out:
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([program, "-z", "n", "-o", out, str(folder)], check=True, capture_output=True)
            walls.append(time.perf_counter() - started)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(walls), min(cpus)


def compare_pipelines(folder: Path) -> dict[str, Any]:
    """Take the same series in with Ray Data and with a pool of processes."""
    source = folder / "source"
    for number in range(PIPELINE_SERIES):
        write_ct(source / f"p{number:03d}", PIPELINE_SHAPE, patient=f"patient {number}")
    times: dict[str, list[float]] = {"ray": [], "pool": []}
    join_ray()
    with ProcessPoolExecutor(WORKERS) as pool:
        for turn in range(TURNS):
            for name in ("pool", "ray"):
                intake, series = work_of(source, folder / f"{name}-{turn}")
                list(pool.map(abs, range(WORKERS * 4)))
                started = time.perf_counter()
                task = partial(take_in, intake)
                done = list(pool.map(task, series)) if name == "pool" else list(stream(series, task))
                times[name].append(time.perf_counter() - started)
                if len(done) != PIPELINE_SERIES or any(outcome.row is None for outcome in done):
                    raise SystemExit(f"{name} did not take every series in: the comparison would mean nothing")
                shutil.rmtree(folder / f"{name}-{turn}")
    ray.shutdown()
    # The first turn warms both: imports in every worker.
    ray_s, pool_s = min(times["ray"][1:]), min(times["pool"][1:])
    return {"series": PIPELINE_SERIES, "workers": WORKERS, "ray_s": ray_s, "pool_s": pool_s, "ray_over_pool": pool_s / ray_s}


def work_of(source: Path, root: Path) -> tuple[Intake, list[SeriesSource]]:
    """Scan a folder and return what there is to take in."""
    place, profile = locate(source), parse_profile("basic")
    entries = place.entries()
    layout = read_layout(place, [entry.name for entry in entries], "*_dseg.nii*")
    intake = Intake(place, locate(root), naming(profile), profile, layout.labels)
    series, _ = assemble(scan_chunk(intake, entries), layout, intake.naming)
    return intake, series


def timed(work: Callable[[], Any]) -> float:
    """Return how many seconds it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
