"""The whole web application in this process, over real HTTP: the gateway before a pool, without Serve between them."""

import threading
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

import medray
from medray.serving.desk import Desk, Limits
from medray.serving.gateway import Doors, web
from medray.serving.guard import Ledger
from medray.serving.pool import Pool, PoolConfig
from tests.ports import free_port
from tests.waiting import wait_until


class Inside:
    """Stands for Serve's handle: calls go straight to the one replica."""

    def __init__(self, pool):
        self._pool = pool

    def options(self, **facts):
        return self

    def __getattr__(self, name):
        return _Call(getattr(self._pool, name))


class _Call:
    def __init__(self, method):
        self.remote = method


@contextmanager
def endpoint(*, limits=None, doors=None, record=None, work_mb=1024):
    """Give a client of an endpoint whose home is what MEDRAY_HOME says."""
    registry, limits = medray.Registry(), limits or Limits()
    replica: Any = Pool.func_or_class  # type: ignore[attr-defined]
    where = (limits.sources, limits.pacs, limits.cohort)
    handle: Any = Inside(
        replica(PoolConfig(registry.uri, 2, 512, work_mb, 1_000_000, *where, records=limits.records, records_s=0.3))
    )
    app = web(Desk(handle, registry, limits), doors or Doors(insecure=True), Ledger(record))
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.config.port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)
