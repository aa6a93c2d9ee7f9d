"""dcuctl: what a technician asks a running concentrator. Exit codes: 0 done, 1 the daemon said no, or a document
is none, 2 wrong usage, 3 the daemon does not run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.cli import follow as following
from agent.cli import network as networks
from agent.cli import order as orders
from agent.cli import show
from agent.cli.client import NotRunningError, RefusedError, ask, socket_path

EXIT_REFUSED = 1
EXIT_NOT_RUNNING = 3  # what init scripts call "program is not running"

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class Context:
    """Where to ask, and how to print the answer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, command: str, **arguments: object) -> Any:
        return ask(self.path, command, **arguments)

    def tell(self, result: object, as_json: bool, text: Callable[[], str]) -> None:
        click.echo(json.dumps(result, indent=2, sort_keys=True) if as_json else text())


def json_option(function: FunctionT) -> FunctionT:
    return click.option("--json", "as_json", is_flag=True, help="The same as JSON.")(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    "given",
    type=click.Path(path_type=Path),
    help="The daemon's control socket. [default: $DCU_CONTROL_SOCKET or /run/dcu/control.sock]",
)
@click.pass_context
def cli(context: click.Context, given: Path | None) -> None:
    """Ask the data concentrator's agent."""
    context.obj = Context(socket_path(given))


@cli.command()
@json_option
@click.pass_obj
def status(context: Context, as_json: bool) -> None:
    """Device, account, last session, meters, queue, slots."""
    found = context.ask("status")
    context.tell(found, as_json, lambda: show.status(found))


