"""The commands of `dcu-headend` that call a running head-end. Output is JSON, or tables on a terminal."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from headend import config as configuration
from headend import pki, web
from headend.config import CONFIG_NAME, Config, ConfigError
from headend.dm.jobs.queue import OPEN_STATES
from headend.operator.client import OperatorClient, OperatorError, device_path
from headend.operator.networks import SURVEY
from headend.operator.show import moment, table
from headend.security import devices
from omadm.orders import DEADLINE_S_MAX, PRIORITY_MAX
from omadm.readings import TOKEN_NODE, URL_NODE
from omadm.ssmp.limits import DEVICE_KEY_BYTES

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
POLL_S = 1.0
NETWORK_EVENTS_SHOWN = 50  # events of one network
_NODE_COLUMNS = ("level", "eui48", "meter_id", "state", "rx_level", "snr", "modulation", "promotions", "last_heard")

CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path(CONFIG_NAME),
    show_default=True,
    help="The configuration that `init` made.",
)
_DEVICE = click.option("--device", help="Only this device.")
_LIMIT = click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
_JSON = click.option(
    "--json/--table", "as_json", default=None, help="Without either: a table on a terminal, JSON into a pipe or file."
)

COMMANDS: list[click.Command] = []


def command(function: Callable[..., None]) -> click.Command:
    made = click.command()(function)
    COMMANDS.append(made)
    return made


# ---- devices


@command
@CONFIG
@click.argument("device_id")
@click.option("--key-file", type=click.Path(path_type=Path), help="The device key: 64 hexadecimal digits.")
@click.option("--new-key-file", type=click.Path(path_type=Path), help="Make a key and write it here, mode 0600.")
@click.option("--certificate", type=click.Path(path_type=Path), help="The device's own certificate, PEM.")
@click.option("--by-authority", is_flag=True, help="Any certificate that an authority of `ssmp.device_ca` has given "
              "to this name.")  # fmt: skip
@click.option("--replace", is_flag=True, help="Let a device that is enrolled already prove itself so from now on.")
def enrol(
    config_path: Path,
    device_id: str,
    key_file: Path | None,
    new_key_file: Path | None,
    certificate: Path | None,
    by_authority: bool,
    replace: bool,
) -> None:
    """Enrol a device by its id and factory key, or by certificate. A key travels in files, never on a command line.

    A device that is enrolled already needs --replace.
    """
    if sum((key_file is not None, new_key_file is not None, certificate is not None, by_authority)) != 1:
        raise click.UsageError("one of --key-file, --new-key-file, --certificate and --by-authority is needed")
    if certificate is not None or by_authority:
        how = {"by_authority": True} if certificate is None else {"certificate": read_text(certificate)}
        with asking(config_path) as client:
            show(client.post("/v1/devices", {"id": device_id, "replace": replace, **how}))
        return
    key = secrets.token_hex(DEVICE_KEY_BYTES) if key_file is None else read_key(key_file)
    kept = contextlib.nullcontext() if new_key_file is None else new_secret(new_key_file, f"{key}\n")
    with kept, asking(config_path) as client:
        show(client.post("/v1/devices", {"id": device_id, "key": key, "replace": replace}))


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: {error}") from error


def read_key(file: Path) -> str:
    try:
        return devices.key_from(file.read_text(encoding="ascii").strip()).hex()
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    except ValueError:  # also for what is no text
        raise click.ClickException(f"{file}: {devices.KEY_RULE}") from None


@command
@CONFIG
@click.argument("device_id")
@click.option(
    "--auth",
    type=click.Choice(["hmac", "digest", "basic"]),
    default="hmac",
    show_default=True,
    help="How the device proves itself: MAC of each message, syncml:auth-md5 or syncml:auth-basic.",
)
@click.option(
    "--accepts",
    type=click.Choice(["message", "session"]),
    default="message",
    show_default=True,
    help="How long digest or basic credentials are good for: one message, or the session that begins with it.",
)
@click.option("--push-url", default="", help="Where it takes notifications.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the credentials, mode 0600.")
def account(config_path: Path, device_id: str, auth: str, accepts: str, push_url: str, out: Path) -> None:
    """Make a DM account for an enrolled device of another make, which cannot register. It replaces an existing one."""
    with asking(config_path) as client, new_secret(out, ""):
        wanted = {"auth": auth.upper(), "accepts": accepts, "push_url": push_url}
        made = client.post(device_path(device_id, "/dm-account"), wanted)
        out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        click.echo(f"credentials of {device_id} at {made['url']}: {out}")


# ---- jobs


@command
@CONFIG
@click.argument("device_id")
@click.argument("kind")
@click.option("--params", default="{}", help="Parameters of the job as JSON; `-` reads them from standard input.")
@click.option("--package", help="firmware, software: the uploaded package of this name, instead of its url.")
@click.option("--release", help="firmware: this release, as the delta that fits the device, or whole where none does.")
@click.option("--no-delta", is_flag=True, help="firmware: the full package of --release.")
@click.option("--full-after-delta", is_flag=True, help="firmware: send the full package when the device cannot use "
              "the delta and may not fetch the full one by itself.")  # fmt: skip
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the job's end.")
def job(
    config_path: Path,
    device_id: str,
    kind: str,
    params: str,
    package: str | None,
    release: str | None,
    no_delta: bool,
    full_after_delta: bool,
    notify: bool,
    wait_s: float,
) -> None:
    """Queue a job for a device.

    \b
    get        --params '{"paths": ["./DevDetail"]}'; `values` shows what was read
    tasks      --params '{"tasks": {"day": {"times": "0 0 * * *", "codes": "3/1.0.1.8.0.255/2"}, "old": null}}'
    provision  --params '{"nodes": [{"path": "./SCHED/Task/t1/Setting/Every", "value": 900}]}'
    firmware   --release 2; or --package fw-2.swu [--params '{"version": "2"}']
    software   --package lists.swu --params '{"id": "lists"}'
    commands   --params '{"commands": [{"command": "exec", "path": "./FUMO/Firmware/Update"}]}'
    connectivity --params '{"server": "https://new.example/dm", "within_s": 900}'; or `reroute`
    device     --params '{"operation": "reboot"}'; or `lock`, `unlock`, `reboot`, `factory-reset`
    log        --params '{"since": 1795341600, "level": "warning"}'; or `device-log`

    Exit status with --wait: 0 done, 1 failed or not over in time.
    """
    document = _given(params)
    if release is not None:
        document = document | {"version": release, "delta": not no_delta, "full_after_delta": full_after_delta}
    elif no_delta or full_after_delta:
        raise click.UsageError("--no-delta and --full-after-delta go with --release")
    with asking(config_path) as client:
        if package is not None:
            document = document | {"url": _package_url(client, package)}
        finish(
            client,
            client.post(device_path(device_id, "/jobs"), {"kind": kind, "params": document}),
            notify=notify,
            wait_s=wait_s,
        )


@command
@CONFIG
@click.argument("device_id")
@click.argument("kind")
@click.argument("meters", nargs=-1, required=True)
@click.option("--params", default="{}", help="Parameters of the kind as JSON; `-` reads them from standard input.")
@click.option("--priority", type=click.IntRange(0, PRIORITY_MAX), help="The highest first; 5 when not given.")
@click.option("--deadline", "deadline_s", type=click.IntRange(1, DEADLINE_S_MAX), help="Seconds; 300 when not given.")
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the order's end.")
def order(
    config_path: Path,
    device_id: str,
    kind: str,
    meters: tuple[str, ...],
    params: str,
    priority: int | None,
    deadline_s: int | None,
    notify: bool,
    wait_s: float,
) -> None:
    """Queue an order to METERS behind a device: ids, or groups as group:kfm, port:plc0, 'KEP*'.

    \b
    read      --params '{"codes": ["3/1.0.1.8.0.255/2"]}'
    limiter   --params '{"threshold_normal": 4600}'
    firmware  --deadline 86400 --params '{"url": "https://…", "sha256": "…", "size": 90112, "identifier": "2"}'

    Exit status with --wait: 0 every meter has done it, 1 otherwise.
    """
    document: dict[str, Any] = {"order": kind, "meters": list(meters), "parameters": _given(params)}
    document |= {
        name: value for name, value in (("priority", priority), ("deadline_s", deadline_s)) if value is not None
    }
    with asking(config_path) as client:
        queued = client.post(device_path(device_id, "/jobs"), {"kind": "order", "params": document})
        finish(client, queued, notify=notify, wait_s=wait_s)


def _given(params: str) -> dict[str, Any]:
    """The object in `--params`, by the rules of the head-end: a name that stands twice would be lost on the way."""
    try:
        return web.parse_json((sys.stdin.read() if params == "-" else params).encode("utf-8", "surrogatepass"))
    except web.HttpProblem as error:
        raise click.UsageError(f"--params: {error.text}") from error


@command
@CONFIG
@click.argument("number", type=int)
@click.option("--ask/--no-ask", default=False, help="Have the device say how far it is, and wait for that.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0), default=60.0, show_default=True, help="Seconds, with --ask."
)
def show_order(config_path: Path, number: int, ask: bool, wait_s: float) -> None:
    """An order with what became of each meter, as the device has told it."""
    asked: dict[str, Any] = {}
    with asking(config_path) as client:
        if ask:
            asked = _followed(client, client.post(f"/v1/orders/{number}/progress"), notify=True, wait_s=wait_s)
        show(client.get(f"/v1/orders/{number}"))
    if asked and asked["state"] != "done":
        click.echo(f"the device has not said how far it is: job {asked['id']} is {asked['state']}", err=True)
        sys.exit(EXIT_FAILED)


def _package_url(client: OperatorClient, name: str) -> str:
    found = {row["name"]: row["url"] for row in client.get("/v1/packages")["packages"]}
    if name not in found:
        raise click.ClickException(f"there is no package {name}; uploaded are: {', '.join(found) or 'none'}")
    return str(found[name])


def finish(client: OperatorClient, queued: dict[str, Any], *, notify: bool, wait_s: float) -> None:
    """Notify the device, wait if asked to, and show the job. The job stays queued if the notification fails."""
    queued = _followed(client, queued, notify=notify, wait_s=wait_s)
    show(queued)
    if wait_s and queued["state"] != "done":
        sys.exit(EXIT_FAILED)


def _followed(client: OperatorClient, queued: dict[str, Any], *, notify: bool, wait_s: float) -> dict[str, Any]:
    """Notify the device and wait; the job as it is then."""
    if notify:
        try:
            queued["push"] = client.post(device_path(queued["device_id"], "/push"))
        except OperatorError as error:
            queued["push"] = {"error": str(error)}
            click.echo(f"queued; the device takes it at its next session, it was not notified: {error}", err=True)
    deadline = time.monotonic() + wait_s
    while wait_s and queued["state"] in OPEN_STATES and time.monotonic() < deadline:
        time.sleep(min(POLL_S, wait_s))
        queued |= client.get(f"/v1/jobs/{queued['id']}")
    return queued


@command
@CONFIG
@click.argument("device_id")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the job's end.")
def uplink(config_path: Path, device_id: str, wait_s: float) -> None:
    """Have a device deliver its readings here: issues a token and queues the job that sets URL and token."""
    with asking(config_path) as client:
        issued = client.post(device_path(device_id, "/metering-token"))
        nodes = [
            {"path": URL_NODE, "value": issued["url"]},
            {"path": TOKEN_NODE, "value": issued["token"]},
        ]
        document = {"kind": "provision", "params": {"nodes": nodes}}
        finish(client, client.post(device_path(device_id, "/jobs"), document), notify=True, wait_s=wait_s)


@command
@CONFIG
@_JSON
@click.argument("device_id")
def tasks(config_path: Path, as_json: bool | None, device_id: str) -> None:
    """The reading tasks of a device as it last told them: state, next runs in local time, selection.

    A job `tasks` makes, changes and deletes them, and a job `get` of ./SCHED has the device tell them anew.
    """
    columns = ("task", "node.Status/State", "node.Setting/Times", "node.Setting/Every", "next", "node.Status/Meters",
               "node.Status/LastResult", "node.Status/Waiting", "told")  # fmt: skip
    with asking(config_path) as client:
        listed(client.get(device_path(device_id, "/tasks")), "tasks", columns, as_json)


@command
@CONFIG
@click.argument("device_id")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the job's end.")
def survey(config_path: Path, device_id: str, wait_s: float) -> None:
    """Have a device tell of its networks and meters: topology, signal, history, capabilities, counters."""
    with asking(config_path) as client:
        document = {"kind": "get", "params": {"paths": list(SURVEY)}}
        finish(client, client.post(device_path(device_id, "/jobs"), document), notify=True, wait_s=wait_s)


@command
@CONFIG
@click.argument("device_id")
@click.option("--json", "as_json", is_flag=True, default=None, help="As JSON, also on a terminal.")
def network(config_path: Path, device_id: str, as_json: bool | None) -> None:
    """The networks behind a device, as it told them last (see `survey`)."""
    with asking(config_path) as client:
        found = client.get("/v1/networks", device=device_id)
    if as_json or not sys.stdout.isatty():
        show(found)
        return
    for each in found["networks"]:
        note = f"; {each['problem']}" if each["problem"] else ""
        click.echo(f"port {each['port']}, read {moment(each['updated'])}{note}")
        click.echo(table(each["nodes"], _NODE_COLUMNS))
        click.echo(table(each["history"][:NETWORK_EVENTS_SHOWN], ("at", "kind", "eui48", "sid", "detail")))
    if not found["networks"]:
        click.echo("the device told of no network yet; `survey` asks it")


@command
@CONFIG
@click.argument("number", type=click.IntRange(1))
def cancel(config_path: Path, number: int) -> None:
    """Cancel a job that is queued, or waits for the device's report."""
    with asking(config_path) as client:
        show(client.post(f"/v1/jobs/{number}/cancel"))


