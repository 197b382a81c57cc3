"""Commands that make models and ask them: fit, tune, evaluate, predict, serve."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medray import config
from medray.cli.output import Json, error_console, progress, show

if TYPE_CHECKING:
    from medray.registry.about import About
    from medray.training.config import FitConfig

__all__ = ["Model", "evaluate", "fit", "fit_config", "predict", "serve", "tune"]

Model = Annotated[str, typer.Argument(help="name, name@alias or name/version.")]
Baseline = Annotated[
    str, typer.Option(help="A cohort, most often the one that was prepared: what drift of the new version will be told by.")
]
CardFile = Annotated[
    Path | None, typer.Option("--card", help="A .toml: intended_use, population, limitations, licence, contact.")
]


def fit(
    prepared: Annotated[str, typer.Argument(help="From medray prepare.")],
    name: Annotated[str, typer.Option(help="What is trained; the registered model's name.")],
    config_file: Annotated[Path | None, typer.Option("--config", help="A .toml of FitConfig fields.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the file.")] = None,
    workers: Annotated[str, typer.Option(help="Processes that share each step; 1-4: as many as there are.")] = "1",
    start: Annotated[str, typer.Option(help="A registered version whose weights to begin with.")] = "",
    card_file: CardFile = None,
    baseline: Baseline = "",
    as_json: Json = False,
) -> None:
    """Train, and register the best epoch as the model's next version; resumes what was killed."""
    from medray.preprocessing.prepared import open_prepared
    from medray.registry.card import card_from_run
    from medray.registry.registry import Registry
    from medray.training.trainer import fit as run

    chosen = fit_config(config_file, changes)
    opened, store = open_prepared(prepared), Registry()
    before = store.resolve(start) if start else None
    with progress() as on_progress, store.tracking(name) as tracking:

        def on_epoch(record: Any) -> None:
            tracking.epoch(record)
            on_progress("epochs", record["epoch"] + 1, chosen.epochs, _pace(record))

        begin = store.fetch(before) if before else None
        done = run(opened, chosen, name=name, workers=_workers(workers), start=begin, on_epoch=on_epoch)
        tracking.pictures(done.folder.join("pictures"))
        card = card_from_run(done, about=_about(card_file), plan=opened.plan, start=str(before or ""))
        version = store.register(card, done.model, tracking=tracking)
        _keep_baseline(str(version), baseline, on_progress)
    facts = {"model": str(version), "run": done.folder.path, "best_epoch": done.record["best_epoch"]}
    show({**facts, "scores": done.record["scores"], "seconds": done.record["seconds"]}, as_json=as_json)


def fit_config(file: Path | None, changes: list[str] | None) -> FitConfig:
    """Read a file of FitConfig fields and what is set over it."""
    from medray.training.config import FitConfig

    settings = config.merged(config.read_file(file) if file else {}, config.overrides(changes or ()))
    return config.load(FitConfig, settings, what=str(file or "--set"))


def _about(file: Path | None) -> About:
    """Read what a person says of a model."""
    from medray.registry.about import About

    return config.load_file(About, file, option="--card")


def _keep_baseline(version: str, cohort: str, on_progress: Any) -> None:
    """Keep what a new version's drift will be told by, where a cohort is named."""
    from medray.cohort.cohort import open_cohort
    from medray.inference.reference import keep_baseline

    if cohort:
        keep_baseline(version, open_cohort(cohort), on_progress=on_progress)


def _pace(record: Any) -> str:
    """Say how an epoch went, beside the bar."""
    return (
        f"{record['samples_per_second']:.1f} patches/s, waiting {record['wait_share']:.1%}, "
        f"loss {record['loss']:.3f}, score {record['score']:.3f}"
    )


def _workers(text: str) -> int | tuple[int, int]:
    """Parse ``4`` or ``1-4``."""
    from medray.errors import ConfigError

    fewest, dash, most = text.partition("-")
    if not fewest.isdigit() or not (most.isdigit() if dash else True):
        raise ConfigError(f"--workers {text}: give a number, or the fewest and the most as in 1-4")
    return (int(fewest), int(most)) if dash else int(fewest)


def tune(
    prepared: Annotated[str, typer.Argument(help="From medray prepare.")],
    name: Annotated[str, typer.Option(help="What is searched for; the registered model's name.")],
    space_file: Annotated[Path, typer.Option("--space", help="A .toml: which fields of fit and plan may vary, how far.")],
    trials: Annotated[int, typer.Option(help="How many points of the space.")] = 20,
    method: Annotated[str, typer.Option(help="asha or population.")] = "asha",
    config_file: Annotated[Path | None, typer.Option("--config", help="A .toml of FitConfig fields that don't vary.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the file.")] = None,
    card_file: CardFile = None,
    baseline: Baseline = "",
    as_json: Json = False,
) -> None:
    """Search plan and fit fields, and register the best trial as the model's next version; resumes what was killed."""
    from medray.preprocessing.prepared import open_prepared
    from medray.registry.card import card_from_run
    from medray.registry.registry import Registry
    from medray.training.space import read_space
    from medray.training.tune import tune as run

    chosen = fit_config(config_file, changes)
    space = read_space(config.read_file(space_file), what=str(space_file))
    opened, epochs = open_prepared(prepared), {"done": 0}
    with progress() as on_progress:

        def on_trial(record: Any) -> None:
            epochs["done"] += 1
            on_progress("trials' epochs", epochs["done"], trials * chosen.epochs)

        done = run(opened, space, chosen, name=name, trials=trials, method=method, on_trial=on_trial)
        version = Registry().register(card_from_run(done, about=_about(card_file), plan=done.plan), done.model)
        _keep_baseline(str(version), baseline, on_progress)
    facts = {"model": str(version), "run": done.folder.path, "chosen": done.record["chosen"], "scores": done.record["scores"]}
    show({**facts, "trials": len(done.record["trials"]), "failed": done.record["failed"]}, as_json=as_json)


