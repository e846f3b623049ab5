"""The tables of a fleet's status: who is enrolled, each device's last word, and what became of rollouts.

Rules:
- A device that is enrolled has a row in `words` from that moment (seq 0: it hasn't spoken), so that who counts a fleet
  reads one table.
- SKU, runtime and tags, few combinations of which there are, are written once, in `kinds`: a selector is asked about
  each of them, not about a million devices.
- How an update ended outlives the word that said so: a device that reverted yesterday and idles now has still failed.
- A change here is a migration in migrations/versions.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

#: The newest migration: what a database must have.
REVISION = "0001"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s", "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s", "pk": "pk_%(table_name)s",
    }
)  # fmt: skip

#: 64 characters: the longest that `Name` allows.
NAME = String(64)
#: SQLite counts up by itself in INTEGER columns only.
_ROW = BigInteger().with_variant(Integer, "sqlite")


class Moment(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps none of a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(timezone.utc) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


devices = Table(
    "devices", metadata,
    Column("id", NAME, primary_key=True),
    Column("sku", NAME, nullable=False),
    Column("token_sha256", String(64), nullable=False),
    Column("enrolled_at", Moment, nullable=False),
)  # fmt: skip

kinds = Table(
    "kinds", metadata,
    Column("id", Integer, primary_key=True),
    Column("sku", NAME, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("tags", Text, nullable=False),  # JSON: a sorted list
    UniqueConstraint("sku", "runtime", "tags"),
)  # fmt: skip

words = Table(
    "words", metadata,
    Column("device", NAME, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", Integer, ForeignKey("kinds.id"), nullable=False),
    Column("product", NAME),  # as it was enrolled for, until it speaks
    Column("channel", NAME),
    Column("seq", BigInteger, nullable=False),
    Column("at", Moment),  # by the device's clock
    Column("heard_at", Moment),  # by ours
    Column("agent", Text),
    Column("counter", BigInteger),
    Column("model_sha256", String(64)),
    Column("state", String(16)),
    Column("rollout", BigInteger),
    Column("release", BigInteger),
    Column("reason", Text),
    Column("latency_ms", Float),
    # how the last update that ended did end
    Column("ended_rollout", BigInteger, nullable=False),
    Column("ended_release", BigInteger, nullable=False),
    Column("ended", SmallInteger, nullable=False),  # 0 none, 1 committed, 2 failed
    Column("ended_reason", Text, nullable=False),
    Index(None, "channel"),
    postgresql_with={"fillfactor": 70},  # rows that are written over stay on their page
)  # fmt: skip

events = Table(
    "events", metadata,
    Column("id", _ROW, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("channel", NAME, nullable=False),
    Column("product", NAME, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("percent", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Index(None, "channel", "id"),
)  # fmt: skip
