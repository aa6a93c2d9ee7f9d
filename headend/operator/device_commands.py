"""The commands of `dcu-headend` for a device's life: off and on, another key, decommissioned, deleted; and the logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from headend.operator.client import device_path
from headend.operator.commands import CONFIG, asking, finish, read_key, show

COMMANDS: list[click.Command] = []


def _command(function: Callable[..., None]) -> click.Command:
    made = click.command()(function)
    COMMANDS.append(made)
    return made


@_command
@CONFIG
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def enrol_csv(config_path: Path, file: Path) -> None:
    """Enrol the devices of a CSV file with the columns id and key: all of them, or none and what is wrong where."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    with asking(config_path) as client:
        show(client.post_text("/v1/enrolments", text, "text/csv"))


@_command
@CONFIG
@click.argument("device_id")
def switch_off(config_path: Path, device_id: str) -> None:
    """Cut a device off everywhere at once: registration, DM sessions, readings, downloads, tokens."""
    with asking(config_path) as client:
        show(client.patch(device_path(device_id), {"enabled": False}))


@_command
@CONFIG
@click.argument("device_id")
def switch_on(config_path: Path, device_id: str) -> None:
    """Take a device that was switched off, or decommissioned, back into service."""
    with asking(config_path) as client:
        show(client.patch(device_path(device_id), {"enabled": True}))


@_command
@CONFIG
@click.argument("device_id")
@click.option("--key-file", type=click.Path(path_type=Path), required=True, help="The new key: 64 hexadecimal digits.")
@click.option("--end-account", is_flag=True, help="End its DM account and tokens too: the key was stolen.")
def replace_key(config_path: Path, device_id: str, key_file: Path, end_account: bool) -> None:
    """Give a device another key; its DM account stays valid until it registers with that."""
    with asking(config_path) as client:
        document = {"key": read_key(key_file), "end_account": end_account}
        show(client.post(device_path(device_id, "/key"), document))


@_command
@CONFIG
@click.argument("device_id")
@click.option("--path", help="The node of its DM account, if it is of another make.")
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for its answer.")
def decommission(config_path: Path, device_id: str, path: str | None, notify: bool, wait_s: float) -> None:
    """Have a device erase its DM account; when it has said that it did, it is switched off."""
    with asking(config_path) as client:
        order = client.post(device_path(device_id, "/decommission"), {} if path is None else {"path": path})
        finish(client, order, notify=notify, wait_s=wait_s)


@_command
@CONFIG
@click.argument("device_id")
@click.confirmation_option(prompt="Delete the device with its key, account and jobs?")
def delete_device(config_path: Path, device_id: str) -> None:
    """Delete a device that is switched off. Its readings and the logs stay."""
    with asking(config_path) as client:
        client.delete(device_path(device_id))
        click.echo(f"{device_id} is deleted")


@_command
@CONFIG
@click.argument("number", type=click.IntRange(1))
def acknowledge_alarm(config_path: Path, number: int) -> None:
    """Acknowledge a security alarm."""
    with asking(config_path) as client:
        show(client.post(f"/v1/security-alarms/{number}/acknowledge"))
