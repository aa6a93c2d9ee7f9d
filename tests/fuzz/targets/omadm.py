"""Fuzz targets for the protocols that device and head-end share: each parser gives its value or its own typed error.

What parses is written again and read as the same, wherever there is a writer.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import hmac
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from omadm import auth, bootstrap, client_provisioning, descriptor, notification, readings
from omadm.bootstrap import BootstrapError
from omadm.descriptor import DescriptorError
from omadm.notification import Notification, NotificationError
from omadm.readings import BatchError, GapList, GapReport
from omadm.schemes import Basic, Mac, Md5, Transport
from omadm.ssmp import certificates, wire
from omadm.ssmp.client_core import Registered, RegistrationFailed
from omadm.ssmp.crypto import SessionKeys
from omadm.ssmp.errors import SsmpError, SsmpRefused
from omadm.ssmp.identity import SharedKey
from omadm.ssmp.server_core import Authenticated, Challenger, Confirmed, Opening, ServerSession, SessionTable
from omadm.syncml import codec, document, text
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import Alert, Cred, SyncHdr, SyncML, SyncmlValueError
from tests.agent.dm import server
from tests.agent.metering.readings import event
from tests.fuzz.guided import Target
from tests.fuzz.targets import dictionaries
from tests.omadm import test_bootstrap, test_client_provisioning, test_descriptor
from tests.omadm.ssmp import test_certified, test_wire
from tests.omadm.ssmp.certified import NOW, Server
from tests.omadm.ssmp.test_certified import AUTHORITY, BOX, HOST, a_line
from tests.omadm.ssmp.test_session import DOCUMENT, KEY, a_client, a_session, challenged, vector
from tests.omadm.syncml import samples
from tests.omadm.syncml.tnds_documents import decode_tnds
from tests.omadm.test_readings import a_batch, a_gap, a_record

HERE = "/omadm/"
SERVER, SECRET, NONCE = "headend", "secret", b"nonce"


def run_message(content_type: str, data: bytes) -> None:
    """A message that reads can be written in the other encoding, where that one can carry it, and reads the same."""
    message = codec.decode(data, content_type)
    with suppress(SyncmlValueError):
        written = codec.encode(message, codec.DM_WBXML)
        again = codec.decode(written, codec.DM_WBXML)
        assert codec.encode(again, codec.DM_WBXML) == written


def run_tnds(content_type: str, data: bytes) -> None:
    tree = decode_tnds(data, content_type)
    with suppress(SyncmlValueError):
        written = codec.encode_tnds(tree, document.TNDS_WBXML)
        assert codec.encode_tnds(decode_tnds(written, document.TNDS_WBXML), document.TNDS_WBXML) == written


def messages(content_type: str) -> list[bytes]:
    return [codec.encode(samples.EVERYTHING, content_type)]


def trees(content_type: str) -> list[bytes]:
    return [codec.encode_tnds(samples.TREE, content_type)]


def run_descriptor(data: bytes) -> None:
    found = descriptor.parse(data, "https://h/d/x")
    assert descriptor.parse(found.emit(), "https://h/d/x") == found


def run_notification(data: bytes) -> None:
    """Read, and believed only when nothing was changed."""
    found = notification.parse(data)
    assert isinstance(found.session_text, str)
    for counter, standard in ((None, True), (3, False)):
        with suppress(NotificationError):
            notification.verify(
                data, server_id=SERVER, secret=SECRET, nonce=NONCE, last_counter=counter, standard=standard
            )
            assert data in notifications()


@functools.cache
def notifications() -> tuple[bytes, ...]:
    said = Notification(session_id=0x1A, server_id=SERVER)
    return (
        notification.emit(said, SECRET, NONCE, counter=7),
        notification.emit(said, SECRET, NONCE),
        notification.emit(replace(said, vendor=b"other"), SECRET, NONCE),
    )


def run_profile(data: bytes) -> None:
    account = bootstrap.account_from_tnds(bootstrap.parse_profile(data))
    assert SECRET not in repr(account)


def run_provisioning(data: bytes) -> None:
    """A bootstrap document of either kind: its account becomes the one in its tree, and a profile of its own."""
    tree = client_provisioning.bootstrap_tree(data)
    account = bootstrap.account_from_tnds(tree)
    if client_provisioning.is_client_provisioning(data):
        assert client_provisioning.account(client_provisioning.parse(data)) == account
    with suppress(SyncmlValueError):  # a text that XML has no form for
        assert bootstrap.account_from_tnds(bootstrap.parse_profile(bootstrap.emit_profile(account))) == account


def provisioning_in_xml() -> list[bytes]:
    client, server, address = (getattr(test_client_provisioning, name) for name in ("CLIENT", "SERVER", "ADDRESS"))
    alone = '<parm name="ADDR" value="https://[::1]:8443/dm"/>'
    napdef = '<characteristic type="NAPDEF"><parm name="NAPID" value="N1"/></characteristic>'
    return [
        test_client_provisioning.document(address, client, server, more=napdef),
        test_client_provisioning.document(alone, client),
    ]


def run_provisioning_mac(data: bytes) -> None:
    """Lines of kind, secret and MAC, then the document: believed only with the MAC of that secret."""
    security, secret, mac, document = (*data.split(b"\n", 3), b"", b"", b"")[:4]
    kind, digits = security.decode("latin-1"), secret.decode("latin-1")
    client_provisioning.check_mac(document, kind, digits, mac.decode("latin-1"))
    key = secret if kind == "USERPIN" else bytes.fromhex(digits)
    assert bytes.fromhex(mac.decode("latin-1")) == hmac.new(key, document, hashlib.sha1).digest()


def provisioning_macs() -> list[bytes]:
    document = test_client_provisioning.WBXML[:200]
    pins = ((b"USERPIN", b"1234", b"1234"), (b"NETWPIN", b"0A1b", b"\x0a\x1b"))
    made = [(kind, secret, hmac.new(key, document, hashlib.sha1).hexdigest()) for kind, secret, key in pins]
    return [b"\n".join((kind, secret, mac.encode(), document)) for kind, secret, mac in made]


def run_hmac_header(data: bytes) -> None:
    header = data.decode("latin-1")
    auth.parse_hmac_header(header)
    auth.verify_hmac(header, b"<SyncML/>", "Bruce2", "OhBehave", b"Nonce", auth.ALGORITHMS)


def run_credentials(data: bytes) -> None:
    """`Cred/Data` of both simple schemes is any text."""
    said = data.decode("utf-8", "replace")
    with suppress(auth.AuthError):
        auth.verify_basic(said, "Bruce2", "OhBehave")
    with suppress(auth.AuthError):
        auth.verify_md5(said, "Bruce2", "OhBehave", b"Nonce")
    text.from_base64(said)


def run_scheme(data: bytes) -> None:
    """A message that has to prove itself, by each scheme: after the first zero stands the header of its MAC."""
    body, _, header = data.partition(b"\0")
    message = codec.decode(body, codec.DM_XML)
    for scheme in (Mac(auth.ALGORITHMS), Md5(), Basic()):
        with suppress(auth.AuthError):
            scheme.verify(message, body, header.decode("latin-1") or None, server.ACCOUNT.client)
            raise AssertionError("believed without the secret")
    Transport().verify(message, body, header.decode("latin-1"), server.ACCOUNT.server)  # says nothing, hears nothing


def proofs() -> list[bytes]:
    data = auth.basic("a", "b")
    header = SyncHdr("1", 1, target="https://h/dm", source="urn:d")
    said = [replace(header, cred=Cred(data, kind)) for kind in (auth.AUTH_BASIC, auth.AUTH_MD5)]
    bodies = [codec.encode(SyncML(hdr, (Alert("1", 1201),)), codec.DM_XML) for hdr in [header, *said]]
    return [body + b"\0" + auth.hmac_header(body, "a", "b", b"nonce").encode() for body in bodies]


def run_wire(data: bytes) -> None:
    message = wire.parse(data)
    assert wire.parse(message.emit()) == message


def pieces(data: bytes) -> list[bytes]:
    """Messages out of one input: each behind two octets that say how long it is."""
    out: list[bytes] = []
    while len(data) > 2 and len(out) < 6:
        end = 2 + int.from_bytes(data[:2], "big")
        out.append(data[2:end])
        data = data[end:]
    return out


def joined(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def run_client(data: bytes) -> None:
    """The device hears anything: the attempt goes on or ends, once, and never with a document that is not proven."""
    client = a_client()
    ends = []
    for message in pieces(data):
        client.take_output()
        client.receive(message, 1.0)
        ends += list(iter(client.next_event, None))
    client.receive_eof(2.0)
    ends += list(iter(client.next_event, None))
    assert [type(end) for end in ends] in ([RegistrationFailed], [Registered])
    assert not isinstance(ends[0], Registered) or ends[0].document == DOCUMENT


def run_server(data: bytes) -> None:
    """The security server hears anything: HELLO and AUTH by way of the table, then messages of the session."""
    table, challenger = SessionTable(bytes), Challenger(bytes)
    challenger.challenge(vector("hello"), "net", 0.0)
    parts = pieces(data)
    for part in parts[:2]:
        with suppress(SsmpError):
            match wire.parse(part):
                case wire.Hello(version=wire.VERSION_1):
                    table.open(part, KEY, "net", known=True, now=0.0)
                case wire.Hello() as hello:
                    challenger.challenge(part, "net", 0.0, hello.version)
                case wire.Auth() | wire.AuthV2() as auth:
                    table.prepare(challenger.opening(auth, "net", 0.0), KEY, known=True, now=0.0).receive(part, 0.0)
    session = a_session()
    for message in parts[1:]:
        with suppress(SsmpError):
            session.receive(message, 1.0)
            match session.next_event():
                case Authenticated():
                    session.provide(DOCUMENT)
                case Confirmed():
                    session.acknowledge()


def run_certificates(data: bytes) -> None:
    """A certificate, or PEM with some: believed only as it was signed."""
    for each in (*certificates.read_all(data), certificates.read(data)):
        certificates.check(each, [AUTHORITY.certificate], certificates.DEVICE, NOW)
        assert each.der == BOX.certificate.der
        certificates.check_signature(each, certificates.sign(BOX.key, data), data)


def certificate_requests() -> list[bytes]:
    return [certificates.make_request(BOX.certificate.point, lambda data: certificates.sign(BOX.key, data))]


def run_certificate_request(data: bytes) -> None:
    """A request for a certificate, of a key that has signed it."""
    assert len(certificates.point_of(certificates.read_request(data))) == 65


def run_certified_server(data: bytes) -> None:
    """A server that takes certificates hears anything for AUTH."""
    opening = Opening(certified()["hello"], certified()["challenge"], 60.0)
    judge = Server(HOST, AUTHORITY)
    session = ServerSession(vector("session"), opening, KEY, known=True, ephemeral=bytes(32), certificates=judge)
    session.receive(data, 1.0)
    assert isinstance(session.next_event(), Authenticated)
    assert session.certificate == BOX.certificate.der
    session.provide(DOCUMENT)


def run_certified_client(data: bytes) -> None:
    """A device with a certificate hears anything for BOOTSTRAP, and takes no document but the server's."""
    line = a_line()
    line.client.start(0.0)
    line.client.receive(certified()["challenge"], 1.0)
    line.client.receive(data, 1.0)
    line.client.receive(certified()["done"], 1.0)
    event = line.client.next_event()
    assert isinstance(event, RegistrationFailed) or event == Registered(DOCUMENT)


