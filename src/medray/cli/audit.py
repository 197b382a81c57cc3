"""Commands about the audit trail."""

from __future__ import annotations

from typing import Annotated

import typer

from medray.cli.output import Json, show
from medray.errors import InputError

__all__ = ["audit_app"]

audit_app = typer.Typer(help="Who did what, when.", no_args_is_help=True)


@audit_app.command("verify")
def verify(
    anchor: Annotated[str, typer.Option(help="A head that was noted earlier: number:digest.")] = "",
    as_json: Json = False,
) -> None:
    """Recompute the chain of hashes: an edited, removed or reordered event is named."""
    from medray.audit import open_trail

    verdict = open_trail().verify(anchor=anchor)
    show(
        {"events": verdict.events, "keyed": verdict.keyed, "head": verdict.head, "problems": list(verdict.problems)},
        as_json=as_json,
    )
    if verdict.problems:
        raise InputError(f"the audit trail is not whole: {verdict.problems[0]} ({len(verdict.problems)} problems)")


@audit_app.command("export")
def export(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    out: Annotated[str, typer.Option("-o", "--out", help="The folder to write: a path or a URI.")],
    as_json: Json = False,
) -> None:
    """Write all that a regulator asks of a model: cards, lineage, evaluations, and what was done to it by whom and why."""
    from medray.inference.dossier import write_dossier
    from medray.registry.signing import public_key
    from medray.storage.location import locate

    found = {"model": name, "versions": write_dossier(name, locate(out)), "folder": out, "signer": public_key()}
    show(found, as_json=as_json)


@audit_app.command("check")
def check(
    folder: Annotated[str, typer.Argument(help="What medray audit export wrote.")],
    signer: Annotated[str, typer.Option(help="The public key of who signed it; one's own by default.")] = "",
    as_json: Json = False,
) -> None:
    """Check that an export is what was signed: nothing changed, left out or added."""
    from medray.inference.dossier import check_dossier
    from medray.storage.location import locate

    problems = check_dossier(locate(folder), signer)
    show({"folder": folder, "problems": problems}, as_json=as_json)
    if problems:
        raise InputError(f"{len(problems)} files of {folder} aren't as they were signed: {problems[0]}")


@audit_app.command("show")
def show_events(
    action: Annotated[str, typer.Option(help="Only this action, such as ingest.read.")] = "",
    last: Annotated[int, typer.Option(help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the last events."""
    from collections import deque
    from dataclasses import asdict

    from medray.audit import open_trail

    show({"events": [asdict(event) for event in deque(open_trail().events(action=action), maxlen=last)]}, as_json=as_json)
