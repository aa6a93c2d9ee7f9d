"""Client provisioning documents: XML and WBXML, their MAC, and the account in them."""

from __future__ import annotations

import hashlib
import hmac
import random
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from omadm.bootstrap import Account, BootstrapError, account_from_tnds, emit_profile
from omadm.client_provisioning import Characteristic, account, bootstrap_tree, check_mac, is_client_provisioning, parse
from tests.agent.dm.server import ACCOUNT
from tests.omadm.test_addresses import UNUSABLE
from tests.omadm.test_bootstrap import NO_URLS

HEAD = (
    '<?xml version="1.0"?>\n<!DOCTYPE wap-provisioningdoc PUBLIC "-//WAPFORUM//DTD PROV 1.0//EN" '
    '"http://www.wapforum.org/DTD/prov.dtd">\n'
)
CLIENT = """<characteristic type="APPAUTH">
      <parm name="AAUTHLEVEL" value="APPSRV"/><parm name="AAUTHTYPE" value="DIGEST"/>
      <parm name="AAUTHNAME" value="urn:dcu:1"/><parm name="AAUTHSECRET" value="client secret"/>
      <parm name="AAUTHDATA" value="bm9uY2U="/>
    </characteristic>"""
SERVER = """<characteristic type="APPAUTH">
      <parm name="AAUTHLEVEL" value="CLIENT"/><parm name="AAUTHTYPE" value="BASIC"/>
      <parm name="AAUTHNAME" value="dm.other"/><parm name="AAUTHSECRET" value="server secret"/>
    </characteristic>"""
ADDRESS = """<characteristic type="APPADDR">
      <parm name="ADDR" value="https://dm.example/dm"/>
      <characteristic type="PORT"><parm name="PORTNBR" value="8443"/></characteristic>
    </characteristic>"""
ADDRESS_ALONE = '<characteristic type="APPADDR"><parm name="ADDR" value="{}"/></characteristic>'


def document(*parts: str, app: str = "w7", more: str = "") -> bytes:
    inner = "".join(parts or (ADDRESS, CLIENT, SERVER))
    return (
        f"""{HEAD}<wap-provisioningdoc version="1.0">
  <characteristic type="BOOTSTRAP"><parm name="NAME" value="Meters"/></characteristic>{more}
  <characteristic type="APPLICATION">
    <parm name="APPID" value="{app}"/><parm name="PROVIDER-ID" value="dm.other"/><parm name="NAME" value="Other"/>
    <parm name="INIT"/>
    {inner}
  </characteristic>
</wap-provisioningdoc>"""
    ).encode()


# What libwbxml's xml2wbxml makes of `document()` with its string table: attribute pages 0 and 1, literals, tokens.
WBXML = bytes.fromhex(
    "030b6a10646d2e6f746865720073656372657400c54601c65601870706034d6574657273000101c600015501873600000603"
    "7737000187000138000006830001870706034f746865720001870503494e49540001c6000156018734000006036874747073"
    "3a2f2f646d2e6578616d706c652f646d0001c65301872306033834343300010101c600015701873000000600018d01873300"
    "00060001930187310000060375726e3a6463753a3100018700013200000603636c69656e7420008309018700012f00000603"
    "626d39755932553d000101c600015701873000000603434c49454e5400018700013300000600019201873100000683000187"
    "000132000006037365727665722000830901010101"
)

