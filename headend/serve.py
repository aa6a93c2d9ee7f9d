"""Runs the head-end's servers in one process: one event loop, one TLS listener per server, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import uvicorn
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.types import ASGIApp

from headend import db, pki, web
from headend.config import SERVERS, Config
from headend.dm import push
from headend.dm import routes as dm_routes
from headend.dm.server import DmServer, ServerConfig
from headend.metering import app as metering_app
from headend.operator import app as operator_app
from headend.retention import RetentionWorker
from headend.sealing import rotation
from headend.sealing.errors import KeyMissingError, SealingError
from headend.sealing.keyring import KeyRing
from headend.security import app as security_app
from headend.security.certificates import CertificateFilesError, Identity, load_issuer
from headend.security.certificates import load as load_identity
from headend.security.service import SecurityService
from headend.software import app as software_app
from headend.software.repository import PackageStore

LOG = logging.getLogger("headend")

BACKLOG = 256
GRACEFUL_S = 5
KEEP_ALIVE_S = 15
CONNECTIONS_MAX = 2000  # per server; more are answered with 503


class ServeError(Exception):
    """The servers cannot start, because something that the configuration names is not available."""


class Urls:
    """The base URL of each server, known once the sockets are bound."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ports = {name: listener.port for name, listener in config.servers.items()}

    def bound(self, ports: dict[str, int]) -> None:
        self._ports |= ports

    def all(self) -> dict[str, str]:
        return {name: listener.url(self._ports[name]) for name, listener in self._config.servers.items()}


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us, and reports when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def run(config: Config, names: Sequence[str], ready: Callable[[dict[str, int]], None]) -> None:
    """Serve `names` until SIGTERM or SIGINT. `ready(ports)` is called once all of them accept connections.

    Raises `ServeError` when it cannot start; `RuntimeError` when a server ended by itself.
    """
    engine = open_database(config)
    sockets: dict[str, socket.socket] = {}
    try:
        for name in names:
            sockets[name] = _listen(name, config)
        ports = {name: bound.getsockname()[1] for name, bound in sockets.items()}
        urls = Urls(config)
        urls.bound(_known_ports(config) | ports)
        apps = {name: _app(name, config, engine, urls) for name in names}
        _write_ports(config, ports)
        with _retention(config, engine, names):
            asyncio.run(_serve(config, apps, sockets, lambda: ready(ports)))
    finally:
        for bound in sockets.values():
            bound.close()
        engine.dispose()


def open_database(config: Config) -> Engine:
    """Open the database with its keys, and bring it forward. Raises `ServeError`; nothing was changed then."""
    try:
        engine = db.open_engine(config.database, KeyRing(config.sealing.source()))
        db.create_tables(engine)
        rotation.forget_clear(engine)
    except KeyMissingError as error:
        raise ServeError(
            f"the key to the secrets in the database: {error}. For a database that has none yet, make one with: "
            "dcu-headend keys new"
        ) from error
    except SealingError as error:
        raise ServeError(f"the key to the secrets in the database: {error}") from error
    except (OSError, SQLAlchemyError, db.SchemaError) as error:
        raise ServeError(f"the database cannot be used: {error}") from error
    return engine


@contextlib.contextmanager
def _retention(config: Config, engine: Engine, names: Sequence[str]) -> Generator[None, None, None]:
    """Run retention in the process that has the DM server, so that there is exactly one."""
    if "dm" not in names:
        yield
        return
    retention = RetentionWorker(engine, config.retention, config.waiting_days_max)
    retention.start()
    try:
        yield
    finally:
        retention.stop()


async def _serve(
    config: Config, apps: dict[str, ASGIApp], sockets: dict[str, socket.socket], ready: Callable[[], None]
) -> None:
    servers = {name: _Server(_uvicorn_config(config, app)) for name, app in apps.items()}

    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    tasks = [asyncio.create_task(server.serve(sockets=[sockets[name]]), name=name) for name, server in servers.items()]
    watch = asyncio.create_task(_announce(list(servers.values()), ready, asked))
    ended, _ = await asyncio.wait([*tasks, watch], return_when=asyncio.FIRST_COMPLETED)
    LOG.info("stopping", extra={"event": "headend.stop"})
    for server in servers.values():
        server.should_exit = True
    watch.cancel()
    await asyncio.gather(*tasks)
    if watch not in ended:
        raise RuntimeError(f"the {', '.join(task.get_name() for task in ended)} server ended by itself")


