"""``medray receive``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medray.cli.output import error_console, progress
from medray.errors import ConfigError

if TYPE_CHECKING:
    from medray.pacs.tls import Tls

__all__ = ["receive"]


def receive(
    root: Annotated[str, typer.Argument(help="The cohort: a folder or a URI.")],
    aet: Annotated[str, typer.Option(help="Own application entity title.")] = "MEDRAY",
    port: Annotated[int, typer.Option(help="For C-STORE.")] = 11112,
    stow_port: Annotated[int, typer.Option(help="For STOW-RS (POST /studies); 0 for none.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    caller: Annotated[
        list[str] | None, typer.Option(help="A title that may call; give it for each. All may by default.")
    ] = None,
    tls: Annotated[str, typer.Option(help="certificate.pem,key.pem; with ,authority.pem callers show theirs.")] = "",
    quiet: Annotated[float, typer.Option(help="Seconds without a new object after which a study is taken in.")] = 30.0,
    keep_days: Annotated[float, typer.Option(help="Days that a study stays in the spool, for slices that come late.")] = 7.0,
    spool: Annotated[Path | None, typer.Option(help="Its folder; below MEDRAY_HOME by default. Holds identifiers.")] = None,
    profile: Annotated[str, typer.Option(help="As for medray ingest.")] = "basic",
    site: Annotated[str, typer.Option(help="As for medray ingest.")] = "",
) -> None:
    """Receive DICOM by C-STORE and STOW-RS into a cohort, until ctrl-C; MEDRAY_STOW_TOKEN asks senders for a bearer token."""
    from medray import config
    from medray.cohort.cohort import Cohort
    from medray.engine import join_ray
    from medray.ingestion.pacs import Receiving
    from medray.ingestion.pacs import receive as run
    from medray.ingestion.pipeline import ingest
    from medray.pacs.scp import Listening
    from medray.privacy.profile import parse_profile
    from medray.privacy.pseudonym import naming

    names = naming(parse_profile(profile), site=site)

    def take(folder: Path) -> Cohort:
        return ingest(folder, root, profile=profile, site=site)

    def ready(dimse: int, stow: int | None) -> None:
        web = f", STOW-RS on http{'s' if tls else ''}://{host}:{stow}/studies" if stow else ""
        error_console.print(f"C-STORE as {aet} on {host}:{dimse}{web}; a study is taken in after {quiet:g} quiet seconds")

    receiving = Receiving(
        listening=Listening(aet, host, port, tuple(caller or ()), _tls_files(tls)),
        stow_port=stow_port or None,
        token=os.environ.get("MEDRAY_STOW_TOKEN", ""),
        spool=spool or config.home() / "spool" / "receive",
        quiet_s=quiet,
        keep_s=keep_days * 86_400,
        on_ready=ready,
        on_failure=lambda error: error_console.print(f"medray: not taken in yet: {error}", style="red", markup=False),
    )
    join_ray()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: receiving.stop.set())
    with progress():
        run(receiving, take, names)


def _tls_files(text: str) -> Tls | None:
    from medray.pacs.tls import Tls

    if not text:
        return None
    paths = [Path(part) for part in text.split(",")]
    if len(paths) not in {2, 3} or not all(path.is_file() for path in paths):
        raise ConfigError("--tls takes files that are there: certificate.pem,key.pem or certificate.pem,key.pem,authority.pem")
    return Tls(*paths)