# What xml2wbxml makes of a document with every type, then every name, then every value that has a token.
TYPES = (
    "PXLOGICAL PXPHYSICAL PORT VALIDITY NAPDEF BOOTSTRAP VENDORCONFIG CLIENTIDENTITY PXAUTHINFO NAPAUTHINFO ACCESS "
    "APPLICATION APPADDR APPAUTH RESOURCE"
)
NAMES = (
    "NAME NAP-ADDRESS NAP-ADDRTYPE CALLTYPE VALIDUNTIL AUTHTYPE AUTHNAME AUTHSECRET LINGER BEARER NAPID COUNTRY "
    "NETWORK INTERNET PROXY-ID PROXY-PROVIDER-ID DOMAIN PROVURL PXAUTH-TYPE PXAUTH-ID PXAUTH-PW STARTPAGE BASAUTH-ID "
    "BASAUTH-PW PUSHENABLED PXADDR PXADDRTYPE TO-NAPID PORTNBR SERVICE AACCEPT AAUTHDATA AAUTHLEVEL AAUTHNAME "
    "AAUTHSECRET AAUTHTYPE ADDR ADDRTYPE APPID APROTOCOL PROVIDER-ID TO-PROXY URI RULE"
)
VALUES = "IPV4 IPV6 E164 ALPHA APN HTTP-BASIC HTTP-DIGEST APPSRV OBEX , HTTP- BASIC DIGEST"
EVERY_TOKEN = bytes.fromhex(
    "030b6a00c54601865101865201865301865401865501865601865701865801865901865a01865b01860001550186560186"
    "57018659018700000706032d0001870806032d0001870906032d0001870a06032d0001870b06032d0001870c06032d0001"
    "870d06032d0001870e06032d0001870f06032d0001871006032d0001871106032d0001871206032d0001871306032d0001"
    "871406032d0001871506032d0001871606032d0001871706032d0001871806032d0001871906032d0001871a06032d0001"
    "871b06032d0001871c06032d0001871d06032d0001871e06032d0001871f06032d0001872006032d0001872106032d0001"
    "872206032d0001872306032d0001872406032d00018700012e000006032d00018700012f000006032d0001870001300000"
    "06032d000187000131000006032d000187000132000006032d000187000133000006032d000187000134000006032d0001"
    "87000135000006032d000187000136000006032d000187000137000006032d000187000138000006032d00018700013900"
    "0006032d00018700013a000006032d00018700013b000006032d0001870706850187070686018707068701870706880187"
    "070689018707069c018707069d0187070600018d01870000070600018e0187000007060001900187000007060001910187"
    "000007060001920187000007060001930101"
)
# What stands on the second page although it is on the first, too; wbxml2xml reads it so.
TYPES_1 = "PORT CLIENTIDENTITY APPLICATION APPADDR APPAUTH RESOURCE"
NAMES_1 = "NAME INTERNET STARTPAGE TO-NAPID PORTNBR SERVICE"
VALUES_1 = "IPV6 E164 ALPHA APPSRV OBEX , HTTP- BASIC DIGEST"
EVERY_TOKEN_OF_PAGE_1 = bytes.fromhex(
    "030b6a00c546018600015301865801865501865601865701865901870706032d0001871406032d0001871c06032d000187"
    "2206032d0001872306032d0001872406032d00018707068601870706870187070688018707068d018707068e0187070690"
    "0187070691018707069201870706930101"
)
ROOT, END = b"<wap-provisioningdoc>", b"</wap-provisioningdoc>"
HEADER, FPI = b"\x03\x0b\x6a\x00", b"-//WAPFORUM//DTD PROV 1.0//EN\0"

WANTED = Account(
    server_id="dm.other",
    url="https://dm.example:8443/dm",
    client_name="urn:dcu:1",
    client_secret="client secret",
    server_name="dm.other",
    server_secret="server secret",
    client_nonce=b"nonce",
    server_nonce=b"",
    auth_type="DIGEST",
    server_auth_type="BASIC",
)


def test_the_account_is_read_from_xml_and_from_wbxml() -> None:
    assert account(parse(document())) == account(parse(WBXML)) == WANTED
    assert parse(document()) == parse(WBXML)


@pytest.mark.parametrize(
    ("source", "types", "names", "values"),
    [(EVERY_TOKEN, TYPES, NAMES, VALUES), (EVERY_TOKEN_OF_PAGE_1, TYPES_1, NAMES_1, VALUES_1)],
)
def test_every_token_is_read(source: bytes, types: str, names: str, values: str) -> None:
    parms = [(name, "-") for name in names.split()] + [("NAME", value) for value in values.split()]
    assert parse(source) == Characteristic("", parms, [Characteristic(kind) for kind in types.split()])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\x05", Characteristic("")),
        (b"\x45\x01", Characteristic("")),
        (b"\x85\x46\x01", Characteristic("")),
        (b"\x00\x01\x45\x00\x00\x86\x50\x03PORT\0\x01\x01", Characteristic("", [], [Characteristic("PORT")])),
        (b"\x45\x87\x06\x03b\0\x05\x03a\0\x01\x01", Characteristic("", [("a", "b")])),
    ],
    ids=["no attributes", "empty", "a version", "pages before tags, a type as text", "value and name as texts"],
)
def test_every_form_of_element_is_read(body: bytes, expected: Characteristic) -> None:
    assert parse(HEADER + body) == expected


def test_a_document_is_known_by_its_public_identifier_as_a_number_and_as_a_text() -> None:
    named = b"\x03\x00\x00\x6a" + bytes([len(FPI)]) + FPI
    assert is_client_provisioning(HEADER)
    assert is_client_provisioning(named)
    assert parse(named + EVERY_TOKEN[len(HEADER) :]) == parse(EVERY_TOKEN)
    assert not is_client_provisioning(named.replace(b"WAPFORUM", b"OTHERONE"))
    assert not is_client_provisioning(emit_profile(ACCOUNT))
    assert not is_client_provisioning(b"")