async def _announce(servers: Sequence[_Server], ready: Callable[[], None], asked: asyncio.Event) -> None:
    """Call `ready` once all servers listen; return when the end is requested."""
    for server in servers:
        await server.listening.wait()
    ready()
    await asked.wait()


def _uvicorn_config(config: Config, app: ASGIApp) -> uvicorn.Config:
    try:
        made = uvicorn.Config(
            app,
            ssl_certfile=str(config.certificate),
            ssl_keyfile=str(config.certificate_key),
            http="h11",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # any client could send these headers, and forge addresses in logs and rate limits
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_S,
            limit_concurrency=CONNECTIONS_MAX,
        )
        made.load()
    except OSError as error:
        raise ServeError(f"{config.certificate}, {config.certificate_key}: {error}") from error
    return made


def _app(name: str, config: Config, engine: Engine, urls: Urls) -> ASGIApp:
    match name:
        case "security":
            make = security_app.dm_accounts(config.server_id, f"{urls.all()['dm']}{dm_routes.PATH}")
            return security_app.create_app(SecurityService(engine, make, identity=_identity(config)))
        case "dm":
            dm = DmServer(engine, ServerConfig(config.server_id, f"{urls.all()['dm']}{dm_routes.PATH}"))
            return Starlette(routes=[*dm_routes.routes(dm), web.health_route()])
        case "software":
            return software_app.create_app(
                PackageStore(engine, config.files),
                lambda: urls.all()["software"],
                open_to_all=config.downloads_open,
            )
        case "metering":
            return metering_app.create_app(engine)
        case "operator":
            return operator_app.create_app(_operator_deps(config, engine, urls))
    raise ServeError(f"there is no server {name!r}; there are {', '.join(SERVERS)}")


def _identity(config: Config) -> Identity | None:
    if config.ssmp is None:
        return None
    try:
        identity = load_identity(config.ssmp.certificate, config.ssmp.key, config.ssmp.device_ca)
        identity = replace(identity, issued_days=config.ssmp.issued_days)
        if config.ssmp.issuing_certificate is None or config.ssmp.issuing_key is None:
            return identity
        issuing = config.ssmp.issuing_certificate, config.ssmp.issuing_key
        return replace(identity, issuer=load_issuer(*issuing, identity.authorities))
    except CertificateFilesError as error:
        raise ServeError(f"ssmp: {error}") from error


def _operator_deps(config: Config, engine: Engine, urls: Urls) -> operator_app.OperatorDeps:
    try:
        token = config.operator_token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"{config.operator_token_file}: {error}") from error
    if not token:
        raise ServeError(f"{config.operator_token_file}: empty")
    packages = PackageStore(engine, config.files)
    packages.learn()
    policy = push.PushPolicy.of(config.push.networks, config.push.ports)
    return operator_app.OperatorDeps(
        engine=engine,
        packages=packages,
        push=lambda device_id: push.notify(engine, device_id, policy),
        urls=urls.all,
        token_hash=web.token_hash(token),
        server_id=config.server_id,
        issues_certificates=config.ssmp is not None and config.ssmp.issuing_key is not None,
    )


def _listen(name: str, config: Config) -> socket.socket:
    listener = config.servers[name]
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listener.host, listener.port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise ServeError(f"{name}: cannot listen on {listener.host}:{listener.port}: {error.strerror}") from error
    return bound


def _known_ports(config: Config) -> dict[str, int]:
    """The ports that the last start wrote: with `--only`, the other servers are other processes."""
    try:
        found = json.loads(config.ports_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: port for name, port in found.items() if name in SERVERS and config.servers[name].port == 0}


def _write_ports(config: Config, ports: dict[str, int]) -> None:
    text = json.dumps(_known_ports(config) | _fixed_ports(config) | ports, sort_keys=True) + "\n"
    temporary = config.ports_file.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    pki.write_new(temporary, text.encode(), 0o644)
    temporary.replace(config.ports_file)


def _fixed_ports(config: Config) -> dict[str, int]:
    return {name: listener.port for name, listener in config.servers.items() if listener.port}


def set_up_logging(level: str) -> None:
    """Send everything to standard error, one line per event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
