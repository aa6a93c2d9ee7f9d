"""What the head-end's tests share: an empty database in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

import headend.dm.tables
import headend.metering.readings
import headend.security.certificates
import headend.security.clones
import headend.security.devices
import headend.security.records
import headend.security.renewals
import headend.software.repository  # noqa: F401  (declares its tables, like those above)
from tests.headend.database import empty_database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = empty_database(tmp_path / "headend.db")
    yield engine
    engine.dispose()
