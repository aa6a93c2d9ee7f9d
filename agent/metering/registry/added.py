"""Meters that somebody added by hand, from the field (`dcuctl meters add`) or from the management tree.

Those of the field are kept in a file with a checksum; those of the tree are kept there. Each port sees its own, behind
those of its configuration, in a sequence that changes while the port is open.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import overload

from agent.metering.registry.registry import Registry
from agent.settings.config import PortConfig, PortMeterConfig, places_of
from agent.settings.places import check_meter_url
from agent.settings.provisioning import AddedMeter
from agent.tree.newer import NewerFormatError, check_version, set_aside
from dlms.link.datalink import PARITIES
from omadm.addresses import AddressError
from plc.errors import PlcLocalError
from updateagent.disk import Disk

LOG = logging.getLogger("agent.metering.registry")

VERSION = 1
ADDED_MAX = 4096  # of all ports
EUI48_DIGITS = 12
WPORT_MAX = 0xFFFF

Foreign = Mapping[str, Mapping[str, object]]
"""By the key of a meter: members that a later version of this software has added."""


class PortMeters(Sequence[PortMeterConfig]):
    """What is special about single meters of a port: the configured ones, then the added ones."""

    def __init__(self, configured: Sequence[PortMeterConfig]) -> None:
        self.configured = tuple(configured)
        self._all = self.configured

    def added(self, meters: Iterable[PortMeterConfig]) -> None:
        """These are the added ones now. The configured ones go before."""
        self._all = (*self.configured, *meters)

    @overload
    def __getitem__(self, index: int) -> PortMeterConfig: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PortMeterConfig]: ...
    def __getitem__(self, index: int | slice) -> PortMeterConfig | Sequence[PortMeterConfig]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[PortMeterConfig]:
        return iter(self._all)


class AddedMeters:
    """Thread-safe. `ports` are those of the configuration; `follow` gives them with their meters."""

    def __init__(self, disk: Disk, file: Path, ports: Sequence[PortConfig], registry: Registry) -> None:
        self._disk = disk
        self._file = file
        self._registry = registry
        self._lock = threading.RLock()
        self._meters = {port.name: PortMeters(port.meters) for port in ports}
        self.ports = tuple(replace(port, meters=self._meters[port.name]) for port in ports)
        self._by_hand: dict[str, AddedMeter] = {}
        self._provisioned: dict[str, AddedMeter] = {}
        self._refused: dict[str, str] = {}  # of the tree: by key, why it cannot be
        self._wrong: dict[str, str] = {}  # of both: why it is not read
        self._foreign: Foreign = {}
        self._load()
        self._publish()

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all meters that were added."""
        with self._lock:
            return frozenset((*self._by_hand, *self._provisioned))

    @property
    def problems(self) -> dict[str, str]:
        """Why meters that were added are not read, by key."""
        with self._lock:
            return {**self._refused, **self._wrong}

    def add(self, meter: AddedMeter) -> str:
        """Add a meter from the field, durably. Returns its key.

        Raises `ValueError` for one that cannot be, and `OSError` when it cannot be kept; then nothing has changed.
        """
        with self._lock:
            meter = self.checked(meter)
            key = key_of(meter)
            if key in self._provisioned:
                raise ValueError(f"{key} is provisioned by the management server")
            others = {**self._provisioned, **{other: it for other, it in self._by_hand.items() if other != key}}
            _, wrong = self._used([*others.values(), meter])
            if key in wrong:
                raise ValueError(wrong[key])
            if key not in self._by_hand and len(self._by_hand) >= ADDED_MAX:
                raise ValueError(f"{ADDED_MAX} meters are added already")
            self._save({**self._by_hand, key: meter})
            self._publish()
            return key

    def provisioned(self, meters: Iterable[AddedMeter]) -> list[str]:
        """These are the meters that the management tree adds. One that cannot be is left out, and said in the log.

        Returns the keys of meters that the tree had added and does not have any more.
        """
        with self._lock:
            before, self._provisioned, self._refused = self._provisioned, {}, {}
            for meter in meters:
                try:
                    checked = self.checked(meter)
                except ValueError as error:
                    LOG.warning("a meter cannot be added: %s", error, extra={"event": "meter.add.failed"})
                    self._refused[key_of(meter)] = str(error)
                    continue
                self._provisioned[key_of(checked)] = checked
            if before != self._provisioned:
                self._publish()
            return [key for key in before if key not in self._provisioned and key not in self._by_hand]

    def remove(self, keys: Iterable[str]) -> None:
        """These meters are gone for good. Those that the tree adds come back unless they go there too.

        Raises `OSError` when that cannot be kept; then nothing has changed.
        """
        with self._lock:
            gone = set(keys) & set(self._by_hand)
            if gone:
                self._save({key: meter for key, meter in self._by_hand.items() if key not in gone})
                self._publish()

    def checked(self, meter: AddedMeter) -> AddedMeter:
        """Return the meter in the form in which it is kept. Raises `ValueError` that says what is wrong with it."""
        port = next((port for port in self.ports if port.name == meter.port), None)
        if port is None:
            raise ValueError(f"there is no port {meter.port!r}: {', '.join(self._meters) or 'none is configured'}")
        if port.scan is None and not port.protocol.own_urls:
            return _behind_base_node(meter)
        if meter.eui48:
            raise ValueError(f"meters of port {port.name} have an address, no EUI-48")
        return _with_address(meter, port)

    # --- inside ---

    def _used(self, meters: Iterable[AddedMeter]) -> tuple[list[AddedMeter], dict[str, str]]:
        """Return those of `meters` that can be read, and by key what is wrong with the others: a second name of one
        place would have one meter read twice, as two."""
        used, wrong = [], {}
        taken = {place: (key, where) for port in self.ports for key, place, where in places_of(self._configured(port))}
        for meter in meters:
            port = next((port for port in self.ports if port.name == meter.port), None)
            if port is None or meter.eui48:
                used.append(meter)  # a port that is not configured now has no use for it
                continue
            key, own, configured = key_of(meter), _config(meter, port), self._configured(port).meter(meter.address)
            if configured is not None and own not in (configured, _config(AddedMeter(port.name, meter.address), port)):
                wrong[key] = f"{key} is configured otherwise, and that counts"
                continue
            mine = list(places_of(replace(port, url="", meters=(own,))))
            others = [taken[place] for _, place, _ in mine if place in taken]
            if others and others[0][0] != key:
                wrong[key] = f"{meter.url or key} is the same as {others[0][1]}"
                continue
            taken |= {place: (key, where) for _, place, where in mine}
            used.append(meter)
        return used, wrong

    def _configured(self, port: PortConfig) -> PortConfig:
        return replace(port, meters=self._meters[port.name].configured)

    def _publish(self) -> None:
        """Let each port and the registry have their meters. Where tree and field name one, the tree's counts."""
        in_field = [meter for key, meter in self._by_hand.items() if key not in self._provisioned]
        added, wrong = self._used([*self._provisioned.values(), *in_field])
        for key in wrong.keys() - self._wrong.keys():
            LOG.warning("a meter cannot be added: %s", wrong[key], extra={"event": "meter.add.failed"})
        self._wrong = wrong
        for port in self.ports:
            mine = [meter for meter in added if meter.port == port.name]
            self._meters[port.name].added(_config(meter, port) for meter in mine if not meter.eui48)
            for meter in mine:
                self._registry.expect(meter.port, meter.address, meter.eui48)
                if not meter.eui48:  # nobody announces it, so it is taken to be there
                    self._registry.join(meter.port, meter.address)

    def _save(self, meters: dict[str, AddedMeter]) -> None:
        rows = [{**self._foreign.get(key, {}), **asdict(meter)} for key, meter in meters.items()]
        document = {"version": VERSION, "crc32": _checksum(rows), "meters": rows}
        self._disk.mkdir_durable(self._file.parent)
        self._disk.write_durable(self._file, json.dumps(document).encode())
        self._by_hand = meters

    def _load(self) -> None:
        try:
            found, self._foreign = parse(self._disk.read_bytes(self._file))
        except FileNotFoundError:
            return
        except OSError as error:
            LOG.warning("%s cannot be read: %s", self._file, error, extra={"event": "meter.added.unreadable"})
            return
        except NewerFormatError as error:
            with contextlib.suppress(OSError):
                set_aside(self._disk, self._file, error)
            return
        except ValueError as error:
            LOG.warning("%s is damaged (%s): set aside", self._file, error, extra={"event": "meter.added.corrupt"})
            with contextlib.suppress(OSError):  # then the next meter that is added takes its place
                self._disk.rename_durable(self._file, self._file.with_name(self._file.name + ".corrupt"))
            return
        for meter in found:
            try:
                checked = self.checked(meter)
            except ValueError as error:  # of a port that the configuration does not have any more
                LOG.warning("an added meter cannot be used: %s", error, extra={"event": "meter.add.failed"})
                checked = meter
            self._by_hand[key_of(checked)] = checked


