"""`dcu-headend`: make, run and ask a head-end."""

from __future__ import annotations

import json
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from headend import config as configuration
from headend import pki, serve
from headend.config import CONFIG_NAME, SERVER_ID, SERVERS, Config, ConfigError
from headend.operator.client import OperatorClient, OperatorError, device_path
from headend.serve import ServeError

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
DEVICE_KEY_BYTES = 32
OPERATOR_TOKEN_BYTES = 32

_CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path(CONFIG_NAME),
    show_default=True,
    help="The configuration that `init` made.",
)
_DEVICE = click.option("--device", help="Only this device.")
_LIMIT = click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)


@click.group()
@click.version_option(package_name="dcu-agent")
def main() -> None:
    """The head-end of DCU concentrators: security, DM, package and metering servers, and the operator's API."""


@main.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address that the servers listen on.")
@click.option("--name", "names", multiple=True, help="A name or address for the server certificate; repeatable.")
@click.option("--certificate", type=click.Path(path_type=Path, exists=True), help="Certificate chain to use (PEM).")
@click.option("--key", type=click.Path(path_type=Path, exists=True), help="Its private key (PEM).")
@click.option("--ca", type=click.Path(path_type=Path, exists=True), help="The authority that it chains to (PEM).")
@click.option("--server-id", default=SERVER_ID, show_default=True, help="The DM server's id.")
def init(
    folder: Path,
    host: str,
    names: Sequence[str],
    certificate: Path | None,
    key: Path | None,
    ca: Path | None,
    server_id: str,
) -> None:
    """Make a new head-end in a folder: configuration, operator token, certificates, free ports."""
    given = (certificate, key, ca)
    if any(given) and not all(given):
        raise click.UsageError("--certificate, --key and --ca go together")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / CONFIG_NAME
        if path.exists():
            raise click.ClickException(f"{path} exists already")
        if certificate and key and ca:
            tls = {"certificate": str(certificate.resolve()), "key": str(key.resolve()), "ca": str(ca.resolve())}
        else:
            tls = pki.make(folder, list(dict.fromkeys([host, "localhost", "127.0.0.1", *names])))
        token = secrets.token_urlsafe(OPERATOR_TOKEN_BYTES)
        pki.write_new(folder / "operator.token", f"{token}\n".encode(), pki.SECRET_MODE)
        text = configuration.template(server_id, _free_ports(host), host, tls)
        pki.write_new(path, text.encode(), 0o600)  # written last: with it, the folder is a head-end
    except OSError as error:
        raise click.ClickException(f"{error.filename or folder}: {error.strerror}") from error
    click.echo(f"configuration   {path}")
    click.echo(f"authority       {tls['ca'] if ca else folder / tls['ca']}   (what devices must trust)")
    click.echo(f"operator token  {folder / 'operator.token'}")


@main.command(name="serve")
@_CONFIG
@click.option("--only", "names", multiple=True, type=click.Choice(SERVERS), help="Only this server; repeatable.")
def serve_command(config_path: Path, names: Sequence[str]) -> None:
    """Run the servers until SIGTERM. Prints `READY {"security": PORT, ...}` once all of them listen."""
    config = _load(config_path)
    serve.set_up_logging(config.log_level)

    def ready(ports: dict[str, int]) -> None:
        click.echo(f"READY {json.dumps(ports, sort_keys=True)}")
        sys.stdout.flush()

    try:
        serve.run(config, names or SERVERS, ready)
    except ServeError as error:
        click.echo(f"dcu-headend: {error}", err=True)
        sys.exit(EXIT_CONFIGURATION)
    except RuntimeError as error:
        click.echo(f"dcu-headend: {error}", err=True)
        sys.exit(EXIT_FAILED)


@main.command()
@_CONFIG
@click.argument("device_id")
@click.option("--key-file", type=click.Path(path_type=Path), help="The device key: 64 hexadecimal digits.")
@click.option("--new-key-file", type=click.Path(path_type=Path), help="Make a key and write it here, mode 0600.")
@click.option("--replace", is_flag=True, help="Give a device that is enrolled already this key.")
def enrol(config_path: Path, device_id: str, key_file: Path | None, new_key_file: Path | None, replace: bool) -> None:
    """Enrol a device by its id and factory key. The key travels in files, never on a command line."""
    if (key_file is None) == (new_key_file is None):
        raise click.UsageError("one of --key-file and --new-key-file is needed")
    try:
        if new_key_file is not None:
            key = secrets.token_hex(DEVICE_KEY_BYTES)
            pki.write_new(new_key_file, f"{key}\n".encode(), pki.SECRET_MODE)
        elif key_file is not None:
            key = key_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{key_file or new_key_file}: {error}") from error
    with _asking(config_path) as client:
        _show(client.post("/v1/devices", {"id": device_id, "key": key, "replace": replace}))


@main.command()
@_CONFIG
def devices(config_path: Path) -> None:
    """The enrolled devices, as JSON."""
    with _asking(config_path) as client:
        _show(client.get("/v1/devices"))


