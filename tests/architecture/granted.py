"""What each package may name of our other packages, whole rooms. `make lint` runs it as a program."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.trees import PACKAGES, REPO, modules_of, nodes

FROM_OURS = {
    "dlms": (),
    "omadm": (),
    "updateagent": (),
    "plc": ("dlms.link", "dlms.cursor", "dlms.errors"),
    "headend": ("omadm", "updateagent.package", "dlms.cosem"),
}
"""What a package may name of our others: whole rooms and ground modules; the contracts say what may be behind them."""


def named(path: Path) -> Iterator[str]:
    """Every module that a file imports, dotted, also inside functions; of `from a import b` both a.b and a."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def not_granted(root: Path, package: str) -> list[str]:
    """Imports below `root` of our other packages that `package` may not name."""
    return [
        f"{path.relative_to(root)} imports {name}"
        for path in modules_of(root, package)
        for name in named(path)
        if name.split(".")[0] in set(PACKAGES) - {package}
        and not any(f"{name}.".startswith(f"{granted}.") for granted in FROM_OURS[package])
    ]


def main(root: Path = REPO) -> int:
    """Print what is not granted; return the exit code."""
    found = [line for package in FROM_OURS for line in not_granted(root, package)]
    sys.stderr.writelines(f"{line}, which is not granted\n" for line in found)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
