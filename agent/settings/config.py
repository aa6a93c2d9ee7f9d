"""`dcu.yaml` as one immutable value: read once at start, whole or not at all.

Every key, its unit and its default are described in docs/configuration.md. Secrets are never in this file: a key
names the file that holds one, and that file must belong to its reader alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.settings.mqtt import MqttConfig, mqtt_config
from agent.settings.places import Place, check_meter_url, check_url, place_of, place_of_endpoint
from agent.settings.reader import REQUIRED, ConfigError, Problem, Section, compose
from dlms.cosem.obis import AttributeRef
from dlms.errors import LocalError
from dlms.link.datalink import PARITIES, PUBLIC_CLIENT, LineSettings
from omadm.addresses import AddressError, check_address
from omadm.auth import ACCOUNT_SECURITY, ALGORITHMS, AUTH_TYPES
from omadm.ssmp.limits import DEVICE_ID_BYTES_MAX, TEXT_BYTES_MAX
from plc.endpoint import Endpoint, OptionValue
from plc.errors import PlcLocalError, PlcProtocolError
from plc.protocols import (
    BUILT_IN,
    PRIME_USI,
    Asking,
    LinkRequest,
    Option,
    PortProtocol,
    find_protocol,
)

if TYPE_CHECKING:
    from dlms.link.datalink import DataLink

__all__ = ["Config", "ConfigError", "load"]

DAY_S = 86_400
ADVERTISE_CHARS_MAX = 248  # below what registration and head-end take
EXIT_CONFIG = 2  # of programs that a `ConfigError` or `SecretError` ends
MANAGEMENT_LOGICAL_DEVICE = 1  # its SAP; every meter has one
OWN_HABIT = Asking()
KEYS_OF_SOME_PROTOCOL = {"scan", "meters"} | {option.name for known in BUILT_IN.values() for option in known.options}


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """The identity of the device."""

    id: str
    man: str
    mod: str
    hw_version: str
    release_file: Path
    oem: str = ""


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """A key in a PKCS#11 token: the library, the labels of token and key, the file with the user's PIN, and whether
    another key may be made there and that one destroyed."""

    library: Path
    token: str
    object: str
    pin_file: Path
    renewal: bool = True


@dataclass(frozen=True, slots=True)
class SecurityModuleConfig:
    """Where the device's secret is: a file, or a place in a token. The secret is the device key, as the security server
    has it, in hexadecimal; with `certificate_file` it is the private key of that certificate, in PEM. `named_by` is the
    setting that says so."""

    named_by: str
    secret: Path | TokenConfig
    certificate_file: Path | None = None


@dataclass(frozen=True, slots=True)
class SecurityServerConfig:
    """Where the device registers (SSMP), and the authorities that every server it talks to must chain to."""

    url: str
    ca_file: Path


@dataclass(frozen=True, slots=True)
class PushConfig:
    """The listener for notifications. `advertise` is the URL that the head-end is told; where it is empty,
    it is made of host and port. `standard`: notifications without this project's protection from replay are taken."""

    host: str
    port: int
    advertise: str = ""
    standard: bool = False


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """A file with the DM account, where it does not come from the security server. `mac` is over the whole file, made
    with the secret in `secret_file`; `security` says which kind that is. All three are empty where the file needs none.
    """

    file: Path
    security: str = ""
    mac: str = ""
    secret_file: Path | None = None


@dataclass(frozen=True, slots=True)
class DmConfig:
    """`content_type` is the media type of DM messages. `push_listen` is `None` where no push can reach the device.
    `mac_algorithms` are accepted from the server; the first is used for this device's own messages. `auth_types` are
    the kinds of credentials that an account may ask for."""

    poll_every_s: int
    content_type: str
    push_listen: PushConfig | None
    backoff_min_s: float = 5.0
    backoff_max_s: float = 3600.0
    mac_algorithms: tuple[str, ...] = ("SHA-256",)
    auth_types: tuple[str, ...] = ("HMAC",)
    account: AccountConfig | None = None


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """The addresses `first` to `last` are asked every `every_s` seconds, where meters do not announce themselves."""

    first: int
    last: int
    every_s: int = 3600


