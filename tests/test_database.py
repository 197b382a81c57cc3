"""The one database, which an older medray may have made."""

import sqlalchemy as sa

from medray.database import open_database


def things(*more):
    metadata = sa.MetaData()
    facts = (sa.Column("number", sa.Integer, primary_key=True), sa.Column("name", sa.String(20), nullable=False))
    return metadata, sa.Table("things", metadata, *facts, *more)


def test_columns_that_an_older_medray_had_not_are_added(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'medray.db'}")
    metadata, old = things()
    with open_database(metadata).begin() as connection:
        connection.execute(old.insert().values(number=1, name="one"))
    metadata, new = things(sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()))
    for _ in range(2):
        with open_database(metadata).begin() as connection:
            assert connection.execute(sa.select(new)).all() == [(1, "one", False)]
