"""What a person says of a model, and what it was made with."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic.dataclasses import dataclass

from medray import __version__, config

__all__ = ["INTENDED_USE", "About", "code_revision", "environment"]

INTENDED_USE = "Research. Not a medical device: not cleared for diagnosis or treatment."
PACKAGES = ("torch", "monai", "ray", "numpy", "scipy", "pyarrow", "pydicom", "nibabel")
GIT_S = 10


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class About:
    """What nobody can compute: the part of a card that a person writes.

    Attributes:
        intended_use: What the model may be used for.
        population: Whom it was made for: ages, scanners, protocols, countries, who is left out.
        limitations: Where it is known to fail.
        licence: Under which it may be used; an SPDX identifier where there is one.
        contact: Who answers for it.
    """

    intended_use: str = INTENDED_USE
    population: str = ""
    limitations: str = ""
    licence: str = ""
    contact: str = ""


@cache
def code_revision() -> str:
    """Return the revision of medray's code: its version and, in a checkout, the commit, with ``+`` where files differ."""
    here = Path(__file__).resolve().parents[2]
    commit = _git(here, "rev-parse", "HEAD")
    if not commit:
        return __version__
    return f"{__version__} {commit}{'+' if _git(here, 'status', '--porcelain', '--untracked-files=no') else ''}"


def environment() -> dict[str, str]:
    """Return what a model is made with, or an answer given by: Python, the machine's kind, and packages with their versions."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}", "medray": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_S, check=True)  # noqa: S603, S607 - fixed words, and git is wherever it is
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return ""
    return done.stdout.strip()