@dataclass(frozen=True, slots=True)
class PortMeterConfig:
    """A meter that differs from its port. `url`: where each meter has its own. `baudrate` and `parity`: how the line
    stands for this one; with `mode_e`, which is its number in that opening and may be empty, the highest speed.
    `wport`: its logical device, where the link names that (the COSEM wrapper); 0 for the management one."""

    address: int
    url: str
    baudrate: int
    parity: str
    mode_e: str | None = None
    wport: int = 0


@dataclass(frozen=True, slots=True)
class PortConfig:
    """One way to meters. `health`: whether this port must answer before a new firmware is confirmed. `options` are the
    keys that only ports of this protocol have; one that is left out has its default. `silence_s`: how long requests may
    stay without a byte in answer before the port is opened anew; 0 for ever. `unused`: keys that stand in the
    file and belong to other protocols; they have no effect."""

    name: str
    protocol: PortProtocol
    url: str
    baudrate: int
    scan: ScanConfig | None = None
    parity: str = "none"
    meters: Sequence[PortMeterConfig] = ()
    parallel_max: int = 0  # 0: metering.parallel_max
    health: bool = True
    response_timeout_s: float = 5.0
    silence_s: float = 60.0
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def data_link(
        self,
        address: int,
        *,
        client: int = PUBLIC_CLIENT,
        server: int = MANAGEMENT_LOGICAL_DEVICE,
        asking: Asking = OWN_HABIT,
    ) -> DataLink:
        """The data link to the meter with this address. `asking`: see `plc.protocols.LinkRequest`.

        Raises `dlms.errors.LocalError` when the protocol cannot reach such an address.
        """
        meter = self.meter(address)
        return self.protocol.make_link(
            LinkRequest(
                client=client,
                server=(meter.wport if meter else 0) or server,
                address=address,
                baudrate=meter.baudrate if meter else self.baudrate,
                parity=meter.parity if meter else self.parity,
                mode_e=meter.mode_e if meter else None,
                response_timeout_s=self.response_timeout_s,
                options=self.protocol.with_defaults(self.options),
                asking=asking,
            )
        )

    def meter(self, address: int) -> PortMeterConfig | None:
        """What is special about the meter with this address; `None` for nothing."""
        return next((meter for meter in self.meters if meter.address == address), None)

    def endpoint(self, address: int) -> Endpoint | None:
        """Where the meter with this address is, `None` for one that is not known. Raises `PlcLocalError`."""
        meter = self.meter(address)
        if meter is None:
            return None
        return self.protocol.find_endpoint(address, meter.url, self.protocol.with_defaults(self.options))

    @property
    def lines_differ(self) -> bool:
        """Whether some meter needs the line to stand otherwise than the port has it."""
        own = (self.baudrate, self.parity, None)
        return self.protocol.own_lines and any((it.baudrate, it.parity, it.mode_e) != own for it in self.meters)

    def line(self, address: int) -> LineSettings:
        """How the line stands for the meter with this address."""
        meter = self.meter(address)
        return LineSettings(meter.baudrate, meter.parity) if meter else LineSettings(self.baudrate, self.parity)

    @property
    def where(self) -> str:
        """What the port leads to, for people: with the device that a path by id stands for now."""
        if not self.url:
            return f"{len(self.meters)} meters"
        found = os.path.realpath(self.url) if "://" not in self.url else self.url
        return self.url if found == self.url else f"{self.url}, now {found}"


@dataclass(frozen=True, slots=True)
class MeteringConfig:
    """How meters are read and readings are kept. `meter_utc_offset_min` (east is positive) is for meters whose clock
    does not say its offset; `None` leaves their time open. `whitelist`: where it is not empty, only meters on it are
    read. `inventory`: whether meters are asked for firmware and objects in idle time; `device_type`: the attribute that
    says which type a meter is, `None` for none."""

    reading_lists_dir: Path
    store_file: Path
    registry_file: Path
    store_records_max: int
    store_keep_forwarded_max: int
    parallel_max: int
    retries_max: int
    retry_backoff_s: float
    visit_timeout_s: float
    catch_up_s: int
    leave_after_s: float
    pdu_size: int
    profile_first_s: int
    meter_utc_offset_min: int | None
    uplink_backoff_min_s: float
    uplink_backoff_max_s: float
    uplink_replay_records_per_min: int = 6000
    uplink_replay_spread_s: float = 60.0
    whitelist: tuple[str, ...] = ()
    device_type: AttributeRef | None = None
    inventory: bool = False


