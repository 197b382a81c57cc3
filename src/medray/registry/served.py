"""Which versions endpoints answer with, so that none is deleted under them: each endpoint says so every minute."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection

import sqlalchemy as sa

from medray.database import open_database, reading, told_plainly

__all__ = ["SERVED_S", "note_served", "served_until"]

SERVED_S = 600.0
"""For which a version counts as served after somebody said so."""
WHAT = "the list of served models"

_tables = sa.MetaData()
SERVED = sa.Table(
    "served_versions", _tables,
    sa.Column("registry", sa.String(32), primary_key=True),
    sa.Column("version", sa.String(200), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)  # fmt: skip


def note_served(registry: str, versions: Collection[str]) -> None:
    """Say that versions are served now.

    Args:
        registry: Its URI.
        versions: ``name/version`` each.

    Raises:
        StorageError: If the database can't be written.
    """
    key, now = _key(registry), time.time()
    with told_plainly(WHAT, "written"), open_database(_tables).begin() as connection:
        for version in sorted(versions):
            connection.execute(SERVED.delete().where(SERVED.c.registry == key, SERVED.c.version == version))
            connection.execute(SERVED.insert().values(registry=key, version=version, at=now))
        connection.execute(SERVED.delete().where(SERVED.c.at < now - 10 * SERVED_S))


def served_until(registry: str, version: str) -> float:
    """Return until when a version counts as served, in seconds since 1970; 0 for one of which nobody said so.

    Raises:
        StorageError: If the database can't be read.
    """
    wanted = sa.select(SERVED.c.at).where(SERVED.c.registry == _key(registry), SERVED.c.version == version)
    with told_plainly(WHAT, "read"), reading(open_database(_tables)) as connection:
        at = connection.execute(wanted).scalar()
    return 0.0 if at is None else float(at) + SERVED_S


def _key(registry: str) -> str:
    return hashlib.sha256(registry.encode()).hexdigest()[:32]
