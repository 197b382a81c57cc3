"""Bad input through the command line: exit code 2, one clear line on stderr, no traceback."""

import json
import subprocess
import sys

import pytest

from medray import config
from medray.preprocessing.planning import plan


def medray(*words, **kw):
    return subprocess.run([sys.executable, "-m", "medray", *map(str, words)], capture_output=True, text=True, check=False, **kw)


def refused(done, *fragments):
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("medray: ")
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.fixture
def plan_file(tmp_path, phantom_cohort):
    settings = config.dump(plan(phantom_cohort))
    (tmp_path / "plan.json").write_text(json.dumps(settings | {"sharpness": 3}))
    return tmp_path / "plan.json"


def test_help_names_every_command():
    done = medray("--help")
    assert done.returncode == 0
    every = "demo samples ingest receive cohort plan prepare fit tune evaluate predict track synthesise gain serve models audit"
    for name in [*every.split(), "annotate"]:
        assert f" {name} " in done.stdout


def test_an_error_of_the_system_names_no_file(monkeypatch, capsys):
    import errno

    from medray.cli import main as entry

    def fail():
        raise PermissionError(errno.EACCES, "Permission denied", "/data/DOE^JOHN/1.dcm")

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(SystemExit) as caught:
        entry.main()
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert "permission denied" in told
    assert "DOE" not in told


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(medray("ingest", tmp_path / "empty", tmp_path / "c"), "no image among 0 files")


def test_a_missing_key(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDRAY_KEY")
    (tmp_path / "s").mkdir()
    refused(medray("ingest", tmp_path / "s", tmp_path / "c"), "MEDRAY_KEY", "openssl rand")


def test_an_unknown_key_in_a_plan(tmp_path, plan_file, phantom_cohort):
    refused(medray("prepare", phantom_cohort.root.path, plan_file, tmp_path / "p"), "unknown key 'sharpness'")


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["cohort", "show", "nowhere"], "no complete cohort"),
        (["plan", "nowhere"], "no complete cohort"),
        (["fit", "nowhere", "--name", "x"], "no prepared cohort"),
        (["fit", "nowhere", "--name", "x", "--set", "epoch=1"], "unknown key 'epoch'"),
        (["predict", "none", "a.nii", "b.nii"], "no model none"),
        (["predict", "none", "a.nii", "b.nii", "--runtime", "tensorrt"], "'torch' or 'openvino'"),
        (["evaluate", "none", "nowhere", "--split", "all"], "split 'all' is unknown"),
        (["models", "show", "Bad Name"], "must be name, name@alias or name/version"),
        (["serve", "none"], "no model none"),
        (["track", "none", "a.nii", "b.nii", "-o", "c", "--days", "0,x"], "days are numbers"),
        (["track", "-", "a.nii", "b.nii", "-o", "c", "--labels", "lesion"], "names with their values"),
        (["track", "-", "a.nii", "b.nii", "-o", "c"], "a model, or else a mask"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_things_that_aren_t_there(tmp_path, words, fragment):
    refused(medray(*words, cwd=tmp_path), fragment)


def test_a_plan_prints_one_json_object(tmp_path, phantom_cohort):
    done = medray("plan", phantom_cohort.root.path, "-o", tmp_path / "p.json", "--set", "batch=3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batch"] == 3
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(done.stdout)


def test_cohort_show_and_quarantine_read_well(phantom_cohort):
    assert "grey" not in medray("cohort", "show", phantom_cohort.root.path).stdout
    shown = json.loads(medray("cohort", "show", phantom_cohort.root.path, "--json").stdout)
    assert shown["id"] == phantom_cohort.index.id
    assert json.loads(medray("cohort", "quarantine", phantom_cohort.root.path, "--json").stdout) == {"quarantine": []}


def test_an_earlier_version_is_restored(phantom_source, tmp_path):
    from tests.phantoms import take_in_all, write_phantoms

    first = take_in_all(write_phantoms(tmp_path / "s", subjects=2), tmp_path / "c")
    take_in_all(write_phantoms(tmp_path / "s", subjects=3), tmp_path / "c")
    told = json.loads(medray("cohort", "restore", tmp_path / "c", first.index.id, "--json").stdout)
    assert (told["cohort"].partition("-")[0], told["series"]) == (first.index.id, 2)
    refused(medray("cohort", "restore", tmp_path / "c", "nonsense"), "no version nonsense")
    assert json.loads(medray("cohort", "verify", tmp_path / "c", "--json").stdout)["problems"] == []


def test_the_demo_never_empties_a_folder_that_isn_t_its_own(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    refused(medray("demo", "--out", tmp_path), "holds something else")
    assert (tmp_path / "thesis.txt").exists()
