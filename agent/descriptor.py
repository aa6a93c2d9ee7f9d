"""Download descriptors of OMA Download OTA 1.0 (`application/vnd.oma.dd+xml`): parse, emit, and the status report.

A descriptor tells what will be fetched before it is fetched: its type, its size and where it is, and where to report
what became of it (`installNotifyURI`). The parser is liberal in order, name space prefix and unknown elements, and
strict in what it hands on.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import urljoin, urlsplit
from xml.parsers import expat

CONTENT_TYPE = "application/vnd.oma.dd+xml"
NAMESPACE = "http://www.openmobilealliance.org/xmlns/dd"
DESCRIPTOR_BYTES_MAX = 16 * 1024  # some hundred bytes in the field
ELEMENTS_MAX = 64
TYPES_MAX = 16
TEXT_CHARS_MAX = 2048  # a URI or a description
DIGITS_MAX = 15


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
    """The bytes are no usable descriptor. `report` is what the server is to be told, and `notify_uri` where, when
    that much could be read."""

    def __init__(self, report: Report, why: str, notify_uri: str | None = None) -> None:
        super().__init__(f"download descriptor: {why}")
        self.report = report
        self.notify_uri = notify_uri


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor. `size` in bytes; URIs are absolute after `parse` when a base was given."""

    types: tuple[str, ...]
    size: int
    object_uri: str
    install_notify_uri: str | None = None
    next_url: str | None = None
    dd_version: str = "1.0"
    name: str | None = None
    description: str | None = None
    vendor: str | None = None
    info_url: str | None = None
    icon_uri: str | None = None
    install_param: str | None = None

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
        ET.register_namespace("", NAMESPACE)
        root = ET.Element(f"{{{NAMESPACE}}}media")
        for kind in self.types:
            _element(root, "type", kind)
        _element(root, "size", str(self.size))
        _element(root, "objectURI", self.object_uri)
        for tag, attribute in _TEXTS.items():
            value = getattr(self, attribute)
            if value is not None and tag != "objectURI":
                _element(root, tag, value)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}'.encode()


_TEXTS = {
    "objectURI": "object_uri",
    "installNotifyURI": "install_notify_uri",
    "nextURL": "next_url",
    "DDVersion": "dd_version",
    "name": "name",
    "description": "description",
    "vendor": "vendor",
    "infoURL": "info_url",
    "iconURI": "icon_uri",
    "installParam": "install_param",
}
_URIS = ("objectURI", "installNotifyURI", "nextURL")


def parse(data: bytes, base_url: str = "") -> Descriptor:
    """The descriptor that `data` holds; relative URIs are resolved against `base_url`. Raises `DescriptorError`."""
    if len(data) > DESCRIPTOR_BYTES_MAX:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, f"longer than {DESCRIPTOR_BYTES_MAX} bytes")
    types, texts = _collect(data)
    for tag in _URIS:
        if texts.get(tag):
            texts[tag] = _absolute(texts[tag], base_url)
    notify = texts.get("installNotifyURI") or None
    version = texts.get("DDVersion", "1.0") or "1.0"
    if version.partition(".")[0] != "1":
        raise DescriptorError(Report.INVALID_DDVERSION, f"DDVersion {version[:20]!r} is not 1.x", notify)
    size = texts.pop("size", "")
    if not size.isascii() or not size.isdigit() or len(size) > DIGITS_MAX:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, f"size {size[:20]!r} is not a number", notify)
    fields: dict[str, str] = {_TEXTS[tag]: text for tag, text in texts.items() if text}
    fields["dd_version"] = version
    object_uri = fields.pop("object_uri", "")
    try:
        return Descriptor(types=types, size=int(size), object_uri=object_uri, **fields)
    except ValueError as error:
        raise DescriptorError(Report.INVALID_DESCRIPTOR, str(error), notify) from None


def _collect(data: bytes) -> tuple[tuple[str, ...], dict[str, str]]:
    """The `type` texts, and the first text of every other known element."""
    types: list[str] = []
    texts: dict[str, str] = {}
    root = _root(data)
    if _local(root.tag) != "media":
        raise DescriptorError(Report.INVALID_DESCRIPTOR, f"the root is {_local(root.tag)[:40]!r}, not media")
    for element in root:
        tag, text = _local(element.tag), (element.text or "").strip()
        if tag == "type":
            types.append(text)
        elif tag == "size" or tag in _TEXTS:
            if tag in texts:
                raise DescriptorError(Report.INVALID_DESCRIPTOR, f"{tag} stands twice")
            texts[tag] = text
    return tuple(kind for kind in types if kind), texts


def _root(data: bytes) -> ET.Element:
    """The document's root, read without document type and entities, and with a bound on elements."""
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


def _element(root: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(root, f"{{{NAMESPACE}}}{tag}").text = text
