"""The client provisioning document (w7), and the MAC of a bootstrap from outside."""

from __future__ import annotations

import hashlib
import hmac
import random

import pytest

from omadm.bootstrap import Account, BootstrapError, account_from_tnds
from omadm.provisioning_document import parse_document, verify_mac

DOCUMENT = """<?xml version="1.0"?>
<wap-provisioningdoc>
  <characteristic type="NAPDEF"><parm name="NAPID" value="net"/></characteristic>
  <characteristic type="APPLICATION">
    <parm name="APPID" value="w7"/>
    <parm name="PROVIDER-ID" value="com.example.dm"/>
    <parm name="NAME" value="Example"/>
    <parm name="TO-NAPID" value="net"/>
    <parm name="INIT"/>
    <characteristic type="APPADDR">
      <parm name="ADDR" value="https://dm.example:8443/dm"/>
      <parm name="ADDRTYPE" value="URI"/>
      <characteristic type="PORT"><parm name="PORTNBR" value="8443"/></characteristic>
    </characteristic>
    <characteristic type="APPAUTH">
      <parm name="AAUTHLEVEL" value="APPSRV"/><parm name="AAUTHTYPE" value="HMAC,DIGEST"/>
      <parm name="AAUTHNAME" value="dev"/><parm name="AAUTHSECRET" value="devpwd"/>
      <parm name="AAUTHDATA" value="AAH/"/>
    </characteristic>
    <characteristic type="APPAUTH">
      <parm name="AAUTHLEVEL" value="CLIENT"/><parm name="AAUTHTYPE" value="HMAC"/>
      <parm name="AAUTHNAME" value="srv"/><parm name="AAUTHSECRET" value="srvpwd"/>
    </characteristic>
  </characteristic>
</wap-provisioningdoc>"""


def test_the_w7_application_becomes_a_dm_account() -> None:
    tree = parse_document(DOCUMENT.encode())
    assert account_from_tnds(tree) == Account(
        server_id="com.example.dm",
        url="https://dm.example:8443/dm",
        client_name="dev",
        client_secret="devpwd",
        server_name="srv",
        server_secret="srvpwd",
        client_nonce=b"\x00\x01\xff",
        server_nonce=b"",
    )
    node = tree.nodes[0]
    assert node.acl == "Get=com.example.dm&Replace=com.example.dm&Delete=com.example.dm"
    assert {child.name: child.value for child in node.children if child.value is not None} == {
        "AppID": "w7",
        "ServerID": "com.example.dm",
        "Name": "Example",
        "PrefConRef": "net",
    }


def test_the_address_may_stand_in_the_application_itself() -> None:
    head, _, rest = DOCUMENT.partition('<characteristic type="APPADDR">')
    rest = rest[
        rest.index("</characteristic>\n    </characteristic>") + len("</characteristic>\n    </characteristic>") :
    ]
    document = head + '<parm name="ADDR" value="https://short.example/dm"/>' + rest
    assert account_from_tnds(parse_document(document.encode())).url == "https://short.example/dm"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("wap-provisioningdoc", "other"),
        ('"w7"', '"w2"'),
        ('name="PROVIDER-ID" value="com.example.dm"', 'name="PROVIDER-ID"'),
        ('name="ADDR" ', 'name="NOADDR" '),
        ('"APPSRV"', '"SOMEBODY"'),
        ('"AAH/"', '"%%%"'),
        ("<?xml", "<!DOCTYPE wap-provisioningdoc><?xml"),
    ],
)
def test_half_a_document_is_refused(old: str, new: str) -> None:
    with pytest.raises(BootstrapError):
        parse_document(DOCUMENT.replace(old, new).encode())


def test_two_applications_are_refused() -> None:
    application = DOCUMENT[DOCUMENT.index('<characteristic type="APPLICATION">') : DOCUMENT.index("</wap")]
    with pytest.raises(BootstrapError, match="2 applications"):
        parse_document(DOCUMENT.replace("</wap", application + "</wap").encode())


@pytest.mark.slow
def test_damaged_documents_are_refused_or_read_and_nothing_else() -> None:
    pick = random.Random(3)
    for _ in range(300):
        damaged = bytearray(DOCUMENT.encode())
        at = pick.randrange(len(damaged))
        damaged[at : at + pick.randrange(40)] = pick.randbytes(pick.randrange(3))
        try:
            account_from_tnds(parse_document(bytes(damaged)))
        except BootstrapError:
            continue


KEYS = {"USERPIN": b"1234", "NETWORKID": b"\x09\x10\x10"}
BODY = b"any document"
MAC = hmac.new(b"1234", BODY, hashlib.sha1).hexdigest()


@pytest.mark.parametrize("mac", [MAC, MAC.upper()])
@pytest.mark.parametrize("form", ["SEC=USERPIN; MAC={}", "sec=userpin;mac={}", 'MAC="{}"; charset=x-y; SEC=USERPIN'])
def test_a_document_under_the_right_key_is_believed(form: str, mac: str) -> None:
    verify_mac("application/vnd.syncml.dm+wbxml; " + form.format(mac), BODY, KEYS)


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "; SEC=USERPIN",
        f"; MAC={MAC}",
        f"; SEC=NETWORKID; MAC={MAC}",
        f"; SEC=USERPIN_NETWORKID; MAC={MAC}",
        f"; SEC=USERPIN; MAC={MAC[:-1]}",
        "; SEC=USERPIN; MAC=" + "0" * 40,
    ],
)
def test_a_document_without_proof_is_refused(parameters: str) -> None:
    with pytest.raises(BootstrapError):
        verify_mac("application/vnd.syncml.dm+wbxml" + parameters, BODY, KEYS)


def test_a_known_answer_of_hmac_sha1() -> None:
    mac = "de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9"
    verify_mac(f"x; SEC=USERPIN; MAC={mac}", b"The quick brown fox jumps over the lazy dog", {"USERPIN": b"key"})
