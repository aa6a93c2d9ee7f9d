"""`make demo`: the whole life of a data concentrator. Exit 0 only if every row of the closing table holds."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.demo.display import Display
from tests.demo.processes import DemoError
from tests.demo.story import Story

DEATH_IS_KNOWN_S = 1.0


def reason(story: Story, error: Exception) -> str:
    """A refused connection is only what a death looks like from here: give it a moment to be known by name."""
    try:
        story.processes.watch_for(DEATH_IS_KNOWN_S)
    except DemoError as death:
        return str(death)
    return str(error) if isinstance(error, DemoError) else f"{type(error).__name__}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display, also on a terminal")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs, databases and slots")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nothing of the demo may stay behind
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="dcu-demo-"))
    story = Story(folder)
    stages = story.stages()
    display = Display([title for title, _ in stages], plain=options.plain)
    failed = ""
    try:
        with display.running():
            for index, (title, work) in enumerate(stages):
                failed = f"stage {index + 1} ({title})"
                with display.stage(index) as stage:
                    work(stage)
                    story.processes.check()
        failed = ""
    except KeyboardInterrupt:
        print(f"\n{failed} was interrupted", file=sys.stderr)
    except Exception as error:
        print(f"\n{failed} failed: {reason(story, error)}\nlogs: {folder}", file=sys.stderr)
    finally:
        story.end()
    if story.rows:
        display.table(story.rows)
    good = not failed and all(row.ok for row in story.rows)
    if good and not options.keep:
        shutil.rmtree(folder)
    elif not failed:
        print(f"logs, databases and slots: {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
