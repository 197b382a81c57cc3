"""``medray``: the entry point."""

from __future__ import annotations

import logging
import os
import sys

import typer

from medray.cli import annotate, audit, data, demo, models, monitor, progression, receive, registry, synthesis
from medray.cli.output import error_console
from medray.errors import MedrayError

__all__ = ["app", "main"]

BAD_INPUT = 2

app = typer.Typer(
    name="medray",
    help="From a folder of scans to a measured model behind an endpoint, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(demo.demo)
app.command()(data.ingest)
app.command()(receive.receive)
app.add_typer(data.cohort_app, name="cohort")
app.command()(data.plan)
app.command()(data.prepare)
app.command()(data.samples)
app.command()(models.fit)
app.command()(models.tune)
app.command()(synthesis.synthesise)
app.command()(synthesis.gain)
app.command()(models.evaluate)
app.command()(models.predict)
app.command()(progression.track)
app.command()(models.serve)
app.add_typer(registry.models_app, name="models")
app.add_typer(monitor.monitor_app, name="monitor")
app.add_typer(annotate.annotate_app, name="annotate")
app.add_typer(audit.audit_app, name="audit")


def main() -> None:
    """Run a command; one of medray's own errors is one line on stderr and exit code 2, without a traceback."""
    for noisy in ("mlflow", "alembic", "ray"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except MedrayError as error:
        problem = str(error)
    except OSError as error:  # without the file's name, which may be a patient's
        problem = f"the system refuses: {os.strerror(error.errno or 5).lower()}"
    else:
        return
    error_console.print(f"medray: {problem}", style="red", markup=False, soft_wrap=True)
    sys.exit(BAD_INPUT)
