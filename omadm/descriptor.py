"""Download descriptors of OMA Download OTA 1.0 (`application/vnd.oma.dd+xml`): parse, emit, and the status report.

A descriptor describes an object before it is downloaded: its type, size and URI, and where to report the result
(`installNotifyURI`). The parser is liberal about order, name space prefixes and unknown elements, and strict about the
values that it returns.

Elements in a name space of our own, which other readers skip, describe a delta:

    <dcu:deltaFrom>1.9</dcu:deltaFrom>                             a version that it can be applied to; repeatable
    <dcu:deltaSource>rootfs 1.9 67108864 5f…e0</dcu:deltaSource>   an image it was made from: name, version, size in
                                                                   bytes, root of its hash tree; repeatable
    <dcu:fullURI>…</dcu:fullURI> <dcu:fullSize>…</dcu:fullSize>    the same release as whole images, if it does not fit
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

CONTENT_TYPE = "application/vnd.oma.dd+xml"
NAMESPACE = "http://www.openmobilealliance.org/xmlns/dd"
DELTA_NAMESPACE = "urn:dcu:dd:delta:1"
DESCRIPTOR_BYTES_MAX = 16 * 1024  # a few hundred bytes in practice
ELEMENTS_MAX = 64
TYPES_MAX = 16
TEXT_CHARS_MAX = 2048  # a URI or a description
DIGITS_MAX = 15
DELTA_SOURCES_MAX = 16  # images of one device, and versions that one delta can be applied to


class Report(IntEnum):
    """Status codes of an installation report (Download OTA 1.0, section 5.2.4)."""

    SUCCESS = 900
    INSUFFICIENT_MEMORY = 901
    USER_CANCELLED = 902
    LOSS_OF_SERVICE = 903
    ATTRIBUTE_MISMATCH = 905
    INVALID_DESCRIPTOR = 906
    INVALID_DDVERSION = 951
    DEVICE_ABORTED = 952
    NON_ACCEPTABLE_CONTENT = 953
    LOADER_ERROR = 954

    def line(self) -> bytes:
        """The body of the report: `NNN text`."""
        return f"{self.value} {_REPORT_TEXTS[self]}".encode("ascii")


_REPORT_TEXTS = {
    Report.SUCCESS: "Success",
    Report.INSUFFICIENT_MEMORY: "Insufficient memory",
    Report.USER_CANCELLED: "User Cancelled",
    Report.LOSS_OF_SERVICE: "Loss of Service",
    Report.ATTRIBUTE_MISMATCH: "Attribute mismatch",
    Report.INVALID_DESCRIPTOR: "Invalid descriptor",
    Report.INVALID_DDVERSION: "Invalid DDVersion",
    Report.DEVICE_ABORTED: "Device Aborted",
    Report.NON_ACCEPTABLE_CONTENT: "Non-Acceptable Content",
    Report.LOADER_ERROR: "Loader Error",
}


class DescriptorError(Exception):
    """The bytes are not a usable descriptor. `report` is the status to report to the server, at `notify_uri` if that
    could be read."""

    def __init__(self, report: Report, why: str, notify_uri: str | None = None) -> None:
        super().__init__(f"download descriptor: {why}")
        self.report = report
        self.notify_uri = notify_uri


_SOURCE = re.compile(r"([a-z][a-z0-9_-]{0,31}) ([!-~]{1,64}) ([1-9][0-9]{0,14}) ([0-9a-f]{64})", re.ASCII)
_VERSION = re.compile(r"[!-~]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DeltaSource:
    """An image that a delta was made from. `size` in bytes, `root` of its hash tree in hexadecimal."""

    name: str
    version: str
    size: int
    root: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.size} {self.root}"

    @classmethod
    def parse(cls, text: str) -> DeltaSource:
        """Parse the encoded form. Raises `ValueError`."""
        match = _SOURCE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:60]!r} is no source of a delta")
        return cls(match[1], match[2], int(match[3]), match[4])


@dataclass(frozen=True, slots=True)
class DeltaFacts:
    """The description of a delta, by which a device can tell before the download whether it fits, and what the server
    offers otherwise. `full_size` in bytes; without `full_uri` there is no full package."""

    from_versions: tuple[str, ...] = ()
    sources: tuple[DeltaSource, ...] = ()
    full_uri: str | None = None
    full_size: int = 0

    def __post_init__(self) -> None:
        if max(len(self.from_versions), len(self.sources)) > DELTA_SOURCES_MAX:
            raise ValueError(f"more than {DELTA_SOURCES_MAX} versions or images that a delta is made from")
        for version in self.from_versions:
            if not _VERSION.fullmatch(version):
                raise ValueError(f"{version[:60]!r} is no version")
        if (self.full_uri is None) != (self.full_size == 0) or not 0 <= self.full_size < 10**DIGITS_MAX:
            raise ValueError("fullURI and fullSize are given together")
        if self.full_uri is not None and not 0 < len(self.full_uri) <= TEXT_CHARS_MAX:
            raise ValueError("fullURI is empty or too long")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor. `size` in bytes; after `parse` with a base, URIs are absolute. `delta` is None for an object that
    is not known to be a delta."""

    types: tuple[str, ...]
    size: int
    object_uri: str
    install_notify_uri: str | None = None
    dd_version: str = "1.0"
    name: str | None = None
    description: str | None = None
    vendor: str | None = None
    delta: DeltaFacts | None = None

    def __post_init__(self) -> None:
        if not self.types or len(self.types) > TYPES_MAX:
            raise ValueError(f"type stands 1 to {TYPES_MAX} times, not {len(self.types)}")
        if not 0 < self.size < 10**DIGITS_MAX:
            raise ValueError(f"size {self.size} is no size of an object")
        if not self.object_uri:
            raise ValueError("objectURI is empty")
        for text in (*self.types, *(getattr(self, attribute) for attribute in _TEXTS.values())):
            if text is not None and len(text) > TEXT_CHARS_MAX:
                raise ValueError(f"a text is longer than {TEXT_CHARS_MAX} characters")

    def emit(self) -> bytes:
        """The descriptor as XML, UTF-8."""
        import xml.etree.ElementTree as ET  # here and below: most starts of a device see no descriptor

        ET.register_namespace("", NAMESPACE)
        ET.register_namespace("dcu", DELTA_NAMESPACE)
        root = ET.Element(f"{{{NAMESPACE}}}media")
        for media_type in self.types:
            _element(root, "type", media_type)
        _element(root, "size", str(self.size))
        _element(root, "objectURI", self.object_uri)
        for tag, attribute in _TEXTS.items():
            value = getattr(self, attribute)
            if value is not None and tag != "objectURI":
                _element(root, tag, value)
        for tag, text in _delta_elements(self.delta) if self.delta is not None else ():
            _element(root, tag, text, DELTA_NAMESPACE)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}'.encode()


