"""Generic alerts that wait for the server: durable with the tree, sent in every session until acknowledged.

An alert is put in the same transaction as the fact it reports, and taken out in a transaction of its own once the
server answered it with a success status: the server hears of each fact at least once, and after its answer never again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.tree.tree import Transaction
from omadm.syncml.messages import Item, Meta

RECORD = "alerts"
PENDING_MAX = 32  # one FUMO, a few SCOMO jobs; more means a server that never answers: the oldest give way

FUMO_TYPE = "org.openmobilealliance.dm.firmwareupdate."
SCOMO_TYPE = "urn:oma:at:scomo:1.0:OperationComplete"


@dataclass(frozen=True, slots=True)
class GenericAlert:
    """Alert 1226 (DM 1.2, section 8.7). `correlator` is that of the Exec, empty when it had none."""

    id: str
    type: str
    source: str
    data: str
    correlator: str = ""
    mark: str = "informational"
    format: str = "chr"

    def item(self) -> Item:
        meta = Meta(format=self.format, type=self.type, mark=self.mark)
        return Item(source=self.source, meta=meta, data=self.data)


def pending(looking: Transaction) -> tuple[GenericAlert, ...]:
    """In the order they were put."""
    return tuple(_alert(entry) for entry in _entries(looking))


def put(changing: Transaction, alert: GenericAlert) -> None:
    """Queue; an alert with the same id is replaced."""
    entries = [entry for entry in _entries(changing) if entry.get("id") != alert.id]
    changing.set_record(RECORD, {"list": [*entries, asdict(alert)][-PENDING_MAX:]})


def take(changing: Transaction, alert_id: str) -> GenericAlert | None:
    """Remove an acknowledged alert; `None` when it is not there any more."""
    entries = _entries(changing)
    found = [_alert(entry) for entry in entries if entry.get("id") == alert_id]
    if found:
        changing.set_record(RECORD, {"list": [entry for entry in entries if entry.get("id") != alert_id]})
    return found[0] if found else None


def _entries(looking: Transaction) -> list[Mapping[str, Any]]:
    """Without those that are none, which must not keep the others from the server."""
    found = looking.record(RECORD).get("list", [])
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _alert(entry: Mapping[str, Any]) -> GenericAlert:
    return GenericAlert(**{name: str(entry.get(name, "")) for name in GenericAlert.__slots__})
