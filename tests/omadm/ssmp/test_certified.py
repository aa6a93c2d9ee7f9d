"""Sessions in which both ends prove themselves with certificates."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from omadm.ssmp import certificates, wire
from omadm.ssmp.certificates import CertificateError, Moment
from omadm.ssmp.client_core import Registered, RegistrationFailed, SsmpClient
from omadm.ssmp.crypto import Ephemeral, certified_keys
from omadm.ssmp.errors import SsmpError, SsmpRefused
from omadm.ssmp.identity import SharedKey
from omadm.ssmp.server_core import Authenticated, Confirmed, Opening, ServerSession
from tests.omadm.ssmp.certified import NOW, PERIOD, DeviceModule, Pair, Server, authority, issue
from tests.omadm.ssmp.test_session import DEVICE, DOCUMENT, INFO, KEY, OTHER_VERSION, sealed_for, vector

AUTHORITY, OTHER = authority(), authority()
BOX, BOX_2 = issue(AUTHORITY, DEVICE), issue(AUTHORITY, "urn:dcu:another")
HOST = issue(AUTHORITY, "headend.example", certificates.SERVER)


class Line:
    """A device and a server; `change` may alter a message by its name."""

    def __init__(self, module: DeviceModule | SharedKey, server: Server | None) -> None:
        self.client = SsmpClient(DEVICE, module, INFO, random.Random(1).randbytes, vector("held"))
        self.server = server
        self.said: dict[str, bytes] = {}
        self.session: ServerSession | None = None

    def run(self, change: Callable[[str, bytes], bytes] = lambda _, data: data) -> object:
        """The device's last event; its side of a refusal is an ERROR."""
        self.client.start(0.0)
        self._from_device("hello", change)
        self._to_device("challenge", wire.Challenge(vector("server_nonce"), vector("cookie")).emit(), change)
        for asked, answered in (("auth", "bootstrap"), ("confirm", "done")):
            heard = self._from_device(asked, change)
            if heard:
                self._to_device(answered, self._answer(heard), change)
        return self.client.next_event()

    def _from_device(self, name: str, change: Callable[[str, bytes], bytes]) -> bytes:
        self.said[name] = self.client.take_output()
        return change(name, self.said[name]) if self.said[name] else b""

    def _to_device(self, name: str, message: bytes, change: Callable[[str, bytes], bytes]) -> None:
        self.said[name] = message
        self.client.receive(change(name, message), 1.0)

    def _answer(self, message: bytes) -> bytes:
        try:
            if self.session is None:
                opening = Opening(self.said["hello"], self.said["challenge"], 60.0)
                self.session = ServerSession(
                    vector("session"), opening, KEY, known=True, ephemeral=bytes(32), certificates=self.server
                )
            self.session.receive(message, 1.0)
        except SsmpError as error:
            return wire.Error(error.code if isinstance(error, SsmpRefused) else 400, "no").emit()
        match self.session.next_event():
            case Authenticated():
                self.session.provide(DOCUMENT)
            case Confirmed():
                self.session.acknowledge()
        return self.session.take_output()


def a_line(box: Pair = BOX, host: Pair = HOST, trusted: Pair = AUTHORITY, believed: Pair = AUTHORITY) -> Line:
    return Line(DeviceModule(box, trusted), Server(host, believed))


def test_two_certificates_bring_the_document() -> None:
    line = a_line()
    assert line.run() == Registered(DOCUMENT)
    assert line.session is not None
    assert (line.session.over, line.session.certificate) == (True, BOX.certificate.der)
    assert DOCUMENT not in b"".join(line.said.values())


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (a_line(box=BOX_2), 401),  # of another name
        (a_line(box=issue(OTHER, DEVICE)), 401),
        (a_line(box=HOST), 401),  # of a server
        (a_line(box=Pair(BOX.certificate, BOX_2.key)), 401),  # somebody else's
        (Line(DeviceModule(BOX, AUTHORITY), None), 401),  # a server that takes none
        (Line(SharedKey(bytes(32)), Server(HOST, AUTHORITY)), 401),
    ],
)
def test_a_device_that_does_not_prove_itself_is_refused_with_the_same_words(line: Line, code: int) -> None:
    event = line.run()
    assert isinstance(event, RegistrationFailed)
    assert isinstance(event.error, SsmpRefused)
    assert event.error.code == code


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (issue(OTHER, "headend.example", certificates.SERVER), "no authority"),
        (BOX_2, "another purpose"),  # a device of the same authority plays the server
        (Pair(HOST.certificate, BOX.key), "not by the certificate's key"),
    ],
)
def test_a_server_that_does_not_prove_itself_bootstraps_nobody(host: Pair, why: str) -> None:
    event = a_line(host=host).run()
    assert isinstance(event, RegistrationFailed)
    assert why in str(event.error)