@dataclass(frozen=True, slots=True)
class OrdersConfig:
    """Which orders to meters are taken, whoever asks: `change` those that change a meter, `supply` those that can cut
    or restore somebody's electricity, `firmware` those that give it another program. Reading is always allowed."""

    change: bool = True
    supply: bool = False
    firmware: bool = False


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where meters call in with notifications in COSEM wrappers: TCP, and UDP too where `udp` is set."""

    host: str
    port: int
    udp: bool = False


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """Notifications of meters. `plain_push`: what becomes of one without the protection that was agreed with its meter:
    `mark` keeps it as unauthenticated, `refuse` counts it. `listen` is `None` where no meter calls in."""

    plain_push: str = "mark"
    listen: ListenConfig | None = None


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """The files shared with the Update Agent, and the command that runs it. `full_instead_of_delta` is `never` or
    `always`, with packages of at most `full_bytes_max` bytes."""

    dir: Path
    run_dir: Path
    boot_id_file: Path
    roots: Path
    compatible: str
    command: tuple[str, ...]
    software_dir: Path
    full_instead_of_delta: str = "never"
    full_bytes_max: int = 1 << 30


@dataclass(frozen=True, slots=True)
class ServicesConfig:
    """Who runs programs of software packages. `backend`: `auto` (systemd where it runs the system and we are root, else
    this agent), `own`, `systemd`, or `off`. `unit_dir`: where units are written. `kept_kib_max`: what each may keep."""

    backend: str = "auto"
    unit_dir: Path = Path("/run/systemd/system")
    kept_kib_max: int = 16 << 10


@dataclass(frozen=True, slots=True)
class WatchdogConfig:
    """A hardware watchdog. An empty `device` leaves the feeding to systemd, or to nobody."""

    device: str = ""
    timeout_s: int = 60


@dataclass(frozen=True, slots=True)
class ClockConfig:
    """`synchronized_file`: what a time service touches after each synchronisation; `None` for none. `set`: whether the
    machine's clock is set to what a server has told."""

    synchronized_file: Path | None = None
    set: bool = False


@dataclass(frozen=True, slots=True)
class ConnectivityConfig:
    """How changes of the network reach the system. `hook` is a program that is told the settings; empty for none.
    `timesyncd_file` is a drop-in of systemd-timesyncd that is written, `None` where the hook sets time servers;
    `time_command` has the service read it."""

    hook: tuple[str, ...] = ()
    timesyncd_file: Path | None = None
    time_command: tuple[str, ...] = ("systemctl", "try-restart", "systemd-timesyncd.service")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """`file` is `None` for the error output, or the journal where systemd's extra is installed."""

    level: str = "info"
    file: Path | None = None
    file_bytes_max: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    file: Path
    device: DeviceConfig
    security_module: SecurityModuleConfig
    security_server: SecurityServerConfig
    dm: DmConfig
    ports: tuple[PortConfig, ...]
    metering: MeteringConfig
    update: UpdateConfig
    state_dir: Path
    control_socket: Path
    control_group: str
    reboot_command: tuple[str, ...]
    orders: OrdersConfig = field(default=OrdersConfig())
    events: EventsConfig = field(default=EventsConfig())
    watchdog: WatchdogConfig = field(default=WatchdogConfig())
    log: LogConfig = field(default=LogConfig())
    mqtt: MqttConfig | None = None
    clock: ClockConfig = field(default=ClockConfig())
    connectivity: ConnectivityConfig = field(default=ConnectivityConfig())
    services: ServicesConfig = field(default=ServicesConfig())
    unknown: tuple[Problem, ...] = ()
    """Keys that were passed over, because only a later version of this software may know them."""


