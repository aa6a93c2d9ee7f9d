"""The access rights of a client of a meter, and the object list that declares them (BB 4.4.4).

An object that a client may not see does not exist for it ("object undefined"); one that it may see but not read, write
or call is denied ("read-write denied"). The three associations that meters usually have:

    client   16   PUBLIC       the clock, who the meter is, its counters; read only
              2   READER       everything, read only, and the profiles' selective access
              1   MANAGEMENT   everything
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dlms.axdr import Data
from dlms.cosem.associations import ObjectInfo, emit_objects
from dlms.cosem.classes import interface_class
from dlms.cosem.obis import Obis
from dlms.link.datalink import PUBLIC_CLIENT
from dlms.server.objects import CosemObject


@dataclass(frozen=True, slots=True)
class Rights:
    """Whether the client may see, read, write or call, by class, code, and number of the attribute or method."""

    sees: Callable[[int, Obis], bool]
    reads: Callable[[int, Obis, int], bool]
    writes: Callable[[int, Obis, int], bool]
    calls: Callable[[int, Obis, int], bool]


def _yes(*_what: object) -> bool:
    return True


def _no(*_what: object) -> bool:
    return False


_PUBLIC_OBJECTS = frozenset(
    (class_id, Obis.parse(code))
    for class_id, code in (
        (8, "0.0.1.0.0.255"), (1, "0.0.42.0.0.255"), (17, "0.0.41.0.0.255"),
        (15, "0.0.40.0.0.255"), (12, "0.0.40.0.0.255"),
    )
)  # fmt: skip
_COUNTERS = bytes((0, 0, 43, 1))  # invocation counters: 0.0.43.1.e.255


def _public(class_id: int, obis: Obis) -> bool:
    return (class_id, obis) in _PUBLIC_OBJECTS or (class_id == 1 and obis.code[:4] == _COUNTERS)


MANAGEMENT = Rights(_yes, _yes, _yes, _yes)
READER = Rights(_yes, _yes, _no, _no)
PUBLIC = Rights(_public, _yes, _no, _no)
NOTHING = Rights(_no, _no, _no, _no)
USUAL_RIGHTS = {PUBLIC_CLIENT: PUBLIC, 2: READER, 1: MANAGEMENT}


def object_list(objects: Iterable[CosemObject], rights: Rights) -> Data:
    """Encode `object_list` of Association LN for a client with these rights."""
    return emit_objects([_info(item, rights) for item in objects if rights.sees(item.class_id, item.obis)])


def _info(item: CosemObject, rights: Rights) -> ObjectInfo:
    known = interface_class(item.class_id, item.version)
    numbers = {1, *(known.attributes if known else ()), *item.readers, *item.writers}
    what = item.class_id, item.obis
    modes = {
        number: (number in {1, *item.readers} and rights.reads(*what, number))
        + 2 * (number in item.writers and rights.writes(*what, number))
        for number in numbers
    }
    methods = {number: int(rights.calls(*what, number)) for number in item.methods}
    return ObjectInfo(item.class_id, item.version, item.obis, modes, methods)
