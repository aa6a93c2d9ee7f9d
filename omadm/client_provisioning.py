"""OMA Client Provisioning 1.1: the document with a DM account that servers of other makes hand out.

    wap-provisioningdoc
      characteristic APPLICATION: APPID=w7, PROVIDER-ID, NAME, ADDR
        characteristic APPADDR: ADDR, ADDRTYPE; characteristic PORT: PORTNBR
        characteristic APPAUTH: AAUTHLEVEL (APPSRV, CLIENT), AAUTHTYPE, AAUTHNAME, AAUTHSECRET, AAUTHDATA

It comes as XML or as WBXML (OMA-WAP-ProvCont 1.1: attributes on two code pages of their own). Its MAC is
HMAC-SHA-1 over the bytes as they are (OMA-WAP-ProvBoot 1.1). What is not part of the account (access
points, proxies, parameters of other makers) is not applied.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from omadm.addresses import check_address
from omadm.bootstrap import APP_ID, Account, BootstrapError, dmacc, parse_profile
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import MgmtTree
from omadm.syncml.text import from_base64
from omadm.syncml.wbxml import Reader

if TYPE_CHECKING:
    from xml.parsers import expat

WHAT: Final = "client provisioning document"
DOCUMENT_BYTES_MAX: Final = 64 * 1024
CHARACTERISTICS_MAX: Final = 1000
PORT_DIGITS_MAX: Final = 5
CHARACTERISTIC_DEPTH_MAX: Final = 8  # an account needs three

_ROOT, _CHARACTERISTIC, _PARM = "wap-provisioningdoc", "characteristic", "parm"
_PUBLIC_ID: Final = 0x0B
_FPI: Final = "-//WAPFORUM//DTD PROV 1.0//EN"
_TAGS: Final = {0x05: _ROOT, 0x06: _CHARACTERISTIC, 0x07: _PARM}
_LITERAL, _SWITCH_PAGE, _END, _CONTENT, _ATTRIBUTES, _TAG = 0x04, 0x00, 0x01, 0x40, 0x80, 0x3F
_VALUES_FROM: Final = 0x80  # attribute starts below, attribute values from here on


def _numbered(first: int, names: str) -> dict[int, str]:
    return dict(enumerate(names.split(), start=first))


# Attribute starts: the attribute, and what its value begins with.
_PARM_NAMES: Final = (
    _numbered(
        0x07,
        "NAME NAP-ADDRESS NAP-ADDRTYPE CALLTYPE VALIDUNTIL AUTHTYPE AUTHNAME AUTHSECRET LINGER BEARER NAPID COUNTRY "
        "NETWORK INTERNET PROXY-ID PROXY-PROVIDER-ID DOMAIN PROVURL PXAUTH-TYPE PXAUTH-ID PXAUTH-PW STARTPAGE "
        "BASAUTH-ID BASAUTH-PW PUSHENABLED PXADDR PXADDRTYPE TO-NAPID PORTNBR SERVICE",
    ),
    {0x07: "NAME", 0x14: "INTERNET", 0x1C: "STARTPAGE", 0x22: "TO-NAPID", 0x23: "PORTNBR", 0x24: "SERVICE"}
    | _numbered(
        0x2E,
        "AACCEPT AAUTHDATA AAUTHLEVEL AAUTHNAME AAUTHSECRET AAUTHTYPE ADDR ADDRTYPE APPID APROTOCOL PROVIDER-ID "
        "TO-PROXY URI RULE",
    ),
)
_TYPES: Final = (
    _numbered(
        0x51,
        "PXLOGICAL PXPHYSICAL PORT VALIDITY NAPDEF BOOTSTRAP VENDORCONFIG CLIENTIDENTITY PXAUTHINFO NAPAUTHINFO ACCESS",
    ),
    {0x53: "PORT", 0x55: "APPLICATION", 0x56: "APPADDR", 0x57: "APPAUTH", 0x58: "CLIENTIDENTITY", 0x59: "RESOURCE"},
)
_VALUES: Final = (
    {0x85: "IPV4", 0x86: "IPV6", 0x87: "E164", 0x88: "ALPHA", 0x89: "APN", 0x9C: "HTTP-BASIC", 0x9D: "HTTP-DIGEST"},
    {0x86: "IPV6", 0x87: "E164", 0x88: "ALPHA", 0x8D: "APPSRV", 0x8E: "OBEX", 0x90: ",", 0x91: "HTTP-", 0x92: "BASIC",
     0x93: "DIGEST"},
)  # fmt: skip


def _starts(page: int) -> dict[int, tuple[str, str]]:
    fixed = {0x05: ("name", ""), 0x06: ("value", ""), 0x50: ("type", "")}  # the document's version is not looked at
    named = {token: ("name", name) for token, name in _PARM_NAMES[page].items()}
    return fixed | named | {token: ("type", name) for token, name in _TYPES[page].items()}


_STARTS: Final = (_starts(0), _starts(1))


@dataclass(slots=True)
class Characteristic:
    """One `characteristic`: its type, its parameters in order, and those inside it. The document itself has no type."""

    type: str
    parms: list[tuple[str, str]] = field(default_factory=list)
    children: list[Characteristic] = field(default_factory=list)

    def parm(self, name: str) -> str:
        """The parameter of that name; empty without one. Raises `BootstrapError` for two, but for `ADDR`, of which an
        application may have more than one: the first counts."""
        found = [value for key, value in self.parms if key.upper() == name]
        if len(found) > 1 and name != "ADDR":
            raise BootstrapError(f"{self.type or 'the account'}: {name} stands more than once")
        return found[0] if found else ""

    def all(self, kind: str) -> Iterator[Characteristic]:
        """The characteristics of that type directly below."""
        return (each for each in self.children if each.type.upper() == kind)


def check_mac(document: bytes, security: str, secret: str, mac: str) -> None:
    """Check the MAC of a document, `security` being one of `ACCOUNT_SECURITY`. Raises `BootstrapError`.

    `secret`: the digits of a USERPIN, or the octets of a NETWPIN in hexadecimal. `mac`: hexadecimal in either case.
    """
    try:
        key = secret.encode("ascii") if security == "USERPIN" else bytes.fromhex(secret)
        given = bytes.fromhex(mac)
    except ValueError as error:
        raise BootstrapError(f"the {security} or the MAC of the account is invalid") from error
    if not key or not hmac.compare_digest(hmac.digest(key, document, hashlib.sha1), given):
        raise BootstrapError(f"the account's MAC does not match its {security}")


def bootstrap_tree(document: bytes) -> MgmtTree:
    """The tree in a bootstrap document of either kind: a DM profile, or a client provisioning document, which becomes
    its DMAcc. Raises `BootstrapError`."""
    if is_client_provisioning(document):
        return MgmtTree((dmacc(account(parse(document))),))
    return parse_profile(document)


def is_client_provisioning(document: bytes) -> bool:
    """Whether a bootstrap document is one of client provisioning, by its root or its public identifier."""
    if document.lstrip()[:1] == b"<":
        return True  # a DM profile is WBXML
    return document[1:2] == bytes([_PUBLIC_ID]) or (document[1:2] == b"\0" and _FPI.encode() in document[:80])


def parse(document: bytes) -> Characteristic:
    """The document's characteristics. Raises `BootstrapError`."""
    if len(document) > DOCUMENT_BYTES_MAX:
        raise BootstrapError(f"the account's document is longer than {DOCUMENT_BYTES_MAX} bytes")
    try:
        return _from_xml(document) if document.lstrip()[:1] == b"<" else _from_wbxml(document)
    except SyncmlError as error:
        raise BootstrapError(f"the account's document cannot be read: {error}") from error


