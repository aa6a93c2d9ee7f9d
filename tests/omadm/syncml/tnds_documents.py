"""Stand-alone TNDS documents, read back: the product only writes them."""

from __future__ import annotations

from omadm.syncml import tnds, wbxml, xml
from omadm.syncml.document import TNDS_WBXML
from omadm.syncml.messages import MgmtTree


def decode_tnds(body: bytes, content_type: str) -> MgmtTree:
    """The tree in a document of `TNDS_XML` or `TNDS_WBXML`. Raises `SyncmlError` and nothing else."""
    binary = content_type == TNDS_WBXML
    return tnds.read(wbxml.read(body) if binary else xml.read(body), binary=binary)