@functools.cache
def certified() -> dict[str, bytes]:
    return test_certified.said()


def run_sealed(data: bytes) -> None:
    assert (
        SessionKeys(SharedKey(KEY), vector("client_nonce"), vector("server_nonce")).open(data, bytes(32), b"")
        == DOCUMENT
    )


def sealed() -> list[bytes]:
    keys = SessionKeys(SharedKey(KEY), vector("client_nonce"), vector("server_nonce"))
    return [keys.seal(DOCUMENT, bytes(32), b"")]


def ssmp_messages() -> list[bytes]:
    return [message.emit() for message in test_wire.EVERY]


def both_ways(*names: str) -> list[bytes]:
    return [joined(*(vector(name) for name in names)), joined(vector(names[0]), vector("error"))]


def to_the_server() -> list[bytes]:
    """The versions, and an AUTH whose challenge is of the server that hears it."""
    answered = joined(vector("hello"), challenged(Challenger(bytes), 0.0, "net"))
    return [*both_ways("hello", "auth", "confirm"), joined(vector("hello", 1), vector("auth", 1)), answered]


def headers() -> Sequence[bytes]:
    made = [auth.hmac_header(b"<SyncML/>", "Bruce2", "OhBehave", b"Nonce", name) for name in auth.ALGORITHMS]
    return [*(header.encode() for header in made), b"username=Bruce2, mac=urdCeS3JUmjFgi8SX3webw=="]