def load(file: Path, *, strict: bool = True) -> Config:
    """Read and check `file`. Raises `ConfigError` that lists everything wrong in it, in the order of its lines.

    A program that starts is not `strict`: after a rollback it meets the file of a later version, whose keys must not
    keep the device from working.
    """
    top = compose(file)
    state_dir = top.path("state_dir", "/var/lib/dcu")
    device = top.section("device", required=True)
    config = Config(
        file=file,
        security_module=_security_module(top.section("security_module"), device),
        device=_device(device),
        security_server=_security_server(top.section("security_server", required=True)),
        dm=_dm(top.section("dm")),
        ports=_ports(top),
        metering=_metering(top.section("metering"), state_dir),
        update=_update(top.section("update", required=True), state_dir),
        state_dir=state_dir,
        control_socket=top.path("control_socket", "/run/dcu/control.sock"),
        control_group=top.text("control_group", "", filled=False),
        reboot_command=top.command("reboot_command", ("reboot",)),
        orders=_orders(top.section("orders")),
        events=_events(top.section("events")),
        watchdog=_watchdog(top.section("watchdog")),
        log=_log(top.section("log")),
        mqtt=mqtt_config(top.section("mqtt")),
        clock=_clock(top.section("clock")),
        connectivity=_connectivity(top.section("connectivity")),
        services=_services(top.section("services")),
    )
    top.end()
    if len(os.fsencode(config.control_socket)) > 107:  # sun_path holds 108 bytes, the last is NUL
        top.note("control_socket", "longer than the 107 bytes that a socket's path may have")
    if any(strict or not problem.may_be_later for problem in top.problems):
        raise ConfigError(file, top.problems)
    return replace(config, unknown=tuple(top.problems))


def _device(section: Section) -> DeviceConfig:
    device = DeviceConfig(
        id=section.text(
            "id",
            pattern=rf"[A-Za-z0-9:._-]{{1,{DEVICE_ID_BYTES_MAX}}}",
            wanted=f"up to {DEVICE_ID_BYTES_MAX} letters, digits and :._-",
        ),
        man=_registered(section, "man"),
        mod=_registered(section, "mod"),
        hw_version=_registered(section, "hw_version"),
        oem=section.text("oem", "", filled=False),
        release_file=section.path("release_file", "/etc/dcu-release"),
    )
    section.end()
    return device


def _security_module(section: Section, device: Section) -> SecurityModuleConfig:
    """Read the section, or `device.key_file` where there is none: what programs before it know."""
    if section.absent:
        return SecurityModuleConfig("device.key_file", device.path("key_file"))
    device.path("key_file", Path())
    secret: Path | TokenConfig
    if section.choice("type", "file", ("file", "pkcs11")) == "file":
        secret = section.path("key_file")
    else:
        secret = TokenConfig(
            library=section.path("library"),
            token=section.text("token", pattern=".{1,32}", wanted="a label of up to 32 characters"),
            object=section.text("object"),
            pin_file=section.path("pin_file"),
            renewal=section.flag("renewal", default=True),
        )
    module = SecurityModuleConfig(
        "security_module",
        secret,
        certificate_file=section.path("certificate_file") if section.has("certificate_file") else None,
    )
    section.end()
    return module


def _registered(section: Section, key: str) -> str:
    """Read text that the registration carries; docs/ssmp.md has its bounds."""
    text = section.text(key)
    if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES_MAX or not text.isprintable():
        section.note(key, f"wanted up to {TEXT_BYTES_MAX} bytes of printable text")
    return text


def _address(section: Section, key: str, text: str, *schemes: str, ascii_max: int = 0) -> str:
    """The text of a key, which is a URL as everybody reads it (`omadm.addresses`) and names no user, or empty."""
    try:
        if text:
            check_address(text, schemes, user=False, ascii_max=ascii_max)
    except AddressError as error:
        section.note(key, f"wanted an {' or '.join(schemes)} URL: it {error}")
    return text


