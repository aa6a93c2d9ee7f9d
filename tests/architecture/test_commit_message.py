"""The check of commit messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture.commit_message import SUBJECT_CHARS_MAX, faults, main


@pytest.mark.parametrize(
    "message",
    [
        "plc: a short subject\n\nIt was too long.\n",
        "Merge branch 'main' into other\n",
        f"{'x' * SUBJECT_CHARS_MAX}\n\nwhy\n",
    ],
)
def test_a_subject_with_a_body_passes_and_so_does_a_merge(message: str) -> None:
    assert faults(message) == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("plc: no body\n", "a body says why"),
        ("", "a body says why"),
        ("plc: no empty line\nwhy\n", "a body says why"),
        (f"{'x' * (SUBJECT_CHARS_MAX + 1)}\n\nwhy\n", "the subject has 73 characters"),
    ],
)
def test_another_message_is_refused(message: str, said: str) -> None:
    (fault,) = faults(message)
    assert said in fault


@pytest.mark.process
def test_comments_of_the_editor_are_no_body(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text("plc: no body\n\n# Please enter the commit message\n")
    assert main(file) == 1
    assert "why" in capsys.readouterr().err
    file.write_text("plc: a body\n\nIt says why.\n\n# Please enter the commit message\n")
    assert main(file) == 0