def credentials() -> Sequence[bytes]:
    return [auth.basic("Bruce2", "OhBehave").encode(), auth.md5("Bruce2", "OhBehave", b"Nonce").encode()]


def run_batch(data: bytes) -> None:
    """What is accepted can be stored: texts in a column, numbers in one of 64 bits."""
    batch = readings.parse(data)
    for record in batch.records:
        json.loads(record.raw)
        for said in (
            batch.device,
            record.task,
            record.meter,
            record.raw,
            record.value,
            record.meter_time,
            record.error,
        ):
            if said is not None:
                said.encode()
        assert 0 <= record.id < 1 << 63


def run_packed(data: bytes) -> None:
    readings.parse(readings.inflate(data))


def run_resend_orders(data: bytes) -> None:
    """The member `resend` of the head-end's answer, as the uplink takes it."""
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        return
    for order in readings.parse_orders(entries):
        assert order.since <= order.until


def resend_orders() -> list[bytes]:
    by_id = {"request": 1, "store": "ab" * 16, "first": 1, "last": 9}
    return [json.dumps([by_id, {"request": 2, "since": 1.5, "until": 2}]).encode()]


def lists() -> list[bytes]:
    """What is missing: reports on their way, the digest of all of them, and a page of them."""
    gaps = readings.parse(a_batch(a_gap(), a_gap(2, meter="KEP2", last=None))).gaps
    pages: list[GapReport] = [gap.report for gap in gaps]
    digest = GapList(9, "ab" * 32)
    page = GapList(9, "", ("KEP0", "", "", 0), ("KEP3", "billing", "1.0.99.1.0.255", 1_795_000_000), tuple(pages))
    return [a_batch(a_gap(3), listed=digest.entry()), a_batch(listed=page.entry())]


