"""A notification as what an event is made of: sans-IO. Nothing of it is lost: what is not understood stays as octets.

A data-notification has one value, mostly a structure that follows the list of a push setup object. Meters send it in
several shapes, which `values_of` tells apart, so that each value has its OBIS code where the message says it:

    code value code value …                              Kamstrup Omnipower, Landis+Gyr E450
    {code value {scaler unit}} …                         Iskra AM550; Kaifa has scaler and unit at the same level
    [{class code attribute index} …] value value …       Landis+Gyr GH740: the list itself is the first value
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agent.metering.events.codes import (
    alarm_name,
    alarm_register_of,
    bits_of,
    event_name,
    is_event_code,
    is_grave_alarm,
    is_grave_event,
    register_of,
)
from agent.metering.visit.raw_values import UnstorableError, encode
from dlms.axdr import DATE_TIME_OCTETS, Data, Tag
from dlms.cosem.obis import OBIS_OCTETS, Obis
from dlms.errors import DlmsError
from dlms.xdlms.apdu import notify
from omadm.readings import EVENT_OCTETS_MAX, EVENT_VALUES_MAX, RAW_CHARS_MAX, TEXT_CHARS_MAX

CLOCK_GROUPS = (1, 0, 0, 255)  # C to F of a clock, as 0.0.1.0.0.255
NAME_OBIS = Obis.parse("0.0.42.0.0.255")
DEFINITION_MEMBERS = (4, 5, 6)  # of an entry of a push object list: the later ones came with later versions
PLAIN_TAGS = frozenset((0x0F, 0x18, 0xC2))  # data-notification, information-report, event-notification


@dataclass(frozen=True, slots=True)
class PushedValue:
    """A value of a notification, with what the message says about it."""

    data: Data
    obis: Obis | None = None
    class_id: int | None = None
    attribute: int | None = None
    scaler: int | None = None
    unit: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notification says. `clock` is the meter's time in 12 octets, empty where it gives none. Where it cannot be
    decoded, or not be kept as values, `error` says why, and `octets` has it, up to `EVENT_OCTETS_MAX` octets of it."""

    invoke: int | None = None
    clock: bytes = b""
    values: list[dict[str, object]] = field(default_factory=list)
    code: int | None = None
    name: str = ""
    grave: bool = False
    obis: Obis | None = None
    device_name: bytes = b""
    octets: bytes | None = None
    error: str | None = None


def opaque(apdu: bytes, error: str) -> Notice:
    """A notification of which nothing is understood."""
    if len(apdu) > EVENT_OCTETS_MAX:
        error = f"{error}; the first {EVENT_OCTETS_MAX} of {len(apdu)} octets"
    return Notice(octets=apdu[:EVENT_OCTETS_MAX], error=error[:TEXT_CHARS_MAX])


def read_notice(apdu: bytes) -> Notice:
    """Read an APDU without protection. Never raises: what cannot be decoded is `opaque`."""
    try:
        message = notify.parse(apdu)
        values = _values(message)
    except (DlmsError, RecursionError) as error:
        return opaque(apdu, f"{error}")
    clock = message.time.emit() if message.time is not None else _clock_among(values)
    invoke = message.invoke if isinstance(message, notify.DataNotification) else None
    code, name, grave, obis = meaning(values)
    device_name = next((value.data.value for value in values if value.obis == NAME_OBIS), b"")
    about = Notice(
        invoke=invoke,
        clock=clock,
        code=code,
        name=name[:TEXT_CHARS_MAX],
        grave=grave,
        obis=obis,
        device_name=device_name if isinstance(device_name, bytes) else b"",
    )
    return _with_values(about, values, apdu)


def _with_values(about: Notice, values: Sequence[PushedValue], apdu: bytes) -> Notice:
    try:
        encoded = [_encoded(value) for value in values]
    except UnstorableError as error:
        whole = opaque(apdu, str(error))
        return replace(about, octets=whole.octets, error=whole.error)
    if len(encoded) > EVENT_VALUES_MAX or len(json.dumps(encoded)) > RAW_CHARS_MAX:
        whole = opaque(apdu, "too-large")
        return replace(about, octets=whole.octets, error=whole.error)
    return replace(about, values=encoded)


def _encoded(value: PushedValue) -> dict[str, object]:
    tag, raw = encode(value.data, date_time=value.obis is not None and _is_clock(value.obis))
    about = {
        "obis": None if value.obis is None else str(value.obis),
        "cls": value.class_id,
        "attr": value.attribute,
        "scaler": value.scaler,
        "unit": value.unit,
    }
    return {"tag": tag, "raw": raw, **{name: told for name, told in about.items() if told is not None}}


def _values(message: notify.Notification) -> list[PushedValue]:
    if isinstance(message, notify.EventNotification):
        ref = message.ref
        return [PushedValue(message.value, ref.obis, ref.class_id, ref.attribute)]
    if isinstance(message, notify.InformationReport):
        return [PushedValue(value) for value in message.values]
    return values_of(message.body)


