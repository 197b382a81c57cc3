"""Commands about labels by experts: projects, who labels what, consensus, and from and to cohorts."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from medray import config
from medray.cli.output import Json, error_console, progress, show

__all__ = ["annotate_app"]

annotate_app = typer.Typer(help="Labels by experts: projects, assignment, consensus, export.", no_args_is_help=True)

Root = Annotated[str, typer.Argument(help="The cohort: a folder or a URI.")]
Name = Annotated[str, typer.Argument(help="The project's name.")]


@annotate_app.callback()
def annotate() -> None:
    """Labels by experts."""


@annotate_app.command("create")
def create(
    root: Root,
    name: Name,
    label: Annotated[list[str], typer.Option(help="What may be said: a name or, of a finding with choices, name=a,b,c.")],
    kind: Annotated[str, typer.Option(help="segmentation, findings, boxes or points.")] = "segmentation",
    experts: Annotated[int, typer.Option(min=1, help="Who label each case.")] = 1,
    blinded: Annotated[bool, typer.Option("--blinded/--open", help="Whether others' labels are seen only afterwards.")] = True,
    agreement: Annotated[float, typer.Option(min=0, max=1, help="Below which a reviewer is to decide.")] = 0.0,
    method: Annotated[str, typer.Option(help="How masks become a consensus: staple or majority.")] = "staple",
    model: Annotated[str, typer.Option(help="Whose answers experts start from, such as lesions@champion.")] = "",
    guidelines: Annotated[Path | None, typer.Option(help="A text file for the experts to read.")] = None,
    as_json: Json = False,
) -> None:
    """Begin a project over a cohort's images."""
    from medray.annotation.projects import Project, Projects
    from medray.cohort.cohort import open_cohort
    from medray.storage.location import locate

    read = guidelines.read_text(encoding="utf-8") if guidelines else ""
    named = {word.partition("=")[0]: [choice for choice in word.partition("=")[2].split(",") if choice] for word in label}
    settings: dict[str, Any] = {
        "name": name, "kind": kind, "names": named, "experts": experts, "blinded": blinded, "agreement": agreement,
        "method": method, "model": model, "guidelines": read,
    }  # fmt: skip
    project = config.load(Project, settings, what="the project")
    if model:
        from medray.registry.registry import Registry

        Registry().resolve(model)
    made = Projects(open_cohort(locate(root)).root).create(project, getpass.getuser())
    show(config.dump(made), as_json=as_json)


@annotate_app.command("projects")
def projects(root: Root, as_json: Json = False) -> None:
    """List a cohort's projects."""
    from medray.annotation.projects import Projects
    from medray.storage.location import locate

    show({project.name: config.dump(project) for project in Projects(locate(root)).all()}, as_json=as_json)


@annotate_app.command("assign")
def assign(
    root: Root,
    name: Name,
    experts: Annotated[list[str], typer.Argument(help="The experts' names, as their tokens say them.")],
    queue: Annotated[str, typer.Option(help="From medray annotate queue: which cases, in this order.")] = "",
    first: Annotated[int, typer.Option(min=0, help="Only so many cases of the queue; 0 for all.")] = 0,
    as_json: Json = False,
) -> None:
    """Share cases out among experts; what is assigned already stays."""
    from medray.annotation.projects import Projects
    from medray.annotation.queue import read_queue
    from medray.storage.location import locate

    cases = read_queue(locate(queue))[: first or None] if queue else None
    new = Projects(locate(root)).assign(name, experts, getpass.getuser(), cases=cases)
    loads = {expert: sum(one.annotator == expert for one in new) for expert in experts}
    show({"project": name, "assigned": len(new), "experts": loads}, as_json=as_json)


@annotate_app.command("release")
def release(root: Root, name: Name, expert: Annotated[str, typer.Argument(help="Who leaves.")], as_json: Json = False) -> None:
    """Take those cases of an expert back that they haven't labelled; assign gives them to others."""
    from medray.annotation.projects import Projects
    from medray.annotation.store import LabelStore
    from medray.annotation.submission import released
    from medray.storage.location import locate

    place = locate(root)
    gone = released(Projects(place), LabelStore(place), name, expert, getpass.getuser())
    show({"project": name, "expert": expert, "released": gone}, as_json=as_json)


@annotate_app.command("status")
def status(root: Root, name: Name, as_json: Json = False) -> None:
    """Say how far each expert is and how far they agree."""
    from medray.annotation.cases import all_cases
    from medray.annotation.projects import Projects
    from medray.annotation.summary import summarise
    from medray.storage.location import locate

    place = locate(root)
    project = Projects(place).get(name)
    said = summarise(project, all_cases(place, project)).plain()
    show(said if as_json else {key: said[key] for key in ("project", "states", "agreement", "experts")}, as_json=as_json)


