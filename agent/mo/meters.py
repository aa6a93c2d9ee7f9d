"""The meters and the networks below ./AMI, nodes of this project's own; `agent.mo.ami` hangs them in.

    ./AMI/Meter/<id>/Id, Port, Address, State, …          live: who is known, and how reading it goes
                    /Model, Firmware, Offered, Objects    live: what it is and can
                    /Counters                             live: visits, by how they ended
    ./AMI/Registry/Meters                                 live, JSON: all meters at once
                  /Whitelist/Enforce, Entry/<x>/Id        who is read
                  /Add/<x>/Port, Address, EUI48, …        meters that are known before they are heard
                  /NotAdded                               live, JSON: those that cannot be, with the reason
                  /Operations/Forget                      Exec, the meter's id as its data: it is gone for good
    ./AMI/Network/<port>/Nodes, Switches, Listed          live: the network behind a base node
                        /Topology, History, Orders        live, JSON
                        /Operations/Order                 Exec, JSON as its data: an order to the base node

What has many parts is one leaf of JSON: a server reads a network in one Get, not in some thousands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from agent.settings.places import check_meter_url
from agent.settings.provisioning import ADDED_CHARS_MAX, AddedMeter
from agent.status import MeterStatus
from agent.tree.alerts import GenericAlert
from agent.tree.schema import (
    GE,
    Access,
    ExecCall,
    Format,
    NodeSpec,
    Path,
    group,
    interior,
    live,
    number,
    one_of,
    permanent,
    setting,
)
from agent.tree.tree import Transaction
from agent.tree.uri import node_name, show
from omadm.codes import Code, Refusal

ENTRIES_MAX = 4096  # one for each meter of a full network
ROOT: Path = ("AMI", "Registry")
NETWORK: Path = ("AMI", "Network")
WHITELIST, ADD = (*ROOT, "Whitelist"), (*ROOT, "Add")

Document = Mapping[str, object]


class Meters:
    """The nodes of the meters. `detail` returns what is known of one meter, by id; see docs/management-objects.md."""

    def __init__(
        self, meters: Callable[[], Sequence[MeterStatus]], detail: Callable[[str], Document | None] = lambda _: None
    ) -> None:
        self._meters = meters
        self._detail = detail

    def spec(self) -> NodeSpec:
        return NodeSpec("Meter", Format.NODE, Access.GET, (self._meter(),), names=self._names)

    def _meter(self) -> NodeSpec:
        return group(
            live("Id", Format.CHR, lambda path: self._find(path[2]).meter_id, "COSEM logical device name, or EUI-48"),
            live("Port", Format.CHR, lambda path: self._find(path[2]).port, "name of the serial port"),
            live("Address", Format.INT, lambda path: str(self._find(path[2]).address), "on the power line or bus"),
            live(
                "State",
                Format.CHR,
                lambda path: self._find(path[2]).state,
                "expected, joined, read, silent, failing, left, unlisted",
            ),
            live(
                "LastSuccess",
                Format.INT,
                lambda path: str(int(self._find(path[2]).last_success)),
                "seconds since 1970, 0: never",
            ),
            live(
                "KeyFailures",
                Format.INT,
                lambda path: str(self._find(path[2]).key_failures),
                "how often it refused its keys since the start",
            ),
            live("Security", Format.CHR, lambda path: self._find(path[2]).security, "how it is associated with"),
            live("Model", Format.CHR, lambda path: self._find(path[2]).model or "", "maker and type; empty: not known"),
            live(
                "Firmware", Format.CHR, lambda path: self._text(path[2], "firmware"), "identification of the active one"
            ),
            live(
                "Offered",
                Format.CHR,
                lambda path: self._json(path[2], "offered"),
                "conformance and longest APDU of its association, JSON; null: not known",
            ),
            live(
                "Objects",
                Format.CHR,
                lambda path: self._json(path[2], "objects"),
                "number and digest of its objects, or why there are none, JSON",
            ),
            live("Counters", Format.CHR, lambda path: self._json(path[2], "counters"), "visits by their end, JSON"),
            live("Node", Format.CHR, lambda path: self._json(path[2], "node"), "its place in the network, or null"),
            access=Access.GET,
        )

    def _names(self, _: Path) -> list[str]:
        return [node_name(meter.meter_id) for meter in self._meters()]

    def _find(self, name: str) -> MeterStatus:
        for meter in self._meters():
            if node_name(meter.meter_id) == name:
                return meter
        return MeterStatus(meter_id="", port="", address=0, state="left", joined=0.0)

    def _part(self, name: str, part: str) -> object:
        found = self._detail(self._find(name).meter_id)
        return found.get(part) if found else None

    def _text(self, name: str, part: str) -> str:
        return str(self._part(name, part) or "")

    def _json(self, name: str, part: str) -> str:
        return json.dumps(self._part(name, part), separators=(",", ":"))


class MeterRegistry:
    """Who is read and who is known before being heard. `forget` forgets a meter by its id, and returns whether there
    was one; `details` returns a document for each meter, `not_added` says of meters that were added why they are not
    read."""

    root = ROOT

    def __init__(
        self,
        forget: Callable[[str], bool] = lambda _: False,
        details: Callable[[], Sequence[Document]] = lambda: (),
        not_added: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._forget = forget
        self._details = details
        self._not_added = not_added

    def spec(self) -> NodeSpec:
        return interior(
            "Registry",
            live(
                "Meters",
                Format.CHR,
                lambda _: json.dumps(list(self._details()), separators=(",", ":")),
                "all meters with what they are and their counters, JSON",
            ),
            interior(
                "Whitelist",
                permanent("Enforce", Format.BOOL, default="false", description="only meters with an Entry are read"),
                NodeSpec(
                    "Entry",
                    Format.NODE,
                    Access.GET,
                    (
                        group(
                            setting(
                                "Id",
                                Format.CHR,
                                value_chars_max=64,
                                description="id, EUI-48 or port/address, with `*` and `?`; the node's name when absent",
                            )
                        ),
                    ),
                    names_max=ENTRIES_MAX,
                ),
            ),
            NodeSpec("Add", Format.NODE, Access.GET, (group(*_ADDED),), names_max=ENTRIES_MAX),
            live(
                "NotAdded",
                Format.CHR,
                lambda _: json.dumps(self._not_added(), separators=(",", ":")),
                "meters that cannot be added, as `port/address` or `port/EUI-48`, with the reason, JSON",
            ),
            interior(
                "Operations",
                NodeSpec(
                    "Forget",
                    Format.NULL,
                    GE,
                    description="Exec with a meter's id as data: it is gone for good, with its gaps and keys",
                ),
            ),
        )

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of Forget: 200; 404 for a meter that is not known, 405 elsewhere."""
        del changing
        if call.path != (*ROOT, "Operations", "Forget"):
            raise Refusal(Code.NOT_ALLOWED, f"{show(call.path)} is no operation")
        if not self._forget(call.data.strip()):
            raise Refusal(Code.NOT_FOUND, f"there is no meter {call.data.strip()[:64]}")
        return Code.OK

    def written(self, changing: Transaction, path: Path) -> None:
        """Nothing follows from a value before it is provisioned."""

    def acknowledged(self, changing: Transaction, alert: GenericAlert) -> None:
        """There are no alerts of these nodes."""


