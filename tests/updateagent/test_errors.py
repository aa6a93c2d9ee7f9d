"""The numbers of errors, which are public: none may change, each has its FUMO and SCOMO result, all are documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from updateagent import errors
from updateagent.errors import EXIT_GUARD_WANTED, EXIT_REBOOT_WANTED, Code

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"

PUBLISHED = {
    1: "internal", 2: "configuration", 20: "format", 21: "truncated", 22: "description", 23: "limit",
    24: "signature-missing", 25: "signature", 26: "signature-profile", 27: "certificate-chain", 28: "certificate-time",
    29: "certificate-purpose", 30: "certificate-revoked", 31: "roots", 32: "compatible", 33: "downgrade", 34: "payload",
    35: "image-missing", 36: "version-required", 37: "agent-version", 38: "delta-source", 39: "image-size", 40: "kind",
    41: "hook", 42: "compression", 43: "patch", 44: "image-role", 45: "package-missing", 46: "full-refused",
    60: "storage", 61: "storage-full", 62: "slot", 63: "read-back", 64: "environment", 65: "environment-write",
    66: "environment-full", 67: "environment-locked", 68: "environment-not-shared", 69: "journal", 70: "booted-slot",
    71: "loop", 72: "trial-failed", 73: "trial-silent", 74: "kernel-feature", 75: "busy", 80: "software-remove",
    81: "software-activate", 82: "software-deactivate", 90: "state", 91: "request", 92: "not-found", 93: "cancelled",
}  # fmt: skip
"""Field tools and statistics know these. A new error gets a new number; nothing here is ever changed."""

FUMO = {400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 500, 501, 502, 503, *range(450, 500)}
"""OMA-TS-DM-FUMO 1.0, the results of failure; 450 to 499 are a vendor's own."""
SCOMO = {*range(1400, 1414), 1500, 1501}
"""OMA-TS-DM-SCOMO 1.0."""

CODES = [value for value in vars(errors).values() if isinstance(value, Code)]


def documented() -> dict[int, tuple[str, int, int]]:
    rows = re.findall(r"^\| (\d+) \| ([a-z-]+) \| (\d+) \| (\d+) \| .+ \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    found = {int(number): (name, int(fumo), int(scomo)) for number, name, fumo, scomo in rows}
    assert len(found) == len(rows), "a number stands twice"
    return found


@pytest.mark.parametrize("number", PUBLISHED)
def test_a_published_number_keeps_its_meaning(number: int) -> None:
    assert {code.number: code.name for code in CODES}[number] == PUBLISHED[number]


def test_no_number_is_given_twice_and_none_is_an_answer_of_boot() -> None:
    numbers = [code.number for code in CODES]
    assert len(set(numbers)) == len(numbers)
    assert not {0, EXIT_REBOOT_WANTED, EXIT_GUARD_WANTED} & set(numbers)
    assert all(0 < number < 126 for number in numbers), "126 and above are the shell's own"


def test_every_error_has_a_result_that_fumo_and_scomo_have() -> None:
    for code in CODES:
        assert code.fumo in FUMO, code
        assert code.scomo in SCOMO, code


def test_the_document_lists_every_error_as_it_is() -> None:
    assert documented() == {code.number: (code.name, code.fumo, code.scomo) for code in CODES}
