"""The journal of orders: a file per order, and one per meter whose state is to be kept, each replaced as a whole.

`accept` is durable before anybody is told that the order was accepted, `note` of `SENT` before its request leaves. An
order without a file of its own does not exist; files of its meters that a power cut left behind are removed at the next
start. Each file carries a version and a checksum. The record of an order that cannot be read is set aside; where only
that of a meter cannot be read, it is not known whether a change was carried out there. Its id is `spoiled` from then
on: nothing says what was done under it, so it is not done again. Members that a later version has
added are passed over, an order of a kind or version that only that one knows is set aside for it.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agent.metering.orders.order import ENDS, TRANSITIONS, Event, MeterResult, Order, OrderRecord, OrderType, State
from agent.metering.orders.types.table import ORDER_TYPES
from agent.tree.newer import NewerFormatError, check_version, set_aside
from updateagent.disk import Disk

LOG = logging.getLogger("agent.metering.orders")

VERSION = 1
ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
CUT_SHORT = "the concentrator was restarted between the request and its answer"
DAMAGED = "the record of it is damaged"

_ORDER_FILE = re.compile(r"([A-Za-z0-9_-]{1,64})\.json", re.ASCII)
_METER_FILE = re.compile(r"([A-Za-z0-9_-]{1,64})\.(\d{1,4})\.json", re.ASCII)
_SPOILED_FILE = re.compile(r"([A-Za-z0-9_-]{1,64})\.(?:damaged|json\.newer-\d{1,9})", re.ASCII)
SPOILED_MAX = 256  # records that are kept set aside, and known by their ids
_UNCHANGED = MeterResult()


class Journal:
    """All orders in one folder. Every method but `load` raises `OSError` when the storage fails."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self.spoiled: set[str] = set()  # ids of orders that were accepted, and whose record cannot be read

    def accept(self, order: Order) -> None:
        """Make the order durable."""
        self._disk.mkdir_durable(self._folder)
        document = asdict(order) | {"kind": order.kind.value, "meters": list(order.meters)}
        for name in ("asked_for", "editions"):  # left out where there are none, for a program of before this field
            if held := document.pop(name):
                document[name] = list(held)
        self._disk.write_durable(self._folder / f"{order.id}.json", _emit(document))

    def note(self, order: Order, index: int, result: MeterResult) -> None:
        """Make the state of the order on its meter number `index` durable."""
        # What was never changed is left out: so a program of before these fields reads what it knows.
        plain = {name: value for name, value in asdict(result).items() if value != getattr(_UNCHANGED, name)}
        document = plain | {"state": result.state.value}
        self._disk.write_durable(self._folder / f"{order.id}.{index}.json", _emit(document))

    def forget(self, order: Order) -> None:
        """Remove an order. The order goes first: what is left of it after a power cut belongs to nothing."""
        self._disk.remove_durable(self._folder / f"{order.id}.json")
        for index in range(len(order.meters)):
            self._disk.remove_durable(self._folder / f"{order.id}.{index}.json")

    def load(self) -> list[OrderRecord]:
        """Return all orders, as they were accepted, after a start of the process.

        Never raises: what cannot be read is logged. `SENT` is resolved, the same way at each start: nothing is written.
        It is `UNKNOWN`, or `PARTLY` done where the kind resumes.
        """
        try:
            names = self._disk.listdir(self._folder)
        except OSError as error:
            LOG.warning("the orders cannot be read: %s", error, extra={"event": "orders.load.failed"})
            return []
        records = [record for name in names if (record := self._load(name, names)) is not None]
        self._find_spoiled({record.order.id for record in records})
        known = {record.order.id for record in records}
        for name in names:
            of_meter = _METER_FILE.fullmatch(name)
            if of_meter and of_meter[1] not in known:
                with suppress(OSError):
                    self._disk.remove_durable(self._folder / name)
        return sorted(records, key=lambda record: record.order.number)

    def _find_spoiled(self, known: set[str]) -> None:
        """Find the ids that are spoiled, and remove records of them beyond those that are kept."""
        try:
            names = [name for name in self._disk.listdir(self._folder) if _SPOILED_FILE.fullmatch(name)]
            for name in names[SPOILED_MAX:]:
                self._disk.remove_durable(self._folder / name)
        except OSError as error:
            LOG.warning("the orders set aside: %s", error, extra={"event": "orders.load.failed"})
            return
        found = (_SPOILED_FILE.fullmatch(name) for name in names[:SPOILED_MAX])
        self.spoiled = (self.spoiled | {match[1] for match in found if match}) - known

    def _load(self, name: str, names: list[str]) -> OrderRecord | None:
        if not _ORDER_FILE.fullmatch(name):
            return None
        path = self._folder / name
        try:
            order = _order(_parse(self._disk.read_bytes(path)))
        except NewerFormatError as error:
            with suppress(OSError):
                set_aside(self._disk, path, error)
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            LOG.warning("order %s cannot be read: %s", name, error, extra={"event": "orders.damaged"})
            self.spoiled.add(path.stem)
            with suppress(OSError):  # kept to be looked at, and because nobody may do it again
                self._disk.rename_durable(path, path.with_suffix(".damaged"))
            return None
        present = set(names)
        return OrderRecord(order, [self._result(order, index, present) for index in range(len(order.meters))])

    def _result(self, order: Order, index: int, names: set[str]) -> MeterResult:
        name = f"{order.id}.{index}.json"
        if name not in names:
            return MeterResult(at=order.asked_at)
        try:
            document = _parse(self._disk.read_bytes(self._folder / name))
            known = {field: value for field, value in document.items() if field in MeterResult.__slots__}
            result = MeterResult(**(known | {"state": State(document["state"])}))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            LOG.warning("order %s, meter %d: %s", order.id, index, error, extra={"event": "orders.damaged"})
            return MeterResult(State.UNKNOWN, error=DAMAGED, at=order.asked_at)
        if result.state in ENDS or result.state in (State.QUEUED, State.PARTLY):
            return result
        event = Event.CUT if ORDER_TYPES[order.kind].resumes else Event.LOST
        return replace(result, state=TRANSITIONS.after(result.state, event), error=CUT_SHORT)


def _emit(document: Mapping[str, object]) -> bytes:
    return json.dumps({"version": VERSION, "crc32": _checksum(document), "body": document}).encode()


def _checksum(document: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def _parse(data: bytes) -> dict[str, Any]:
    """Return the document of a file. Raises `NewerFormatError` for one of a later version, `ValueError`, `KeyError` or
    `TypeError` for what is not one of ours."""
    document = json.loads(data)
    check_version(document["version"], VERSION)
    body = document["body"]
    if not isinstance(body, dict) or document["crc32"] != _checksum(body):
        raise ValueError("wrong checksum")
    return body


def _order(body: Mapping[str, Any]) -> Order:
    lists = {name: tuple(body.get(name, ())) for name in ("meters", "asked_for", "editions")}
    known = {name: value for name, value in body.items() if name in Order.__slots__}
    try:
        kind = OrderType(body["kind"])
    except ValueError:  # whole, and of no kind that we have: a later version's
        raise NewerFormatError(VERSION, f"kind {body['kind']!r} is not known here") from None
    return Order(**{**known, "kind": kind, **lists})