def key_of(meter: AddedMeter) -> str:
    """The registry's key of an added meter."""
    return f"{meter.port}/{meter.eui48 or meter.address}"


def parse(data: bytes) -> tuple[list[AddedMeter], Foreign]:
    """Return the meters of a file, and by the key of each what this program does not know of it.

    Raises `NewerFormatError` for a file of a later version, `ValueError` for what is not a file of ours.
    """
    known = {field.name for field in fields(AddedMeter)}
    try:
        document = json.loads(data)
        check_version(document["version"], VERSION)
        rows = document["meters"][:ADDED_MAX]
        if document["crc32"] != _checksum(document["meters"]):
            raise ValueError("wrong checksum")
        found = [AddedMeter(**{name: value for name, value in row.items() if name in known}) for row in rows]
        foreign = [{name: value for name, value in row.items() if name not in known} for row in rows]
        return found, {key_of(meter): members for meter, members in zip(found, foreign, strict=True) if members}
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _checksum(rows: object) -> int:
    return zlib.crc32(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode())


def _behind_base_node(meter: AddedMeter) -> AddedMeter:
    eui48 = meter.eui48.replace(":", "").replace("-", "").lower()
    if len(eui48) != EUI48_DIGITS or not all(digit in "0123456789abcdef" for digit in eui48):
        raise ValueError("a meter behind a base node is added by the EUI-48 of its modem, 12 hexadecimal digits")
    if meter != AddedMeter(meter.port, eui48=meter.eui48):
        raise ValueError("behind a base node a meter has an EUI-48 and no more: the network gives it its address")
    return AddedMeter(meter.port, eui48=eui48)


