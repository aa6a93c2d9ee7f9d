"""The public door of `dlms`: what it lists is there, and nothing is loaded before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dlms

DOOR = Path(dlms.__file__)


def names_for_the_type_checker() -> dict[str, str]:
    """Module by name, as imported under TYPE_CHECKING."""
    branches = [node for node in ast.parse(DOOR.read_text()).body if isinstance(node, ast.If)]
    imports = [node for branch in branches for node in branch.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def names_at_run_time() -> dict[str, str]:
    """Module by name, as imported on demand."""
    (homes,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(DOOR.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES"
    )
    return {name: f"dlms.{home}" for home, names in homes.items() for name in names}


def test_the_type_checker_and_the_interpreter_see_the_same_door() -> None:
    assert names_for_the_type_checker() == names_at_run_time()
    assert sorted(names_at_run_time()) == sorted(dlms.__all__)
    assert len(dlms.__all__) == len(set(dlms.__all__))


@pytest.mark.parametrize(("name", "home"), names_at_run_time().items())
def test_every_public_name_resolves_to_what_its_home_defines(name: str, home: str) -> None:
    value = getattr(dlms, name)
    assert value is getattr(import_module(home), name)
    assert value.__module__ == home


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="Exchange"):
        dlms.Exchange  # noqa: B018


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, dlms; print(*[name for name in sys.modules if name.startswith('dlms.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
