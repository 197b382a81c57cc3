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

from pydantic import ValidationError, validate_call

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
        settings = config.merged(config.read_file(given.config) if given.config else {}, config.overrides(given.settings))
        report = _called(step, settings)
    except MedrayError as error:
        sys.stderr.write(f"{step.__module__}: {error}\n")
        sys.exit(BAD_INPUT)
    sys.stdout.write(json.dumps({**report, "seconds": round(time.time() - started, 2)}) + "\n")


def _called(step: Callable[..., dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Call the step with settings whose keys and types it knows."""
    known = inspect.signature(step).parameters
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"the job's config: unknown key {unknown[0]!r}; known keys are {', '.join(known)}")
    try:
        return validate_call(step)(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"the job's config: key {key!r}: {first['msg']}; known keys are {', '.join(known)}") from None
