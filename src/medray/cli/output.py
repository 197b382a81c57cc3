"""What a command shows: progress on stderr, its result on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Json", "error_console", "progress", "show"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

error_console = Console(stderr=True, highlight=False)


@contextmanager
def progress() -> Iterator[Callable[..., None]]:
    """Give a ``(stage, done, total, note="")`` callback that draws a bar a stage on stderr, with the time that is left."""
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=error_console) as bars:
        stages: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(stages[stage], completed=done, total=total, note=note)

        yield update


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result: one JSON object, or lines of ``key  value``."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in result.items():
        table.add_row(key, _text(value))
    Console(highlight=False).print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return (
            "\n".join(_text(item) for item in value)
            if value and isinstance(value[0], Mapping)
            else ", ".join(map(_text, value))
        )
    return str(value)
