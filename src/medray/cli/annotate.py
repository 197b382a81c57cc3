"""Commands about labels that people submitted."""

from __future__ import annotations

from typing import Annotated

import typer

from medray.cli.output import Json, show

__all__ = ["annotate_app"]

annotate_app = typer.Typer(help="Labels that people submitted.", no_args_is_help=True)


@annotate_app.command("export")
def export(
    root: Annotated[str, typer.Argument(help="The cohort: a folder or a URI.")],
    tag: Annotated[str, typer.Option(help="Which labels count.")] = "final",
    as_json: Json = False,
) -> None:
    """Make a version of the cohort with the newest labels that people submitted."""
    from medray.annotation.export import export_labels
    from medray.storage.location import locate

    made = export_labels(locate(root), tag=tag)
    show({"cohort": made.index.id, **made.index.counts}, as_json=as_json)


@annotate_app.callback()
def annotate() -> None:
    """Labels that people submitted."""
