"""What every script in ``jobs/`` shares: one config file or ``key=value`` words in, one JSON report out, an exit code."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medray import config
from medray.errors import ConfigError, MedrayError

__all__ = ["run_job"]

BAD_INPUT = 2


def run_job(step: Callable[..., dict[str, Any]]) -> None:
    """Run a step from the command line and print its report as the last line of stdout.

    Args:
        step: Its parameters are the keys that the config may have.
    """
    parser = argparse.ArgumentParser(description=inspect.getdoc(step))
    parser.add_argument("--config", type=Path, help="a .toml or .json file")
    parser.add_argument("settings", nargs="*", help="key=value, over the file")
    given = parser.parse_args()
    started = time.time()
    try:
        settings = (config.read_file(given.config) if given.config else {}) | config.overrides(given.settings)
        report = step(**_checked(step, settings))
    except MedrayError as error:
        sys.stderr.write(f"{step.__module__}: {error}\n")
        sys.exit(BAD_INPUT)
    sys.stdout.write(json.dumps({**report, "seconds": round(time.time() - started, 2)}) + "\n")


def _checked(step: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(step).parameters
    unknown = sorted(set(settings) - set(known))
    missing = sorted(name for name, item in known.items() if item.default is item.empty and name not in settings)
    if unknown or missing:
        wrong = f"unknown key {unknown[0]!r}" if unknown else f"key {missing[0]!r} is missing"
        raise ConfigError(f"the job's config: {wrong}; known keys are {', '.join(known)}")
    return settings
