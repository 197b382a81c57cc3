"""What is to be done with series that came in: an order for each series and model version, in the database, done once.

An order is about the objects that its series had: with further ones it is opened again. It is its spool's: endpoints that
share a database and not a disk leave one another's alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from medray.database import open_database, told_plainly

__all__ = ["Order", "OrderBook"]

OVER = ("stored", "failed")
LEASE_S = 60.0
LONGEST_PAUSE_S = 300.0

_tables = sa.MetaData()
ORDERS = sa.Table(
    "serving_orders", _tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.String(64), nullable=False, index=True),
    sa.Column("series", sa.String(64), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("spool", sa.String(64), nullable=False),
    sa.Column("content", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.Float, nullable=False),
    sa.Column("detail", sa.String(300), nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("changed", sa.Float, nullable=False),
    sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("series", "model"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """One series for one model version.

    Attributes:
        number: In the order of arrival.
        study: Name of the study's folder in the spool: a hash of its UID.
        series: The same of the series.
        model: ``name/version``.
        spool: Where the objects lie.
        content: Hash of the objects that it is about.
        state: ``waiting``, ``running``, ``stored`` or ``failed``.
        attempts: How often it was begun.
        due: When it may be begun, or whoever runs it is taken to have died.
        detail: Why it failed or waits.
        created: Seconds since 1970.
        changed: When its state last changed.
        shared: Whether its rule leaves it to the endpoint which version answers.
    """

    number: int
    study: str
    series: str
    model: str
    spool: str
    content: str
    state: str
    attempts: int
    due: float
    detail: str
    created: float
    changed: float
    shared: bool


class OrderBook:
    """Orders in the database.

    Args:
        spool: Whose orders are taken.
    """

    def __init__(self, spool: str = "") -> None:
        self._engine = open_database(_tables)
        self._spool = spool

    def add(self, study: str, series: str, model: str, content: str = "", *, shared: bool = False) -> bool:
        """Add an order, or open it again where the series has got further objects.

        Returns:
            False where there is one for these objects and this model version already, whatever became of it.
        """
        now = time.time()
        fresh = {
            "state": "waiting",
            "attempts": 0,
            "due": now,
            "detail": "",
            "changed": now,
            "content": content,
            "shared": shared,
        }
        this = (ORDERS.c.series == series) & (ORDERS.c.model == model)
        with told_plainly("orders", "written"), self._engine.begin() as connection:
            known = connection.execute(sa.select(ORDERS.c.content).where(this)).first()
            if known is not None and known.content == content:
                return False
            if known is not None:
                connection.execute(ORDERS.update().where(this).values(study=study, spool=self._spool, **fresh))
                return True
            new = {"study": study, "series": series, "model": model, "spool": self._spool, "created": now}
            connection.execute(ORDERS.insert().values(**new, **fresh))
        return True

    def claim(self) -> Order | None:
        """Take the oldest order that is due, for as long as a lease; None where there is none."""
        now = time.time()
        due = ORDERS.c.state.not_in(OVER) & (ORDERS.c.due <= now) & (ORDERS.c.spool == self._spool)
        free = sa.select(ORDERS).where(due).order_by(ORDERS.c.due, ORDERS.c.number).limit(1)
        with told_plainly("orders", "written"), self._engine.begin() as connection:
            row = connection.execute(free.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            changes = {"state": "running", "attempts": int(row.attempts) + 1, "due": now + LEASE_S, "changed": now}
            connection.execute(ORDERS.update().where(ORDERS.c.number == row.number).values(**changes))
        return Order(**{**row._mapping, **changes})  # noqa: SLF001 - SQLAlchemy's public name for it

    def keep(self, order: Order) -> None:
        """Renew a lease."""
        self._change(order, due=time.time() + LEASE_S)

    def finish(self, order: Order, state: str, detail: str = "") -> None:
        """Say that an order is over: ``stored`` or ``failed``."""
        self._change(order, state=state, detail=detail, changed=time.time())

    def postpone(self, order: Order, detail: str) -> None:
        """Have an order begun again later, after longer and longer pauses; it never is given up."""
        pause = min(LONGEST_PAUSE_S, 2.0 ** min(order.attempts, 20))
        self._change(order, state="waiting", due=time.time() + pause, detail=detail, changed=time.time())

    def release(self, order: Order) -> None:
        """Give an order back at once: whoever comes next shall have it."""
        self._change(order, state="waiting", due=0.0, attempts=order.attempts - 1)

    def open_studies(self) -> set[str]:
        """Return the studies that have orders which aren't over."""
        with told_plainly("orders", "read"), self._engine.connect() as connection:
            return set(connection.execute(sa.select(ORDERS.c.study).where(ORDERS.c.state.not_in(OVER))).scalars())

    def latest(self, most: int = 100) -> list[Order]:
        """Return orders, the newest first."""
        query = sa.select(ORDERS).order_by(ORDERS.c.number.desc()).limit(most)
        with told_plainly("orders", "read"), self._engine.connect() as connection:
            return [Order(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def _change(self, order: Order, **changes: Any) -> None:
        ours = (ORDERS.c.content == order.content) & (ORDERS.c.attempts == order.attempts)  # nobody has it anew meanwhile
        running = (ORDERS.c.number == order.number) & ORDERS.c.state.not_in(OVER) & ours
        with told_plainly("orders", "written"), self._engine.begin() as connection:
            connection.execute(ORDERS.update().where(running).values(**changes))
