"""DLMS/COSEM (IEC 62056): data links, application layer, interface classes, client and meter side.

    from dlms import Lls, Meter

`Meter` is the blocking client of one meter, `MeterServer` a meter's side, `MeterSession` the sans-IO core under
`Meter`. Beside them are what they take (authentication, security, addresses, times) and give (readings, errors).
Everything else is imported from its own module.

Names are imported when they are first used, so that a small tool stays small. `tests/dlms/test_door.py` holds the
three lists of names below together.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlms.axdr import Data
    from dlms.client.knowledge import MeterKnowledge
    from dlms.client.meter import Meter
    from dlms.client.reading import Failed, ItemFailed, Reading
    from dlms.client.session import MeterSession
    from dlms.cosem.obis import AttributeRef, MethodRef, Obis
    from dlms.cosem.time import ClockPolicy, CosemDateTime
    from dlms.errors import DecodeError, DlmsError, LinkError, LocalError, PeerError
    from dlms.link.mode_e.port import ModeE
    from dlms.security.counters import FileCounters
    from dlms.security.settings import Hls, Lls, MemoryCounters, NoAuth, Policy, Security, open_auth
    from dlms.server.server import MeterServer

_HOMES = {
    "axdr": ("Data",),
    "client.knowledge": ("MeterKnowledge",),
    "client.meter": ("Meter",),
    "client.reading": ("Failed", "ItemFailed", "Reading"),
    "client.session": ("MeterSession",),
    "cosem.obis": ("AttributeRef", "MethodRef", "Obis"),
    "cosem.time": ("ClockPolicy", "CosemDateTime"),
    "errors": ("DecodeError", "DlmsError", "LinkError", "LocalError", "PeerError"),
    "link.mode_e.port": ("ModeE",),
    "security.counters": ("FileCounters",),
    "security.settings": ("Hls", "Lls", "MemoryCounters", "NoAuth", "Policy", "Security", "open_auth"),
    "server.server": ("MeterServer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AttributeRef", "ClockPolicy", "CosemDateTime", "Data", "DecodeError", "DlmsError", "Failed", "FileCounters", "Hls",
    "ItemFailed", "LinkError", "Lls", "LocalError", "MemoryCounters", "Meter", "MeterKnowledge", "MeterServer",
    "MeterSession", "MethodRef", "ModeE", "NoAuth", "Obis", "PeerError", "Policy", "Reading", "Security", "open_auth",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """The public name `name`, imported now. Raises `AttributeError` for any other."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"dlms.{home}"), name)
    globals()[name] = value
    return value
