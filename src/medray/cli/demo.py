"""``medray demo``: the whole loop on a sample cohort, composed of public functions only, with a report to look at."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from medray.cli.output import error_console, progress
from medray.errors import ConfigError, MedrayError

if TYPE_CHECKING:
    from medray.cohort.cohort import Cohort
    from medray.cohort.manifest import SeriesRow
    from medray.inference.evaluate import Evaluation
    from medray.training.run import Run

__all__ = ["demo"]

DEMO_KEY = "6d65647261792d64656d6f2d6b65792d6e6f742d612d7365637265742d212121"
"""Not a secret: the samples are nobody's, and a fixed key makes the demo's splits the same everywhere."""
MODEL = "brain"
PORT = 8765


@dataclass(slots=True)
class Story:
    """What happened, for the table and the report.

    Attributes:
        folder: The demo's folder.
        seconds: Stage to wall time.
        facts: Other things worth telling.
    """

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def demo(
    out: Annotated[Path, typer.Option(help="The demo's folder; an old demo there is replaced.")] = Path("demo"),
    subjects: Annotated[int, typer.Option(help="How many simulated people.")] = 16,
    epochs: Annotated[int, typer.Option(help="Of training.")] = 8,
    steps: Annotated[int, typer.Option(help="Optimizer steps an epoch.")] = 80,
    port: Annotated[int, typer.Option(help="Of the HTTP endpoint.")] = PORT,
) -> None:
    """Run the whole loop on simulated brains, about four minutes on two cores, and write report.html."""
    story = Story(_fresh(out))
    os.environ["MEDRAY_HOME"] = str(story.folder / "home")
    os.environ["MEDRAY_KEY"] = DEMO_KEY
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):  # a demo touches no registry or cluster but its own
        os.environ.pop(name, None)
    with progress() as bars:
        cohort = _data(story, subjects, bars)
        run, evaluation, rows = _model(story, cohort, {"epochs": epochs, "steps": steps}, bars)
        _serve(story, rows[0], port)
        from medray.cli.report import write_report

        with story.stage("report"):
            write_report(story.folder / "report.html", cohort, run, evaluation, rows, story)
    _table(story, evaluation)


def _fresh(out: Path) -> Path:
    """Empty the folder if it is an old demo's."""
    folder = out.absolute()
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: give a folder with --out")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / ".medray-demo").exists():
            raise ConfigError(f"{folder} holds something else: give an empty folder with --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".medray-demo").touch()
    return folder


def _data(story: Story, subjects: int, bars: Any) -> Cohort:
    import medray
    from medray.engine import join_ray, stream
    from medray.samples.brain import write_brain_cohort

    source = story.folder / "source"
    done = itertools.count(1)
    with story.stage("start Ray"):
        join_ray()
    with story.stage("samples"):
        write_brain_cohort(
            source,
            subjects=subjects,
            over=lambda function, numbers: stream(numbers, function),
            on_scan=lambda name: bars("samples", next(done), subjects),
        )
        (source / "notes.dcm").write_text("a text file with an image's name", encoding="utf-8")
    with story.stage("ingest"):
        cohort = medray.ingest(source, story.folder / "cohort", on_progress=bars)
    story.facts["cohort"] = {"id": cohort.index.id, **cohort.index.counts}
    return cohort


def _model(story: Story, cohort: Cohort, length: dict[str, Any], bars: Any) -> tuple[Run, Evaluation, list[SeriesRow]]:
    import medray
    from medray.inference.evaluate import held_out, score_cases
    from medray.registry.card import card_from_run

    with story.stage("plan + prepare"):
        plan = medray.plan(cohort)
        prepared = medray.prepare(cohort, plan, story.folder / "prepared", on_progress=bars)
    with story.stage("fit"):
        run = medray.fit(
            prepared,
            medray.FitConfig(**length),
            name=MODEL,
            on_epoch=lambda record: bars("epochs", record["epoch"] + 1, length["epochs"]),
        )
    with story.stage("evaluate"):
        rows = held_out(cohort, plan, "test")
        evaluation = score_cases(medray.Predictor.load(Path(run.model.path)), cohort, rows, bars)
    with story.stage("register"):
        registry = medray.Registry()
        version = registry.register(card_from_run(run, plan=plan, test=evaluation.scores), run.model)
        registry.promote(str(version))
    story.facts["model"] = f"{version} @champion"
    return run, evaluation, rows


def _serve(story: Story, row: SeriesRow, port: int) -> None:
    """Send a held-out image over HTTP, and compare with what the Python path writes."""
    import medray

    source = _source_of(story.folder / "source", row)
    body = source.read_bytes() if source.is_file() else _zipped(source)
    with story.stage("serve"):
        endpoint = medray.deploy([f"{MODEL}@champion"], port=port, cpus=2)
    with story.stage("predict over HTTP"):
        mask = _post(f"{endpoint.url}/v1/segment/{MODEL}@champion", body, "application/x-nifti")
        answer = json.loads(_post(f"{endpoint.url}/v1/segment/{MODEL}@champion", body, "application/json"))
    with story.stage("predict in Python"):
        medray.predict(f"{MODEL}@champion", source, story.folder / "python.nii.gz")
    (story.folder / "http.nii.gz").write_bytes(mask)
    if mask != (story.folder / "python.nii.gz").read_bytes():
        raise MedrayError("the mask over HTTP differs from the one that medray predict wrote: this is a bug, please report it")
    story.facts["http"] = {"volumes_ml": answer["volumes_ml"], "latencies": answer["latencies"], "sent": source.name}


def _source_of(source: Path, row: SeriesRow) -> Path:
    """Find the files behind a pseudonym: the demo holds the key."""
    from medray.privacy.profile import parse_profile
    from medray.privacy.pseudonym import naming

    names = naming(parse_profile("basic"))
    folder = next(place for place in sorted(source.glob("sub-*")) if names.name("subject", place.name) == row.subject)
    images = sorted(folder.rglob("*_T1w.nii.gz"))
    return images[0] if images else next(iter(sorted(folder.rglob("dicom"))))


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return buffer.getvalue()


def _post(url: str, body: bytes, accept: str) -> bytes:
    from medray.serving.auth import make_token

    headers = {"Accept": accept, "Authorization": f"Bearer {make_token('demo', 'annotator')}"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - our own endpoint
    with urllib.request.urlopen(request, timeout=120) as reply:  # noqa: S310
        return bytes(reply.read())


def _table(story: Story, evaluation: Evaluation) -> None:
    table = Table(title="medray demo: real anatomy, simulated variation", title_justify="left")
    table.add_column("what")
    table.add_column("result", justify="right")
    for label, score in evaluation.scores.items():
        low, high = evaluation.overall.intervals[label][evaluation.measure]
        table.add_row(f"Dice, {label}, held out", f"{score:.3f} [{low:.3f}, {high:.3f}]")
    for label, volume in story.facts["http"]["volumes_ml"].items():
        table.add_row(f"volume over HTTP, {label}", f"{volume:.1f} ml")
    table.add_row("HTTP mask = Python mask", "yes, byte for byte")
    for stage, seconds in story.seconds.items():
        table.add_row(stage, f"{seconds:.1f} s")
    table.add_row("total", f"{sum(story.seconds.values()):.1f} s", style="bold")
    error_console.print(table)
    error_console.print(f"report: {story.folder / 'report.html'}")