def batches() -> list[bytes]:
    values = [("f64", 1.5), ("oct", "00ff"), ("bits", "0101"), ("text", "é"), ("array", [["u8", 1], ["struct", []]])]
    mixed = [a_record(at + 1, tag=tag, raw=raw) for at, (tag, raw) in enumerate(values)]
    happened = readings.record(1, event("k1").row())
    happened["values"] = [{"tag": "u8", "raw": 1, "obis": "0.0.96.11.0.255", "cls": 1, "attr": 2}]
    return [
        a_batch(happened),
        a_batch(a_record()),
        a_batch(*mixed),
        a_batch(a_record(error="no answer", tag="null", raw=None)),
        *lists(),
    ]


DELTA_DESCRIPTORS = [
    descriptor.Descriptor(
        ("application/x-swu",),
        9,
        "https://h/o",
        delta=descriptor.DeltaFacts(
            ("1.9",), (descriptor.DeltaSource("rootfs", "1.9", 4096, "5f" * 32),), "https://h/full", 99
        ),
    ).emit()
]
XML = dictionaries.XML + dictionaries.SYNCML
TARGETS = {
    "syncml-xml": Target(
        functools.partial(run_message, codec.DM_XML), lambda: messages(codec.DM_XML), (SyncmlError,), HERE, XML
    ),
    "syncml-wbxml": Target(
        functools.partial(run_message, codec.DM_WBXML),
        lambda: messages(codec.DM_WBXML),
        (SyncmlError,),
        HERE,
        dictionaries.WBXML,
    ),
    "tnds-xml": Target(
        functools.partial(run_tnds, document.TNDS_XML), lambda: trees(document.TNDS_XML), (SyncmlError,), HERE, XML
    ),
    "tnds-wbxml": Target(
        functools.partial(run_tnds, document.TNDS_WBXML),
        lambda: trees(document.TNDS_WBXML),
        (SyncmlError,),
        HERE,
        dictionaries.WBXML,
    ),
    "descriptor": Target(
        run_descriptor,
        lambda: [test_descriptor.FULL.emit(), *DELTA_DESCRIPTORS],
        (DescriptorError,),
        HERE,
        dictionaries.XML + dictionaries.DESCRIPTOR,
    ),
    "notification": Target(
        run_notification, lambda: list(notifications()), (NotificationError,), HERE, dictionaries.NOTIFICATION
    ),
    "bootstrap": Target(
        run_profile,
        lambda: [bootstrap.emit_profile(test_bootstrap.ACCOUNT)],
        (BootstrapError,),
        HERE,
        dictionaries.WBXML,
    ),
    "client-provisioning-xml": Target(
        run_provisioning, provisioning_in_xml, (BootstrapError,), HERE, dictionaries.XML + dictionaries.PROVISIONING
    ),
    "client-provisioning-wbxml": Target(
        run_provisioning,
        lambda: [test_client_provisioning.WBXML, bootstrap.emit_profile(test_bootstrap.ACCOUNT)],
        (BootstrapError,),
        HERE,
        dictionaries.WBXML + dictionaries.PROVISIONING_WBXML,
    ),
    "client-provisioning-mac": Target(
        run_provisioning_mac, provisioning_macs, (BootstrapError,), HERE, (b"USERPIN", b"NETWPIN", b"\n", b"00")
    ),
    "scheme": Target(run_scheme, proofs, (SyncmlError,), HERE, dictionaries.HEADER + dictionaries.SYNCML, 400),
    "hmac-header": Target(run_hmac_header, headers, (auth.AuthError,), HERE, dictionaries.HEADER),
    "credentials": Target(run_credentials, credentials, (), HERE),
    "readings": Target(run_batch, batches, (BatchError,), HERE, dictionaries.JSON),
    "resend-orders": Target(run_resend_orders, resend_orders, (BatchError,), HERE, dictionaries.JSON),
    "packed-readings": Target(
        run_packed, lambda: [gzip.compress(one, mtime=0) for one in batches()], (BatchError,), HERE
    ),
    "ssmp-wire": Target(run_wire, ssmp_messages, (SsmpError,), HERE, dictionaries.SSMP),
    "ssmp-client": Target(run_client, lambda: both_ways("challenge", "bootstrap", "done"), (), HERE, dictionaries.SSMP),
    "ssmp-server": Target(run_server, to_the_server, (SsmpRefused,), HERE, dictionaries.SSMP),
    "ssmp-certificate-request": Target(run_certificate_request, certificate_requests, (SsmpError,), HERE),
    "ssmp-certificates": Target(
        run_certificates, lambda: [BOX.certificate.der, BOX.pem(), AUTHORITY.pem() + BOX.pem()], (SsmpError,), HERE
    ),
    "ssmp-certified-server": Target(
        run_certified_server, lambda: [certified()["auth"]], (SsmpError,), HERE, dictionaries.SSMP
    ),
    "ssmp-certified-client": Target(
        run_certified_client, lambda: [certified()["bootstrap"]], (SsmpError,), HERE, dictionaries.SSMP
    ),
    "ssmp-sealed": Target(run_sealed, sealed, (SsmpError,), HERE),
}
