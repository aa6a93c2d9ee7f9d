"""The `dlms` tool: discover, read, profile, set, action, image, decode, simulate.

Exit codes: 0 done, 1 the meter refused or talked nonsense, 2 wrong usage, 3 nobody answered or the line failed.
"""

from __future__ import annotations

import importlib

import click

# Command → module, function, and its line in `dlms --help`. The module is imported when the command is used, so that
# `--help` needs none and `dlms decode` no client.
COMMANDS = {
    "discover": ("dlms.cli.query", "discover", "List the objects of a meter, or the meters on a bus."),
    "read": ("dlms.cli.query", "read", "Read attributes."),
    "profile": ("dlms.cli.query", "profile", "Read the rows of a profile."),
    "set": ("dlms.cli.change", "set_value", "Write one attribute."),
    "action": ("dlms.cli.change", "action", "Call one method."),
    "image": ("dlms.cli.change", "image", "Bring firmware to a meter."),
    "decode": ("dlms.cli.decode", "decode", "Explain frames, APDUs and values."),
    "simulate": ("dlms.cli.simulate", "simulate", "Be a meter until interrupted."),
}


class Commands(click.Group):
    """The commands, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their use, not of the alphabet."""
        del ctx
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `--help`, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, _function, text) in COMMANDS.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or nothing for an unknown name."""
        del ctx
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        module, name, _ = found
        command = getattr(importlib.import_module(module), name)
        return command if isinstance(command, click.Command) else None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Talk to DLMS/COSEM meters, explain what they say, or be one."""


if __name__ == "__main__":
    main(prog_name="dlms")
