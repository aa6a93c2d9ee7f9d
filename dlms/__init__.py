"""DLMS/COSEM (IEC 62056): data links, application layer, interface classes, client and meter side.

    from dlms import Lls, Meter

Names are imported when they are first used, so that a small tool stays small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlms.axdr import Data
    from dlms.client import ItemFailed, Meter
    from dlms.cosem.obis import AttributeRef, MethodRef, Obis
    from dlms.cosem.time import ClockPolicy, CosemDateTime
    from dlms.counters import FileCounters
    from dlms.errors import DecodeError, DlmsError, LinkError, LocalError, PeerError
    from dlms.greeting import ModeE
    from dlms.knowledge import MeterKnowledge
    from dlms.reading import Failed, Reading
    from dlms.security import Hls, Lls, MemoryCounters, NoAuth, Policy, Security, open_auth
    from dlms.server import MeterServer
    from dlms.session import MeterSession

__all__ = [
    "Meter", "Reading", "Failed", "ItemFailed", "NoAuth", "Lls", "Hls", "open_auth", "Security", "Policy",
    "FileCounters", "MemoryCounters", "Obis", "AttributeRef", "MethodRef", "Data", "CosemDateTime", "ClockPolicy",
    "MeterKnowledge", "MeterSession", "MeterServer", "DlmsError", "LocalError", "DecodeError", "PeerError", "LinkError",
    "ModeE",
]  # fmt: skip

_HOMES = {
    "Meter": "client", "ItemFailed": "client", "Reading": "reading", "Failed": "reading", "NoAuth": "security",
    "Lls": "security", "Hls": "security", "open_auth": "security", "Security": "security", "Policy": "security",
    "MemoryCounters": "security", "FileCounters": "counters", "Obis": "cosem.obis", "AttributeRef": "cosem.obis",
    "MethodRef": "cosem.obis", "Data": "axdr", "CosemDateTime": "cosem.time", "ClockPolicy": "cosem.time",
    "MeterKnowledge": "knowledge", "MeterSession": "session", "MeterServer": "server", "DlmsError": "errors",
    "LocalError": "errors", "DecodeError": "errors", "PeerError": "errors", "LinkError": "errors",
    "ModeE": "greeting",
}  # fmt: skip


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"dlms.{home}"), name)
    globals()[name] = value
    return value
