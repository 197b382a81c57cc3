"""Build the Serve application, and run it: the same builder for `medray serve`, Python and KubeRay's RayService."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, cast

import ray
from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client  # there is no public way to ask for the port

from medray import config
from medray.cohort.cohort import open_cohort
from medray.engine import cpus_each, join_ray, require_cpus
from medray.errors import ConfigError
from medray.models.runtime import Runtime, RuntimeName
from medray.registry.registry import Registry
from medray.serving.auth import signing_key
from medray.serving.desk import Limits
from medray.serving.gateway import Doors, Gateway
from medray.serving.monailabel_ohif import INDEX
from medray.serving.pool import Pool, PoolConfig
from medray.serving.rules import Rule
from medray.serving.standin import StandIn

__all__ = ["Endpoint", "ServeConfig", "build", "deploy"]

APPLICATION = "medray"
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
"""In Ray's environment: whether HAProxy takes requests straight to the gateway, instead of through Serve's own proxy."""
SHARED_PORT = "SERVE_SOCKET_REUSE_PORT_ENABLED"
"""In Ray's environment: whether another process may listen at the proxy's port; HAProxy's isn't shared unless it says so."""
LOOK_BACK_S = 10.5
"""Over which Serve averages queues: it has a report of each every 10 s."""

GOING_S = 60.0
"""For which Serve may still be there after it was stopped: in HAProxy mode it is."""


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class ServeConfig:
    """What is served and how.

    Attributes:
        models: References that are kept loaded: ``name``, ``name@alias`` or ``name/version``. Their names may be asked for,
            with any version or alias; all of the registry where there are none.
        registry: MLflow tracking URI; the default registry when empty.
        cpus: Cores of a replica; 0: `deploy` shares those that are free out over ``max_replicas``, and `build` takes one.
        gpus: GPUs of a replica; a part of one, such as 0.5, lets replicas share it.
        min_replicas: That run without requests; at 0 the first one waits for a replica to start.
        max_replicas: Serve adds them while requests queue.
        idle_s: Seconds without need after which a replica goes.
        models_mb: Memory of a replica for loaded models; weights that a node's replicas have in common are there once.
        work_mb: Memory of a replica for images in work, and as much again for what networks say of them: what needs more is
            refused.
        runtime: What runs networks: ``torch`` or, on CPUs, ``openvino``: less time for the same answer, and each replica has
            weights of its own.
        mixed: Whether networks may run in bfloat16: twice as fast and more where a CPU or GPU has it, and a few voxels in ten
            thousand may fall to the other label; off, an answer is the same on every machine.
        batch_voxels: Images of several callers go through a network together up to so many voxels.
        max_body_mb: Larger bodies are refused.
        bodies_mb: Of all requests together; others are told to come again.
        timeout_s: Seconds that an answer may take.
        refresh_s: Seconds after which a moved alias is seen.
        sources: URIs below which images may be that a request refers to, such as ``s3://scans``.
        pacs: A DICOMweb service (``dicomweb://host/path``) whose series a request may refer to.
        cohort: A cohort whose images viewers list, open and label.
        ohif: Folder with OHIF, built with ``PUBLIC_URL=/monailabel/ohif/``, to serve there.
        jobs: Folder, a path or a URI, for inputs and answers of what is answered later; below ``MEDRAY_HOME`` when empty.
        keep_answers_s: Seconds after which such an answer is deleted.
        rules: Which models series are for that come in by STOW-RS; what they say goes to ``pacs``. See `Rule`.
        record: Whether predictions are recorded, and counted for Prometheus.
        records: Folder, a path or a URI, where they are; below ``MEDRAY_HOME`` when empty.
        records_s: Seconds after which records go there from the disk of the node that made them.
        records_days: Days after which they are deleted; 0 keeps them.
        watch_s: Seconds after which drift of what is served is looked at again.
        spool: Local folder where these come in, one for each endpoint; below ``MEDRAY_HOME`` when empty.
        quiet_s: Seconds without a new object after which a study is whole.
        insecure: Anybody may ask for anything; on loopback only.
        issuer: Of OpenID Connect tokens; without one, tokens are those of ``medray serve --make-token``.
        audience: Of its tokens.
        keys_url: Of its keys; asked of the issuer when empty.
        roles_claim: Of its tokens, where roles are listed; dots nest, as in ``realm_access.roles``.
        rate: Requests a second of each caller; 0 for any number.
        origins: Web pages of other origins that may ask (CORS).
        certificate: File of the server's TLS certificate, with those that vouch for it.
        private_key: File of its key.
    """

    models: tuple[str, ...] = ()
    registry: str = ""
    cpus: int = Field(default=0, ge=0)
    gpus: float = Field(default=0, ge=0)
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    idle_s: float = Field(default=600, gt=0)
    models_mb: int = Field(default=2048, ge=1)
    work_mb: int = Field(default=4096, ge=1)
    runtime: RuntimeName = "torch"
    mixed: bool = False
    batch_voxels: int = Field(default=1_000_000, ge=1)
    max_body_mb: int = Field(default=512, ge=1)
    bodies_mb: int = Field(default=1024, ge=1)
    timeout_s: float = Field(default=600, gt=0)
    refresh_s: float = Field(default=1, gt=0)
    sources: tuple[str, ...] = ()
    pacs: str = ""
    cohort: str = ""
    ohif: str = ""
    jobs: str = ""
    keep_answers_s: float = Field(default=86_400, gt=0)
    rules: tuple[Rule, ...] = ()
    record: bool = True
    records: str = ""
    records_s: float = Field(default=30, gt=0)
    records_days: int = Field(default=0, ge=0)
    watch_s: float = Field(default=300, gt=0)
    spool: str = ""
    quiet_s: float = Field(default=30, gt=0)
    insecure: bool = False
    issuer: str = ""
    audience: str = "medray"
    keys_url: str = ""
    roles_claim: str = "roles"
    rate: float = Field(default=0, ge=0)
    origins: tuple[str, ...] = ()
    certificate: str = ""
    private_key: str = ""

    def __post_init__(self) -> None:
        names = {reference.split("@")[0].split("/")[0] for reference in self.models}
        foreign = [rule.model for rule in self.rules if names and rule.model.split("@")[0].split("/")[0] not in names]
        if foreign:
            raise ConfigError(f"a rule is for {foreign[0]}, which isn't among the models that are served: {', '.join(names)}")
        if self.rules and not self.pacs:
            raise ConfigError("rules need a PACS for the results: set pacs=dicomweb://…")
        if self.min_replicas > self.max_replicas:
            raise ConfigError(f"min_replicas={self.min_replicas} is more than max_replicas={self.max_replicas}")
        if self.ohif and not Path(self.ohif, INDEX).is_file():
            raise ConfigError(f"ohif={self.ohif} has no {INDEX}: give the folder that OHIF's build wrote, its dist")
        if bool(self.certificate) != bool(self.private_key):
            raise ConfigError("TLS needs both certificate and private_key")


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from `ServeConfig`'s fields; Serve's YAML and CLI call this by name.

    Raises:
        ConfigError: On an unknown key or a wrong value.
    """
    chosen = config.load(ServeConfig, args, what="serve arguments")
    registry, cpus = chosen.registry or Registry().uri, max(1, chosen.cpus)
    autoscaling = {
        "min_replicas": chosen.min_replicas,
        "max_replicas": chosen.max_replicas,
        "target_ongoing_requests": 2,
        "upscale_delay_s": min(5.0, chosen.idle_s),
        "downscale_delay_s": chosen.idle_s,
        "look_back_period_s": LOOK_BACK_S,
    }
    pool = _deployment(Pool).options(
        ray_actor_options={"num_cpus": cpus, "num_gpus": chosen.gpus}, autoscaling_config=autoscaling
    )
    records = chosen.records or str(config.home() / "records")  # of here: on other nodes it is another one
    limits = replace(Limits(**{name: getattr(chosen, name) for name in Limits.__dataclass_fields__}), records=records)
    memory = (chosen.models_mb, chosen.work_mb, chosen.batch_voxels)
    runtime = Runtime(chosen.runtime, chosen.mixed, cpus)
    where = (chosen.sources, chosen.pacs, chosen.cohort)
    settings = PoolConfig(registry, cpus, *memory, *where, runtime, chosen.record, records, chosen.records_s)
    bound = pool.bind(settings)
    doors = Doors(
        **{name: getattr(chosen, name) for name in Doors.__dataclass_fields__ if name != "tls"}, tls=bool(chosen.certificate)
    )
    return _deployment(Gateway).options(ray_actor_options={"num_cpus": 0}).bind(bound, registry, limits, doors)


def _deployment(decorated: object) -> serve.Deployment:
    """Say what Serve's decorator makes of a class; type checkers can't see it."""
    return cast("serve.Deployment", decorated)


def _require_port(port: int) -> None:
    """Say so where Serve runs already and listens elsewhere: it would go on there in silence.

    Raises:
        ConfigError: If it does.
    """
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is not None and running.http_config.port != port:
        raise ConfigError(
            f"Serve listens at port {running.http_config.port} of this cluster already: use that, or stop it first"
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running application; a context manager that stops it.

    Attributes:
        url: Where it answers.
        stand_in: Takes connections while Serve's proxy starts again.
    """

    url: str
    stand_in: StandIn | None = field(default=None, repr=False, compare=False)

    def stop(self) -> None:
        """Stop Serve, and wait until it is gone: who starts it again would get the one that goes."""
        if self.stand_in:
            self.stand_in.stop()
        serve.shutdown()
        patience = time.monotonic() + GOING_S
        while ray.is_initialized() and time.monotonic() < patience:
            try:
                ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            except ValueError:
                return
            time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()


def deploy(models: Sequence[str] = (), *, port: int = 8000, host: str = "127.0.0.1", **settings: Any) -> Endpoint:
    """Serve models over HTTP and return when those that are named are loaded.

    Who asks needs a token: see `medray.serving.auth.make_token`.

    Args:
        models: References to registered models that are kept loaded; any registered model may be asked for where there are
            none, else those of these names.
        port: Of the HTTP endpoint.
        host: Address to bind.
        **settings: `ServeConfig`'s other fields.

    Raises:
        ConfigError: On an unknown setting or a wrong value, if there is no key to check tokens with, or if Serve runs already,
            at another port, the runtime isn't installed, or there is a certificate in Serve's HAProxy mode.
        NotFoundError: If a model isn't registered or the cohort isn't there; checked before anything starts.
        ResourceError: If the cluster has too few free CPUs.
    """
    chosen = config.load(ServeConfig, {"models": list(models), **settings}, what="serve settings")
    if chosen.insecure and not ip_address(socket.gethostbyname(host)).is_loopback:
        raise ConfigError(f"without authentication only this machine may ask: host {host} isn't loopback")
    if not chosen.insecure and not chosen.issuer:
        signing_key()
    Runtime(chosen.runtime).require()
    if chosen.certificate and os.environ.get(HAPROXY) == "1":
        raise ConfigError(f"with {HAPROXY}=1 Serve speaks no TLS: put what does before it, and leave the certificate out")
    if chosen.cohort:
        open_cohort(chosen.cohort)
    registry = Registry(chosen.registry or None)
    for reference in (*models, *(rule.model for rule in chosen.rules)):
        registry.resolve(reference)
    join_ray()
    free = require_cpus(chosen.min_replicas, each=max(1, chosen.cpus), what=f"serving with {chosen.min_replicas} replicas")
    cpus = chosen.cpus or cpus_each(free, chosen.max_replicas)
    _require_port(port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    tls = {"ssl_certfile": chosen.certificate, "ssl_keyfile": chosen.private_key} if chosen.certificate else {}
    serve.start(http_options={"host": host, "port": port, **tls})
    application = build({**config.dump(chosen), "registry": registry.uri, "cpus": cpus})
    handle = serve.run(application, name=APPLICATION, logging_config={"log_level": "WARNING", "enable_access_log": False})
    if chosen.min_replicas:
        handle.ready.remote().result()
    shares = os.environ.get(SHARED_PORT, "0" if os.environ.get(HAPROXY) == "1" else "1") == "1"
    stand_in = StandIn(host, port, tls=bool(tls)).start() if shares else None
    return Endpoint(f"http{'s' if tls else ''}://{host}:{port}", stand_in)
