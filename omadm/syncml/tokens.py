"""WBXML tokens of SyncML 1.2: code pages, public identifiers, namespaces.

Sources: OMA-TS-SyncML_RepPro 1.2 section 7 (page 0), OMA-TS-SyncML_MetaInfo 1.2 section 6 (page 1),
OMA-SUP DM DDF 1.2 (page 2), WAP-192-WBXML (global tokens).
"""

from __future__ import annotations

from typing import Final

from omadm.syncml.element import PAGE_DDF, PAGE_METINF, PAGE_SYNCML

# Global tokens (WAP-192-WBXML, 7.1)
SWITCH_PAGE: Final = 0x00
END: Final = 0x01
ENTITY: Final = 0x02
STR_I: Final = 0x03
LITERAL: Final = 0x04
LITERAL_C: Final = 0x44
STR_T: Final = 0x83
OPAQUE: Final = 0xC3
CONTENT_FLAG: Final = 0x40
ATTRIBUTES_FLAG: Final = 0x80
TAG_MASK: Final = 0x3F

CHARSET_UTF8: Final = 0x6A
CHARSET_ASCII: Final = 0x03
VERSIONS: Final = range(0x01, 0x04)  # 1.1 to 1.3
VERSION_EMITTED: Final = 0x02  # 1.2, as OMA DM 1.2 names it

FPI_SYNCML: Final = "-//SYNCML//DTD SyncML 1.2//EN"
FPI_TNDS: Final = "-//OMA//DTD-DM-DDF 1.2//EN"
PUBLIC_ID_SYNCML: Final = 0x1201

# Which root element a public identifier announces; an unknown one is refused, the root is checked anyway.
PUBLIC_IDS: Final = {
    0x01: "any",  # "unknown or missing public identifier" (WAP-192-WBXML, 7.2)
    0x0FD1: "SyncML",
    0x0FD3: "SyncML",
    0x1201: "SyncML",
}
FPIS: Final = {
    "-//SYNCML//DTD SyncML 1.0//EN": "SyncML",
    "-//SYNCML//DTD SyncML 1.1//EN": "SyncML",
    FPI_SYNCML: "SyncML",
    FPI_TNDS: "MgmtTree",
    "-//OMA//DTD-DM-DDF 1.3//EN": "MgmtTree",
}

NAMESPACES: Final = {PAGE_SYNCML: "SYNCML:SYNCML1.2", PAGE_METINF: "syncml:metinf", PAGE_DDF: "syncml:dmddf1.2"}


def _page(first: int, names: str) -> dict[int, str]:
    """Names in token order; "-" is a reserved token."""
    return {token: name for token, name in enumerate(names.split(), start=first) if name != "-"}


TAGS: Final[dict[int, dict[int, str]]] = {
    PAGE_SYNCML: _page(
        0x05,
        """Add Alert Archive Atomic Chal Cmd CmdID CmdRef Copy Cred Data Delete Exec Final Get Item Lang LocName LocURI
        Map MapItem Meta MsgID MsgRef NoResp NoResults Put Replace RespURI Results Search Sequence SessionID SftDel
        Source SourceRef Status Sync SyncBody SyncHdr SyncML Target TargetRef - VerDTD VerProto NumberOfChanges
        MoreData Field Filter Record FilterType SourceParent TargetParent Move Correlator""",
    ),
    PAGE_METINF: _page(
        0x05,
        """Anchor EMI Format FreeID FreeMem Last Mark MaxMsgSize Mem MetInf Next NextNonce SharedMem Size Type Version
        MaxObjSize FieldLevel""",
    ),
    PAGE_DDF: _page(
        0x05,
        """AccessType ACL Add b64 bin bool chr CaseSense CIS Copy CS date DDFName DefaultValue Delete Description
        DFFormat DFProperties DFTitle DFType Dynamic Exec float Format Get int Man MgmtTree MIME Mod Name Node node
        NodeName null Occurrence One OneOrMore OneOrN Path Permanent Replace RTProperties Scope Size time Title TStamp
        Type Value VerDTD VerNo xml ZeroOrMore ZeroOrN ZeroOrOne""",
    ),
}

TOKENS: Final[dict[int, dict[str, int]]] = {
    page: {name: token for token, name in names.items()} for page, names in TAGS.items()
}