def _security_server(section: Section) -> SecurityServerConfig:
    server = SecurityServerConfig(
        url=_address(section, "url", section.text("url"), "https"),
        ca_file=section.path("ca_file"),
    )
    section.end()
    return server


def _dm(section: Section) -> DmConfig:
    content_type = section.choice("content_type", "wbxml", ("wbxml", "xml"))
    listen = section.section("push_listen")
    push = None
    if not listen.absent:
        push = PushConfig(
            host=listen.text("host", "0.0.0.0"),  # noqa: S104 - pushes come from the head-end's network
            port=listen.integer("port", REQUIRED, 0, 65_535),
            advertise=_address(
                listen,
                "advertise",
                listen.text("advertise", "", filled=False),
                "http",
                "https",
                ascii_max=ADVERTISE_CHARS_MAX,
            ),
            standard=listen.flag("standard", default=False),
        )
        listen.end()
    dm = DmConfig(
        poll_every_s=section.integer("poll_every_s", 3600, 1, 31 * DAY_S),
        content_type=f"application/vnd.syncml.dm+{content_type}",
        push_listen=push,
        backoff_min_s=section.number("backoff_min_s", 5.0, 0.1, 3600),
        backoff_max_s=section.number("backoff_max_s", 3600.0, 1, DAY_S),
        mac_algorithms=section.texts("mac_algorithms", ("SHA-256",)),
        auth_types=section.texts("auth_types", ("HMAC",)),
        account=_account(section.section("account")),
    )
    for index, name in enumerate(dm.mac_algorithms):
        if name not in ALGORITHMS or name in dm.mac_algorithms[:index]:
            section.note("mac_algorithms", f"wanted SHA-256, MD5 or both, once each, got {name!r}")
    for index, name in enumerate(dm.auth_types):
        if name not in AUTH_TYPES or name in dm.auth_types[:index]:
            section.note("auth_types", f"wanted {', '.join(AUTH_TYPES)}, once each, got {name!r}")
    section.end()
    return dm


def _account(section: Section) -> AccountConfig | None:
    if section.absent:
        return None
    file = section.path("file")
    mac = section.text("mac", "", pattern=r"[0-9A-Fa-f]{40}", wanted="40 hexadecimal digits", filled=False)
    if mac:
        account = AccountConfig(
            file, section.choice("security", REQUIRED, ACCOUNT_SECURITY), mac, section.path("secret_file")
        )
    else:
        account = AccountConfig(file)
    section.end()
    return account


def _ports(top: Section) -> tuple[PortConfig, ...]:
    ports: list[PortConfig] = []
    for section in top.sections("ports"):
        port = _port(section)
        if any(port.name == other.name for other in ports):
            section.note("name", f"another port has the name {port.name!r}")
        if port.url and any(port.url == other.url for other in ports):
            section.note("url", f"another port has the URL {port.url!r}")
        else:
            _note_same_place(section, port, ports)
        ports.append(port)
    return tuple(ports)


def _note_same_place(section: Section, port: PortConfig, others: Sequence[PortConfig]) -> None:
    """Note where a port, or a meter of its own, leads to what a port before it leads to under another name."""
    taken = {place: where for other in others for _, place, where in places_of(other)}
    for _, place, where in places_of(port):
        if place in taken:
            section.note("url" if port.url else "meters", f"{where} is the same as {taken[place]}")


def places_of(port: PortConfig) -> Iterator[tuple[str, Place, str]]:
    """Everything that a port leads to: the name of the port, or `port/address` of its meter, the place, and both in
    words."""
    if port.url:
        yield port.name, place_of(port.url), f"{port.url!r} of port {port.name}"
    for meter in port.meters if port.protocol.own_urls else ():
        try:
            endpoint = port.endpoint(meter.address)
        except PlcLocalError:
            continue  # which is said of the meter
        if endpoint is not None:
            spelling = repr(meter.url) if meter.url else "the address"
            where = f"{spelling} of meter {meter.address} of port {port.name}"
            yield f"{port.name}/{meter.address}", place_of_endpoint(endpoint), where


