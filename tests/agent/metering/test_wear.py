"""Flash bears so many bytes: what the store writes for a byte of payload is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.metering.wear import Visit, profile, registers, written_per_payload


@pytest.mark.slow
@pytest.mark.parametrize(("visit", "limit"), [(registers, 1.9), (profile, 2.2)])
def test_the_store_writes_few_bytes_per_byte_of_payload(tmp_path: Path, visit: Visit, limit: float) -> None:
    assert written_per_payload(tmp_path, visit, visits=800, meters=60, keep=6_000) <= limit
