"""How a program on the board tells the host what it found: one JSON object per line, which the console carries."""

import json
import sys
import traceback
from collections.abc import Callable


def say(**event: object) -> None:
    """Tell the host."""
    sys.stdout.write("@@ " + json.dumps(event) + "\n")
    sys.stdout.flush()


def check(name: str, run: Callable[[], object]) -> None:
    """Run one check and tell how it went: what it returned, or how it failed."""
    try:
        found = run()
    except Exception:
        say(event="check", check=name, ok=False, found=traceback.format_exc()[-1200:])
    else:
        say(event="check", check=name, ok=True, found=found)
