"""Commands about data: ingest, cohort, plan, prepare, samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medray import config
from medray.cli.output import Json, progress, show
from medray.errors import ConfigError, InputError

__all__ = ["cohort_app", "ingest", "plan", "prepare", "samples"]

cohort_app = typer.Typer(help="Look at a cohort.", no_args_is_help=True)

Root = Annotated[str, typer.Argument(help="The cohort: a folder or a URI.")]


def ingest(
    source: Annotated[str, typer.Argument(help="A folder of NIfTI and DICOM files: a path or a URI.")],
    root: Root,
    profile: Annotated[
        str,
        typer.Option(
            help="basic: PS3.15's Basic Profile, needs MEDRAY_KEY; with options as in basic+dates+patient+device+institution"
            "+uids+descriptors; none: identifiers kept."
        ),
    ] = "basic",
    labels: Annotated[str, typer.Option(help="Glob of the names of label maps; BIDS's by default.")] = "",
    site: Annotated[str, typer.Option(help="Tells apart sources that use the same identifiers for different people.")] = "",
    as_json: Json = False,
) -> None:
    """Take scans into a cohort; what can't be read is quarantined with its reason."""
    from medray.ingestion.layouts import LABEL_FILES
    from medray.ingestion.pipeline import ingest as run

    with progress() as on_progress:
        cohort = run(source, root, profile=profile, labels=labels or LABEL_FILES, site=site, on_progress=on_progress)
    reasons: dict[str, int] = {}
    for row in cohort.quarantine:
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    show({"cohort": cohort.index.id, "root": root, **cohort.index.counts, "reasons": reasons}, as_json=as_json)
    if not cohort.rows:
        raise InputError(f"no series could be read from the source: medray cohort quarantine {root} tells why")


@cohort_app.command("show")
def show_cohort(root: Root, as_json: Json = False) -> None:
    """Show what a cohort holds."""
    from medray.cohort.cohort import open_cohort

    show(config.dump(open_cohort(root).index), as_json=as_json)