class _Builder:
    """Makes the tree of what a reader reports."""

    def __init__(self) -> None:
        self._stack: list[Characteristic] = []
        self._count = 0
        self.root: Characteristic | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name not in (_ROOT, _CHARACTERISTIC, _PARM) or (name == _ROOT) != (self.root is None):
            raise SyncmlError(WHAT, name[:40], "an element that is not expected here")
        if name == _PARM:
            self._stack[-1].parms.append((attributes.get("name", ""), attributes.get("value", "")))
        self._count += 1
        if self._count > CHARACTERISTICS_MAX or len(self._stack) >= CHARACTERISTIC_DEPTH_MAX:
            raise SyncmlError(WHAT, name, "too many elements, or too deep")
        # A parm has nothing inside: what is found there all the same belongs to nothing.
        here = Characteristic(attributes.get("type", ""))
        if self.root is None:
            self.root = here
        elif name == _CHARACTERISTIC:
            self._stack[-1].children.append(here)
        self._stack.append(here)

    def end(self) -> None:
        self._stack.pop()

    def doctype(self, internal: object) -> None:
        if internal:
            raise SyncmlError(WHAT, "DOCTYPE", "definitions in the document itself are not accepted")


def _from_xml(document: bytes) -> Characteristic:
    from xml.parsers import expat  # not at the top: most devices get a profile in WBXML

    builder = _Builder()
    parser: expat.XMLParserType = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = lambda _name: builder.end()
    parser.StartDoctypeDeclHandler = lambda _name, _system, _public, internal: builder.doctype(internal)
    try:
        parser.Parse(document, True)  # noqa: FBT003 (expat's own signature: isfinal)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise SyncmlError(WHAT, max(0, parser.ErrorByteIndex), "not XML") from error
    assert builder.root is not None  # noqa: S101 - expat refuses a document without an element
    return builder.root