def test_the_ends_prove_themselves_in_the_same_way() -> None:
    """A server that leaves its certificate out, or shows one to a device with a shared key, is not believed."""
    for module, certificate, proof in (
        (DeviceModule(BOX, AUTHORITY), b"", bytes(32)),
        (SharedKey(KEY), HOST.certificate.der, bytes(64)),
    ):
        client = SsmpClient(DEVICE, module, INFO, random.Random(1).randbytes)
        client.start(0.0)
        client.receive(wire.Challenge(vector("server_nonce"), b"cookie").emit(), 1.0)
        shown = wire.Bootstrap(vector("session"), b"sealed", Ephemeral(bytes(32)).public, certificate, proof)
        client.receive(shown.emit(), 1.0)
        event = client.next_event()
        assert isinstance(event, RegistrationFailed)
        assert "in another way" in str(event.error)


def test_a_certificate_is_shown_to_no_server_of_an_older_version() -> None:
    line = a_line()
    line.client.start(0.0)
    line.client.take_output()
    line.client.receive(OTHER_VERSION, 1.0)
    assert isinstance(line.client.next_event(), RegistrationFailed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["challenge", "auth", "bootstrap", "confirm", "done"])
def test_no_changed_bit_of_any_message_leads_to_a_registration(name: str) -> None:
    size = len(said()[name])
    for bit in range(0, size * 8, 23):

        def changed(which: str, data: bytes, bit: int = bit) -> bytes:
            if which != name:
                return data
            out = bytearray(data)
            out[bit // 8] ^= 1 << (bit % 8)
            return bytes(out)

        assert not isinstance(a_line().run(changed), Registered), bit


def said() -> dict[str, bytes]:
    line = a_line()
    line.run()
    return line.said


def test_stolen_keys_of_both_certificates_open_no_recorded_registration() -> None:
    """There is nothing in them that helps: the document's keys come from the session's keys alone."""
    bootstrap = wire.parse(said()["bootstrap"])
    assert isinstance(bootstrap, wire.Bootstrap)
    auth = wire.parse(said()["auth"])
    assert isinstance(auth, wire.Auth)
    early = certified_keys(vector("client_nonce"), vector("server_nonce"))
    for keys in (early, early.agreed(auth.ephemeral), early.agreed(bootstrap.ephemeral), early.agreed(bytes(32))):
        with pytest.raises(SsmpError, match="does not open"):
            keys.open(bootstrap.sealed, sealed_for(3), vector("session"))


# ---- certificates


def test_a_certificate_is_read_with_its_names_purposes_and_period() -> None:
    found = BOX.certificate
    assert (found.names, found.authority, (found.not_before, found.not_after)) == ((DEVICE,), False, PERIOD)
    assert found.purposes == {certificates.DEVICE.dotted_string}
    assert AUTHORITY.certificate.names == ("Authority",)  # the common name, where nothing else names it
    assert (len(found.point), found.point[0]) == (65, 4)


@pytest.mark.parametrize("der", [b"", b"x" * 100, bytes(4001), BOX.certificate.der[:-1]], ids=["", "x", "0", "cut"])
def test_what_is_no_certificate_is_an_error_of_its_own(der: bytes) -> None:
    with pytest.raises(CertificateError):
        certificates.read(der)


def test_no_changed_bit_of_a_certificate_is_believed() -> None:
    der = BOX.certificate.der
    for bit in range(0, len(der) * 8, 7):
        changed = bytearray(der)
        changed[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(CertificateError):
            certificates.check(certificates.read(bytes(changed)), [AUTHORITY.certificate], certificates.DEVICE, NOW)


@pytest.mark.parametrize(("now", "good"), [(999.0, False), (1000.0, True), (2000.0, True), (2001.0, False)], ids=str)
def test_a_certificate_is_good_within_its_period(now: float, good: bool) -> None:
    assert BOX.certificate.valid_at(Moment.at(now)) is good
    if good:
        certificates.check(BOX.certificate, [AUTHORITY.certificate], certificates.DEVICE, Moment.at(now))
    else:
        with pytest.raises(CertificateError, match="not valid now"):
            certificates.check(BOX.certificate, [AUTHORITY.certificate], certificates.DEVICE, Moment.at(now))


def test_an_authority_that_has_expired_vouches_for_nothing() -> None:
    old = replace(AUTHORITY.certificate, not_after=1400.0)
    with pytest.raises(CertificateError, match="no authority"):
        certificates.check(BOX.certificate, [old], certificates.DEVICE, NOW)


def test_certificates_are_found_in_pem_text() -> None:
    text = b"# mine\n" + AUTHORITY.pem() + b"\n" + BOX.pem()
    assert [each.der for each in certificates.read_all(text)] == [AUTHORITY.certificate.der, BOX.certificate.der]
    assert certificates.read_all(b"") == []
    with pytest.raises(CertificateError, match="PEM"):
        certificates.read_all(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----")


def test_random_octets_are_no_certificate() -> None:
    rng = random.Random(5)
    for _ in range(500):
        data = bytearray(BOX.certificate.der)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            certificates.check_signature(certificates.read(bytes(data)), bytes(64), b"")
        except CertificateError:
            continue
        pytest.fail("a signature of zeros was believed")