def _port(section: Section) -> PortConfig:
    named = _protocol(section)
    # A port whose protocol cannot be had is read on like any other, so that everything wrong with it is said at once.
    protocol = named or PRIME_USI
    port = PortConfig(
        name=section.text("name", pattern=r"[A-Za-z0-9_-]{1,32}", wanted="up to 32 letters, digits, - and _"),
        protocol=protocol,
        url="" if protocol.own_urls else _port_url(section),
        baudrate=section.integer("baudrate", protocol.baudrate, 300, 4_000_000),
        parity=section.choice("parity", "none", PARITIES),
        scan=_scan(section, protocol),
        parallel_max=section.integer("parallel_max", 0, 0, 64),
        health=section.flag("health", default=True),
        response_timeout_s=section.number("response_timeout_s", protocol.response_timeout_s, 0.05, 120),
        silence_s=section.number("silence_s", 60.0, 0, DAY_S),
        options={option.name: _option(section, option) for option in protocol.options},
    )
    if protocol.own_lines or protocol.own_urls:
        port = replace(port, meters=_port_meters(section, port))
    # A file that an earlier version took is not refused for a key that only another protocol's ports have.
    port = replace(port, unused=section.unused(sorted(KEYS_OF_SOME_PROTOCOL)))
    if named is not None:  # else nobody knows which keys it has
        section.end()
    return port


def _port_url(section: Section) -> str:
    url = section.url("url")
    try:
        check_url(url)
    except AddressError as error:
        section.note("url", f"is no URL of a port: it {error}")
    return url


def _port_meters(section: Section, port: PortConfig) -> tuple[PortMeterConfig, ...]:
    meters: list[PortMeterConfig] = []
    for entry in section.sections("meters"):
        meter = _port_meter(entry, port)
        if any(meter.address == other.address for other in meters):
            entry.note("address", f"another meter of this port has the address {meter.address}")
        if meter.url and any(meter.url == other.url for other in meters):
            entry.note("url", f"another meter of this port has the URL {meter.url!r}")
        elif meter.url and (same := [other for other in meters if place_of(other.url) == place_of(meter.url)]):
            entry.note("url", f"{meter.url!r} is the same as {same[0].url!r} of meter {same[0].address}")
        meters.append(meter)
    opened = [meter for meter in meters if meter.mode_e is not None]
    if len(opened) > 1 and not all(meter.mode_e for meter in opened):
        section.note(
            "meters", "where several have mode_e, each needs its mode_e_address: without one all of them answer"
        )
    if port.protocol.own_urls and not meters:
        section.note("meters", f"is missing or empty: each meter of {port.protocol.name} ports has a URL of its own")
    return tuple(meters)


def _port_meter(entry: Section, port: PortConfig) -> PortMeterConfig:
    lowest, highest = (port.protocol.scan.lowest, port.protocol.scan.highest) if port.protocol.scan else (1, 0xFFFF)
    address = entry.integer("address", REQUIRED, lowest, highest)
    url, baudrate, parity, mode_e, wport = "", port.baudrate, port.parity, None, 0
    if port.protocol.own_urls:
        url = entry.text("url", "", filled=False)
        wport = entry.integer("wport", 0, 0, 0xFFFF)
        try:
            port.protocol.find_endpoint(address, url, port.protocol.with_defaults(port.options))
            check_meter_url(url)
        except PlcLocalError as error:
            entry.note("url", str(error) if url else f"is missing: {error}")
        except AddressError as error:
            entry.note("url", f"is no URL of a meter: it {error}")
    if port.protocol.own_lines:
        baudrate = entry.integer("baudrate", port.baudrate, 300, 4_000_000)
        parity = entry.choice("parity", port.parity, PARITIES)
        number = entry.text(
            "mode_e_address", "", pattern=r"[A-Za-z0-9]{1,32}", wanted="up to 32 letters and digits", filled=False
        )
        mode_e = number if entry.flag("mode_e", default=False) else None
        if number and mode_e is None:
            entry.note("mode_e_address", "has no use without mode_e: true")
        if mode_e is not None and entry.has("parity"):
            entry.note("parity", "has no use with mode_e, which ends in HDLC without parity")
        own_line = mode_e is not None or (baudrate, parity) != (port.baudrate, port.parity)
        if own_line and port.url.startswith(("socket://", "udp://")):
            entry.note("", "a line of its own needs a serial port or rfc2217://: nobody can set a line behind a socket")
    entry.end()
    return PortMeterConfig(address, url, baudrate, parity, mode_e, wport)


