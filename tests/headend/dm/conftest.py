"""What the tests of the DM server share: its database in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.headend.database import empty_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = empty_database(tmp_path / "dm.db")
    yield made
    made.dispose()
