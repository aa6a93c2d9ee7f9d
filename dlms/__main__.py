"""The `dlms` tool: discover, read, profile, set, action, image, decode, simulate.

Exit codes: 0 done, 1 the meter refused or talked nonsense, 2 wrong usage, 3 nobody answered or the line failed.
"""

from __future__ import annotations

import importlib

import click

# Command → module and function. Imported when used: `dlms --help` and `dlms decode` need no client.
COMMANDS = {
    "discover": ("dlms.cli.query", "discover"),
    "read": ("dlms.cli.query", "read"),
    "profile": ("dlms.cli.query", "profile"),
    "set": ("dlms.cli.change", "set_value"),
    "action": ("dlms.cli.change", "action"),
    "image": ("dlms.cli.change", "image"),
    "decode": ("dlms.cli.decode", "decode"),
    "simulate": ("dlms.cli.simulate", "simulate"),
}


class Commands(click.Group):
    """The commands, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their use, not of the alphabet."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or nothing for an unknown name."""
        del ctx
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        module, name = found
        command = getattr(importlib.import_module(module), name)
        return command if isinstance(command, click.Command) else None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Talk to DLMS/COSEM meters, explain what they say, or be one."""


if __name__ == "__main__":
    main(prog_name="dlms")
