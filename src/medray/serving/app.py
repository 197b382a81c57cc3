"""Build the Serve application, and run it: the same builder for `medray serve`, Python and KubeRay's RayService."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass
from ray import serve

from medray import config
from medray.engine import join_ray, require_cpus
from medray.errors import ConfigError
from medray.registry.registry import Registry
from medray.serving.deployments import Gateway, Model

__all__ = ["Endpoint", "ServeConfig", "build", "deploy"]

APPLICATION = "medray"


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class ServeConfig:
    """What is served and how.

    Attributes:
        models: References: ``name``, ``name@alias`` or ``name/version``.
        registry: MLflow tracking URI; the default registry when empty.
        cpus: Cores of a replica.
        max_replicas: Of each model; Serve adds them when requests queue.
        max_body_mb: Larger bodies are refused.
    """

    models: tuple[str, ...] = Field(min_length=1)
    registry: str = ""
    cpus: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    max_body_mb: int = Field(default=512, ge=1)


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from `ServeConfig`'s fields; Serve's YAML and CLI call this by name.

    Raises:
        ConfigError: On an unknown key or a wrong value.
    """
    chosen = config.load(ServeConfig, args, what="serve arguments")
    registry = chosen.registry or Registry().uri
    autoscaling = {"min_replicas": 1, "max_replicas": chosen.max_replicas, "target_ongoing_requests": 1}
    models = {}
    for number, reference in enumerate(chosen.models):
        options = _deployment(Model).options(
            name=f"Model{number}", ray_actor_options={"num_cpus": chosen.cpus}, autoscaling_config=autoscaling
        )
        models[reference] = options.bind(reference, registry, chosen.cpus)
    gateway = _deployment(Gateway).options(ray_actor_options={"num_cpus": 0})
    return gateway.bind(models, chosen.max_body_mb << 20)


def _deployment(decorated: object) -> serve.Deployment:
    """Say what Serve's decorator makes of a class; type checkers can't see it."""
    return cast("serve.Deployment", decorated)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running application; a context manager that stops it.

    Attributes:
        url: Where it answers.
    """

    url: str

    def stop(self) -> None:
        """Stop Serve."""
        serve.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()


def deploy(models: Sequence[str], *, port: int = 8000, host: str = "127.0.0.1", cpus: int = 1) -> Endpoint:
    """Serve models over HTTP and return when they are loaded.

    There is no authentication yet: bind to loopback, or put a gateway in front.

    Args:
        models: References to registered models.
        port: Of the HTTP endpoint.
        host: Address to bind.
        cpus: Cores of each replica.

    Raises:
        NotFoundError: If a model isn't registered; checked before anything starts.
        ResourceError: If the cluster has too few free CPUs.
    """
    if not models:
        raise ConfigError("name at least one model to serve: medray models list shows what there is")
    registry = Registry()
    for reference in models:
        registry.resolve(reference)
    join_ray()
    require_cpus(len(models), each=cpus, what=f"serving {len(models)} models")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(http_options={"host": host, "port": port})
    application = build({"models": list(models), "registry": registry.uri, "cpus": cpus})
    serve.run(application, name=APPLICATION, logging_config={"log_level": "WARNING", "enable_access_log": False})
    return Endpoint(f"http://{host}:{port}")