@command
@CONFIG
@click.argument("number", type=click.IntRange(1))
def acknowledge(config_path: Path, number: int) -> None:
    """Acknowledge an event, so that it is no open alarm any more."""
    with asking(config_path) as client:
        show(client.post(f"/v1/events/{number}/acknowledge"))


@command
@CONFIG
@click.argument("device_id")
def push(config_path: Path, device_id: str) -> None:
    """Ask a device to start a session now."""
    with asking(config_path) as client:
        show(client.post(device_path(device_id, "/push")))


# ---- readings once more


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Take seconds since the epoch, or an ISO 8601 time; one without a zone is the local time of this machine."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return float(value)
    try:
        return dt.datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is neither 2026-11-28T10:00:00+01:00 nor seconds since 1970") from None


_RESEND_COLUMNS = (
    "request", "made", "since", "until", "store", "first", "last", "ended", "sent", "refused", "gone", "kept_since",
)  # fmt: skip


@command
@CONFIG
@_JSON
@click.argument("device_id")
@click.option("--since", callback=_seconds, help="Values from this time on: 2026-11-28T10:00:00+01:00, or seconds.")
@click.option("--until", callback=_seconds, help="Values up to this time; now, if not given.")
@click.option("--store", help="Records of this store of the device, as in its readings; with --first and --last.")
@click.option("--first", type=click.IntRange(1), help="The first id.")
@click.option("--last", type=click.IntRange(1), help="The last id.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for the report.")
def resend(
    config_path: Path,
    as_json: bool | None,
    device_id: str,
    since: float | None,
    until: float | None,
    store: str | None,
    first: int | None,
    last: int | None,
    wait_s: float,
) -> None:
    """Ask a device to send readings once more, by the time that they speak of or by their ids.

    Without a range: what it was asked for, and how that ended. The device takes the order with its next batch.

    Exit status with --wait: 0 when all of it came, 1 when records are gone or refused, when the device keeps nothing
    from so long ago, or when it is not over in time.
    """
    by_time, by_id = (since, until), (store, first, last)
    if any(each is not None for each in by_time) and any(each is not None for each in by_id):
        raise click.UsageError("--since and --until do not go with --store, --first and --last")
    if any(each is not None for each in by_id) and None in by_id:
        raise click.UsageError("--store, --first and --last go together")
    if until is not None and since is None:
        raise click.UsageError("--until goes with --since")
    path = device_path(device_id, "/resend")
    with asking(config_path) as client:
        if since is None and store is None:
            orders = [_by_one_range(order) for order in client.get(path)["orders"]]
            listed({"orders": orders}, "orders", _RESEND_COLUMNS, as_json)
            return
        wanted: dict[str, object] = {"store": store, "first": first, "last": last}
        if since is not None:
            wanted = {"since": since, "until": time.time() if until is None else until}
        _await_resend(client, path, client.post(path, wanted)["request"], wait_s)


