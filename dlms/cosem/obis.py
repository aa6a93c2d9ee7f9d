"""OBIS codes, and references to attributes, parts of attributes and methods (IEC 62056-61; BB 4.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlms.errors import LocalError

if TYPE_CHECKING:
    from dlms.axdr import Data

_DOTTED = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})")
_CLASSIC = re.compile(r"(\d{1,3})-(\d{1,3}):(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:[*&.](\d{1,3}))?")

OBIS_OCTETS = 6
CURRENT = 255  # value group F: not a historical value


@dataclass(frozen=True, slots=True, order=True)
class Obis:
    """A logical name: value groups A to F, all six of them kept and compared."""

    code: bytes

    def __post_init__(self) -> None:
        if len(self.code) != OBIS_OCTETS:
            raise LocalError(f"an OBIS code has 6 octets, not {len(self.code)}")

    @classmethod
    def parse(cls, text: str) -> Obis:
        """`1.0.1.8.0.255`, or `1-0:1.8.0*255`, in which F may be left out for 255.

        Raises `LocalError` for anything else.
        """
        found = _DOTTED.fullmatch(text.strip()) or _CLASSIC.fullmatch(text.strip())
        if found is None:
            raise LocalError(f"{text!r} is not an OBIS code such as 1.0.1.8.0.255")
        groups = [CURRENT if group is None else int(group) for group in found.groups()]
        if max(groups) > 255:
            raise LocalError(f"{text!r}: a value group is more than 255")
        return cls(bytes(groups))

    def __str__(self) -> str:
        return ".".join(map(str, self.code))

    def __repr__(self) -> str:
        return f"Obis({self})"

    def __bytes__(self) -> bytes:
        return self.code


@dataclass(frozen=True, slots=True, order=True)
class AttributeRef:
    """One attribute of one object: the interface class, the logical name, the attribute's number (1 is the name)."""

    class_id: int
    obis: Obis
    attribute: int

    def __post_init__(self) -> None:
        if not 0 <= self.class_id <= 0xFFFF:
            raise LocalError(f"class {self.class_id} does not fit two octets")
        if not -128 <= self.attribute <= 127:
            raise LocalError(f"attribute {self.attribute} does not fit one signed octet")

    @classmethod
    def parse(cls, text: str) -> AttributeRef:
        """`3/1.0.1.8.0.255/2`: class, code, attribute. Raises `LocalError`."""
        parts = text.split("/")
        try:
            class_id, code, attribute = parts
            return cls(int(class_id), Obis.parse(code), int(attribute))
        except ValueError as error:
            raise LocalError(f"{text!r} is not a reference such as 3/1.0.1.8.0.255/2") from error

    def emit(self) -> bytes:
        """Cosem-Attribute-Descriptor: class, name, attribute (GB 9.5)."""
        return self.class_id.to_bytes(2, "big") + self.obis.code + self.attribute.to_bytes(1, "big", signed=True)

    def __str__(self) -> str:
        return f"{self.class_id}/{self.obis}/{self.attribute}"


@dataclass(frozen=True, slots=True, order=True)
class MethodRef:
    """One method of one object."""

    class_id: int
    obis: Obis
    method: int

    def __post_init__(self) -> None:
        if not 0 <= self.class_id <= 0xFFFF:
            raise LocalError(f"class {self.class_id} does not fit two octets")
        if not -128 <= self.method <= 127:
            raise LocalError(f"method {self.method} does not fit one signed octet")

    @classmethod
    def parse(cls, text: str) -> MethodRef:
        """`70/0.0.96.3.10.255/1`: class, code, method. Raises `LocalError`."""
        ref = AttributeRef.parse(text)
        return cls(ref.class_id, ref.obis, ref.attribute)

    def emit(self) -> bytes:
        """Cosem-Method-Descriptor: class, name, method (GB 9.5)."""
        return self.class_id.to_bytes(2, "big") + self.obis.code + self.method.to_bytes(1, "big", signed=True)

    def __str__(self) -> str:
        return f"{self.class_id}/{self.obis}/{self.method}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Selective access: part of an attribute, chosen by `selector` with `parameters`."""

    selector: int
    parameters: Data

    def emit(self) -> bytes:
        return bytes((self.selector,)) + self.parameters.emit()


DEVICE_NAME = AttributeRef.parse("1/0.0.42.0.0.255/2")  # COSEM logical device name (BB 6.2.1)
FIRMWARE_ID = AttributeRef.parse("1/1.0.0.2.0.255/2")  # active firmware identifier (BB 6.2.2)
CLOCK_TIME = AttributeRef.parse("8/0.0.1.0.0.255/2")
ALARM_OBJECTS = bytes((0, 0, 97, 98))  # A to D of alarm registers, their filters and descriptors