_TEXTS = {
    "objectURI": "object_uri",
    "installNotifyURI": "install_notify_uri",
    "DDVersion": "dd_version",
    "name": "name",
    "description": "description",
    "vendor": "vendor",
}
_URIS = ("objectURI", "installNotifyURI", "fullURI")
_FULL = ("fullURI", "fullSize")
_REPEATED = ("type", "deltaFrom", "deltaSource")


def _delta_elements(delta: DeltaFacts) -> Iterator[tuple[str, str]]:
    yield from (("deltaFrom", version) for version in delta.from_versions)
    yield from (("deltaSource", str(source)) for source in delta.sources)
    if delta.full_uri is not None:
        yield "fullURI", delta.full_uri
        yield "fullSize", str(delta.full_size)


def parse(data: bytes, base_url: str = "") -> Descriptor:
    """Parse a descriptor; relative URIs are resolved against `base_url`. Raises `DescriptorError`."""
    if len(data) > DESCRIPTOR_BYTES_MAX:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, f"longer than {DESCRIPTOR_BYTES_MAX} bytes")
    lists, texts = _collect(data)
    for tag in _URIS:
        if texts.get(tag):
            texts[tag] = _absolute(texts[tag], base_url)
    notify = texts.get("installNotifyURI") or None
    version = texts.get("DDVersion", "1.0") or "1.0"
    if version.partition(".")[0] != "1":
        raise DescriptorError(Report.INVALID_DDVERSION, f"DDVersion {version[:20]!r} is not 1.x", notify)
    fields: dict[str, str] = {_TEXTS[tag]: text for tag, text in texts.items() if text and tag in _TEXTS}
    fields["dd_version"] = version
    object_uri = fields.pop("object_uri", "")
    try:
        return Descriptor(
            types=tuple(lists["type"]),
            size=_number(texts, "size"),
            object_uri=object_uri,
            delta=_delta(lists, texts),
            **fields,
        )
    except ValueError as error:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, str(error), notify) from None


