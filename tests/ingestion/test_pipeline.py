import importlib
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import medray
from medray.cohort.cohort import open_cohort
from medray.errors import ConfigError, ImageError, InputError, NotFoundError
from medray.ingestion.pipeline import resolve_quarantine
from tests.phantoms import grid, orientations, phantom, write_dicom, write_phantoms

pytestmark = pytest.mark.ray


def test_the_graph_equals_the_plain_functions(local_ray, phantom_source, phantom_cohort, tmp_path):
    told = []
    cohort = medray.ingest(phantom_source, tmp_path / "c", on_progress=lambda *news: told.append(news))
    assert cohort.index.id == phantom_cohort.index.id
    assert told[-1] == ("read", 9, 9)


def test_a_second_run_is_the_same_version_and_new_data_a_new_one(local_ray, phantom_source, tmp_path):
    first = medray.ingest(phantom_source, tmp_path / "c")
    shards = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "c" / "volumes").iterdir()}
    assert medray.ingest(phantom_source, tmp_path / "c").index.id == first.index.id
    more = write_phantoms(tmp_path / "more", subjects=11)
    second = medray.ingest(more, tmp_path / "c")
    assert second.index.id != first.index.id
    assert second.index.counts["series"] == 11
    assert {name: (tmp_path / "c" / "volumes" / name).stat().st_mtime_ns for name in shards} == shards
    assert open_cohort(tmp_path / "c", version=first.index.id).rows == first.rows


def test_the_key_s_holder_finds_quarantined_files(local_ray, tmp_path):
    source = write_phantoms(tmp_path / "s", subjects=3)
    (source / "broken.dcm").write_text("no")
    cohort = medray.ingest(source, tmp_path / "c")
    assert list(resolve_quarantine(cohort, source).values()) == ["broken.dcm"]
    (source / "broken.dcm").unlink()
    write_phantoms(tmp_path / "one", subjects=1)
    assert len(medray.ingest(tmp_path / "one", tmp_path / "c").quarantine) == 1


def test_another_profile_key_or_content_is_refused(local_ray, tmp_path, monkeypatch):
    source = write_phantoms(tmp_path / "s", subjects=3)
    first = medray.ingest(source, tmp_path / "c")
    with pytest.raises(ConfigError, match="another profile"):
        medray.ingest(source, tmp_path / "c", profile="none")
    shutil.copy(source / "sub-02" / "sub-02_T1w.nii.gz", source / "sub-00" / "sub-00_T1w.nii.gz")
    with pytest.raises(InputError, match="with other voxels"):
        medray.ingest(source, tmp_path / "c")
    monkeypatch.setenv("MEDRAY_KEY", "7b" * 32)
    with pytest.raises(ConfigError, match="another pseudonym key"):
        medray.ingest(source, tmp_path / "c")
    assert open_cohort(tmp_path / "c").index == first.index


def test_an_error_in_a_task_is_that_error(local_ray, phantom_cohort, tmp_path):
    recipe = medray.plan(phantom_cohort, changes={"modalities": ["CT"]})
    with pytest.raises(ImageError, match="the image is MR; the model was trained on CT"):
        medray.prepare(phantom_cohort, recipe, tmp_path / "p")
    assert not (tmp_path / "p" / "prepared.json").exists()


def test_mended_sources_leave_quarantine(local_ray, tmp_path):
    source = write_phantoms(tmp_path / "s", subjects=3)
    good = (source / "sub-00" / "sub-00_T1w.nii.gz").read_bytes()
    (source / "sub-00" / "sub-00_T1w.nii.gz").write_bytes(good[:3000])
    assert {row.reason for row in medray.ingest(source, tmp_path / "c").quarantine} == {"truncated"}
    (source / "sub-00" / "sub-00_T1w.nii.gz").write_bytes(good)
    assert medray.ingest(source, tmp_path / "c").quarantine == ()