def _protocol(section: Section) -> PortProtocol | None:
    name = section.text("protocol")
    if not name:
        return None
    try:
        protocol = find_protocol(name)
    except PlcProtocolError as error:
        section.note("protocol", str(error))
        return None
    taken = {key.name for key in fields(PortConfig)} & {option.name for option in protocol.options}
    if taken:
        section.note("protocol", f"{name!r} cannot be used: every port has a key {', '.join(sorted(taken))} already")
        return None
    return protocol


def _scan(section: Section, protocol: PortProtocol) -> ScanConfig | None:
    if protocol.scan is None:
        return None
    scan = section.section("scan")
    if scan.absent:
        section.note("scan", f"is missing: meters of {protocol.name} ports are found by asking addresses")
        return None
    lowest, highest = protocol.scan.lowest, protocol.scan.highest
    scanned = ScanConfig(
        first=scan.integer("first", REQUIRED, lowest, highest),
        last=scan.integer("last", REQUIRED, lowest, highest),
        every_s=scan.integer("every_s", 3600, 1, 31 * DAY_S),
    )
    scan.end()
    if scanned.last < scanned.first:
        scan.note("last", f"is lower than first ({scanned.first})")
    return scanned


def _option(section: Section, option: Option) -> OptionValue:
    """The value of a key that the protocol declares, of the type of its default."""
    value: OptionValue
    problems_before = len(section.problems)
    match option.default:
        case bool():
            value = section.flag(option.name, default=option.default)
        case int():
            value = section.integer(option.name, option.default, int(option.low), int(option.high))
        case float():
            value = section.number(option.name, option.default, option.low, option.high)
        case str():
            value = section.text(option.name, option.default, filled=False)
    if option.choices and value not in option.choices and len(section.problems) == problems_before:
        wanted = " or ".join((", ".join(str(choice) for choice in option.choices[:-1]), str(option.choices[-1])))
        source = f" ({option.source})" if option.source else ""
        section.note(option.name, f"wanted {wanted}{source}, got {value}")
    return value


def _metering(section: Section, state_dir: Path) -> MeteringConfig:
    metering = MeteringConfig(
        reading_lists_dir=section.path("reading_lists_dir", "/usr/share/dcu-agent/reading-lists"),
        store_file=section.path("store_file", state_dir / "readings.db"),
        registry_file=section.path("registry_file", state_dir / "meters.json"),
        store_records_max=section.integer("store_records_max", 500_000, 1000, 50_000_000),
        store_keep_forwarded_max=section.integer("store_keep_forwarded_max", 20_000, 0, 50_000_000),
        parallel_max=section.integer("parallel_max", 8, 1, 64),
        retries_max=section.integer("retries_max", 3, 0, 20),
        retry_backoff_s=section.number("retry_backoff_s", 15.0, 0.05, 3600),
        visit_timeout_s=section.number("visit_timeout_s", 120.0, 1, 3600),
        catch_up_s=section.integer("catch_up_s", DAY_S, 0, 31 * DAY_S),
        leave_after_s=section.number("leave_after_s", 120.0, 0, DAY_S),
        pdu_size=section.integer("pdu_size", 1024, 64, 65_535),
        profile_first_s=section.integer("profile_first_s", DAY_S, 0, 366 * DAY_S),
        meter_utc_offset_min=section.integer_or_none("meter_utc_offset_min", -720, 840),
        uplink_backoff_min_s=section.number("uplink_backoff_min_s", 2.0, 0.05, 3600),
        uplink_backoff_max_s=section.number("uplink_backoff_max_s", 300.0, 0.1, DAY_S),
        uplink_replay_records_per_min=section.integer("uplink_replay_records_per_min", 6000, 60, 100_000_000),
        uplink_replay_spread_s=section.number("uplink_replay_spread_s", 60.0, 0, 3600),
        whitelist=section.texts("whitelist", ()),
        device_type=_attribute(section, "device_type"),
        inventory=section.flag("inventory", default=True),
    )
    section.end()
    return metering


