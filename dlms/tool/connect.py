"""How a command reaches a meter: the options, and the `Meter` they make."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from dlms.client import Meter, Trace
from dlms.codes import Mechanism
from dlms.counters import FileCounters
from dlms.errors import LocalError
from dlms.greeting import ModeE, open_with_greeting
from dlms.links import LINKS
from dlms.port import Port, SerialPort, open_port
from dlms.security import Auth, Hls, InvocationCounters, MemoryCounters, Policy, Security, open_auth
from dlms.tool.nodeport import NodePort
from dlms.tool.secrets import read_hex, read_secret
from dlms.trace import ReplayPort, TraceWriter, read_trace

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

AUTHS = ("none", "low", "md5", "sha1", "gmac", "sha256", "ecdsa")
POLICIES = {"none": Policy.NONE, "auth": Policy.AUTHENTICATE, "encrypt": Policy.ENCRYPT, "both": Policy.BOTH}


@dataclass(frozen=True, slots=True)
class Connection:
    """The options of every command that talks to a meter."""

    url: str
    link: str
    client: int
    server: str
    node: int | None
    auth: str
    password: str | None
    ek: str | None
    ak: str | None
    system_title: str | None
    suite: int
    policy: str
    counter: int
    counter_file: Path | None
    private_key: Path | None
    peer_key: Path | None
    info_max: int
    window: int
    pdu_size: int
    baudrate: int
    timeout_s: float | None
    mode_e: bool
    mode_e_address: str
    trace: Path | None
    replay: Path | None


_OPTIONS = (
    click.option("--url", default="", help="socket://host:port, udp://host:port, rfc2217://host:port, /dev/ttyUSB0"),
    click.option("--link", type=click.Choice(list(LINKS)), default="hdlc", show_default=True),
    click.option("--client", type=click.IntRange(0, 0xFFFF), default=16, show_default=True, help="client SAP"),
    click.option("--server", default="1", show_default=True, help="SAP, or for HDLC UPPER/LOWER"),
    click.option("--node", type=click.IntRange(1, 0xFFFF), help="with --link llc: the node behind the base node"),
    click.option("--auth", type=click.Choice(AUTHS), default="none", show_default=True),
    click.option("--password", envvar="DLMS_PASSWORD", help="TEXT or @FILE; also $DLMS_PASSWORD"),
    click.option("--ek", envvar="DLMS_EK", help="encryption key, HEX or @FILE; also $DLMS_EK"),
    click.option("--ak", envvar="DLMS_AK", help="authentication key, HEX or @FILE; also $DLMS_AK"),
    click.option("--system-title", help="our own, 8 octets in HEX"),
    click.option("--suite", type=click.IntRange(0, 2), default=0, show_default=True, help="security suite"),
    click.option("--policy", type=click.Choice(list(POLICIES)), default="both", show_default=True),
    click.option("--counter", type=click.IntRange(0, 0xFFFFFFFF), default=0, help="first invocation counter to use"),
    click.option("--counter-file", type=click.Path(path_type=Path), help="invocation counters, kept between runs"),
    click.option("--private-key", type=click.Path(path_type=Path), help="ours, PEM, for --auth ecdsa"),
    click.option("--peer-key", type=click.Path(path_type=Path), help="the meter's public key, PEM"),
    click.option("--info-max", type=click.IntRange(1, 2030), default=128, show_default=True, help="HDLC information"),
    click.option("--window", type=click.IntRange(1, 7), default=1, show_default=True, help="HDLC window"),
    click.option("--pdu-size", type=click.IntRange(64, 0xFFFF), default=1024, show_default=True),
    click.option("--baudrate", type=click.IntRange(300), default=9600, show_default=True),
    click.option("--timeout-s", type=click.FloatRange(0.01), help="for an answer"),
    click.option("--mode-e", is_flag=True, help="greet at 300 baud; --baudrate is the highest to agree to"),
    click.option("--mode-e-address", default="", help="with --mode-e: the meter's number, where several share a loop"),
    click.option("--trace", type=click.Path(path_type=Path), help="record what crosses the port"),
    click.option("--replay", type=click.Path(path_type=Path), help="talk to a recorded trace instead of a port"),
)


def connection_options(function: FunctionT) -> FunctionT:
    """Adds the options and passes them as one `connection`."""

    def call(**arguments: Any) -> Any:
        own = {name: arguments.pop(name) for name in Connection.__dataclass_fields__}
        connection = Connection(**own)
        if not connection.url and connection.replay is None:
            raise click.UsageError("Missing option '--url'.")
        return function(connection=connection, **arguments)

    call.__doc__ = function.__doc__
    call.__name__ = function.__name__
    call.__dict__.update(function.__dict__)
    wrapped: Any = call
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@contextlib.contextmanager
def open_connection(connection: Connection) -> Iterator[tuple[Port, Trace | None]]:
    """The port and, with `--trace`, the function that records. Raises `DlmsError`, `click.UsageError`."""
    writer = None
    if connection.trace is not None:
        try:
            writer = TraceWriter(connection.trace)
        except OSError as error:
            raise click.UsageError(f"--trace {connection.trace}: {error.strerror}") from error
    try:
        port = _open_port(connection)
        try:
            yield port, None if writer is None else writer.note
        finally:
            port.close()
    finally:
        if writer is not None:
            writer.close()


def _open_port(connection: Connection) -> Port:
    if connection.replay is not None:
        return ReplayPort(read_trace(connection.replay))
    if connection.mode_e:
        mode_e = ModeE(connection.mode_e_address)
        return open_with_greeting(connection.url, connection.baudrate, mode_e)
    return open_port(connection.url, connection.baudrate)


@contextlib.contextmanager
def open_meter(connection: Connection) -> Iterator[Meter]:
    """The meter, associated. Raises `DlmsError`, `click.UsageError`."""
    auth, security = make_auth(connection), make_security(connection)
    with open_connection(connection) as (below, note):
        port = below
        if connection.link == "llc":
            if connection.node is None:
                raise click.UsageError("--link llc needs --node: the meter behind the base node")
            port = NodePort(below, connection.client, connection.node)
        meter = Meter(
            connection.url or "loop://",  # where there is no line there is no time for octets
            link=connection.link,
            client=connection.client,
            server=connection.server,
            auth=auth,
            security=security,
            pdu_size=connection.pdu_size,
            info_max=connection.info_max,
            window=connection.window,
            baudrate=below.baudrate if isinstance(below, SerialPort) else connection.baudrate,
            timeout_s=connection.timeout_s,
            port=port,
            trace=note,
        )
        with meter:
            yield meter
        if security is not None and isinstance(security.counters, FileCounters):
            security.counters.close()


def make_auth(connection: Connection) -> Auth:
    """The authentication that the options ask for. Raises `click.UsageError`."""
    try:
        if connection.auth == "ecdsa":
            return _ecdsa(connection)
        secret = b"" if connection.password is None else read_secret(connection.password)
        return open_auth(connection.auth, secret)
    except LocalError as error:
        raise click.UsageError(str(error)) from error


def _ecdsa(connection: Connection) -> Auth:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    if connection.private_key is None or connection.peer_key is None:
        raise click.UsageError("--auth ecdsa needs --private-key and --peer-key")
    try:
        ours = load_pem_private_key(connection.private_key.read_bytes(), None)
        theirs = load_pem_public_key(connection.peer_key.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise click.UsageError(f"a key cannot be read: {error}") from error
    if not isinstance(ours, EllipticCurvePrivateKey) or not isinstance(theirs, EllipticCurvePublicKey):
        raise click.UsageError("--private-key and --peer-key are keys of an elliptic curve")
    return Hls(Mechanism.HLS_ECDSA, private_key=ours, peer_key=theirs)


def _counters(connection: Connection) -> InvocationCounters:
    if connection.counter_file is None:
        return MemoryCounters(connection.counter)
    return FileCounters(connection.counter_file, connection.counter)


def make_security(connection: Connection) -> Security | None:
    """The keys that the options give, or nothing. Raises `click.UsageError`."""
    if connection.ek is None:
        if connection.auth == "gmac":
            raise click.UsageError("--auth gmac needs --ek, --ak and --system-title")
        return None
    if connection.system_title is None:
        raise click.UsageError("--ek needs --system-title")
    try:
        return Security(
            read_hex("system-title", connection.system_title),
            read_hex("ek", connection.ek),
            read_hex("ak", connection.ak),
            connection.suite,
            POLICIES[connection.policy],
            _counters(connection),
        )
    except LocalError as error:
        raise click.UsageError(str(error)) from error
