"""Files of the field and damaged ones: each is decoded right or refused with a reason; nothing crashes, hangs or swells."""

import multiprocessing
import resource
import time
import warnings
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medray.errors import ImageError
from medray.formats.dicom_pixels import ITK_SYNTAXES
from medray.formats.dicom_series import write_dicom_series
from medray.formats.image import read_image
from medray.formats.nrrd import write_nrrd
from medray.imaging.geometry import RAS_TO_LPS
from tests.formats.test_dicom import WHO, volume
from tests.formats.test_dicom_frames import deflated, enhanced
from tests.formats.test_dicom_labels import scene, segmentation

DICOM = sorted(file for file in Path(pydicom.__file__).parent.joinpath("data").rglob("*") if file.is_file())
NIBABEL = sorted(file for file in Path(nibabel.__file__).parent.rglob("tests/data/*") if file.is_file())
MUTANTS = 5000
SECONDS_A_MUTANT = 20
"""pyjpegls needs some seconds to refuse a few of the damaged JPEG-LS frames."""
MAX_MIB = 1500


def outcome(data):
    """A volume, or the reason why not; anything else is a bug."""
    try:
        return read_image(data)
    except ImageError as error:
        return error.reason


@pytest.mark.parametrize("file", DICOM, ids=lambda file: file.name)
def test_every_file_that_pydicom_ships(file):
    data = file.read_bytes()
    result = outcome(data)
    if isinstance(result, str):
        return
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(BytesIO(data), force=True)
        if dataset.file_meta.TransferSyntaxUID in ITK_SYNTAXES:
            return  # pydicom has no decoder for it
        stored = pydicom.pixels.pixel_array(dataset, raw=False)
    if (
        "ModalityLUTSequence" in dataset
        or "samples" in result.meta
        or dataset.PhotometricInterpretation not in ("MONOCHROME2", "RGB")
    ):
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.SamplesPerPixel)
    planes = stored.reshape(frames, dataset.Rows, dataset.Columns, samples).astype(np.float64)
    values = planes * float(dataset.get("RescaleSlope") or dataset.get("DoseGridScaling") or 1) + float(
        dataset.get("RescaleIntercept") or 0
    )
    assert np.isclose(np.sort(values.ravel()), np.sort(result.voxels.ravel()), rtol=1e-5, atol=1e-5).all()


def test_most_of_what_pydicom_can_decode_is_decoded():
    read, able = [], []
    for file in DICOM:
        try:
            with pydicom.config.disable_value_validation():
                dataset = pydicom.dcmread(file, force=True)
                pydicom.pixels.pixel_array(dataset)
        except Exception:  # noqa: BLE001
            continue
        able.append(file.name)
        if not isinstance(outcome(file.read_bytes()), str):
            read.append(file.name)
    assert len(able) > 50
    missing = sorted(set(able) - set(read))
    assert len(missing) <= 0.05 * len(able), missing


@pytest.mark.parametrize("file", NIBABEL, ids=lambda file: file.name)
def test_every_file_that_nibabel_ships(file):
    result = outcome(file.read_bytes())
    if isinstance(result, str) or file.suffix == ".dcm":
        return
    image = nibabel.load(file)
    data = np.asarray(image.dataobj, dtype=np.float64)
    channels = np.moveaxis(data.reshape(*data.shape[:3], -1), 3, 0)
    assert np.allclose(result.voxels, channels, rtol=1e-5)
    assert np.allclose(result.affine, RAS_TO_LPS @ image.affine)


def test_the_nifti_files_among_them_are_read():
    names = {file.name for file in NIBABEL if not isinstance(outcome(file.read_bytes()), str)}
    assert {"example4d.nii.gz", "example_nifti2.nii.gz", "standard.nii.gz", "anatomical.nii", "functional.nii"} <= names


def seeds():
    """Small whole files of every kind that is read."""
    scan = volume(shape=(12, 10, 4))
    small = [file.read_bytes() for file in DICOM if file.suffix == ".dcm" and file.stat().st_size < 60_000]
    nifti = [file.read_bytes() for file in NIBABEL if ".nii" in file.name and file.stat().st_size < 200_000]
    slices, _, mask = scene()
    for number, item in enumerate(slices):
        item.InstanceNumber = number
    plain = write_dicom_series(scan, WHO)
    every = [*plain[:2], enhanced(scan), deflated(plain[0]), segmentation(slices, mask), write_nrrd(scan), *small, *nifti]
    return [data for data in every if not isinstance(outcome(data), str)]


def mutated(data, rng):
    """Flip, cut, repeat, overwrite with extremes: one to eight times."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        at = int(rng.integers(len(changed))) if rng.random() < 0.4 else int(rng.integers(min(len(changed), 1500)))
        kind = rng.integers(5)
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x01\0\0\x80"])
        elif kind == 2 and rng.random() < 0.3:
            del changed[at:]
        elif kind == 3:
            changed[at:at] = changed[at : at + int(rng.integers(1, 40))]
        else:
            changed[at : at + 2] = rng.bytes(2)
        if not changed:
            return b""
    return bytes(changed)


def work(numbers, told):
    """In a process of its own, for what may end one; tells where it is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    corpus = seeds()
    for number in numbers:
        rng = np.random.default_rng(number)
        data = mutated(corpus[number % len(corpus)], rng)
        started = time.monotonic()
        result = outcome(data)
        told.put((number, result if isinstance(result, str) else "read", time.monotonic() - started))
    told.put(("peak", peak_mib(), 0.0))


def peak_mib():
    """Of this program alone: getrusage's ru_maxrss goes through exec, so that it counts what pytest held before the start."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_mutants_are_read_or_refused():
    context = multiprocessing.get_context("spawn")
    queues, processes = [], []
    for half in range(2):
        queue = context.SimpleQueue()
        process = context.Process(target=work, args=(range(half, MUTANTS, 2), queue))
        process.start()
        queues.append(queue)
        processes.append(process)
    outcomes: dict[str, int] = {}
    slowest, peaks = 0.0, []
    for queue, process in zip(queues, processes, strict=True):
        while True:
            if queue.empty():
                assert process.is_alive(), f"the reader died with {process.exitcode} after {sum(outcomes.values())} mutants"
                time.sleep(0.01)
                continue
            number, result, seconds = queue.get()
            if number == "peak":
                peaks.append(result)
                break
            outcomes[result] = outcomes.get(result, 0) + 1
            slowest = max(slowest, seconds)
            assert seconds < SECONDS_A_MUTANT, f"mutant {number} took {seconds:.1f} s"
        process.join()
    assert sum(outcomes.values()) == MUTANTS
    assert outcomes["read"] > 0.1 * MUTANTS
    assert len(outcomes) > 12, outcomes
    assert max(peaks) < MAX_MIB
