"""Prints the share of lines and of branches that ran, and fails below a limit.

    python -m tests.coverage_limits COVERAGE.JSON LINES BRANCHES

Coverage's own `fail_under` knows only the two taken together, in which many lines hide a few branches.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def main(report: str, lines_min: str, branches_min: str) -> int:
    totals = json.loads(Path(report).read_bytes())["totals"]
    lines = percent(totals["covered_lines"], totals["num_statements"])
    branches = percent(totals["covered_branches"], totals["num_branches"])
    print(f"lines {lines:.2f} % (at least {lines_min}), branches {branches:.2f} % (at least {branches_min})")
    return int(lines < float(lines_min) or branches < float(branches_min))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