@annotate_app.command("consensus")
def consensus(
    root: Root,
    name: Name,
    output: Annotated[str, typer.Option("--out", "-o", help="Folder for a report of the agreement; none without.")] = "",
    as_json: Json = False,
) -> None:
    """Make the consensus of every case that has all of its labels, and say how far the experts agree."""
    from medray.annotation.conclusion import conclude_all
    from medray.annotation.report import write_agreement
    from medray.storage.location import locate

    with progress() as update:
        done = conclude_all(locate(root), name, getpass.getuser(), on_progress=update)
    if output:
        write_agreement(locate(root), name, locate(output))
    show({"project": name, **asdict(done), **({"report": output} if output else {})}, as_json=as_json)


@annotate_app.command("queue")
def queue(
    root: Root,
    models: Annotated[list[str], typer.Argument(help="One model, or several of the same targets for their disagreement.")],
    output: Annotated[str, typer.Option("--out", "-o", help="The queue's file; scores are kept beside it.")],
    by: Annotated[str, typer.Option(help="uncertainty, diversity or both.")] = "both",
    method: Annotated[str, typer.Option(help="What unsure means: entropy, or disagreement of several models.")] = "entropy",
    count: Annotated[int, typer.Option(min=1, help="How many cases.")] = 50,
    project: Annotated[str, typer.Option(help="Whose cases are left out that are assigned or labelled.")] = "",
    as_json: Json = False,
) -> None:
    """Choose which images to label next: those that would teach a model the most."""
    from medray.annotation.queue import write_queue

    how: dict[str, Any] = {"by": by, "method": method, "count": count, "project": project}
    with progress() as update:
        made = write_queue(models, root, output, **how, on_progress=update)
    show({"queue": output, **made}, as_json=as_json)


@annotate_app.command("results")
def results(
    root: Root,
    name: Name,
    which: Annotated[str, typer.Option(help="consensus, with reviewers' decisions, or approved.")] = "consensus",
    as_json: Json = False,
) -> None:
    """List what a project's experts found: of masks their versions, of all else what is said."""
    from medray.annotation.cases import all_cases
    from medray.annotation.export import results_of
    from medray.annotation.projects import Projects
    from medray.annotation.store import LabelStore
    from medray.storage.location import locate

    place = locate(root)
    project, store = Projects(place).get(name), LabelStore(place)
    found = results_of(store, project, all_cases(place, project), _which(which))
    drawn = project.kind == "segmentation"
    said = {series: {"version": one.number, **({} if drawn else {"says": one.said})} for series, one in found.items()}
    show({"project": name, "kind": project.kind, "results": said}, as_json=as_json)


@annotate_app.command("export")
def export(
    root: Root,
    project: Annotated[str, typer.Option(help="Whose labels count; those that are in none by default.")] = "",
    which: Annotated[str, typer.Option(help="Of a project: consensus, with reviewers' decisions, or approved.")] = "consensus",
    tag: Annotated[str, typer.Option(help="Outside of projects: which labels count.")] = "final",
    as_json: Json = False,
) -> None:
    """Make a version of the cohort with what experts made of its images."""
    from medray.annotation.export import export_labels
    from medray.storage.location import locate

    made = export_labels(locate(root), tag=tag, project=project, which=_which(which))
    show({"cohort": made.index.id, **made.index.counts}, as_json=as_json)


@annotate_app.command("import")
def import_(
    root: Root,
    source: Annotated[str, typer.Argument(help="Folder: BIDS derivatives, MSD, DICOM SEG, or MONAI Label's datastore.")],
    annotator: Annotated[str, typer.Option("--as", help="Whose labels they are to be.")],
    project: Annotated[str, typer.Option(help="In which project; in none by default.")] = "",
    tag: Annotated[str, typer.Option(help="What they are for, outside of projects.")] = "final",
    labels: Annotated[str, typer.Option(help="Names of files that are label maps.")] = "*_dseg.nii*",
    site: Annotated[str, typer.Option(help="As it was given to medray ingest.")] = "",
    as_json: Json = False,
) -> None:
    """Take label maps in that others made, each beside what is there."""
    from medray.ingestion.labels import import_labels

    done = import_labels(root, source, annotator, project=project, tag=tag, labels=labels, site=site)
    for problem in done.problems:
        error_console.print(problem)
    show({"taken": done.taken, "refused": dict(done.refused)}, as_json=as_json)


def _which(word: str) -> Any:
    from medray.errors import ConfigError

    if word not in {"consensus", "approved"}:
        raise ConfigError(f"--which is {word!r}: choose consensus or approved")
    return word