@main.command()
@_CONFIG
@_DEVICE
@_LIMIT
@click.option("--meter", help="Only this meter.")
@click.option("--run", type=int, help="Only this run (seconds since the epoch).")
def readings(config_path: Path, device: str | None, limit: int, meter: str | None, run: int | None) -> None:
    """Readings, as JSON."""
    with _asking(config_path) as client:
        _show(client.get("/v1/readings", device=device, limit=limit, meter=meter, run=run))


@main.command()
@_CONFIG
@_DEVICE
def meters(config_path: Path, device: str | None) -> None:
    """The meters that readings came from, as JSON."""
    with _asking(config_path) as client:
        _show(client.get("/v1/meters", device=device))


@main.command()
@_CONFIG
@_DEVICE
@_LIMIT
def jobs(config_path: Path, device: str | None, limit: int) -> None:
    """The jobs, newest first, as JSON."""
    with _asking(config_path) as client:
        _show(client.get("/v1/jobs", device=device, limit=limit))


@main.command()
@_CONFIG
@_DEVICE
@_LIMIT
def alerts(config_path: Path, device: str | None, limit: int) -> None:
    """The alerts, newest first, as JSON."""
    with _asking(config_path) as client:
        _show(client.get("/v1/alerts", device=device, limit=limit))


@main.command()
@_CONFIG
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="Name of the package; the file's name if not given.")
@click.option("--content-type", default="application/octet-stream", show_default=True)
def upload(config_path: Path, file: Path, name: str | None, content_type: str) -> None:
    """Put a package on the package server."""
    with _asking(config_path) as client:
        _show(client.put_file(f"/v1/packages/{name or file.name}", file, content_type))


@main.command()
@_CONFIG
@click.argument("device_id")
@click.argument("kind")
@click.option("--params", default="{}", help="Parameters of the job as JSON; `-` reads them from standard input.")
@click.option("--push/--no-push", "notify", default=True, show_default=True, help="Notify the device.")
def job(config_path: Path, device_id: str, kind: str, params: str, notify: bool) -> None:
    """Queue a job (get, provision, firmware, software) for a device."""
    try:
        document = json.loads(sys.stdin.read() if params == "-" else params)
    except ValueError as error:
        raise click.UsageError(f"--params is not JSON: {error}") from error
    with _asking(config_path) as client:
        queued = client.post(device_path(device_id, "/jobs"), {"kind": kind, "params": document})
        if notify:
            queued["push"] = client.post(device_path(device_id, "/push"))
        _show(queued)


@main.command()
@_CONFIG
@click.argument("device_id")
@click.option(
    "--auth",
    type=click.Choice(["hmac", "digest", "basic"]),
    default="hmac",
    show_default=True,
    help="How the device proves itself: MAC of each message, syncml:auth-md5 or syncml:auth-basic.",
)
@click.option("--push-url", default="", help="Where it takes notifications.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A new file for the credentials, mode 0600."
)
def account(config_path: Path, device_id: str, auth: str, push_url: str, out: Path) -> None:
    """Make a DM account for an enrolled device that cannot register itself (of another make). The one it had ends."""
    with _asking(config_path) as client:
        try:
            pki.write_new(out, b"", pki.SECRET_MODE)  # before the old account ends: a file that cannot be written
        except OSError as error:
            raise click.ClickException(f"{out}: {error.strerror}") from error
        try:
            made = client.post(device_path(device_id, "/dm-account"), {"auth": auth.upper(), "push_url": push_url})
        except OperatorError:
            out.unlink()
            raise
        out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        click.echo(f"credentials of {device_id} at {made['url']}: {out}")


@main.command()
@_CONFIG
@click.argument("number", type=click.IntRange(1))
def cancel(config_path: Path, number: int) -> None:
    """Give up a job that is queued, or waits for the device's report."""
    with _asking(config_path) as client:
        _show(client.post(f"/v1/jobs/{number}/cancel"))


def _load(path: Path) -> Config:
    try:
        return configuration.load(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CONFIGURATION)


@contextmanager
def _asking(path: Path) -> Iterator[OperatorClient]:
    """A client of the running head-end; its errors end the command with a sentence."""
    try:
        client = OperatorClient.of(_load(path))
        try:
            yield client
        finally:
            client.close()
    except OperatorError as error:
        raise click.ClickException(str(error)) from error


def _show(document: object) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _free_ports(host: str) -> dict[str, int]:
    """A free port for each server, all different; fixed in the configuration from then on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held: list[socket.socket] = []
    ports: dict[str, int] = {}
    try:
        for name in SERVERS:
            bound = socket.socket(family, socket.SOCK_STREAM)
            held.append(bound)
            bound.bind((host, 0))
            ports[name] = bound.getsockname()[1]
    finally:
        for bound in held:
            bound.close()
    return ports


if __name__ == "__main__":
    main()