def _by_one_range(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return the order with the range that it asks for, and nothing for the other one."""
    empty = ("since", "until") if order["store"] else ("store", "first", "last")
    return {name: None if name in empty else value for name, value in order.items()}


def _await_resend(client: OperatorClient, path: str, request: int, wait_s: float) -> None:
    """Wait for the device's report if asked to, and show the order."""

    def order() -> dict[str, Any]:
        return next(dict(one) for one in client.get(path)["orders"] if one["request"] == request)

    deadline = time.monotonic() + wait_s
    found = order()
    while wait_s and found["ended"] is None and time.monotonic() < deadline:
        time.sleep(min(POLL_S, wait_s))
        found = order()
    show(_by_one_range(found))
    if wait_s and not _all_came(found):
        sys.exit(EXIT_FAILED)


def _all_came(order: Mapping[str, Any]) -> bool:
    ended = order["ended"] is not None and not order["refused"] and not order["gone"]
    return ended and (bool(order["store"]) or order["kept_since"] <= order["since"])


# ---- packages


@command
@CONFIG
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="Name of the package; the file's name if not given.")
@click.option("--content-type", default="application/octet-stream", show_default=True)
def upload(config_path: Path, file: Path, name: str | None, content_type: str) -> None:
    """Upload a package to the package server; it replaces one of the same name."""
    with asking(config_path) as client:
        show(client.put_file(f"/v1/packages/{name or file.name}", file, content_type))


