"""The one database: SQLite in `MEDRAY_HOME` by default, any that SQLAlchemy knows by ``MEDRAY_DATABASE_URL``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import sqlalchemy as sa

from medray import config
from medray.errors import ConfigError, StorageError

__all__ = ["open_database", "reading", "told_plainly"]

DATABASE = "medray.db"
READING = "medray_reading"
TABLES_LOCK = 0x6D656472
"""Of who makes tables, in PostgreSQL: any number that others don't take."""


def open_database(tables: sa.MetaData) -> sa.Engine:
    """Open the database that the environment names, and make tables that aren't there.

    Of SQLite a transaction takes the write lock when it begins, so that two processes can't decide on the same state.

    Raises:
        ConfigError: If ``MEDRAY_DATABASE_URL`` can't be used.
    """
    url = os.environ.get("MEDRAY_DATABASE_URL") or f"sqlite:///{config.home() / DATABASE}"
    return _with_tables(url, tables)


@lru_cache(maxsize=64)
def _with_tables(url: str, tables: sa.MetaData) -> sa.Engine:
    with _refused_plainly():
        engine = _engine(url)
        with engine.begin() as connection:
            if (
                engine.dialect.name == "postgresql"
            ):  # of two who make a table at once, one fails, though it asks whether it is there
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(TABLES_LOCK)))
            tables.create_all(connection)
            _add_columns(connection, tables)
    return engine


def _add_columns(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Add columns that the tables of an older medray lack; each such column has a default of the server's."""
    there = sa.inspect(connection)
    for table in tables.sorted_tables:
        known = {column["name"] for column in there.get_columns(table.name)}
        for column in (column for column in table.columns if column.name not in known):
            said = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {said}")


@lru_cache(maxsize=16)
def _engine(url: str) -> sa.Engine:
    """Open a database once, so that what several rooms write can be one transaction."""
    parsed = sa.make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    lite = parsed.get_backend_name() == "sqlite"
    if lite:
        config.home().mkdir(parents=True, exist_ok=True)
        if url.endswith(str(config.home() / DATABASE)):
            (config.home() / DATABASE).touch(mode=0o600)
    engine = sa.create_engine(parsed, connect_args={"timeout": 60, "isolation_level": None} if lite else {})
    if lite:
        sa.event.listen(engine, "begin", _begin_immediate)
    return engine


@contextmanager
def _refused_plainly() -> Iterator[None]:
    try:
        yield
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise ConfigError(
            f"MEDRAY_DATABASE_URL can't be used ({type(error).__name__}): check its form, server and driver"
        ) from None


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection for reading, which of SQLite takes no write lock."""
    with engine.execution_options(**{READING: True}).connect() as connection:
        yield connection


@contextmanager
def told_plainly(what: str, done: str) -> Iterator[None]:
    """Turn the database's errors into one line: ``what`` can't be ``done``."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise StorageError(f"{what} can't be {done} ({type(error).__name__}): check MEDRAY_DATABASE_URL") from None


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READING) else "BEGIN IMMEDIATE")
