import json
import subprocess
import sys

import pytest

SCRIPT = """
from medray.cli.job import run_job
def step(source: str, count: int = 1) -> dict:
    "Count."
    return {"source": source, "count": count}
run_job(step)
"""


def run(tmp_path, *words):
    (tmp_path / "job.py").write_text(SCRIPT)
    return subprocess.run([sys.executable, "job.py", *words], cwd=tmp_path, capture_output=True, text=True, check=False)


def test_file_and_words_make_one_report(tmp_path):
    (tmp_path / "c.toml").write_text('source = "a"\ncount = 2')
    report = json.loads(run(tmp_path, "--config", "c.toml", "count=3").stdout.splitlines()[-1])
    assert (report["source"], report["count"]) == ("a", 3)
    assert report["seconds"] >= 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sauce=a"], "unknown key 'sauce'"),
        ([], "key 'source': Missing required argument"),
        (["source=a", "count=two"], "key 'count'"),
    ],
)
def test_wrong_keys_exit_with_2_and_one_line(tmp_path, words, message):
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