# ---- lists


def _lister(name: str, columns: Sequence[str], help_text: str, *options: Callable[..., Any], path: str = "") -> None:
    """A command that shows `GET /v1/NAME`; `options` become its query."""

    def ask(config_path: Path, as_json: bool | None, **query: Any) -> None:
        with asking(config_path) as client:
            listed(client.get(path or f"/v1/{name}", **query), name.rpartition("-")[2], columns, as_json)

    for option in reversed(options):
        ask = option(ask)
    ask.__doc__ = help_text
    COMMANDS.append(click.command(name)(CONFIG(_JSON(ask))))


_METER = click.option("--meter", help="Only this meter.")
_STATE = click.option("--state", type=click.Choice(["open", "closed"]), help="Only these.")
_ALARMS = click.option("--alarms", "state", flag_value="open", help="Only alarms that nobody has acknowledged.")
_OPEN = click.option("--open", "state", flag_value="open", help="Only those that nobody has acknowledged.")
_RUN = click.option("--run", type=int, help="Only this run (seconds since the epoch).")
_OBIS = click.option("--obis", help="Only this code, as 1.0.1.8.0.255.")
_ORDER = click.option("--newest", "order", flag_value="newest", help="The newest first.")
_PACKAGE = click.option("--package", help="Only this package.")