@pytest.mark.skipif(shutil.which("xml2wbxml") is None, reason="xml2wbxml is not installed (Debian: libwbxml2-utils)")
@pytest.mark.parametrize("table", [True, False])
def test_what_another_encoder_makes_is_read(tmp_path: Path, *, table: bool) -> None:
    napdef = """<characteristic type="NAPDEF"><parm name="NAPID" value="N1"/></characteristic>"""
    source = document(more=napdef)
    (tmp_path / "a.xml").write_bytes(source)
    options = [] if table else ["-n"]
    command = ["xml2wbxml", *options, "-o", str(tmp_path / "a.wbxml"), str(tmp_path / "a.xml")]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    made = (tmp_path / "a.wbxml").read_bytes()
    assert is_client_provisioning(made)
    assert parse(made) == parse(source)


def test_a_document_of_either_kind_becomes_the_same_tree() -> None:
    assert account_from_tnds(bootstrap_tree(WBXML)) == account_from_tnds(bootstrap_tree(document())) == WANTED
    assert account_from_tnds(bootstrap_tree(emit_profile(ACCOUNT))) == ACCOUNT


def test_a_server_without_credentials_proves_itself_by_its_certificate() -> None:
    made = account(parse(document(ADDRESS, CLIENT)))
    assert made.auth_types == ("DIGEST", "TRANSPORT")


@pytest.mark.parametrize(("data", "nonce"), [("bm9uY2U=", b"nonce"), ("nonce", b"nonce"), ("", b"")])
def test_a_nonce_is_base64_or_stands_as_it_is(data: str, nonce: bytes) -> None:
    assert account(parse(document(ADDRESS, CLIENT.replace("bm9uY2U=", data)))).client_nonce == nonce


def test_the_address_may_stand_in_the_application_itself() -> None:
    made = account(parse(document('<parm name="ADDR" value="https://a.example/"/>', CLIENT)))
    assert made.url == "https://a.example/"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (document(app="w2"), "0 DM accounts"),
        (document(ADDRESS, SERVER), "no APPAUTH of level APPSRV"),
        (document(ADDRESS, CLIENT, CLIENT.replace("DIGEST", "BASIC")), "2 APPAUTH of level APPSRV"),
        (document(ADDRESS, CLIENT, SERVER, SERVER), "2 APPAUTH of level CLIENT"),
        (document(CLIENT), "url is empty"),
        (document(ADDRESS, CLIENT.replace("DIGEST", "")), "no AAUTHTYPE"),
        (document(ADDRESS, CLIENT.replace("DIGEST", "X509")), "'X509' is not supported"),
        (document(ADDRESS.replace("8443", "0"), CLIENT), "port 0"),
        (document(ADDRESS.replace("8443", "65536"), CLIENT), "port 65536"),
        *(
            (document(ADDRESS.replace("8443", port), CLIENT), "port .* is no number")
            for port in ("x", "", " 443", "+443", "4_43", "\u0664\u0664\u0663", "000443", "-1")
        ),
        *(
            (
                document(ADDRESS, CLIENT.replace(parm, parm + parm.replace("value=", "value =")), SERVER),
                "more than once",
            )
            for parm in (
                '<parm name="AAUTHLEVEL" value="APPSRV"/>',
                '<parm name="AAUTHTYPE" value="DIGEST"/>',
                '<parm name="AAUTHNAME" value="urn:dcu:1"/>',
                '<parm name="AAUTHSECRET" value="client secret"/>',
                '<parm name="AAUTHDATA" value="bm9uY2U="/>',
            )
        ),
        (document('<parm name="PROVIDER-ID" value="another"/>', ADDRESS, CLIENT, SERVER), "PROVIDER-ID stands more"),
        (document('<parm name="APPID" value="w7"/>', ADDRESS, CLIENT, SERVER), "APPID stands more"),
        (
            document(
                ADDRESS.replace("</characteristic>", '<parm name="PORTNBR" value="1"/></characteristic>', 1), CLIENT
            ),
            "PORTNBR stands more",
        ),
        (document()[:-5], "not XML"),
        (WBXML[:-5], "ends too early"),
        (b"<parm/>", "not expected"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><wap-provisioningdoc/>", "definitions in the document"),
        (ROOT + b"<characteristic>" * 8, "too deep"),
        (ROOT + b"<parm/>" * 1000, "too many"),
        (b"<" + b" " * 65_536, "longer than"),
        (b"<", "byte 0: not XML"),
        (b"\x03\x0b\x6a\x00\x45\xc6\x00\x02\x50", "page 2"),
    ],
)
def test_a_document_without_a_usable_account_is_refused_with_the_reason(source: bytes, why: str) -> None:
    with pytest.raises(BootstrapError, match=why):
        account(parse(source))


