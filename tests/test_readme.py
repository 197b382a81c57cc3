"""Every block of the README runs, on phantoms under the names that it uses."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from medray.config import load
from medray.serving.app import ServeConfig
from medray.synthesis.gate import Gate
from medray.training.space import read_space
from tests.jobs.test_submit import ray_head
from tests.phantoms import SMALL_PLAN, write_phantoms
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
SET = (
    "--set patch=[16,16,16] --set network.features=[8,16] --set val=0.2 --set test=0.2"  # phantoms are small: so is the network
)

KEY = "printf '%064d' 7"  # who of nine people trains hangs on the key: always the same ones do here


def blocks(heading, language):
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def shell(script, folder, timeout=180, **more):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MEDRAY_HOME": str(folder / "home"), **more}
    environment.pop("MEDRAY_KEY", None) if "MEDRAY_KEY_FILE" in script else None
    command = ["bash", "-euo", "pipefail", "-c", script]
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True)
        try:
            code = process.wait(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, f"{(folder / 'out').read_text()[-2000:]}\n{(folder / 'err').read_text()[-3000:]}"
    return (folder / "out").read_text()


def test_serve_toml():
    [served] = blocks("Over HTTP", "toml")
    assert load(ServeConfig, tomllib.loads(served), what="the README's serve.toml").rules[0].model == "brain"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    write_phantoms(place / "scans", subjects=9)
    return place


@pytest.mark.ray
@pytest.mark.timeout(420)  # twelve commands, each of which starts a Ray of its own
def test_command_line(folder):
    [commands] = blocks("On the command line", "sh")
    script = commands.replace("medray plan cohort -o plan.json", f"medray plan cohort -o plan.json {SET}")
    script = script.replace("openssl rand -hex 32", KEY)
    shell(script, folder, timeout=400)
    assert (folder / "mask.nii.gz").stat().st_size > 0
    (folder / "mask.nii.gz").rename(folder / "python.nii.gz")


def test_in_use(folder):
    """Needs the cohort and the model of `test_command_line`."""
    [commands] = blocks("In use", "sh")
    shell("export MEDRAY_KEY_FILE=medray.key\n" + commands, folder, timeout=240)
    assert "Intended use" in (folder / "card.html").read_text()
    shown = shell("medray models list --json", folder)
    assert '"brain-copy/1", "aliases": ["champion"]' in shown


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_synthetic_images(folder):
    """Needs the cohort of `test_command_line`. The gate asks for little: what four steps draw is noise."""
    [commands] = blocks("Synthetic images", "sh")
    commands = re.sub(r"(medray plan .*\.json)", rf"\1 {SET}", commands)
    (folder / "gate.toml").write_text("mean_off = 9\ntexture_off = 9\ndiscrepancy = 9\ncopies = 1.0\n")
    out = shell("export MEDRAY_KEY_FILE=medray.key\n" + commands, folder, timeout=400)
    assert re.search(r"passed\W+True", out, re.IGNORECASE)
    assert (folder / "with" / "prepared.json").exists()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_labels_by_experts(folder):
    """Needs the cohort and the model of `test_command_line`."""
    [commands] = blocks("Labels by experts", "sh")
    for theirs, ours in (("grey-matter", "ball"), ("white-matter", "core"), (" --label lesion", "")):
        commands = commands.replace(theirs, ours)
    out = shell("export MEDRAY_KEY_FILE=medray.key\n" + commands, folder, timeout=280)
    assert "agreement.html" in {file.name for file in (folder / "agreement").iterdir()}
    assert re.search(r"made\s+6", out)


def test_the_gate_asks_what_it_asks_by_default():
    [asked] = blocks("Synthetic images", "toml")
    assert load(Gate, tomllib.loads(asked), what="the README's gate") == Gate()


@pytest.mark.ray
def test_http_answers_what_the_command_line_wrote(folder):
    """Needs the model that `test_command_line` has trained."""
    [http] = blocks("Over HTTP", "sh")
    port = free_port()
    out = shell(http.replace("8000", str(port)) + "\nkill %1; wait %1 || true", folder)
    assert '"volumes_ml"' in out
    assert (folder / "mask.nii.gz").read_bytes() == (folder / "python.nii.gz").read_bytes()


@pytest.mark.ray
def test_python(folder, tmp_path):
    [code] = blocks("In Python", "python")
    shutil.copytree(folder / "scans", tmp_path / "scans")
    code = code.replace('changes={"batch": 2}', f"changes={SMALL_PLAN!r}")
    (tmp_path / "example.py").write_text(code)
    shell(f"{sys.executable} example.py", tmp_path)
    assert (tmp_path / "mask.nii.gz").exists()


def test_the_search_space_is_one():
    [space] = blocks("Tasks", "toml")
    assert set(read_space(tomllib.loads(space)).ranges) == {
        "fit.learning_rate",
        "plan.foreground_share",
        "plan.network.features",
    }


@pytest.mark.ray
def test_job(folder, tmp_path):
    [command] = blocks("As jobs on a cluster", "sh")
    shutil.copytree(folder / "scans", tmp_path / "scans")
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    environment = '{"env_vars": {"MEDRAY_KEY": "' + "ab" * 32 + '"}}'
    with ray_head() as url:
        script = command.replace("--working-dir", f"--runtime-env-json '{environment}' --working-dir").replace(
            "-- python", f"-- {sys.executable}"
        )
        assert '"series": 9' in shell(script, tmp_path, RAY_DASHBOARD=url)


def test_the_commands_at_the_top_are_make_s():
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{name}:" in makefile


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)h#][^)]*)\)", README):
        assert (ROOT / target).exists(), target
