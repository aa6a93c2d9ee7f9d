"""Bootstrap by servers of other makes: the `w7` application of a client provisioning document, and its MAC.

    <wap-provisioningdoc>
      <characteristic type="APPLICATION">
        <parm name="APPID" value="w7"/> PROVIDER-ID, NAME, TO-PROXY, TO-NAPID
        <characteristic type="APPADDR"> ADDR, ADDRTYPE, <characteristic type="PORT"> PORTNBR
        <characteristic type="APPAUTH"> AAUTHLEVEL (APPSRV | CLIENT), AAUTHTYPE, AAUTHNAME, AAUTHSECRET, AAUTHDATA

(OMA-WAP-ProvCont 1.1; mapping to DMAcc: OMA-TS-DM_Bootstrap 1.2, 5.3.) The XML form is read; the WBXML form has code
pages of its own and is not. The result is the same tree that a DM profile brings, so that one code path applies both.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from typing import Final

from omadm.bootstrap import APP_ID, CLIENT_LEVEL, DMACC_PATH, DMACC_URN, SERVER_LEVEL, BootstrapError, account_acl
from omadm.syncml import xml
from omadm.syncml.element import Element
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import MgmtTree, TndsNode
from omadm.syncml.text import from_base64

MIME: Final = "text/vnd.wap.connectivity-xml"
_LEVELS: Final = {"APPSRV": CLIENT_LEVEL, "CLIENT": SERVER_LEVEL}
_PARAMETER = re.compile(r'\s*([A-Za-z]+)\s*=\s*"?([A-Za-z0-9_]+)"?\s*')


def verify_mac(content_type: str, document: bytes, keys: Mapping[str, bytes]) -> None:
    """Check `SEC=…; MAC=…` of a bootstrap's Content-Type: HMAC-SHA-1 over the document (RFC 2104), in hexadecimal.

    `keys` holds the shared secret for each way of securing (NETWORKID, USERPIN, USERPIN_NETWORKID) that this device
    believes; a document secured in another way, or not at all, is refused. Raises `BootstrapError`.
    """
    parameters: dict[str, str] = {}
    for part in content_type.split(";")[1:]:
        match = _PARAMETER.fullmatch(part)
        if match is not None:
            parameters.setdefault(match.group(1).upper(), match.group(2))
    key = keys.get(parameters.get("SEC", "").upper())
    if not key:
        raise BootstrapError("the document is not secured in a way that this device believes")
    expected = hmac.digest(key, document, "sha1").hex()
    if not hmac.compare_digest(expected, parameters.get("MAC", "").lower()):
        raise BootstrapError("the MAC of the document does not hold")


def parse_document(document: bytes, name: str = "main") -> MgmtTree:
    """The DM account of the document as the tree `./DMAcc/<name>`. Raises `BootstrapError`."""
    try:
        root = xml.read(document)
    except SyncmlError as error:
        raise BootstrapError(f"the document cannot be read: {error}") from error
    if root.name != "wap-provisioningdoc":
        raise BootstrapError(f"not a provisioning document: {root.name[:40]}")
    found = [e for e in _characteristics(root, "APPLICATION") if _parameter(e, "APPID") == APP_ID]
    if len(found) != 1:
        raise BootstrapError(f"{len(found)} applications of type w7, one expected")
    return MgmtTree((_account(found[0], name),))


def _characteristics(element: Element, name: str) -> Iterator[Element]:
    return (
        child for child in element.elements() if child.name == "characteristic" and child.attributes.get("type") == name
    )


def _parameters(element: Element, name: str) -> list[str]:
    """The values of a parameter; an empty one counts as absent."""
    values = (
        child.attributes.get("value", "")
        for child in element.elements()
        if child.name == "parm" and child.attributes.get("name") == name
    )
    return [value for value in values if value]


def _parameter(element: Element, name: str) -> str | None:
    return next(iter(_parameters(element, name)), None)


def _leaf(name: str, value: str | None) -> tuple[TndsNode, ...]:
    return () if value is None else (TndsNode(name, format="chr", type="text/plain", value=value),)


def _interior(name: str, *children: TndsNode) -> TndsNode:
    return TndsNode(name, format="node", children=children)


def _account(application: Element, name: str) -> TndsNode:
    server_id = _parameter(application, "PROVIDER-ID")
    if server_id is None:
        raise BootstrapError("APPLICATION/PROVIDER-ID is missing")
    connections = _parameters(application, "TO-PROXY") or _parameters(application, "TO-NAPID")
    references = [_interior(str(n), *_leaf("ConRef", ref)) for n, ref in enumerate(connections, start=1)]
    return TndsNode(
        name,
        path=DMACC_PATH,
        format="node",
        type=DMACC_URN,
        acl=account_acl(server_id),
        children=(
            *_leaf("AppID", APP_ID),
            *_leaf("ServerID", server_id),
            *_leaf("Name", _parameter(application, "NAME")),
            *_leaf("PrefConRef", next(iter(connections), None)),
            *((_interior("ToConRef", *references),) if references else ()),
            _interior("AppAddr", *_addresses(application)),
            _interior("AppAuth", *_credentials(application)),
        ),
    )


def _addresses(application: Element) -> list[TndsNode]:
    """The addresses below APPADDR; the short form gives one as a parameter of the application itself."""
    short = _parameter(application, "ADDR")
    found = [
        (
            address,
            _parameter(element, "ADDRTYPE") or "URI",
            [port for e in _characteristics(element, "PORT") for port in _parameters(e, "PORTNBR")],
        )
        for element in _characteristics(application, "APPADDR")
        if (address := _parameter(element, "ADDR")) is not None
    ]
    if short is not None:
        found.insert(0, (short, "URI", []))
    if not found:
        raise BootstrapError("APPADDR/ADDR is missing")
    nodes = []
    for number, (address, address_type, port_numbers) in enumerate(found, start=1):
        port_nodes = [_interior(str(n), *_leaf("PortNbr", port)) for n, port in enumerate(port_numbers, start=1)]
        below = (_interior("Port", *port_nodes),) if port_nodes else ()
        nodes.append(_interior(str(number), *_leaf("Addr", address), *_leaf("AddrType", address_type), *below))
    return nodes


def _credentials(application: Element) -> list[TndsNode]:
    nodes = []
    for number, element in enumerate(_characteristics(application, "APPAUTH"), start=1):
        level = _LEVELS.get(_parameter(element, "AAUTHLEVEL") or "")
        if level is None:
            raise BootstrapError("APPAUTH/AAUTHLEVEL is neither APPSRV nor CLIENT")
        nonce = from_base64(_parameter(element, "AAUTHDATA") or "")
        if nonce is None:
            raise BootstrapError("APPAUTH/AAUTHDATA is not base64")
        auth_type = _parameter(element, "AAUTHTYPE")
        nodes.append(
            _interior(
                str(number),
                *_leaf("AAuthLevel", level),
                *_leaf("AAuthType", None if auth_type is None else auth_type.partition(",")[0].strip()),
                *_leaf("AAuthName", _parameter(element, "AAUTHNAME")),
                *_leaf("AAuthSecret", _parameter(element, "AAUTHSECRET")),
                TndsNode("AAuthData", format="bin", value=nonce),
            )
        )
    return nodes