def meaning(values: Sequence[PushedValue]) -> tuple[int | None, str, bool, Obis | None]:
    """Return code, name, whether a person should know, and the object: of the first event code among the values, else
    of the alarm registers and descriptors that are not zero."""
    for value in values:
        code = _count(value.data)
        if value.obis is not None and is_event_code(value.obis) and code is not None:
            return code, event_name(code), is_grave_event(code), value.obis
    for value in values:
        register = alarm_register_of(value.obis, pushed=True) if value.obis is not None else None
        bits = register_of(value.data)
        if register is None or not bits:
            continue
        found = bits_of(bits)
        names = [alarm_name(register, bit) or f"alarm bit {bit}" for bit in found]
        grave = any(is_grave_alarm(register, bit) for bit in found)
        return (found[0] if len(found) == 1 else None), ", ".join(names), grave, value.obis
    return None, "", False, None


def values_of(body: Data) -> list[PushedValue]:
    """Return the values of a data-notification, each with its code where the shape of the message tells it."""
    if not isinstance(body.value, tuple):
        return [PushedValue(body)]
    members = body.members()
    if len(members) == 1 and isinstance(members[0].value, tuple) and members[0].tag == Tag.ARRAY:
        members = members[0].members()
    defined = _defined(members)
    return defined if defined is not None else _paired(members)


def _defined(members: Sequence[Data]) -> list[PushedValue] | None:
    """The values behind a list of their definitions; `None` where there is none."""
    if not members or members[0].tag != Tag.ARRAY or not isinstance(members[0].value, tuple):
        return None
    definitions = [_definition(entry) for entry in members[0].members()]
    known = [entry for entry in definitions if entry is not None]
    if not known or len(known) != len(definitions):
        return None
    if len(known) == len(members):  # the list is one of the values that it defines
        pairs = zip(members, known, strict=True)
        return [PushedValue(data, obis, class_id, attribute) for data, (class_id, obis, attribute) in pairs]
    if len(known) == len(members) - 1:
        pairs = zip(members[1:], known, strict=True)
        rest = [PushedValue(data, obis, class_id, attribute) for data, (class_id, obis, attribute) in pairs]
        return [PushedValue(members[0]), *rest]
    return None


def _definition(entry: Data) -> tuple[int, Obis, int] | None:
    if entry.tag != Tag.STRUCTURE or not isinstance(entry.value, tuple) or len(entry.value) not in DEFINITION_MEMBERS:
        return None
    class_id, name, attribute = entry.value[:3]
    cls, attr = _count(class_id), _integer(attribute)
    if cls is None or attr is None or not _is_code(name):
        return None
    return cls, _obis(name), attr


def _paired(members: Sequence[Data]) -> list[PushedValue]:
    found: list[PushedValue] = []
    at = 0
    while at < len(members):
        one = members[at]
        at += 1
        inner = _entry(one)
        if inner is not None:
            found.append(inner)
        elif _is_code(one) and at < len(members) and not _is_code(members[at]) and _entry(members[at]) is None:
            scaler, unit = _scaler_unit(members[at + 1]) if at + 1 < len(members) else (None, None)
            found.append(PushedValue(members[at], _obis(one), scaler=scaler, unit=unit))
            at += 1 + (unit is not None)
        else:
            found.append(PushedValue(one))
    return found


def _entry(data: Data) -> PushedValue | None:
    """A structure of code and value, with scaler and unit or without; or of class, code, attribute and value."""
    if data.tag != Tag.STRUCTURE or not isinstance(data.value, tuple):
        return None
    members = data.value
    if len(members) in (2, 3) and _is_code(members[0]):
        scaler, unit = _scaler_unit(members[2]) if len(members) == 3 else (None, None)
        if len(members) == 2 or unit is not None:
            return PushedValue(members[1], _obis(members[0]), scaler=scaler, unit=unit)
    if len(members) == 4 and _is_code(members[1]):
        class_id, attribute = _count(members[0]), _integer(members[2])
        if class_id is not None and attribute is not None:
            return PushedValue(members[3], _obis(members[1]), class_id, attribute)
    return None


def _scaler_unit(data: Data) -> tuple[int | None, int | None]:
    if data.tag == Tag.STRUCTURE and isinstance(data.value, tuple) and len(data.value) == 2:
        scaler, unit = data.value
        if scaler.tag == Tag.INTEGER and unit.tag == Tag.ENUM:
            return _integer(scaler), _integer(unit)
    return None, None


def _is_code(data: Data) -> bool:
    return data.tag == Tag.OCTET_STRING and isinstance(data.value, bytes) and len(data.value) == OBIS_OCTETS


def _obis(data: Data) -> Obis:
    return Obis(data.octets())


def _integer(data: Data) -> int | None:
    value = data.value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(data: Data) -> int | None:
    value = _integer(data)
    return value if value is not None and value >= 0 else None


def _is_clock(obis: Obis) -> bool:
    return tuple(obis.code[2:]) == CLOCK_GROUPS


def _clock_among(values: Sequence[PushedValue]) -> bytes:
    """The date-time of a clock among the values, else of a first value that is nothing but a date-time."""
    for at, value in enumerate(values):
        octets = value.data.value
        told = _is_clock(value.obis) if value.obis is not None else at == 0
        if told and isinstance(octets, bytes) and len(octets) == DATE_TIME_OCTETS:
            return octets
    return b""
