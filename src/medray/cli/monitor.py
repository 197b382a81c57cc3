"""Commands about models in use: what they predicted, whether that drifts, and one prediction once more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from medray import config
from medray.cli.models import Model
from medray.cli.output import Json, progress, show
from medray.errors import ConfigError

__all__ = ["monitor_app"]

monitor_app = typer.Typer(help="Watch models in use: records, drift, replays.", no_args_is_help=True)

Records = Annotated[str, typer.Option(help="Where predictions are recorded; below MEDRAY_HOME by default.")]
ALARM = 1


@monitor_app.command("baseline")
def baseline(
    model: Model,
    cohort: Annotated[str, typer.Option(help="A cohort whose images are as they should be.")] = "",
    since: Annotated[str, typer.Option(help="Or recorded predictions from this day on, as 2026-11-01 …")] = "",
    until: Annotated[str, typer.Option(help="… to before this day.")] = "",
    records: Records = "",
    why: Annotated[str, typer.Option(help="For the audit trail.")] = "",
    as_json: Json = False,
) -> None:
    """Keep what a model's drift is told by: images of a cohort, or predictions of a time when all was well."""
    from medray.cohort.cohort import open_cohort
    from medray.inference.reference import keep_baseline, keep_past
    from medray.monitoring.records import records_root
    from medray.registry.registry import Registry

    if bool(cohort) == bool(since and until):
        raise ConfigError("say what is as it should be: --cohort ROOT, or --since DAY --until DAY")
    version = str(Registry().resolve(model))
    if cohort:
        with progress() as on_progress:
            studies = keep_baseline(version, open_cohort(cohort), why=why, on_progress=on_progress)
    else:
        studies = keep_past(version, records_root(records), _day(since), _day(until), why=why)
    show({"model": version, "studies": studies}, as_json=as_json)


@monitor_app.command("check")
def check(
    model: Model,
    records: Records = "",
    watch_file: Annotated[Path | None, typer.Option("--watch", help="A .toml of Watch fields: window, rate, groups …")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 on an alarm.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether a model's last predictions are of another kind than its reference, and of what kind."""
    from medray.inference.check import check as run
    from medray.monitoring.alarm import Watch
    from medray.monitoring.records import records_root

    watch = config.load_file(Watch, watch_file, option="--watch")
    found = run(model, records_root(records), watch)
    show(found.plain(), as_json=as_json)
    if fail and found.outlook.alarm:
        raise typer.Exit(ALARM)


@monitor_app.command("quality")
def quality(
    model: Model,
    cohort: Annotated[str, typer.Argument(help="A later version of the cohort that the model was trained on.")],
    project: Annotated[str, typer.Option(help="Take in an annotation project's approved labels first.")] = "",
    rate: Annotated[float, typer.Option(help="Of false alarms.")] = 0.01,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 on an alarm.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether a model is worse on images with new labels than on those that it was tested on."""
    from medray.annotation.export import export_labels
    from medray.cohort.cohort import open_cohort
    from medray.inference.quality import quality as run
    from medray.storage.location import locate

    opened = export_labels(locate(cohort), project=project, which="approved") if project else open_cohort(cohort)
    with progress() as on_progress:
        found = run(model, opened, rate=rate, on_progress=on_progress)
    show(found.plain(), as_json=as_json)
    if fail and found.alarm:
        raise typer.Exit(ALARM)


@monitor_app.command("report")
def report(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    out: Annotated[str, typer.Option("-o", "--out", help="The page to write: a path or a URI.")],
    days: Annotated[int, typer.Option(min=1, help="How many days back.")] = 30,
    records: Records = "",
    as_json: Json = False,
) -> None:
    """Write how a model is used as one HTML page: traffic, time, drift, versions side by side, groups, quality."""
    from medray.errors import NotFoundError
    from medray.inference.check import check as run
    from medray.inference.use_page import use_page
    from medray.monitoring.alarm import Watch
    from medray.monitoring.records import read_records, records_root
    from medray.registry.registry import Registry
    from medray.storage.location import locate

    store, root = Registry(), records_root(records)
    found = read_records(root, name, since=datetime.now(UTC) - timedelta(days=days))
    try:
        checked = run(name, root, Watch(), registry=store)
    except NotFoundError:
        checked = None
    evaluations = {str(version): store.beside(version).evaluations() for version in store.versions(name)}
    locate(out).write(use_page(name, found, checked, evaluations).encode())
    show({"model": name, "predictions": len(found), "page": out}, as_json=as_json)


@monitor_app.command("compare")
def compare(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    days: Annotated[int, typer.Option(min=1, help="How many days back.")] = 30,
    records: Records = "",
    as_json: Json = False,
) -> None:
    """Show versions side by side, by what their predictions left: failures, time, agreement, medians."""
    from dataclasses import asdict

    from medray.monitoring.arms import arms_of
    from medray.monitoring.records import read_records, records_root

    found = read_records(records_root(records), name, since=datetime.now(UTC) - timedelta(days=days))
    show({"model": name, "arms": [asdict(arm) for arm in arms_of(found)]}, as_json=as_json)


@monitor_app.command("list")
def list_records(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    last: Annotated[int, typer.Option(help="How many.")] = 20,
    records: Records = "",
    as_json: Json = False,
) -> None:
    """List a model's last predictions."""
    from medray.monitoring.records import last_records, records_root

    found = last_records(records_root(records), name, last)
    rows = [
        {
            "prediction": one.id,
            "at": one.at.isoformat(timespec="seconds"),
            "model": f"{one.model}/{one.version}",
            "role": one.role,
            "status": one.status,
            "ms": round(one.total_ms, 1),
        }
        for one in found
    ]
    show({"predictions": rows}, as_json=as_json)


@monitor_app.command("replay")
def replay(
    prediction: Annotated[str, typer.Argument(help="Its id, from X-Medray-Prediction or medray monitor list.")],
    source: Annotated[str, typer.Option("--input", help="The image as it was sent, where the request carried it.")] = "",
    cohort: Annotated[str, typer.Option(help="For an image of a cohort.")] = "",
    records: Records = "",
    as_json: Json = False,
) -> None:
    """Make a recorded prediction once more on the CPU, and say whether it is the same to the last bit."""
    from medray.inference.replay import replay as run
    from medray.monitoring.records import records_root

    found = run(prediction, records_root(records), source=source, cohort=cohort)
    facts = {"prediction": prediction, "model": f"{found.record.model}/{found.record.version}", "same": found.same}
    facts |= {"then": dict(found.differs)} if found.differs else {}
    show({**facts, "recorded": found.record.output_sha256, "now": found.output_sha256}, as_json=as_json)


@monitor_app.command("purge")
def purge(
    days: Annotated[int, typer.Option(min=1, help="Records that are older are deleted.")],
    records: Records = "",
    as_json: Json = False,
) -> None:
    """Delete records that are older than retention allows, and join the many files of past days."""
    from medray.monitoring.records import join_days, purge_records, records_root

    root = records_root(records)
    gone = purge_records(root, (datetime.now(UTC) - timedelta(days=days)).date())
    show({"deleted_days": gone, "joined_days": join_days(root)}, as_json=as_json)


def _day(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise ConfigError(f"{text!r} is no day: write it as 2026-11-28") from None
