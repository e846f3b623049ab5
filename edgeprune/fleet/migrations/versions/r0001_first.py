"""Devices, their last words, and the history of rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NAME = sa.String(64)
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("id", _NAME, nullable=False),
        sa.Column("sku", _NAME, nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("enrolled_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
    )
    op.create_table(
        "kinds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sku", _NAME, nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_kinds"),
        sa.UniqueConstraint("sku", "runtime", "tags", name="uq_kinds_sku"),
    )
    op.create_table(
        "words",
        sa.Column("device", _NAME, nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("product", _NAME),
        sa.Column("channel", _NAME),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", _MOMENT),
        sa.Column("heard_at", _MOMENT),
        sa.Column("agent", sa.Text()),
        sa.Column("counter", sa.BigInteger()),
        sa.Column("model_sha256", sa.String(64)),
        sa.Column("state", sa.String(16)),
        sa.Column("rollout", sa.BigInteger()),
        sa.Column("release", sa.BigInteger()),
        sa.Column("reason", sa.Text()),
        sa.Column("latency_ms", sa.Float()),
        sa.Column("ended_rollout", sa.BigInteger(), nullable=False),
        sa.Column("ended_release", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.SmallInteger(), nullable=False),
        sa.Column("ended_reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name="fk_words_device_devices", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["kind"], ["kinds.id"], name="fk_words_kind_kinds"),
        sa.PrimaryKeyConstraint("device", name="pk_words"),
        postgresql_with={"fillfactor": 70},  # rows that are written over stay on their page
    )
    op.create_index("ix_words_channel", "words", ["channel"])
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("channel", _NAME, nullable=False),
        sa.Column("product", _NAME, nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("percent", sa.Float(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_channel", "events", ["channel", "id"])


def downgrade() -> None:
    for table in ("events", "words", "kinds", "devices"):
        op.drop_table(table)
