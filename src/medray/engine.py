"""The one place where medray starts or joins Ray."""

from __future__ import annotations

import logging
import os
import secrets

import ray

from medray.errors import ResourceError

__all__ = ["join_ray", "require_cpus"]


def join_ray() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one on this machine; does nothing when already joined.

    A cluster that medray starts asks for a token, made for this process and its children alone: Ray would otherwise
    write one to the home folder, where it changes how every later cluster of that user behaves. Set ``RAY_AUTH_MODE``
    to decide yourself.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address and "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def require_cpus(count: float, *, what: str) -> None:
    """Check that the cluster has so many CPUs free right now.

    Raises:
        ResourceError: If it hasn't; Ray would wait for them in silence.
    """
    free = float(ray.available_resources().get("CPU", 0.0))
    if free < count:
        raise ResourceError(f"{what} needs {count:g} free CPUs and the cluster has {free:g}: ask for fewer workers or wait")