def test_wrong_sources_are_refused_before_ray_starts(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image among 0 files"):
        medray.ingest(tmp_path / "empty", tmp_path / "c")
    with pytest.raises(NotFoundError, match="no file or folder"):
        medray.ingest(tmp_path / "none", tmp_path / "c")
    monkeypatch.delenv("MEDRAY_KEY")
    with pytest.raises(ConfigError, match="make one"):
        medray.ingest(tmp_path / "empty", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_run_killed_in_the_middle_leaves_nothing_half_and_runs_again(local_ray, tmp_path):
    source = write_phantoms(tmp_path / "s", subjects=30)
    root = tmp_path / "c"
    code = f"import medray; medray.ingest({str(source)!r}, {str(root)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 60
    while time.time() < deadline and not list(root.glob("volumes/part-*")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = len(list(root.glob("volumes/part-*")))
    assert written > 0
    if written < 30:
        with pytest.raises(NotFoundError, match="no complete cohort"):
            open_cohort(root)
    cohort = medray.ingest(source, root)
    assert cohort.index.counts["series"] == 30
    assert not list(root.rglob("*.tmp-*"))
    for row in cohort.rows:
        cohort.volume(row)


def test_a_series_that_kills_its_reader_costs_only_itself(local_ray, tmp_path, monkeypatch):
    """A decoder in C may end its process: the worker dies, and the run goes on."""
    source = write_phantoms(tmp_path / "s", subjects=3)
    deadly = (source / "sub-01" / "series").glob("*.dcm")
    victim = next(iter(deadly))

    pipeline = importlib.import_module("medray.ingestion.pipeline")

    def take_in(intake, item):
        if any(name.endswith(victim.name) for name in item.files):
            os.abort()
        return original(intake, item)

    original = pipeline.take_in
    monkeypatch.setattr(pipeline, "take_in", take_in)
    cohort = medray.ingest(source, tmp_path / "c")
    assert cohort.index.counts["series"] == 2
    assert "crashed-reader" in {row.reason for row in cohort.quarantine}
    assert medray.ingest(source, tmp_path / "c").index.id == cohort.index.id, "the next run doesn't try it again"


def reads(action="ingest.read"):
    from medray.audit import open_trail

    return [event.target for event in open_trail().events(action=action)]


def test_nothing_finished_is_done_twice(local_ray, tmp_path, monkeypatch):
    source = write_phantoms(tmp_path / "s", subjects=4)
    first = medray.ingest(source, tmp_path / "c")
    assert len(reads()) == 4
    assert medray.ingest(source, tmp_path / "c").index.id == first.index.id
    assert len(reads()) == 4, "a rerun reads no series"
    write_phantoms(source, subjects=6)
    for number in range(4):  # written again, as the same bytes: their stamps are new, their content isn't
        assert (source / f"sub-{number:02d}").exists()
    second = medray.ingest(source, tmp_path / "c")
    assert second.index.counts["series"] == 6
    third = medray.ingest(source, tmp_path / "c")
    assert third.index.id == second.index.id
    assert len(reads()) == 10


def test_follow_ups_that_come_later_are_later_time_points(local_ray, tmp_path):
    """Also under the strict profile, whose cohort shows no date."""
    from medray.formats.dicom_series import SeriesIdentity, write_dicom_series

    volume, _ = phantom(np.random.default_rng(0), grid(next(iter(orientations())), (2.0, 2.0, 2.5)))
    for year in (2021, 2019, 2020):
        folder = tmp_path / str(year)
        folder.mkdir()
        who = SeriesIdentity(patient="P", study=str(year), series=str(year), date=f"{year}0101")
        for number, data in enumerate(write_dicom_series(volume, who)):
            (folder / f"{number}.dcm").write_bytes(data)
        cohort = medray.ingest(folder, tmp_path / "c")
    from medray import config
    from medray.privacy.pseudonym import Pseudonyms

    names = Pseudonyms(config.read_key())
    points = {names.unseal(row.when)[:4]: row.time_point for row in cohort.rows}
    assert points == {"2019": 0, "2020": 1, "2021": 2}
    assert len({row.subject for row in cohort.rows}) == 1


def test_a_series_that_grows_is_read_again(local_ray, tmp_path):
    volume, _ = phantom(np.random.default_rng(0), grid(next(iter(orientations())), (2.0, 2.0, 2.5)))
    write_dicom(tmp_path / "all", volume, "p")
    files = sorted((tmp_path / "all").iterdir(), key=lambda file: file.name.partition("-")[2])
    (tmp_path / "s").mkdir()
    for file in files[:12]:
        shutil.copy(file, tmp_path / "s")
    assert medray.ingest(tmp_path / "s", tmp_path / "c").rows[0].instances == 12
    for file in files[12:]:
        shutil.copy(file, tmp_path / "s")
    grown = medray.ingest(tmp_path / "s", tmp_path / "c")
    assert [row.instances for row in grown.rows] == [len(files)]


def seen(shape=(24, 22, 20), seed=0):
    return phantom(np.random.default_rng(seed), grid(next(iter(orientations())), (2.0, 2.0, 2.5)), shape)


def test_a_series_that_comes_changed_and_without_its_label_costs_no_label(local_ray, tmp_path):
    from medray.formats.nifti import write_nifti

    volume, mask = seen()
    write_dicom(tmp_path / "s" / "p" / "series", volume, "p")
    (tmp_path / "s" / "p" / "p_dseg.nii.gz").write_bytes(write_nifti(volume.with_voxels(mask[None])))
    (tmp_path / "s" / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tball\n4\tcore\n")
    first = medray.ingest(tmp_path / "s", tmp_path / "c")
    assert first.index.counts["labels"] == 1
    write_dicom(tmp_path / "mended" / "p", volume.with_voxels(volume.voxels + np.int16(1)), "p")
    second = medray.ingest(tmp_path / "mended", tmp_path / "c")
    assert second.rows == first.rows
    assert [row.reason for row in second.quarantine] == ["unlabelled"]
    before = len(reads())
    assert medray.ingest(tmp_path / "mended", tmp_path / "c").index.id == second.index.id
    assert len(reads()) == before
    write_dicom(tmp_path / "s" / "p" / "series", volume.with_voxels(volume.voxels + np.int16(1)), "p")
    third = medray.ingest(tmp_path / "s", tmp_path / "c")
    assert third.rows[0].volume != first.rows[0].volume
    assert third.rows[0].label


def test_objects_that_say_they_are_one_and_differ_are_not_chosen_by_chance(local_ray, tmp_path):
    volume, _ = seen()
    write_dicom(tmp_path / "s" / "a", volume, "p")
    write_dicom(tmp_path / "s" / "copy", volume, "p")
    write_dicom(tmp_path / "s" / "z", seen(seed=5)[0], "q")
    first = medray.ingest(tmp_path / "s", tmp_path / "c")
    assert [row.instances for row in first.rows] == [20, 20]
    assert first.quarantine == ()
    write_dicom(tmp_path / "s" / "copy", volume.with_voxels(volume.voxels + np.int16(1)), "p")
    second = medray.ingest(tmp_path / "s", tmp_path / "c")
    assert second.rows == first.rows, "what was good stays"
    assert [row.reason for row in second.quarantine] == ["conflicting-objects"]


def test_stacks_of_one_series_that_come_apart_stay_two(local_ray, tmp_path):
    """Whichever is larger at the time."""
    every = list(orientations())
    stacks = [phantom(np.random.default_rng(0), grid(every[number], (2.0, 2.0, 2.5)), (24, 24, 20))[0] for number in (0, 8)]
    files = []
    for number, volume in enumerate(stacks):
        write_dicom(tmp_path / str(number), volume, "p")
        files.append(sorted((tmp_path / str(number)).iterdir(), key=lambda file: file.name.partition("-")[2]))
    _with_other_uids(files[1])
    (tmp_path / "s").mkdir()
    for counts, expected in (((12, 0), [12]), ((0, 16), [12, 16]), ((20, 0), [16, 20]), ((20, 20), [20, 20])):
        shutil.rmtree(tmp_path / "s")
        (tmp_path / "s").mkdir()
        for number, count in enumerate(counts):
            for file in files[number][:count]:
                shutil.copy(file, tmp_path / "s" / f"{number}-{file.name}")
        cohort = medray.ingest(tmp_path / "s", tmp_path / "c")
        assert sorted(row.instances for row in cohort.rows) == expected


def test_a_stack_that_grows_is_one_though_its_slices_lie_a_hair_apart(local_ray, tmp_path):
    volume, _ = seen()
    write_dicom(tmp_path / "all", volume, "p")
    files = sorted((tmp_path / "all").iterdir(), key=lambda file: file.name.partition("-")[2])
    for number, file in enumerate(files):
        angle = 0.1234 if number < 6 else 0.1236
        _turn(file, [np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0])
    (tmp_path / "s").mkdir()
    for count in (8, len(files)):
        for file in files[:count]:
            shutil.copy(file, tmp_path / "s")
        assert [row.instances for row in medray.ingest(tmp_path / "s", tmp_path / "c").rows] == [count]
    before = len(reads())
    assert len(medray.ingest(tmp_path / "s", tmp_path / "c").rows) == 1
    assert len(reads()) == before


def _turn(file, cosines):
    import pydicom

    item = pydicom.dcmread(file)
    item.ImageOrientationPatient = [f"{value:.10f}" for value in cosines]
    item.save_as(file)


def _with_other_uids(files):
    import pydicom
    from pydicom.uid import generate_uid

    for file in files:
        item = pydicom.dcmread(file)
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[item.SOPInstanceUID])
        item.save_as(file)


def test_sites_may_use_the_same_names(local_ray, tmp_path):
    write_phantoms(tmp_path / "a", subjects=3)
    write_phantoms(tmp_path / "b", subjects=3)
    volume, mask = phantom(np.random.default_rng(77), grid(next(iter(orientations())), (2.0, 2.0, 2.5)))
    from medray.formats.nifti import write_nifti

    (tmp_path / "b" / "sub-00" / "sub-00_T1w.nii.gz").write_bytes(write_nifti(volume))
    (tmp_path / "b" / "sub-00" / "sub-00_dseg.nii.gz").write_bytes(write_nifti(volume.with_voxels(mask[None])))
    medray.ingest(tmp_path / "a", tmp_path / "c", site="a")
    with pytest.raises(InputError, match="--site"):
        medray.ingest(tmp_path / "b", tmp_path / "c", site="a")
    assert medray.ingest(tmp_path / "b", tmp_path / "c", site="b").index.counts["subjects"] == 6