@cohort_app.command("verify")
def verify(
    root: Root,
    version: Annotated[str, typer.Option(help="A cohort id; the current one by default.")] = "",
    quick: Annotated[bool, typer.Option(help="Compare the store's checksums; read no voxels.")] = False,
    repair: Annotated[
        bool, typer.Option(help="Delete damaged shards: the next ingest of their sources makes them again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hash everything again and name what was damaged."""
    from medray.ingestion.verify import verify as run

    with progress() as on_progress:
        problems = run(root, version=version or None, quick=quick, repair=repair, on_progress=on_progress)
    show({"root": root, "problems": problems}, as_json=as_json)
    if problems:
        raise InputError(f"{len(problems)} problems; --repair and ingest the sources again: {problems[0]}")


@cohort_app.command("restore")
def restore(
    root: Root,
    version: Annotated[str, typer.Argument(help="A cohort id, as in versions/.")],
    as_json: Json = False,
) -> None:
    """Make an earlier version current again; nothing is deleted."""
    from medray.audit import Event, open_trail
    from medray.cohort.commit import restore_version
    from medray.storage.location import locate

    cohort = restore_version(locate(root), version)
    open_trail().record([Event("cohort.restore", cohort.index.id)])
    show({"cohort": cohort.index.id, "root": root, **cohort.index.counts}, as_json=as_json)


@cohort_app.command("erase")
def erase(
    subject: Annotated[str, typer.Argument(help="The patient's pseudonym, as medray cohort split lists it.")],
    roots: Annotated[list[str] | None, typer.Argument(metavar="[ROOT...]", help="Cohorts that they may be in.")] = None,
    patient: Annotated[
        bool, typer.Option("--patient", help="Ask for their own identifier, too: records know no --site of a cohort.")
    ] = False,
    records: Annotated[str, typer.Option(help="Where predictions are recorded; below MEDRAY_HOME by default.")] = "",
    why: Annotated[str, typer.Option(help="For the audit trail; nothing of the patient.")] = "",
    as_json: Json = False,
) -> None:
    """Erase a patient from cohorts, labels and records, for good, and name the models that saw them."""
    from dataclasses import asdict

    from medray.annotation.erase import erase_subject
    from medray.monitoring.records import records_root
    from medray.privacy.pseudonym import Pseudonyms
    from medray.storage.location import locate

    also = []
    if patient:  # never as an argument: shells remember those
        also = [Pseudonyms(config.read_key()).name("subject", typer.prompt("PatientID", hide_input=True))]
    found = erase_subject(subject, [locate(root) for root in roots or ()], records_root(records), also=also, why=why)
    show(asdict(found), as_json=as_json)


@cohort_app.command("split")
def split(root: Root, as_json: Json = False) -> None:
    """Show which subjects train, validate and test by default."""
    from medray.cohort.cohort import open_cohort
    from medray.cohort.splits import SPLITS, split_subjects

    splits = split_subjects(open_cohort(root).subjects)
    show({name: sorted(s for s, place in splits.items() if place == name) for name in SPLITS}, as_json=as_json)


@cohort_app.command("quarantine")
def quarantine(
    root: Root,
    source: Annotated[str, typer.Option(help="The folder that was ingested: names the files, for the key's holder.")] = "",
    site: Annotated[str, typer.Option(help="As it was given to medray ingest.")] = "",
    as_json: Json = False,
) -> None:
    """List what could not be taken in, and why."""
    from medray.cohort.cohort import open_cohort
    from medray.ingestion.pipeline import resolve_quarantine

    cohort = open_cohort(root)
    paths = resolve_quarantine(cohort, source, site=site) if source else {}
    rows = [
        {"source": paths.get(row.source, row.source), "reason": row.reason, "detail": row.detail} for row in cohort.quarantine
    ]
    show({"quarantine": rows}, as_json=as_json)


@cohort_app.command("pairs")
def pairs(
    root: Root,
    target: Annotated[str, typer.Argument(help="The new cohort: a folder or a URI.")],
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="A label that is followed; by default those called lesions, or all.")
    ] = None,
    apart: Annotated[float, typer.Option(min=0, help="Days between studies of which no date is known.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Make a cohort of a cohort's follow-ups, two scans a series, which a model of progression learns from."""
    from dataclasses import asdict

    from medray.progression.pairs import pair_up

    with progress() as update:
        done = pair_up(root, target, labels=labels or (), apart_days=apart, on_progress=update)
    show({"root": target, **asdict(done)}, as_json=as_json)


@cohort_app.command("identities")
def identities(
    root: Root,
    source: Annotated[str, typer.Argument(help="The folder that was ingested.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new file outside of the cohort; keep it safe.")],
    site: Annotated[str, typer.Option(help="As it was given to medray ingest.")] = "",
    as_json: Json = False,
) -> None:
    """Write who is behind the cohort's pseudonyms: encrypted, and only because you ask."""
    from medray.cohort.cohort import open_cohort
    from medray.ingestion.identities import write_identities

    found = write_identities(open_cohort(root), source, output, site=site)
    show({"file": str(output), "subjects": found}, as_json=as_json)


@cohort_app.command("reidentify")
def reidentify(
    file: Annotated[Path, typer.Argument(help="From medray cohort identities.")],
    pseudonym: Annotated[str, typer.Argument(help="Of a subject or a study.")],
    as_json: Json = False,
) -> None:
    """Say who a subject or a study is; needs the pseudonym key, and is recorded."""
    from dataclasses import asdict

    from medray.ingestion.identities import find_identity

    show({"identities": [asdict(identity) for identity in find_identity(file, pseudonym)]}, as_json=as_json)


def plan(
    root: Root,
    output: Annotated[str, typer.Option("-o", "--output", help="Where the plan goes.")] = "plan.json",
    task: Annotated[str, typer.Option(help="segmentation, diagnosis, detection, synthesis or progression.")] = "segmentation",
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value; dots nest.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="GB of each GPU that it will train on; 0: CPUs only.")] = None,
    as_json: Json = False,
) -> None:
    """Make a plan from a cohort's fingerprint and the memory at hand, each choice with its reason."""
    from medray.cohort.cohort import open_cohort
    from medray.preprocessing.budget import Memory, machine_memory
    from medray.preprocessing.planning import plan as make
    from medray.storage.location import locate

    memory = None
    if gpu_memory is not None:
        memory = Memory(gpu_memory, gpu=True) if gpu_memory > 0 else machine_memory()
    made = config.dump(make(open_cohort(root), task=task, changes=config.overrides(changes or ()), memory=memory))
    locate(output).write(json.dumps(made, indent=1).encode())
    show(made, as_json=as_json)


def prepare(
    root: Root,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="From medray plan.")],
    prepared: Annotated[str, typer.Argument(help="Where prepared cases go: a folder or a URI.")],
    synthetic: Annotated[str, typer.Option(help="A cohort from medray synthesise, to be trained on too.")] = "",
    as_json: Json = False,
) -> None:
    """Bring a cohort onto the plan's grid, ready for training."""
    from medray.cohort.cohort import open_cohort
    from medray.cohort.splits import SPLITS
    from medray.preprocessing.plan import read_plan
    from medray.preprocessing.prepare import prepare as run

    chosen = read_plan(config.read_file(plan_file), what=str(plan_file))
    with progress() as on_progress:
        beside = open_cohort(synthetic) if synthetic else None
        made = run(open_cohort(root), chosen, prepared, synthetic=beside, on_progress=on_progress)
    show({"prepared": prepared, **{name: len(made.of(name)) for name in SPLITS}}, as_json=as_json)


def samples(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    anatomy: Annotated[str, typer.Option(help="brain: tissues and lesions; head: with skull, in any contrast.")] = "brain",
    subjects: Annotated[int, typer.Option(help="How many people.")] = 16,
    followups: Annotated[int, typer.Option(help="Of brains: later scans of each.")] = 0,
    healthy: Annotated[float, typer.Option(help="Of brains: share of people without lesions.")] = 0.0,
    course: Annotated[
        list[str] | None, typer.Option(help="What lesions do, that people take in turn: mixed, grown, stable or shrunk.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 0,
    as_json: Json = False,
) -> None:
    """Write simulated scans from one real anatomy, with their truth."""
    if anatomy not in ("brain", "head"):
        raise ConfigError(f"--anatomy {anatomy}: brain or head")
    if anatomy == "head" and (followups or healthy or course):
        raise ConfigError("--followups, --healthy and --course are for brains: heads have no lesions")
    total = subjects * (followups + 1)
    with progress() as on_progress:
        done = 0

        def on_scan(name: str) -> None:
            nonlocal done
            done += 1
            on_progress("samples", done, total)

        if anatomy == "head":
            from medray.samples.head import write_head_cohort

            write_head_cohort(folder, subjects=subjects, seed=seed, on_scan=on_scan)
        else:
            from medray.samples.brain import Illness, write_brain_cohort

            illness = Illness(healthy, tuple(course or ("mixed",)))
            write_brain_cohort(folder, subjects=subjects, followups=followups, illness=illness, seed=seed, on_scan=on_scan)
    show({"folder": str(folder), "scans": total}, as_json=as_json)