def _from_wbxml(document: bytes) -> Characteristic:
    reader = Reader(document)
    reader.header({_PUBLIC_ID}, {_FPI})
    builder = _Builder()
    attributes = _Attributes(reader)
    depth = 0
    while builder.root is None or depth:
        token = reader.u8()
        if token == _SWITCH_PAGE:
            reader.u8()  # the tags are the same on both pages
        elif token == _END and depth:
            builder.end()
            depth -= 1
        else:
            name = _TAGS.get(token & _TAG, f"{token:#04x}")
            builder.start(name, attributes.read() if token & _ATTRIBUTES else {})
            if token & _CONTENT:
                depth += 1
            else:
                builder.end()
    return builder.root


class _Attributes:
    """Reads the attributes of one element after the other: their code page stays as it is."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._page = 0

    def read(self) -> dict[str, str]:
        """The attributes up to their END. A value may come in any number of pieces."""
        found: dict[str, list[str]] = {}
        pieces: list[str] = []

        def begin(name: str, *prefix: str) -> list[str]:
            if name in found:  # as in XML, where it is no document then
                raise self._reader.fail(f"the attribute {name[:40]} stands twice")
            return found.setdefault(name, [*prefix])

        while (token := self._reader.u8()) != _END:
            if token == _SWITCH_PAGE:
                self._page = self._reader.u8()
            elif token == _LITERAL:
                pieces = begin(self._reader.table_string(self._reader.number()))
            elif (text := self._reader.text(token)) is not None:
                pieces.append(text if isinstance(text, str) else text.decode("utf-8", "replace"))
            elif self._page > 1:
                raise self._reader.fail(f"attribute code page {self._page} is not known")
            elif token >= _VALUES_FROM:
                pieces.append(_VALUES[self._page].get(token, f"{self._page}:{token:#04x}"))
            else:
                name, prefix = _STARTS[self._page].get(token, (f"{self._page}:{token:#04x}", ""))
                pieces = begin(name, prefix)
        return {name: "".join(parts) for name, parts in found.items()}


# -- the account -----------------------------------------------------------------------------------------------------


def account(document: Characteristic) -> Account:
    """The DM account (application `w7`). Raises `BootstrapError` unless there is exactly one, and it is complete.

    Without an APPAUTH of level CLIENT the server does not prove itself in messages: it does by its TLS certificate.
    """
    found = [each for each in document.all("APPLICATION") if each.parm("APPID").lower() == APP_ID]
    if len(found) != 1:
        raise BootstrapError(f"{len(found)} DM accounts, one expected")
    application = found[0]
    server_id = application.parm("PROVIDER-ID")
    client = _level(application, "APPSRV")
    if client is None:
        raise BootstrapError("the account has no APPAUTH of level APPSRV: nothing says how the device proves itself")
    server = _level(application, "CLIENT") or Characteristic("", [("AAUTHTYPE", "TRANSPORT")])
    auth_type, server_auth_type = _auth_type(client), _auth_type(server)
    try:
        return Account(
            server_id=server_id,
            url=_address(application),
            client_name=client.parm("AAUTHNAME"),
            client_secret=client.parm("AAUTHSECRET"),
            server_name=server.parm("AAUTHNAME") or server_id,
            server_secret=server.parm("AAUTHSECRET"),
            client_nonce=_nonce(client),
            server_nonce=_nonce(server),
            auth_type=auth_type,
            server_auth_type="" if server_auth_type == auth_type else server_auth_type,
        )
    except ValueError as error:
        raise BootstrapError(str(error)) from error


def _level(application: Characteristic, level: str) -> Characteristic | None:
    found = [each for each in application.all("APPAUTH") if each.parm("AAUTHLEVEL").upper() == level]
    if len(found) > 1:  # other kinds of credentials, perhaps: nothing says which of them the server expects
        raise BootstrapError(f"the account has {len(found)} APPAUTH of level {level}, one expected")
    return found[0] if found else None


def _auth_type(auth: Characteristic) -> str:
    kind = auth.parm("AAUTHTYPE").upper()
    if not kind:
        raise BootstrapError("APPAUTH has no AAUTHTYPE: no kind of credentials is guessed")
    return kind


def _nonce(auth: Characteristic) -> bytes:
    """AAUTHDATA: the nonce in base64; some servers write it as it is."""
    text = auth.parm("AAUTHDATA")
    decoded = from_base64(text)
    return text.encode() if decoded is None else decoded


def _address(application: Characteristic) -> str:
    """The server's URL; a PORT replaces the one in it."""
    for address in application.all("APPADDR"):
        url = address.parm("ADDR")
        ports = [each.parm("PORTNBR") for each in address.all("PORT")]
        if url:
            return _with_port(url, ports[0]) if ports else url
    return application.parm("ADDR")


def _with_port(url: str, port: str) -> str:
    try:
        check_address(url, schemes=())  # splitting drops a tab or a line break without a word
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    except ValueError as error:
        raise BootstrapError(f"the account's address {url!r} is invalid") from error
    if not (port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS_MAX):
        raise BootstrapError(f"the account's port {port[:20]!r} is no number")
    number = int(port)
    if not 0 < number < 65_536:
        raise BootstrapError(f"the account's port {number} does not exist")
    return urlunsplit(parts._replace(netloc=f"{host}:{number}"))
