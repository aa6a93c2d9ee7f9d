"""`sw-description`, the signed text of a package: JSON for SWUpdate, with our own fields under the key `dcu`.

The schema is in docs/package-format.md. Our fields are read strictly: unknown keys under `dcu`, repeated keys, and
numbers that are not integers are refused, so that two readers can never understand one signed text differently.
SWUpdate's own keys that we do not use are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn, TypeVar

from updateagent.errors import DESCRIPTION, LIMIT, PackageError
from updateagent.package.cpio import SIZE_BYTES_MAX
from updateagent.package.payload import IMAGES_MAX, DeltaSource, Encoding, Image, Role

E = TypeVar("E", bound=Enum)

FORMAT_VERSION = 1
DESCRIPTION_BYTES_MAX = 64 << 10
COMPATIBLE_MAX = 32
SECURITY_VERSION_MAX = 2**31 - 1

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,63}")
IDENTIFIER = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_SLOT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PATH_PART = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._+@-]{0,63}")
_MEMBER = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+@-]{0,61}")
_AGENT_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
LINE_OF_TEXT = re.compile(r"[^\x00-\x1f\x7f]{0,256}")
_PATH_PARTS_MAX = 8
_DIGITS_MAX = 10


class Kind(Enum):
    """The two kinds of package: a new system for a slot, or the files of one software component (SCOMO)."""

    FIRMWARE = "firmware"
    SOFTWARE = "software"


@dataclass(frozen=True, slots=True)
class Description:
    """The signed text, checked. `software_id` is empty for firmware; `images` are in the order of the package."""

    kind: Kind
    software_id: str
    version: str
    description: str
    security_version: int
    compatible: tuple[str, ...]
    requires_version: tuple[str, ...]
    """The versions that a device must run one of; empty for any."""
    requires_agent: str
    """The minimum version of the Update Agent; empty for any."""
    images: tuple[Image, ...]


def parse(data: bytes) -> Description:
    """Parse a description. Raises `PackageError` (`description`, `limit`)."""
    whole = Fields(load_json(data, DESCRIPTION_BYTES_MAX, "sw-description"), "sw-description")
    software = whole.child("software")
    ours = software.child("dcu")
    if ours.number("format", FORMAT_VERSION) != FORMAT_VERSION:
        ours.fail("format", f"only format {FORMAT_VERSION} is understood")
    kind = ours.choice("kind", Kind)
    ours.check_known({"format", "kind", "id", "security_version", "requires"})
    software_id = ours.text("id", IDENTIFIER) if kind is Kind.SOFTWARE else ours.absent("id")
    requires = ours.child("requires") if "requires" in ours else Fields({}, "requires")
    requires.check_known({"version", "agent"})
    images = tuple(_image(entry) for key in ("images", "files") for entry in software.children(key, IMAGES_MAX))
    _check_images(images, kind)
    compatible = software.texts("hardware-compatibility", IDENTIFIER, COMPATIBLE_MAX)
    if not compatible:
        software.fail("hardware-compatibility", "no hardware is named")
    return Description(
        kind=kind,
        software_id=software_id,
        version=software.text("version", _VERSION),
        description=software.text("description", LINE_OF_TEXT) if "description" in software else "",
        security_version=ours.number("security_version", SECURITY_VERSION_MAX),
        compatible=compatible,
        requires_version=requires.texts("version", _VERSION, COMPATIBLE_MAX) if "version" in requires else (),
        requires_agent=requires.text("agent", _AGENT_VERSION) if "agent" in requires else "",
        images=images,
    )


def _image(entry: Fields) -> Image:
    ours = entry.child("dcu")
    ours.check_known(
        {"role", "encoding", "size", "root", "stored", "checksum", "tree", "tree_checksum", "delta", "executable"}
    )
    role, encoding = ours.choice("role", Role), ours.choice("encoding", Encoding)
    name = entry.text("name", None)
    if not is_image_name(role, name):
        entry.fail("name", f"{name!r} cannot be the name of an image of the role {role.value}")
    size = ours.number("size", SIZE_BYTES_MAX)
    stored = ours.number("stored", SIZE_BYTES_MAX)
    if size == 0 or stored == 0 or (encoding is Encoding.RAW and size != stored):
        ours.fail("size", "an image and its payload have at least one byte, and the same length unless packed")
    if (encoding is Encoding.BSDIFF) != ("delta" in ours) or (encoding is Encoding.BSDIFF and role is not Role.IMAGE):
        ours.fail("delta", "a delta, and nothing else, names its source; only the image of a slot can be one")
    executable = ours.flag("executable") if "executable" in ours else False
    if executable and role is not Role.FILE:
        ours.fail("executable", "a file of a software package, and nothing else, is a program")
    return Image(
        name=name,
        role=role,
        executable=executable,
        size=size,
        root=ours.digest("root"),
        encoding=encoding,
        payload_name=entry.text("filename", _MEMBER),
        payload_size=stored,
        payload_sha256=entry.digest("sha256"),
        payload_check=ours.number("checksum", 2**32 - 1),
        tree_name=ours.text("tree", _MEMBER),
        tree_check=ours.number("tree_checksum", 2**32 - 1),
        delta=_delta(ours.child("delta")) if encoding is Encoding.BSDIFF else None,
    )


def _delta(fields: Fields) -> DeltaSource:
    fields.check_known({"version", "size", "root"})
    size = fields.number("size", SIZE_BYTES_MAX)
    if size == 0:
        fields.fail("size", "the source of a delta has at least one byte")
    return DeltaSource(fields.text("version", _VERSION), size, fields.digest("root"))


def is_image_name(role: Role, name: str) -> bool:
    """Whether an image of this role may have this name; for a file, a path that stays inside its folder."""
    if role is not Role.FILE:
        return _SLOT_NAME.fullmatch(name) is not None
    parts = name.split("/")
    return len(parts) <= _PATH_PARTS_MAX and all(_PATH_PART.fullmatch(part) for part in parts)


def _check_images(images: Sequence[Image], kind: Kind) -> None:
    if not 1 <= len(images) <= IMAGES_MAX:
        raise PackageError(LIMIT, f"sw-description: {len(images)} images, 1 to {IMAGES_MAX} expected")
    members = [name for image in images for name in (image.tree_name, image.payload_name)]
    names = [(image.role, image.name) for image in images]
    if len(set(members)) != len(members) or len(set(names)) != len(names):
        raise PackageError(DESCRIPTION, "sw-description: two images have the same name")
    if kind is Kind.SOFTWARE and any(image.role is Role.IMAGE for image in images):
        raise PackageError(DESCRIPTION, "sw-description: a software package holds files, no images of slots")
    if kind is Kind.FIRMWARE and not any(image.role is Role.IMAGE for image in images):
        raise PackageError(DESCRIPTION, "sw-description: a firmware package without an image")
    files = {image.name for image in images if image.role is Role.FILE}
    for name in files:
        above = name.split("/")[:-1]
        if any("/".join(above[:count]) in files for count in range(1, len(above) + 1)):
            raise PackageError(DESCRIPTION, f"sw-description: {name} lies below a file")


class Fields:
    """One JSON object, with the path to it for error messages. Every method raises `PackageError` (`description`)."""

    def __init__(self, value: Any, path: str) -> None:
        self._path = path
        if not isinstance(value, dict):
            raise PackageError(DESCRIPTION, f"{path}: an object is expected")
        self._values: dict[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fail(self, key: str, why: str) -> NoReturn:
        raise PackageError(DESCRIPTION, f"{self._path}.{key}: {why}")

    def check_known(self, known: set[str]) -> None:
        for key in self._values:
            if key not in known:
                self.fail(key[:64], "an unknown key")

    def keys(self, count_max: int, pattern: re.Pattern[str]) -> list[str]:
        """All keys: at most `count_max`, each matching `pattern`."""
        if len(self._values) > count_max or not all(pattern.fullmatch(key) for key in self._values):
            raise PackageError(DESCRIPTION, f"{self._path}: too many keys, or keys that are not allowed")
        return list(self._values)

    def absent(self, key: str) -> str:
        if key in self._values:
            self.fail(key, "does not belong here")
        return ""

    def text(self, key: str, pattern: re.Pattern[str] | None) -> str:
        value = self._values.get(key)
        if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
            self.fail(key, "missing, no text, or with characters or a length that are not allowed")
        return value

    def flag(self, key: str) -> bool:
        value = self._values.get(key)
        if not isinstance(value, bool):
            self.fail(key, "true or false is expected")
        return value

    def texts(self, key: str, pattern: re.Pattern[str], count_max: int) -> tuple[str, ...]:
        value = self._values.get(key)
        if not isinstance(value, list) or len(value) > count_max:
            self.fail(key, f"a list of at most {count_max} texts is expected")
        if not all(isinstance(one, str) and pattern.fullmatch(one) for one in value):
            self.fail(key, "an element is no text, or has characters or a length that are not allowed")
        return tuple(value)

    def number(self, key: str, largest: int) -> int:
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
            self.fail(key, f"a whole number from 0 to {largest} is expected")
        return value

    def digest(self, key: str) -> bytes:
        return bytes.fromhex(self.text(key, _DIGEST))

    def choice(self, key: str, choices: type[E]) -> E:
        try:
            return choices(self._values.get(key))
        except ValueError:
            self.fail(key, "one of " + ", ".join(str(one.value) for one in choices) + " is expected")

    def child(self, key: str) -> Fields:
        return Fields(self._values.get(key), f"{self._path}.{key}")

    def children(self, key: str, count_max: int) -> list[Fields]:
        value = self._values.get(key, [])
        if not isinstance(value, list):
            self.fail(key, "a list is expected")
        if len(value) > count_max:
            raise PackageError(LIMIT, f"{self._path}.{key}: more than {count_max} entries")
        return [Fields(one, f"{self._path}.{key}[{at}]") for at, one in enumerate(value)]


def load_json(data: bytes, bytes_max: int, what: str) -> Any:
    """Parse JSON, refusing what readers treat differently: repeated keys, fractions, NaN, overlong numbers."""
    if len(data) > bytes_max:
        raise PackageError(LIMIT, f"{what}: {len(data)} bytes, the limit is {bytes_max}")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise PackageError(DESCRIPTION, f"{what}: not the JSON that is expected: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _whole_number(text: str) -> int:
    if len(text) > _DIGITS_MAX:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:32]} is not a whole number")
