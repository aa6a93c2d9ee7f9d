"""`dcu-headend`: set up, run and query a head-end."""

from __future__ import annotations

import json
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from headend import config as configuration
from headend import pki, serve
from headend.config import CONFIG_NAME, SERVER_ID, SERVERS
from headend.key_commands import keys
from headend.operator import commands, device_commands  # noqa: F401  the commands of devices add themselves
from headend.sealing.errors import SealingError
from headend.sealing.sources import KeyFile
from headend.serve import ServeError

OPERATOR_TOKEN_BYTES = 32
SSMP_PATH = "/ssmp"


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
    """Set up a new head-end in a folder: configuration, operator token, certificates, key, free ports."""
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
        key_file = folder / configuration.KEY_FILE
        KeyFile(key_file).make()
        token = secrets.token_urlsafe(OPERATOR_TOKEN_BYTES)
        pki.write_new(folder / "operator.token", f"{token}\n".encode(), pki.SECRET_MODE)
        ports = _free_ports(host)
        text = configuration.template(server_id, ports, host, tls)
        pki.write_new(path, text.encode(), 0o600)  # written last: it makes the folder a head-end
    except OSError as error:
        raise click.ClickException(f"{error.filename or folder}: {error.strerror}") from error
    except SealingError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"configuration   {path}")
    click.echo(f"key             {key_file}   (to the secrets in the database: keep a copy, apart from it)")
    click.echo(f"authority       {tls['ca'] if ca else folder / tls['ca']}   (what devices must trust)")
    click.echo(f"operator token  {folder / 'operator.token'}   (also for logging in to the pages)")
    click.echo(f"operator pages  https://{host}:{ports['operator']}/")
    click.echo(f"for dcu.yaml    security_server.url: https://{host}:{ports['security']}{SSMP_PATH}")
    click.echo(f"start it with   dcu-headend serve --config {path}")


@main.command(name="serve")
@commands.CONFIG
@click.option("--only", "names", multiple=True, type=click.Choice(SERVERS), help="Only this server; repeatable.")
def serve_command(config_path: Path, names: Sequence[str]) -> None:
    """Run the servers until SIGTERM. Prints `READY {"security": PORT, ...}` when all of them listen."""
    config = commands.load(config_path)
    serve.set_up_logging(config.log_level)

    def ready(ports: dict[str, int]) -> None:
        click.echo(f"READY {json.dumps(ports, sort_keys=True)}")
        sys.stdout.flush()

    try:
        serve.run(config, names or SERVERS, ready)
    except ServeError as error:
        click.echo(f"dcu-headend: {error}", err=True)
        sys.exit(commands.EXIT_CONFIGURATION)
    except RuntimeError as error:
        click.echo(f"dcu-headend: {error}", err=True)
        sys.exit(commands.EXIT_FAILED)


def _free_ports(host: str) -> dict[str, int]:
    """A different free port for each server, to be fixed in the configuration."""
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


main.add_command(keys)
for command in commands.COMMANDS:
    main.add_command(command)
