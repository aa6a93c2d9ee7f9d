"""The commands of `dcu-headend` for a device's life: off and on, another key, decommissioned, deleted; and the logs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from headend.config import PORT_MAX
from headend.operator.client import device_path
from headend.operator.commands import CONFIG, asking, command, finish, read_key, show
from omadm.orders import LEVELS

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


@command
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


@command
@CONFIG
@click.argument("device_id")
def switch_off(config_path: Path, device_id: str) -> None:
    """Cut a device off everywhere at once: registration, DM sessions, readings, downloads, tokens."""
    with asking(config_path) as client:
        show(client.patch(device_path(device_id), {"enabled": False}))


@command
@CONFIG
@click.argument("device_id")
def switch_on(config_path: Path, device_id: str) -> None:
    """Take a device that was switched off, or decommissioned, back into service."""
    with asking(config_path) as client:
        show(client.patch(device_path(device_id), {"enabled": True}))


@command
@CONFIG
@click.argument("device_id")
@click.option("--key-file", type=click.Path(path_type=Path), required=True, help="The new key: 64 hexadecimal digits.")
@click.option("--end-account", is_flag=True, help="End its DM account and tokens too: the key was stolen.")
def replace_key(config_path: Path, device_id: str, key_file: Path, end_account: bool) -> None:
    """Give a device another key; its DM account stays valid until it registers with that."""
    with asking(config_path) as client:
        document = {"key": read_key(key_file), "end_account": end_account}
        show(client.post(device_path(device_id, "/key"), document))


@command
@CONFIG
@click.argument("device_id")
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for its answer.")
def renew_key(config_path: Path, device_id: str, notify: bool, wait_s: float) -> None:
    """Have a device get a new key without a visit: it erases its DM account, and registers again at once."""
    with asking(config_path) as client:
        finish(client, client.post(device_path(device_id, "/renew-key"), {}), notify=notify, wait_s=wait_s)


@command
@CONFIG
@click.argument("device_id")
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for its answer.")
def renew_certificate(config_path: Path, device_id: str, notify: bool, wait_s: float) -> None:
    """Have a device make another key pair and get its certificate without a visit: it registers again at once."""
    with asking(config_path) as client:
        finish(client, client.post(device_path(device_id, "/renew-certificate"), {}), notify=notify, wait_s=wait_s)


@command
@CONFIG
@click.argument("device_ids", nargs=-1, required=True, metavar="DEVICE...")
@click.option("--network", "networks", multiple=True, help="Such as 10.20.0.0/16; may be repeated.")
@click.option("--port", "ports", type=click.IntRange(1, PORT_MAX), multiple=True, help="Every port without it.")
@click.option("--nowhere", is_flag=True, help="It is never called, and comes at its next poll.")
@click.option("--default", "default", is_flag=True, help="Where `push` of the configuration says.")
def push_policy(
    config_path: Path,
    device_ids: tuple[str, ...],
    networks: tuple[str, ...],
    ports: tuple[int, ...],
    nowhere: bool,
    default: bool,
) -> None:
    """Say where devices may be called with notifications, in the place of `push` of the configuration."""
    if bool(networks) + nowhere + default != 1 or (ports and not networks):
        raise click.UsageError("--network (with --port), --nowhere or --default is needed")
    with asking(config_path) as client:
        for device_id in device_ids:
            path = device_path(device_id, "/push-policy")
            if default:
                client.delete(path)
            else:
                show(client.put(path, {"networks": list(networks), "ports": list(ports)}))


@command
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


@command
@CONFIG
@click.argument("device_id")
@click.confirmation_option(prompt="Delete the device with its key, account and jobs?")
def delete_device(config_path: Path, device_id: str) -> None:
    """Delete a device that is switched off. Its readings and the logs stay."""
    with asking(config_path) as client:
        client.delete(device_path(device_id))
        click.echo(f"{device_id} is deleted")


@command
@CONFIG
@click.argument("device_id")
@click.option("--server", help="Address of the DM server.")
@click.option("--registration", help="Address of the security server; `default`: as configured on the device.")
@click.option("--uplink", help="Where readings go.")
@click.option("--anchors", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="PEM of the authorities "
              "that every server must chain to, in the place of those before.")  # fmt: skip
@click.option("--time-servers", help="Names or addresses, separated by spaces; or `default`.")
@click.option("--access-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="What the hook of "
              "the device is told: proxy, APN. May hold secrets, so it comes from a file.")  # fmt: skip
@click.option("--within", "within_s", type=click.IntRange(60, 86_400), default=900, show_default=True,
              help="Seconds within which a session must succeed.")  # fmt: skip
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the result.")
def reroute(
    config_path: Path,
    device_id: str,
    server: str | None,
    registration: str | None,
    uplink: str | None,
    anchors: Path | None,
    time_servers: str | None,
    access_file: Path | None,
    within_s: int,
    notify: bool,
    wait_s: float,
) -> None:
    """Change how a device reaches its head-end, on trial: what leads to no session in time is taken back.

    Exit status with --wait: 0 confirmed, 1 taken back or not over in time.
    """
    given = {
        "server": server,
        "registration": registration,
        "uplink": uplink,
        "anchors": _text_of(anchors),
        "time_servers": time_servers,
        "access": _text_of(access_file),
    }
    params = {name: value for name, value in given.items() if value is not None} | {"within_s": within_s}
    with asking(config_path) as client:
        queued = client.post(device_path(device_id, "/jobs"), {"kind": "connectivity", "params": params})
        finish(client, queued, notify=notify, wait_s=wait_s)


def _order(verb: str, doc: str, prompt: str = "") -> None:
    """Make the command for one operation of the job `device`. With `prompt` it asks before it acts."""

    def run(config_path: Path, device_id: str, notify: bool, wait_s: float) -> None:
        with asking(config_path) as client:
            document = {"kind": "device", "params": {"operation": verb}}
            finish(client, client.post(device_path(device_id, "/jobs"), document), notify=notify, wait_s=wait_s)

    run.__name__, run.__doc__ = verb.replace("-", "_"), doc
    for option in (
        click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the result."),
        click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device."),
        click.argument("device_id"),
        CONFIG,
        *((click.confirmation_option(prompt=prompt),) if prompt else ()),
    ):
        run = option(run)
    command(run)


_order("lock", "Have a device read no meters and take no orders until it is unlocked; sessions go on.")
_order("unlock", "Undo `lock`.")
_order("reboot", "Have a device reboot; done when it says so after the boot.")
_order(
    "factory-reset",
    "Have a device erase everything but its identity and firmware, and register anew; done when it says so then.",
    "Erase everything on the device but its identity and firmware?",
)


@command
@CONFIG
@click.argument("device_id")
@click.option("--since", type=click.DateTime(_TIMES), help="UTC; as far back as it goes when not given.")
@click.option("--until", type=click.DateTime(_TIMES), help="UTC; now when not given.")
@click.option("--level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=60.0, show_default=True, help="Seconds to wait.")
def device_log(
    config_path: Path,
    device_id: str,
    since: dt.datetime | None,
    until: dt.datetime | None,
    level: str,
    notify: bool,
    wait_s: float,
) -> None:
    """Have a device send its log of a time span. `values` with ./DiagMon/Log/Data shows it when the job is done."""
    params: dict[str, object] = {"level": level}
    params |= {
        name: int(value.replace(tzinfo=dt.UTC).timestamp())
        for name, value in (("since", since), ("until", until))
        if value is not None
    }
    with asking(config_path) as client:
        queued = client.post(device_path(device_id, "/jobs"), {"kind": "log", "params": params})
        finish(client, queued, notify=notify, wait_s=wait_s)


def _text_of(file: Path | None) -> str | None:
    try:
        return None if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error


@command
@CONFIG
@click.argument("number", type=click.IntRange(1))
def acknowledge_alarm(config_path: Path, number: int) -> None:
    """Acknowledge a security alarm."""
    with asking(config_path) as client:
        show(client.post(f"/v1/security-alarms/{number}/acknowledge"))
