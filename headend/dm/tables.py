"""The DM server's tables. Times are seconds since the epoch (UTC)."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from headend.db import metadata
from headend.sealing.columns import sealed_by

# One row per device: its account, the nonces for the next messages, and the last exchange, so that a repeated request
# gets the same answer again instead of being executed twice.
accounts = Table(
    "dm_accounts",
    metadata,
    Column("device_id", String(255), primary_key=True),
    Column("server_id", String(255), nullable=False),
    Column("url", Text, nullable=False),
    Column("client_name", String(255), nullable=False),
    Column("client_secret", Text, nullable=False, info=sealed_by("device_id")),
    Column("server_name", String(255), nullable=False),
    Column("server_secret", Text, nullable=False, info=sealed_by("device_id")),
    Column("client_nonce", LargeBinary, nullable=False),
    Column("server_nonce", LargeBinary, nullable=False),
    Column("auth_type", String(16), nullable=False),
    Column("accepts", String(8)),  # "session": credentials are good for a session (212), else for a message
    Column("push_url", Text, nullable=False, server_default=""),
    Column("push_counter", Integer, nullable=False, server_default="0"),
    Column("last_request", String(64)),  # SHA-256 of the request's body and MAC header
    Column("last_answer", LargeBinary, info=sealed_by("device_id")),  # it can bring keys and tokens
    Column("last_answer_mac", Text),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
)

# state: running | done | aborted (by the device) | lost (superseded by another session) | failed
sessions = Table(
    "dm_sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", ForeignKey("dm_accounts.device_id"), nullable=False),
    Column("session_id", String(8), nullable=False),
    Column("trigger", Integer),  # 1200 server, 1201 client
    Column("state", String(16), nullable=False),
    Column("messages", Integer, nullable=False),
    Column("commands", Integer, nullable=False),
    Column("started", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("dm_sessions_by_device", "device_id", "id"),
)

JOB = sealed_by("device_id", "correlator")  # parameters can be keys and tokens, and URLs with a device's pass

# state: queued | running | waiting | done | failed
jobs = Table(
    "dm_jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", ForeignKey("dm_accounts.device_id"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("params", JSON, nullable=False, info=JOB),
    Column("state", String(16), nullable=False),
    Column("progress", JSON, nullable=False, info=JOB),  # what a later session needs to go on
    Column("correlator", String(64), nullable=False, unique=True),
    Column("attempts", Integer, nullable=False),
    Column("result", JSON),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("dm_jobs_by_device", "device_id", "state", "id"),
)

# The last known value of each node a device told about. Text in `value`, binary in `data`.
values = Table(
    "dm_values",
    metadata,
    Column("device_id", ForeignKey("dm_accounts.device_id"), primary_key=True),
    Column("uri", String(255), primary_key=True),
    Column("format", String(16), nullable=False),
    Column("type", String(128)),
    Column("value", Text),
    Column("data", LargeBinary),
    Column("updated", Float, nullable=False),
)

# `identity` is what makes an alert the same alert: for correlated ones its content, else its place in its session.
alerts = Table(
    "dm_alerts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", ForeignKey("dm_accounts.device_id"), nullable=False),
    Column("session", ForeignKey("dm_sessions.id"), nullable=False),
    Column("identity", String(64), nullable=False),
    Column("code", Integer, nullable=False),
    Column("type", Text),
    Column("source", Text),
    Column("mark", String(16)),
    Column("data", Text),
    Column("correlator", String(255)),
    Column("result_code", Integer),
    Column("received", Float, nullable=False),
    UniqueConstraint("device_id", "identity"),
)