class Networks:
    """The networks behind base nodes. `networks` returns a document per port, see `agent.daemon.views.networks`;
    `order` has the base node of a port do something, and raises `ValueError`."""

    root = NETWORK

    def __init__(
        self,
        networks: Callable[[], Sequence[Document]] = lambda: (),
        order: Callable[[str, Document], object] = lambda _port, _wanted: None,
    ) -> None:
        self._networks = networks
        self._order = order

    def spec(self) -> NodeSpec:
        port = group(
            live("Nodes", Format.INT, lambda path: str(self._count(path[2])), "registered nodes"),
            live("Switches", Format.INT, lambda path: str(self._count(path[2], "switch")), "of them"),
            live(
                "Listed",
                Format.INT,
                lambda path: str(int(float(str(self._find(path[2]).get("listed", 0))))),
                "when the base node last gave its lists, seconds since 1970, 0: never",
            ),
            live("Topology", Format.CHR, lambda path: self._json(path[2], "nodes"), "all nodes, JSON"),
            live("History", Format.CHR, lambda path: self._json(path[2], "history"), "events, newest first, JSON"),
            live("Orders", Format.CHR, lambda path: self._json(path[2], "orders"), "orders to the base node, JSON"),
            interior(
                "Operations",
                NodeSpec(
                    "Order",
                    Format.NULL,
                    GE,
                    description='Exec with `{"kind": "get", "pib": 80}` as data; Orders has what came of it',
                ),
            ),
            access=Access.GET,
        )
        return NodeSpec("Network", Format.NODE, Access.GET, (port,), names=self._names)

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of Order: 202, and `Orders` has what came of it; 405 elsewhere, 400 for what is no order."""
        del changing
        if len(call.path) != len(NETWORK) + 3 or call.path[-2:] != ("Operations", "Order"):
            raise Refusal(Code.NOT_ALLOWED, f"{show(call.path)} is no operation")
        try:
            wanted = json.loads(call.data)
            self._order(call.path[len(NETWORK)], wanted if isinstance(wanted, dict) else {})
        except (ValueError, RecursionError) as error:
            raise Refusal(Code.BAD_REQUEST, str(error)[:160]) from error
        return Code.ACCEPTED

    def written(self, changing: Transaction, path: Path) -> None:
        """Nothing can be written here."""

    def acknowledged(self, changing: Transaction, alert: GenericAlert) -> None:
        """There are no alerts of these nodes."""

    def _names(self, _: Path) -> list[str]:
        return [str(network["port"]) for network in self._networks() if network.get("at") or network.get("history")]

    def _find(self, port: str) -> Document:
        return next((network for network in self._networks() if network["port"] == port), {})

    def _nodes(self, port: str) -> list[Document]:
        nodes = self._find(port).get("nodes")
        return list(nodes) if isinstance(nodes, list | tuple) else []

    def _count(self, port: str, state: str = "") -> int:
        return sum(bool(node["registered"]) and state in ("", node["state"]) for node in self._nodes(port))

    def _json(self, port: str, part: str) -> str:
        return json.dumps(self._find(port).get(part, []), separators=(",", ":"))


_ADDED = (
    setting("Port", Format.CHR, value_chars_max=32, description="name of a port; required"),
    number("Address", 1, 0xFFFF, "on the bus, or the short address"),
    setting("EUI48", Format.CHR, value_chars_max=24, description="of the modem, behind a base node"),
    setting(
        "URL",
        Format.CHR,
        value_chars_max=ADDED_CHARS_MAX,
        check=check_meter_url,
        description="`socket://host:port`, `udp://address:port`",
    ),
    number("WPort", 0, 0xFFFF, "its logical device; 1 when absent"),
    number("Baudrate", 300, 4_000_000, "the port's when absent"),
    setting("Parity", Format.CHR, check=one_of("none", "even", "odd"), description="the port's when absent"),
    setting("ModeE", Format.BOOL, description="it begins with the opening of mode E; false when absent"),
    setting("ModeEAddress", Format.CHR, value_chars_max=32, description="its number in that opening"),
)


def whitelist_of(looking: Transaction) -> tuple[str, ...]:
    """The entries of the whitelist."""
    base = (*WHITELIST, "Entry")
    return tuple(looking.text((*base, name, "Id")) or name for name in looking.names(looking.existing(base)))


def is_enforced(looking: Transaction) -> bool:
    return looking.text((*WHITELIST, "Enforce")) == "true"


def added_meters(looking: Transaction) -> Iterator[AddedMeter]:
    """The meters that the tree adds, as they stand there: what cannot be is found out where they are used."""
    for name in looking.names(looking.existing(ADD)):
        base = (*ADD, name)

        def text(leaf: str, base: Path = base) -> str:
            return looking.text((*base, leaf))

        def number(leaf: str, base: Path = base) -> int:
            return int(looking.text((*base, leaf)) or 0)

        yield AddedMeter(
            port=text("Port"),
            address=number("Address"),
            eui48=text("EUI48"),
            url=text("URL"),
            wport=number("WPort"),
            baudrate=number("Baudrate"),
            parity=text("Parity"),
            mode_e=text("ModeEAddress") if text("ModeE") == "true" else None,
        )
