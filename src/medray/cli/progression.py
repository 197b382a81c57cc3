"""Commands about change over time: track."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from medray import config
from medray.cli.output import Json, progress, show
from medray.errors import InputError

__all__ = ["track"]

NO_MODEL = "-"


def track(
    model: Annotated[str, typer.Argument(help="name, name@alias or name/version of a segmentation; - where masks are given.")],
    scans: Annotated[
        list[str],
        typer.Argument(help="Two or more of one patient, in any order: files, zips or folders of DICOM; with --all a cohort."),
    ],
    output: Annotated[str, typer.Option("--out", "-o", help="The folder to write to: a path or a URI.")],
    days: Annotated[
        str, typer.Option(help="When each was made: days, counted from any, such as 0,180; by DICOM's StudyDate without.")
    ] = "",
    masks: Annotated[list[str] | None, typer.Option("--mask", help="A label map of each scan, in turn.")] = None,
    labels: Annotated[str, typer.Option(help="What masks' values mean, such as tissue=1,lesion=2.")] = "",
    lesions: Annotated[
        list[str] | None, typer.Option("--lesion", help="A label whose pieces are followed one by one; by names without.")
    ] = None,
    repeatability: Annotated[float, typer.Option(min=0, help="Coefficient of variation of volumes in repeated scans.")] = 0.0,
    warp: Annotated[bool, typer.Option("--warp", help="Bend scans, too, where an affine doesn't fit.")] = False,
    scale: Annotated[
        bool,
        typer.Option(help="Take scanners' scale out of structures' change; not where no skull holds it."),
    ] = True,
    one_patient: Annotated[
        bool, typer.Option("--one-patient", help="The scans are of one patient though they name several.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every patient of a cohort; goes on where an earlier run ended.")
    ] = False,
    apart: Annotated[float, typer.Option(min=0, help="With --all: days between studies of which no date is known.")] = 0.0,
    runtime: Annotated[str, typer.Option(help="What runs the network: torch or, on CPUs, openvino.")] = "torch",
    as_json: Json = False,
) -> None:
    """Align a patient's scans, follow lesions and structures, and write what changed, with a report."""
    from medray.models.runtime import Runtime
    from medray.progression.track import Scan
    from medray.progression.track import track as run

    by = config.load(Runtime, {"name": runtime}, what="runtime")
    how: dict[str, Any] = {
        "lesions": lesions or (),
        "repeatability": repeatability,
        "scale": scale,
        "warp": warp,
        "one_patient": one_patient,
    }
    said = "" if model == NO_MODEL else model
    if every:
        _every(said, scans, output, by, {**how, "apart_days": apart}, as_json=as_json)
        return
    when = _numbers(days)
    if (when and len(when) != len(scans)) or (masks and len(masks) != len(scans)):
        counts = f"{len(scans)} scans, {len(when)} days and {len(masks or ())} masks"
        raise InputError(f"days and masks go with scans one by one: these are {counts}")
    asked = [Scan(scan, when[number] if when else None, masks[number] if masks else None) for number, scan in enumerate(scans)]
    named = _labels(labels)
    history = run(said, asked, output, labels=named or None, runtime=by, **how)
    show({"output": output, **history.plain()}, as_json=as_json)


def _every(model: str, cohorts: list[str], output: str, by: Any, how: dict[str, Any], *, as_json: bool) -> None:
    from medray.progression.cohort import track_all

    if len(cohorts) != 1:
        raise InputError(f"--all takes one cohort; these are {len(cohorts)}")
    with progress() as update:
        done = track_all(model, cohorts[0], output, runtime=by, on_progress=update, **how)
    show({"output": output, **asdict(done)}, as_json=as_json)


def _numbers(words: str) -> list[float]:
    try:
        found = [float(word) for word in words.split(",") if word]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise InputError(f"days are numbers, such as 0,180; this is {words!r}")
    return found


def _labels(words: str) -> dict[str, int]:
    pairs = [word.partition("=") for word in words.split(",") if word]
    if not all(name and value.isdecimal() for name, _, value in pairs):
        raise InputError(f"labels are names with their values, such as tissue=1,lesion=2; this is {words!r}")
    return {name: int(value) for name, _, value in pairs}
