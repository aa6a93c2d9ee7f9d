"""What a meter is and can: its model, what its association offers, and the list of its objects. Sans-IO.

The model is what tasks select by: the three letters of the manufacturer, with which a logical device name begins
(BB 4.1.8.2), and the device type that the meter tells. There is no object that all meters have for that, so the
configuration names it (`metering.device_type`); without one, the identification of the firmware stands in for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from dlms.axdr import Data
from dlms.codes import Conformance
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import DlmsError

OBJECT_LIST = AttributeRef.parse("15/0.0.40.0.0.255/2")  # of the association that asks
TEXT_CHARS_MAX = 48
OBJECTS_MAX = 2048  # kept of one list; the digest is of all of them
FLAG_LETTERS = 3


@dataclass(frozen=True, slots=True)
class Offered:
    """What was negotiated: the conformance block as a number, and the longest APDU that the meter takes (octets).

    `list_max` bounds the attributes of one GET: 1 where the meter takes no lists, `None` while no bound is known.
    """

    conformance: int
    pdu_size: int
    list_max: int | None = None

    @property
    def get_with_list(self) -> bool:
        return bool(self.conformance & Conformance.MULTIPLE_REFERENCES) and self.list_max != 1

    @property
    def selective_access(self) -> bool:
        return bool(self.conformance & Conformance.SELECTIVE_ACCESS)

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services in the conformance block, in the standard's order."""
        offered = (flag for flag in Conformance if self.conformance & flag)
        return tuple((flag.name or "").lower().replace("_", "-") for flag in offered)


@dataclass(frozen=True, slots=True)
class ObjectList:
    """The objects of a meter. `objects` has the first `OBJECTS_MAX` of `count`, each as `class/code/version`; `digest`
    is the SHA-256 of all of them in order."""

    digest: str
    count: int
    objects: tuple[str, ...]

    @classmethod
    def parse(cls, data: Data) -> ObjectList:
        """Read attribute 2 of class 15: an array of {class_id, version, logical_name, access_rights} (BB 4.4.4).

        Raises `ValueError` for anything else.
        """
        digest = hashlib.sha256()
        shown: list[str] = []
        count = 0
        try:
            for entry in data.members():
                class_id, version, name, *_ = entry.members()
                text = f"{_number(class_id, 0xFFFF)}/{Obis(name.octets())}/{_number(version, 0xFF)}"
                digest.update(text.encode() + b"\n")
                count += 1
                if len(shown) < OBJECTS_MAX:
                    shown.append(text)
        except (DlmsError, TypeError, ValueError) as error:
            raise ValueError(f"object list, entry {count}: {error}") from error
        return cls(digest.hexdigest(), count, tuple(shown))

    def dump(self) -> dict[str, object]:
        return {"count": self.count, "objects": list(self.objects)}

    @classmethod
    def load(cls, digest: str, document: Mapping[str, object]) -> ObjectList | None:
        """Return a stored list, `None` for what is none."""
        count, objects = document.get("count"), document.get("objects")
        if not isinstance(count, int) or not isinstance(objects, list) or len(objects) > OBJECTS_MAX:
            return None
        return cls(digest, count, tuple(str(entry)[:TEXT_CHARS_MAX] for entry in objects))


def model_of(logical_device: str, kind: str) -> str | None:
    """Return the model of a meter: its maker, and the device type or firmware (`kind`) that it told; `None` when
    neither says anything. `logical_device` is its own name, empty while it has not told one."""
    maker = logical_device[:FLAG_LETTERS]
    maker = maker if len(maker) == FLAG_LETTERS and maker.isascii() and maker.isalpha() and maker.isupper() else ""
    return " ".join(filter(None, (maker, kind))) or None


def text_of(data: Data | None) -> str:
    """Return an identification as text: printable ASCII as it is, other octets as hexadecimal, empty for nothing."""
    value = None if data is None else data.value
    if isinstance(value, bytes):
        stripped = value.strip(b"\0 ")
        plain = stripped.isascii() and stripped.decode("ascii").isprintable()
        value = stripped.decode("ascii") if plain else stripped.hex()
    if isinstance(value, str) and value.isprintable():
        return value.strip()[:TEXT_CHARS_MAX]
    return str(value) if isinstance(value, int) else ""


def _number(data: Data, highest: int) -> int:
    if not isinstance(data.value, int) or not 0 <= data.value <= highest:
        raise ValueError("a number was due")
    return data.value