class Meters(click.Group):
    """`dcuctl meters METER` is short for `dcuctl meters show METER`."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        named = bool(args) and args[0] not in self.commands and not args[0].startswith("-")
        return super().resolve_command(context, ["show", *args] if named else args)


@cli.group(cls=Meters, invoke_without_command=True)
@json_option
@click.pass_context
def meters(context: click.Context, as_json: bool) -> None:
    """The meters that this concentrator knows; with METER, everything that is known of one."""
    if context.invoked_subcommand is None:
        found = context.obj.ask("meters")
        context.obj.tell(found, as_json, lambda: show.meters(found, time.time()))


@meters.command("forget")
@click.argument("meter")
@click.pass_obj
def forget_meter(context: Context, meter: str) -> None:
    """Forget METER, which is gone for good: id, EUI-48, or port/address. It is registered again if it joins again."""
    found = context.ask("forget-meter", meter=meter)
    click.echo(f"forgotten: {', '.join(found['forgotten'])}")
    if found.get("provisioned"):
        click.echo("It comes back, since the management server adds it: ./AMI/Registry/Add is to be changed there.")


@cli.group(invoke_without_command=True)
@click.option("--meter", default="", help="Of this meter only.")
@click.option("--limit", type=click.IntRange(1, 20_000), default=100, show_default=True, help="At most so many.")
@json_option
@click.pass_context
def gaps(context: click.Context, meter: str, limit: int, as_json: bool) -> None:
    """The readings that are missing, as ranges, with the reason."""
    if context.invoked_subcommand is None:
        found = context.obj.ask("gaps", meter=meter, limit=limit)
        context.obj.tell(found, as_json, lambda: show.gaps(found))


@gaps.command("give-up")
@click.argument("meter")
@click.option("--task", default="", help="Of this task only.")
@click.option("--why", required=True, help="The reason, which the head-end is told.")
@click.pass_obj
def give_up(context: Context, meter: str, task: str, why: str) -> None:
    """Close the gaps of METER: what is missing will not come any more."""
    found = context.ask("give-up", meter=meter, task=task, why=why)
    click.echo(f"{found['closed']} gaps closed")


@cli.command()
@click.option("--limit", type=click.IntRange(1, 1024), default=20, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def events(context: Context, limit: int, as_json: bool) -> None:
    """What happened at the meters, newest first."""
    found = context.ask("events", limit=limit)
    context.tell(found, as_json, lambda: show.events(found))


@cli.group(invoke_without_command=True)
@json_option
@click.pass_context
def queue(context: click.Context, as_json: bool) -> None:
    """The readings that wait: for the head-end, and for every further sink with its pace and what it missed."""
    if context.invoked_subcommand is None:
        found = context.obj.ask("queue")
        context.obj.tell(found, as_json, lambda: show.queue(found, time.time()))


@queue.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def refused(context: Context, limit: int, as_json: bool) -> None:
    """The readings that the head-end would not take: when, which, and why."""
    found = context.ask("refused", limit=limit)
    context.tell(found, as_json, lambda: show.refused(found, time.time()))


@cli.command()
@json_option
@click.pass_obj
def tasks(context: Context, as_json: bool) -> None:
    """The reading tasks: their runs, when they are, which meters they are for, and why others are not in them."""
    found = context.ask("tasks")
    context.tell(found, as_json, lambda: show.task_details(found, time.time()) if found else "no tasks provisioned")


@cli.command()
@json_option
@click.pass_obj
def health(context: Context, as_json: bool) -> None:
    """The checks that a new firmware must pass; exit code 1 when one does not."""
    found = context.ask("health")
    context.tell(found, as_json, lambda: show.health(found, time.time()))
    if not all(check["ok"] for check in found.values()):
        sys.exit(EXIT_REFUSED)


@cli.command()
@click.pass_obj
def session(context: Context) -> None:
    """Have the agent hold a session with its DM server now."""
    context.ask("session")
    click.echo("a session was asked for; `dcuctl status` shows how it ended")


@cli.group()
def update() -> None:
    """Firmware updates."""


@update.command("status")
@click.option(
    "--follow/--no-follow",
    default=None,
    help="Go on until no update is under way. [default: on a terminal, while one is]",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    help="The Update Agent's status.json, for when the agent does not run: while an update is written. "
    "[default: $DCU_UPDATE_STATUS or /var/lib/dcu/update/status.json]",
)
@json_option
@click.pass_obj
def update_status(context: Context, follow: bool | None, file: Path | None, as_json: bool) -> None:
    """Slots, and what the Update Agent is doing."""
    where = following.status_path(file)
    live = sys.stdout.isatty() and not as_json
    show_update = following.Following(lambda: following.look(context.path, where), live=live, as_json=as_json)
    show_update.run(follow=live if follow is None else follow)


@cli.group(invoke_without_command=True)
@json_option
@click.pass_context
def services(context: click.Context, as_json: bool) -> None:
    """The programs that active software packages have running."""
    if context.invoked_subcommand is None:
        found = context.obj.ask("services")
        context.obj.tell(found, as_json, lambda: show.services(found, time.time()) if found else "no services")


@services.command("log")
@click.argument("service")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="The last so many lines.")
@json_option
@click.pass_obj
def service_log(context: Context, service: str, limit: int, as_json: bool) -> None:
    """What SERVICE printed last."""
    found = context.ask("service-log", service=service, limit=limit)
    context.tell(found, as_json, lambda: "\n".join(show.printable(line) for line in found["lines"]))


@cli.group("wbxml")
def wbxml_documents() -> None:
    """Messages of OMA DM as WBXML and as XML; no daemon is needed."""


@wbxml_documents.command("decode")
@click.argument("file")
def wbxml_decode(file: str) -> None:
    """Print the WBXML document in FILE, or on standard input for `-`, as XML."""
    from agent.cli import wbxml

    _write(_converted(file, wbxml.decode))


@wbxml_documents.command("encode")
@click.argument("file")
def wbxml_encode(file: str) -> None:
    """Write the XML document in FILE, or on standard input for `-`, as WBXML to standard output."""
    from agent.cli import wbxml

    _write(_converted(file, wbxml.encode))


def _write(converted: str | bytes) -> None:
    """To standard output; says in one line why that takes nothing, and exits with 1."""
    try:
        click.echo(converted, nl=False)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer fails at the end of the process, too
        click.echo(f"dcuctl: standard output: {error.strerror or error}", err=True)
        sys.exit(EXIT_REFUSED)


ConvertedT = TypeVar("ConvertedT", str, bytes)


def _converted(file: str, convert: Callable[[bytes], ConvertedT]) -> ConvertedT:
    """What a document becomes; says in one line why it is none, and exits with 1."""
    # Here, as it is a third of what `dcuctl --help` would load, for one group of commands.
    from agent.cli import wbxml
    from omadm.syncml.errors import SyncmlError
    from omadm.syncml.messages import SyncmlValueError

    try:
        return convert(wbxml.read_input(file))
    except OSError as error:
        why = f"{file}: {error.strerror or error}"
    except (SyncmlError, SyncmlValueError) as error:
        why = f"{file}: {error}"
    click.echo("dcuctl: " + " ".join(why.split()), err=True)
    sys.exit(EXIT_REFUSED)


for command in (orders.ping, orders.read, orders.order, networks.network, networks.base_node):
    cli.add_command(command)
for command in (networks.show_meter, networks.add_meter):
    meters.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dcuctl` and return its exit code."""
    try:
        cli.main(args=list(arguments) if arguments is not None else None, prog_name="dcuctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except NotRunningError as error:
        click.echo(f"dcuctl: {error}", err=True)
        return EXIT_NOT_RUNNING
    except RefusedError as error:
        click.echo(f"dcuctl: {error}", err=True)
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