def _attribute(section: Section, key: str) -> AttributeRef | None:
    """The attribute that a key names as `class/code/attribute`; `None` where the key is left out."""
    text = section.text(key, "", filled=False)
    try:
        return AttributeRef.parse(text) if text else None
    except LocalError as error:
        section.note(key, str(error))
        return None


def _orders(section: Section) -> OrdersConfig:
    orders = OrdersConfig(
        change=section.flag("change", default=True),
        supply=section.flag("supply", default=False),
        firmware=section.flag("firmware", default=False),
    )
    section.end()
    return orders


def _events(section: Section) -> EventsConfig:
    listen = section.section("listen")
    listening = None
    if not listen.absent:
        listening = ListenConfig(
            host=listen.text("host", "0.0.0.0"),  # noqa: S104 - meters call from their own network
            port=listen.integer("port", 4059, 0, 65_535),
            udp=listen.flag("udp", default=False),
        )
        listen.end()
    events = EventsConfig(section.choice("plain_push", "mark", ("mark", "refuse")), listening)
    section.end()
    return events


def _services(section: Section) -> ServicesConfig:
    services = ServicesConfig(
        backend=section.choice("backend", "auto", ("auto", "own", "systemd", "off")),
        unit_dir=section.path("unit_dir", "/run/systemd/system"),
        kept_kib_max=section.integer("kept_kib_max", 16 << 10, 64, 1 << 30),
    )
    section.end()
    return services


def _update(section: Section, state_dir: Path) -> UpdateConfig:
    update = UpdateConfig(
        dir=section.path("dir", state_dir / "update"),
        run_dir=section.path("run_dir", "/run/dcu"),
        boot_id_file=section.path("boot_id_file", "/proc/sys/kernel/random/boot_id"),
        roots=section.path("roots", "/etc/dcu/roots.pem"),
        compatible=section.text("compatible"),
        command=section.command("command", ("dcu-update",)),
        software_dir=section.path("software_dir", state_dir / "software"),
        full_instead_of_delta=section.choice("full_instead_of_delta", "never", ("never", "always")),
        full_bytes_max=section.integer("full_bytes_max", 1 << 30, 1, 1 << 30),
    )
    section.end()
    if section.has("full_bytes_max") and update.full_instead_of_delta == "never":
        section.note("full_bytes_max", "has no use while full_instead_of_delta is never")
    return update


def _watchdog(section: Section) -> WatchdogConfig:
    device = section.text("device", "", filled=False)
    watchdog = WatchdogConfig(
        device=str(section.path("device")) if device else "", timeout_s=section.integer("timeout_s", 60, 5, 600)
    )
    section.end()
    return watchdog


def _log(section: Section) -> LogConfig:
    file = section.path("file", Path())
    log = LogConfig(
        level=section.choice("level", "info", ("debug", "info", "warning", "error")),
        file=None if not section.has("file") else file,
        file_bytes_max=section.integer("file_bytes_max", 1 << 20, 4096, 1 << 30),
    )
    section.end()
    return log


def _clock(section: Section) -> ClockConfig:
    file = section.path("synchronized_file", Path())
    clock = ClockConfig(
        synchronized_file=file if section.has("synchronized_file") else None, set=section.flag("set", default=False)
    )
    section.end()
    return clock


def _connectivity(section: Section) -> ConnectivityConfig:
    standard = ConnectivityConfig()
    file = section.path("timesyncd_file", Path())
    connectivity = ConnectivityConfig(
        hook=section.command("hook", standard.hook),
        timesyncd_file=file if section.has("timesyncd_file") else None,
        time_command=section.command("time_command", standard.time_command),
    )
    section.end()
    return connectivity