def evaluate(
    model: Model,
    root: Annotated[str, typer.Argument(help="A cohort with label maps.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[str, typer.Option("-o", "--out", help="A folder for report.html, cases.csv and evaluation.json.")] = "",
    as_json: Json = False,
) -> None:
    """Score a model on a cohort's held-out subjects."""
    from medray.cohort.cohort import open_cohort
    from medray.cohort.splits import SPLITS
    from medray.errors import ConfigError
    from medray.inference.evaluate import evaluate as run

    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is unknown: use one of {', '.join(SPLITS)}")
    cohort = open_cohort(root)
    with progress() as on_progress:
        found = run(model, cohort, split=split, on_progress=on_progress)
    plain = found.plain()
    facts = {"model": model, "split": split, **plain["overall"]}
    if out:
        from medray.inference.predictor import Predictor
        from medray.inference.report import write_evaluation
        from medray.registry.registry import Registry
        from medray.storage.location import locate

        predictor = Predictor.load(Registry().fetch(model))
        write_evaluation(locate(out), f"{model}, {split} subjects", found, predictor, cohort)
        facts["report"] = f"{out.rstrip('/')}/report.html"
    show(facts | ({"groups": plain["groups"], "by_case": plain["cases"]} if as_json else {}), as_json=as_json)


def predict(
    model: Model,
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="NIfTI, NRRD, MetaImage or DICOM file, zip or folder of DICOM.")
    ],
    output: Annotated[str, typer.Argument(help="The file to write: a path or a URI.")],
    form: Annotated[str, typer.Option("--format", help="nifti, nrrd, json, dicom-seg or dicom-sr.")] = "nifti",
    everything: Annotated[
        bool, typer.Option("--all", help="On every image below INPUT: a cohort, folder or bucket; OUTPUT is a folder.")
    ] = False,
    runtime: Annotated[str, typer.Option(help="What runs the network: torch or, on CPUs, openvino.")] = "torch",
    mixed: Annotated[bool, typer.Option("--mixed", help="In bfloat16: faster, and a few voxels may differ.")] = False,
    records: Annotated[str, typer.Option(help="Where predictions are recorded; below MEDRAY_HOME by default.")] = "",
    as_json: Json = False,
) -> None:
    """Segment, diagnose or detect on one image or, with --all, on many; a run that was killed goes on where it was."""
    from medray.models.runtime import Runtime

    by = config.load(Runtime, {"name": runtime, "mixed": mixed}, what="runtime")
    if everything:
        from medray.inference.batch import predict_all

        with progress() as on_progress:
            how: dict[str, Any] = {"form": form, "runtime": by, "records": records}
            batch = predict_all(model, source, output, **how, on_progress=on_progress)
        facts = {"output": output, "model": batch.model, "predicted": batch.predicted, "resumed": batch.resumed}
        show({**facts, "failed": dict(batch.failed)}, as_json=as_json)
        return
    from medray.inference.predict import predict as run

    found = run(model, source, output, form=form, runtime=by, records=records)  # type: ignore[arg-type]
    show({"output": output, **found.plain(), "seconds": found.latencies}, as_json=as_json)


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(help="name, name@alias or name/version, kept loaded; without any: the whole registry.")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the HTTP endpoint.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    insecure: Annotated[bool, typer.Option("--insecure", help="Ask nobody who they are; on loopback only.")] = False,
    token_for: Annotated[
        str | None, typer.Option("--make-token", metavar="NAME", help="Print a token for somebody, and serve nothing.")
    ] = None,
    role: Annotated[str, typer.Option(help="Of the token: viewer, annotator, reviewer, operator or admin.")] = "viewer",
    hours: Annotated[float, typer.Option(help="After which the token is void.")] = 12,
    config_file: Annotated[Path | None, typer.Option("--config", help="A .toml of ServeConfig fields.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the file.")] = None,
) -> None:
    """Serve models over HTTP until interrupted."""
    if token_for is not None:
        from medray.serving.auth import make_token

        print(make_token(token_for, role, hours=hours))  # noqa: T201 - for a shell's variable
        return
    from medray.serving.app import deploy

    chosen = config.merged(config.read_file(config_file) if config_file else {}, config.overrides(settings or ()))
    endpoint = deploy(models or [], port=port, host=host, insecure=insecure, **chosen)
    what = ", ".join(models) if models else "every registered model"
    error_console.print(f"serving {what} at {endpoint.url}/v1/segment/… (docs at {endpoint.url}/docs); Ctrl-C stops")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    endpoint.stop()
