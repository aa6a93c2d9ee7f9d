"""Encodes SyncML messages and stand-alone TNDS documents, and decodes messages: XML or WBXML by content type.

Two kinds of data depend on the encoding, and decode to the same value:

* `bytes`: opaque in WBXML, base64 text in XML; `Meta/Format` is set to `bin` if there is none, and in XML also if it
  names a textual format;
* `MgmtTree`: an opaque WBXML document in WBXML, elements in XML; `Meta/Type` is rewritten accordingly.

Decoding accepts more: base64 text in WBXML, text sent as opaque data, TNDS inline on code page 2, as CDATA, or either
form with the other's type.
"""

from __future__ import annotations

from omadm.syncml import build, document, tnds, wbxml, xml
from omadm.syncml.element import Spent
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import MgmtTree, SyncML

DM_XML = "application/vnd.syncml.dm+xml"
DM_WBXML = "application/vnd.syncml.dm+wbxml"

# Content types in use, and whether they mean WBXML (OMA-TS-SyncML_HTTPBinding 1.2, and practice).
_MESSAGE_TYPES = {
    DM_XML: False,
    DM_WBXML: True,
    "application/vnd.syncml+xml": False,
    "application/vnd.syncml+wbxml": True,
}
_TNDS_TYPES = {document.TNDS_XML: False, document.TNDS_WBXML: True}


def media_type(content_type: str) -> str:
    """A Content-Type header without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def accepts(content_type: str) -> bool:
    """Whether `decode` knows this content type of a message."""
    return media_type(content_type) in _MESSAGE_TYPES


def encode(message: SyncML, content_type: str) -> bytes:
    """Encode a message. Raises `SyncmlValueError` for a value that the encoding cannot represent, and `SyncmlError` for
    an unknown content type."""
    binary = _binary(content_type, _MESSAGE_TYPES)
    root = build.build(message, binary=binary)
    return wbxml.write(root) if binary else xml.write(root)


def decode(body: bytes, content_type: str) -> SyncML:
    """Decode a message. Raises `SyncmlError` and nothing else."""
    binary = _binary(content_type, _MESSAGE_TYPES)
    spent = Spent()
    root = wbxml.read(body, spent) if binary else xml.read(body, spent)
    return document.read(root, binary=binary, spent=spent)


def encode_tnds(tree: MgmtTree, content_type: str) -> bytes:
    """Encode a stand-alone TNDS document (`TNDS_XML` or `TNDS_WBXML`). Raises like `encode`."""
    binary = _binary(content_type, _TNDS_TYPES)
    root = tnds.build(tree, binary=binary)
    return wbxml.write(root) if binary else xml.write(root)


def _binary(content_type: str, known: dict[str, bool]) -> bool:
    binary = known.get(media_type(content_type))
    if binary is None:
        raise SyncmlError("content type", media_type(content_type)[:60] or "(none)", "not one of SyncML's")
    return binary
