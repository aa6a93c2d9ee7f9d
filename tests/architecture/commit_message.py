"""A commit says what it does in a line, and why below it. Run by the commit-msg hook, with the file of the message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUBJECT_CHARS_MAX = 72


def faults(message: str) -> list[str]:
    """What is wrong with a message, as `git stripspace` leaves it. Git's own words for merges and reverts pass."""
    subject, _, rest = message.partition("\n")
    if subject.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return []
    found = []
    if len(subject) > SUBJECT_CHARS_MAX:
        found.append(f"the subject has {len(subject)} characters, {SUBJECT_CHARS_MAX} are allowed")
    if not rest.startswith("\n"):
        found.append("below an empty line, a body says why")
    return found


def main(file: Path) -> int:
    """Print what is wrong with the message in `file`; return the exit status for git."""
    done = subprocess.run(
        ["git", "stripspace", "--strip-comments"],
        input=file.read_text(encoding="utf-8"),
        capture_output=True,
        text=True,
        check=True,
    )
    found = faults(done.stdout)
    sys.stderr.writelines(f"{fault}\n" for fault in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