def test_the_largest_documents_are_read() -> None:
    assert account(parse(document().ljust(65_536))) == WANTED
    assert len(parse(ROOT + b"<parm/>" * 999 + END).parms) == 999
    parse(ROOT + b"<characteristic>" * 7 + b"</characteristic>" * 7 + END)


@pytest.mark.parametrize("port", [1, 65_535])
def test_every_port_is_taken(port: int) -> None:
    made = account(parse(document(ADDRESS.replace("8443", str(port)), CLIENT)))
    assert made.url == f"https://dm.example:{port}/dm"


@pytest.mark.parametrize("url", [url.replace("\t", "&#9;") for url in NO_URLS])
@pytest.mark.parametrize("place", ['<parm name="ADDR" value="{}"/>', ADDRESS_ALONE])
def test_an_address_that_is_no_url_is_refused_by_name(place: str, url: str) -> None:
    with pytest.raises(BootstrapError, match=re.escape(repr(url.replace("&#9;", "\t")))):
        bootstrap_tree(document(place.format(url), CLIENT))


@pytest.mark.parametrize("url", [url for url, _ in UNUSABLE.values()])
def test_what_a_port_is_put_into_is_an_address_too(url: str) -> None:
    given = ADDRESS.replace("https://dm.example/dm", url.replace("\t", "&#9;"))
    with pytest.raises(BootstrapError, match=re.escape(repr(url))):
        bootstrap_tree(document(given, CLIENT))


def test_an_account_with_an_empty_secret_is_refused_by_name() -> None:
    empty = re.sub(r'(name="AAUTHSECRET" value=)"[^"]*"', r'\1""', CLIENT)
    assert empty != CLIENT
    with pytest.raises(BootstrapError, match="secret is empty"):
        bootstrap_tree(document(ADDRESS, empty))


def test_an_address_that_a_port_cannot_be_put_into_is_refused_by_name() -> None:
    with pytest.raises(BootstrapError, match=re.escape("'https://[::1/dm'")):
        bootstrap_tree(document(ADDRESS.replace("https://dm.example/dm", "https://[::1/dm"), CLIENT))


@pytest.mark.slow
def test_damaged_documents_are_refused_and_never_crash() -> None:
    pick = random.Random(7)
    for _ in range(3000):
        body = bytearray(WBXML)
        for _ in range(pick.randrange(1, 4)):
            body[pick.randrange(len(body))] = pick.randrange(256)
        with suppress(BootstrapError):
            bootstrap_tree(bytes(body))


# -- the MAC -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("security", "secret", "key"), [("USERPIN", "1234", b"1234"), ("NETWPIN", "0A1b", b"\x0a\x1b")]
)
@pytest.mark.parametrize("source", [document(), WBXML], ids=["XML", "WBXML"])
def test_the_mac_is_over_the_bytes_as_they_are(source: bytes, security: str, secret: str, key: bytes) -> None:
    good = hmac.new(key, source, hashlib.sha1).hexdigest()
    check_mac(source, security, secret, good)
    check_mac(source, security, secret, good.upper())
    for bad in (source + b" ", source[:-1]):
        with pytest.raises(BootstrapError, match="does not match"):
            check_mac(bad, security, secret, good)


def test_the_mac_is_the_known_answer() -> None:
    mac = "de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9"
    check_mac(b"The quick brown fox jumps over the lazy dog", "USERPIN", "key", mac)


@pytest.mark.parametrize(
    ("security", "secret", "mac"),
    [("USERPIN", "1234", "xx"), ("NETWPIN", "no hex", "00" * 20), ("USERPIN", "", "00" * 20), ("USERPIN", "é", "00")],
)
def test_a_secret_or_mac_that_is_none_is_refused(security: str, secret: str, mac: str) -> None:
    with pytest.raises(BootstrapError):
        check_mac(b"x", security, secret, mac)


def test_an_attribute_that_stands_twice_is_no_document_in_either_form() -> None:
    """Of two values the last one was taken, in WBXML; XML has no such documents."""
    with pytest.raises(BootstrapError, match="cannot be read"):
        parse(document('<parm name="A" name="B" value="x"/>'))
    twice = WBXML.replace(b"\x87\x07\x06\x03Meters\0", b"\x87\x07\x06\x03Meters\0\x06\x03Others\0")
    assert twice != WBXML
    with pytest.raises(BootstrapError, match="value stands twice"):
        parse(twice)
