"""The checks of this room share one parse of the packages: with several workers, one of them does them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture import trees

ROOM = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOM) and not item.get_closest_marker("process"):
            item.add_marker(pytest.mark.xdist_group("architecture"))


@pytest.fixture(autouse=True, scope="package")
def trees_are_forgotten() -> Iterator[None]:
    yield
    trees.forget()