_lister(
    "devices",
    ("id", "state", "man", "mod", "fw_version", "registered", "last_session.state", "last_session.updated"),
    "The enrolled devices.",
)
_lister("audit", ("at", "who", "action", "device", "detail"), "Who changed what, newest first.", _DEVICE, _LIMIT)
_lister(
    "security-alarms",
    ("id", "kind", "device", "count", "first", "last", "text", "acknowledged"),
    "The alarms of the security server, newest first.",
    _DEVICE,
    _OPEN,
    _LIMIT,
)
_lister("registrations", ("at", "device", "peer", "code", "text"), "The registrations, newest first.", _LIMIT)
_lister(
    "sessions",
    ("device_id", "session_id", "state", "messages", "commands", "started", "updated"),
    "The DM sessions, newest first.",
    _DEVICE,
    _LIMIT,
)
_lister(
    "values", ("device_id", "uri", "value", "data", "updated"), "What devices told of their trees.", _DEVICE, _LIMIT
)
_lister(
    "jobs",
    ("id", "device_id", "kind", "state", "sent.package", "result", "updated"),
    "The jobs, newest first.",
    _DEVICE,
    _LIMIT,
)
_lister(
    "orders",
    ("id", "device_id", "order", "targets", "state", "counts", "error", "updated"),
    "The orders to meters, newest first.",
    _DEVICE,
    _LIMIT,
)
_lister(
    "alerts",
    ("received", "device_id", "type", "source", "result_code", "data"),
    "The alerts, newest first.",
    _DEVICE,
    _LIMIT,
)
_lister(
    "meters",
    ("device", "meter", "readings", "last_run", "last_seen"),
    "The meters that readings came from.",
    _DEVICE,
)
_lister(
    "registered",
    (
        "device",
        "meter_id",
        "port",
        "state",
        "model",
        "firmware",
        "counters.read",
        "counters.timeout",
        "counters.refused",
        "counters.auth",
        "last_error",
    ),
    "The meters that devices have registered, as they told last, with how often reading them failed.",
    _DEVICE,
    _LIMIT,
)
_lister(
    "readings",
    ("run", "meter", "obis", "attr", "value", "unit_symbol", "meter_time", "doubt", "error"),
    "The readings, in the order of device, store and id.",
    _DEVICE,
    _METER,
    _OBIS,
    _RUN,
    _ORDER,
    _LIMIT,
)
_lister(
    "gaps",
    ("device", "meter", "task", "profile", "first", "last", "slots", "reason", "state", "how"),
    "The readings that are missing, as ranges, open ones first.",
    _DEVICE,
    _METER,
    _STATE,
    _LIMIT,
)
_lister(
    "events",
    ("id", "received", "device", "meter", "event", "code", "name", "grave", "security", "meter_time", "count"),
    "The events of meters, newest first.",
    _DEVICE,
    _METER,
    _ALARMS,
    _LIMIT,
)
_lister(
    "packages",
    ("name", "kind", "version", "delta", "from_versions", "size", "uploaded", "sha256"),
    "The uploaded packages, and what they are.",
)
_lister(
    "downloads",
    ("at", "package", "device", "status", "start", "wanted", "sent"),
    "The log of package downloads, oldest first.",
    _PACKAGE,
    _LIMIT,
)


# ---- helpers


def load(path: Path) -> Config:
    """Load the configuration; a wrong one ends the command with status 2."""
    try:
        return configuration.load(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CONFIGURATION)


@contextlib.contextmanager
def asking(path: Path) -> Iterator[OperatorClient]:
    """A client of the running head-end; its errors end the command with a message."""
    try:
        client = OperatorClient.of(load(path))
        try:
            yield client
        finally:
            client.close()
    except OperatorError as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def new_secret(file: Path, content: str) -> Iterator[None]:
    """Create a file of mode 0600; it is removed again when the block fails."""
    try:
        pki.write_new(file, content.encode(), pki.SECRET_MODE)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    try:
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def show(document: object) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    click.echo(text.encode("utf-8", "backslashreplace").decode())  # what no terminal can show, as JSON writes it


def listed(document: Mapping[str, Any], name: str, columns: Sequence[str], as_json: bool | None) -> None:
    """Show a list as JSON, or as a table on a terminal."""
    if as_json is None:
        as_json = not sys.stdout.isatty()
    if as_json:
        show(document)
    else:
        click.echo(table(document[name], columns))