def _number(texts: Mapping[str, str], tag: str) -> int:
    text = texts.get(tag, "")
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX:
        raise ValueError(f"{tag} {text[:20]!r} is not a number")
    return int(text)


def _delta(lists: Mapping[str, list[str]], texts: Mapping[str, str]) -> DeltaFacts | None:
    """What the descriptor says of a delta; None when it says nothing. Raises `ValueError`."""
    if not (lists["deltaFrom"] or lists["deltaSource"] or any(tag in texts for tag in _FULL)):
        return None
    return DeltaFacts(
        from_versions=tuple(lists["deltaFrom"]),
        sources=tuple(DeltaSource.parse(text) for text in lists["deltaSource"]),
        full_uri=texts.get("fullURI"),
        full_size=_number(texts, "fullSize") if "fullSize" in texts else 0,
    )


def _collect(data: bytes) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The texts of the repeatable elements, and the text of every other known element, by tag."""
    lists: dict[str, list[str]] = {tag: [] for tag in _REPEATED}
    texts: dict[str, str] = {}
    root = _root(data)
    if _local(root.tag) != "media":
        raise DescriptorError(Report.INVALID_DESCRIPTOR, f"the root is {_local(root.tag)[:40]!r}, not media")
    for element in root:
        tag, text = _local(element.tag), (element.text or "").strip()
        if tag in lists:
            if text:
                lists[tag].append(text)
        elif tag in ("size", *_FULL) or tag in _TEXTS:
            if tag in texts:
                raise DescriptorError(Report.INVALID_DESCRIPTOR, f"{tag} stands twice")
            texts[tag] = text
        if len(element) and (tag in lists or tag in texts):
            raise DescriptorError(Report.INVALID_DESCRIPTOR, f"{tag} holds elements, where a text is wanted")
    return lists, texts


def _root(data: bytes) -> ET.Element:
    """Parse the document, refusing a document type (and with it entities), and too many elements."""
    import xml.etree.ElementTree as ET
    from xml.parsers import expat

    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    count = 0

    def start(tag: str, _: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > ELEMENTS_MAX:
            raise DescriptorError(Report.INVALID_DESCRIPTOR, f"more than {ELEMENTS_MAX} elements")
        builder.start(tag, {})

    def doctype(*_: object) -> None:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, "a document type is not taken")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)  # noqa: FBT003  expat's own signature
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, f"not well-formed: {error}") from None
    return builder.close()


def _local(tag: str) -> str:
    return tag.rpartition(":")[2]


def _absolute(uri: str, base_url: str) -> str:
    try:
        absolute = urljoin(base_url, uri) if base_url else uri
        urlsplit(absolute)
    except ValueError as error:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, f"{uri[:60]!r} is no URI: {error}") from None
    return absolute


def _element(root: ET.Element, tag: str, text: str, namespace: str = NAMESPACE) -> None:
    import xml.etree.ElementTree as ET

    ET.SubElement(root, f"{{{namespace}}}{tag}").text = text
