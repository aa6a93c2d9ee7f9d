"""The port protocols: what a port may speak, and everything that differs between them. The one table of its kind.

A `PortProtocol` says how the bridge below talks to the port (`make_core`), which data link reaches a meter through it
(`make_link`), how meters are found, and which keys a port of the configuration may have. Configuration, `--check`,
bridge and meter reading all take these from here, and none of them knows a protocol by its name.

Built-in protocols are in `BUILT_IN`. Any other installed distribution adds one by an entry point of the group
`dcu_agent.port_protocols`, whose name is the protocol's name and whose object is a `PortProtocol`; there is an example
in docs/configuration.md. Entry points are looked for only when a name is asked for that is not built in: the search
opens the metadata of every installed distribution, which is slow on a small board.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dlms.link.datalink import LineSettings
from plc.endpoint import Endpoint, OptionValue
from plc.errors import AmbiguousProtocolError, BrokenProtocolError, PlcLocalError, UnknownProtocolError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from dlms.link.datalink import DataLink
    from plc.events import NodeEvent

ENTRY_POINT_GROUP = "dcu_agent.port_protocols"


class NodeLink(Protocol):
    """The sans-IO core below a bridge: `PlcLink`, `DlmsOverTcpLink`, `TransparentLink`, or one from elsewhere.

    A channel is a sequence of packets, each one APDU, or a stream of octets: as the link of `make_link` expects.
    `shared_bus` says that only one conversation fits on the line at a time.
    """

    shared_bus: bool

    def start(self, now: float) -> None: ...

    def send(self, address: int, lsdu: bytes, dst_lsap: int, src_lsap: int, now: float) -> int: ...

    def receive(self, data: bytes, now: float) -> None: ...

    def take_output(self) -> bytes: ...

    def next_event(self) -> NodeEvent | None: ...

    def next_deadline(self) -> float | None: ...

    def on_deadline(self, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Option:
    """A key that ports of one protocol have in the configuration, beside those that all ports have.

    Its type is that of `default`: `bool`, `int`, `float` or `str`. A number lies between `low` and `high`, both
    included. `choices`, where given, are the only values; `source` names the standard that says so.
    """

    name: str
    default: OptionValue
    low: float = 0
    high: float = 0
    choices: tuple[OptionValue, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"option {self.name!r}: not a name")
        if self.choices and self.default not in self.choices:
            raise ValueError(f"option {self.name}: the default {self.default!r} is not one of the choices")
        # A bool is an int in Python, and has no bounds.
        if isinstance(self.default, int | float) and not isinstance(self.default, bool):
            if not self.low <= self.default <= self.high:
                raise ValueError(f"option {self.name}: the default {self.default} is not {self.low} to {self.high}")


@dataclass(frozen=True, slots=True)
class AddressRange:
    """The addresses that a scan may ask, both ends included."""

    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class Asking:
    """How a meter on a bus is asked to connect: how often, and how many seconds it may take each time to begin its
    answer. `None` is the link's own habit. Nothing of this matters once the meter has answered.

    `last_baudrate` is the speed at which a meter with the opening of mode E was last talked to.
    """

    tries: int | None = None
    wait_s: float | None = None
    last_baudrate: int | None = None


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """What is known when a data link to one meter is made. Times are seconds.

    `client` and `server` are the SAPs of the association, `address` is the meter's on the port. `options` holds a value
    for every option of the protocol. Links over a base node, which repeats by itself, do not need `asking`.

    `baudrate` and `parity` are how the line stands for this meter. `mode_e` is its number in the opening of
    IEC 62056-21 mode E, empty where it has none, and `None` where it does not begin with that opening; `baudrate` is
    then the highest speed to agree to.
    """

    client: int
    server: int
    address: int
    baudrate: int
    response_timeout_s: float
    options: Mapping[str, OptionValue]
    asking: Asking = Asking()
    parity: str = "none"
    mode_e: str | None = None


def stream_endpoint(address: int, url: str, options: Mapping[str, OptionValue]) -> Endpoint:
    """The endpoint of a meter behind TCP, `socket://host:port`. Raises `PlcLocalError`."""
    del address, options
    if not url:
        raise PlcLocalError("each meter has a URL of its own")
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise PlcLocalError(f"{url}: {error}") from error
    if parts.scheme != "socket" or not host or not port:
        raise PlcLocalError(f"{url}: wanted socket://host:port")
    return Endpoint(host, port)


def _datagram_endpoint(address: int, url: str, options: Mapping[str, OptionValue]) -> Endpoint:
    from plc.g3 import datagram_endpoint

    return datagram_endpoint(address, url, options)


@dataclass(frozen=True, slots=True)
class PortProtocol:
    """One way to talk to meters through a port.

    `baudrate` and `response_timeout_s` (how long a meter may take to answer) are the defaults of the keys of the same
    names. `scan` is the range of addresses in which meters are looked for; `None` where a base node announces them.
    `make_link` raises `dlms.errors.LocalError` when a request cannot be met, such as an address that does not fit.

    `own_lines`: single meters may need another speed or parity than the port, or the opening of mode E. `own_urls`:
    each meter has a network address; the port has none, and one core (without deadlines of its own) per connection.
    `find_endpoint` then says where the meter with this number is, by its URL, which may be empty, and the options of
    the port; it raises `plc.errors.PlcLocalError`.
    """

    name: str
    baudrate: int
    response_timeout_s: float
    make_core: Callable[[], NodeLink]
    make_link: Callable[[LinkRequest], DataLink]
    scan: AddressRange | None = None
    options: tuple[Option, ...] = field(default=())
    own_lines: bool = False
    own_urls: bool = False
    find_endpoint: Callable[[int, str, Mapping[str, OptionValue]], Endpoint] = stream_endpoint

    def __post_init__(self) -> None:
        names = [option.name for option in self.options]
        if len(set(names)) < len(names):
            raise ValueError(f"protocol {self.name}: an option is declared twice")

    def with_defaults(self, given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
        """A value for every option: the one in `given`, else its default."""
        return {option.name: given.get(option.name, option.default) for option in self.options}


# What a protocol needs is imported when a port speaks it: a board with one base node loads neither HDLC nor TCP.


def _prime_core() -> NodeLink:
    from plc.prime.link import PlcLink

    return PlcLink()


def _dlms_over_tcp_core() -> NodeLink:
    from plc.dlmsotcp import DlmsOverTcpLink

    return DlmsOverTcpLink()


def _transparent_core() -> NodeLink:
    from plc.transparent import TransparentLink

    return TransparentLink()


def _llc_link(request: LinkRequest) -> DataLink:
    from dlms.link.llc import LlcLink

    return LlcLink(request.client, request.server, answer_timeout_s=request.response_timeout_s)


def _stream_core() -> NodeLink:
    from plc.transparent import StreamLink

    return StreamLink()


def _packet_core() -> NodeLink:
    from plc.transparent import PacketLink

    return PacketLink()


def _wrapper_udp_link(request: LinkRequest) -> DataLink:
    from dlms.link.wrapper import WrapperUdpLink

    return WrapperUdpLink(
        request.client,
        request.server,
        answer_timeout_s=request.response_timeout_s,
        apdu_bytes_max=int(request.options["apdu_bytes_max"]),
    )


def _wrapper_link(request: LinkRequest) -> DataLink:
    from dlms.link.wrapper import WrapperLink

    return WrapperLink(request.client, request.server, answer_timeout_s=request.response_timeout_s)


def _hdlc_link(request: LinkRequest) -> DataLink:
    if request.mode_e is not None:
        return _opened_hdlc_link(request, request.mode_e)
    return _plain_hdlc_link(request, LineSettings(request.baudrate, request.parity), request.asking.tries)


def _opened_hdlc_link(request: LinkRequest, number: str) -> DataLink:
    from dlms.link.mode_e.link import ModeELink
    from dlms.link.mode_e.opening import RETRIES, ModeEOpening

    tries = request.asking.tries
    opening = ModeEOpening(
        address=number, baudrate_max=request.baudrate, retries=RETRIES if tries is None else tries - 1
    )
    # A meter that has just agreed to a speed is there, and one that has not is most likely not: neither needs many.
    repeats = MODE_E_CONNECT_TRIES if tries is None else tries
    return ModeELink(
        opening,
        lambda baudrate: _plain_hdlc_link(request, LineSettings(baudrate), repeats),
        lost_at=request.asking.last_baudrate or request.baudrate,
    )


def _plain_hdlc_link(request: LinkRequest, line: LineSettings, tries: int | None) -> DataLink:
    from dlms.link.hdlc.frames import HdlcAddress
    from dlms.link.hdlc.primary import HdlcClientLink

    octets = int(request.options["address_bytes"])
    upper = int(request.options["logical_device"])
    # An address of one octet has the upper part alone (IEC 62056-46, 6.4.2.2): it is then the meter's own.
    address = HdlcAddress(request.address) if octets == 1 else HdlcAddress(upper, request.address, size=octets)
    return HdlcClientLink(
        request.client,
        address,
        info_max=int(request.options["info_bytes_max"]),
        window=int(request.options["window"]),
        ack_timeout_s=request.response_timeout_s,
        octet_s=line.octet_s,
        connect_tries=tries,
        connect_timeout_s=request.asking.wait_s,
    )


MODE_E_CONNECT_TRIES = 2
HDLC_ADDRESS_MAX = 16_381  # of one part in two octets; the two above are broadcast and "not configured" (6.4.2.3)

# A power line relays over several hops; a meter on a bus answers within a second or never.
PRIME_USI = PortProtocol("prime-usi", 115_200, 20.0, make_core=_prime_core, make_link=_llc_link)
DLMS_OVER_TCP = PortProtocol("dlmsotcp", 115_200, 20.0, make_core=_dlms_over_tcp_core, make_link=_llc_link)
HDLC = PortProtocol(
    "hdlc",
    9600,
    1.5,
    make_core=_transparent_core,
    make_link=_hdlc_link,
    scan=AddressRange(1, HDLC_ADDRESS_MAX),
    options=(
        Option("logical_device", 1, 1, HDLC_ADDRESS_MAX),
        Option("address_bytes", 2, 1, 4, choices=(1, 2, 4), source="IEC 62056-46, 6.4.2.2"),
        Option("info_bytes_max", 128, 32, 2030),
        Option("window", 1, 1, 7),
    ),
    own_lines=True,
)
WRAPPER = PortProtocol("wrapper", 115_200, 30.0, make_core=_stream_core, make_link=_wrapper_link, own_urls=True)
WRAPPER_UDP = PortProtocol(
    "wrapper-udp",
    115_200,
    20.0,
    make_core=_packet_core,
    make_link=_wrapper_udp_link,
    options=(
        Option("pan_id", 0, 0, 0xFFFF, source="ITU-T G.9903"),
        Option("prefix", "fe80::/64"),
        Option("interface", ""),
        Option("udp_port", 4059, 1, 0xFFFF),
        # One packet of IPv6's least MTU, 1280 octets, without its headers and those of UDP and the wrapper.
        Option("apdu_bytes_max", 1224, 64, 65_000),
    ),
    own_urls=True,
    find_endpoint=_datagram_endpoint,
)

BUILT_IN: Mapping[str, PortProtocol] = {
    protocol.name: protocol for protocol in (PRIME_USI, HDLC, DLMS_OVER_TCP, WRAPPER, WRAPPER_UDP)
}


def find_protocol(name: str) -> PortProtocol:
    """The protocol of this name. A built-in one cannot be replaced by an entry point.

    Raises `UnknownProtocolError` when nobody offers it, `AmbiguousProtocolError` when several distributions do, and
    `BrokenProtocolError` when what is offered cannot be loaded or is not a `PortProtocol` of this name.
    """
    built_in = BUILT_IN.get(name)
    if built_in is not None:
        return built_in
    offered = _entry_points()
    candidates = [point for point in offered if point.name == name]
    if not candidates:
        raise UnknownProtocolError(name, [*BUILT_IN, *sorted({point.name for point in offered} - set(BUILT_IN))])
    if len(candidates) > 1:
        raise AmbiguousProtocolError(name, sorted(_distribution(point) for point in candidates))
    return _load(candidates[0])


def shadowed_protocols() -> list[tuple[str, str]]:
    """Entry points that are never used, because a built-in protocol has their name: (name, distribution)."""
    return sorted((point.name, _distribution(point)) for point in _entry_points() if point.name in BUILT_IN)


def _entry_points() -> Sequence[EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"


def _load(point: EntryPoint) -> PortProtocol:
    where = f"{point.value} of {_distribution(point)}"
    try:
        found = point.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise BrokenProtocolError(point.name, f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(found, PortProtocol):
        raise BrokenProtocolError(point.name, f"{where} is a {type(found).__name__}, not a PortProtocol")
    if found.name != point.name:
        raise BrokenProtocolError(point.name, f"{where} calls itself {found.name}")
    return found
