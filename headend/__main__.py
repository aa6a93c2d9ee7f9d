"""Entry point of `dcu-headend`; names what to install when only the device's part of this distribution is."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from headend.cli import main as command
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", maxsplit=1)[0] in ("agent", "headend", "updateagent"):
            raise
        sys.exit(f"dcu-headend: {error.name} is not installed; the head-end needs: pip install 'dcu-agent[headend]'")
    command()


if __name__ == "__main__":
    main()