def _with_address(meter: AddedMeter, port: PortConfig) -> AddedMeter:
    scan = port.protocol.scan
    lowest, highest = (scan.lowest, scan.highest) if scan else (1, 0xFFFF)
    if not lowest <= meter.address <= highest:
        raise ValueError(f"address {meter.address}: {lowest} to {highest} on port {port.name}")
    if not 0 <= meter.wport <= WPORT_MAX:
        raise ValueError(f"wport {meter.wport}: 0 to {WPORT_MAX}")
    if port.protocol.own_urls:
        try:
            port.protocol.find_endpoint(meter.address, meter.url, port.protocol.with_defaults(port.options))
            check_meter_url(meter.url)
        except PlcLocalError as error:
            raise ValueError(str(error)) from error
        except AddressError as error:
            raise ValueError(f"the URL {error}") from error
        if (meter.baudrate, meter.parity, meter.mode_e) != (0, "", None):
            raise ValueError("a meter with a network address has no baud rate, parity or mode E")
        return meter
    if meter.url:
        raise ValueError(f"meters of port {port.name} have no URL of their own")
    if meter.wport:
        raise ValueError("a wport is for meters with the COSEM wrapper")
    if meter.baudrate and not 300 <= meter.baudrate <= 4_000_000:
        raise ValueError(f"baudrate {meter.baudrate}: 300 to 4000000")
    if meter.parity and meter.parity not in PARITIES:
        raise ValueError(f"parity {meter.parity!r}: {', '.join(PARITIES)}")
    own_line = meter.baudrate or meter.parity or meter.mode_e is not None
    if own_line and (not port.protocol.own_lines or port.url.startswith(("socket://", "udp://"))):
        raise ValueError("a line of its own needs a serial port or rfc2217://: nobody can set a line behind a socket")
    return meter


def _config(meter: AddedMeter, port: PortConfig) -> PortMeterConfig:
    return PortMeterConfig(
        meter.address,
        meter.url,
        meter.baudrate or port.baudrate,
        meter.parity or port.parity,
        meter.mode_e,
        meter.wport,
    )
