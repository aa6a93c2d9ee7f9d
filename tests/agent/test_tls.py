"""Why TLS was refused: real certificates of every kind, shown by a real server."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.clock_floor import SKEW_S, CertificateTime
from agent.https import HttpsClient, HttpsRefused
from agent.tls import Fault, TlsError, by_system_clock, client_context, explain, parse
from tests.agent.certificates import DAY, Made, TlsServer, authority, weak_key

pytestmark = pytest.mark.process

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00Z
YEARS = (NOW - 500 * DAY, NOW + 500 * DAY)
PAST = (NOW - 500 * DAY, NOW - 1)
FUTURE = (NOW + SKEW_S + 1, NOW + 500 * DAY)


class Bench:
    """One authority that a client knows, and a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = authority(YEARS)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.ca_pem())
        self.moment = CertificateTime(NOW - DAY, NOW)
        self.verdicts: list[Fault | None] = []
        self.server = TlsServer(folder, self.authority.issue(YEARS))

    def ask(self, shown: Made | None = None, *, host: str = "127.0.0.1") -> HttpsRefused | None:
        """Ask the server, which shows this certificate; return why not."""
        if shown is not None:
            self.server.show(shown)
        client = HttpsClient(self.ca, certificate_time=lambda: self.moment, on_verdict=self.verdicts.append)
        try:
            client.request("GET", f"https://{host}:{self.server.port}/x")
        except HttpsRefused as error:
            return error
        return None

    def refused(self, shown: Made | None = None, **how: str) -> tuple[Fault | None, str]:
        """Ask, and see that nothing was sent; return what was wrong, and the sentence without the address."""
        before = self.server.requests
        found = self.ask(shown, **how)
        assert found is not None
        assert self.server.requests == before
        return found.fault, str(found).partition("TLS: ")[2]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.server.close()


def test_a_valid_certificate_is_taken(bench: Bench) -> None:
    assert bench.ask() is None
    assert bench.verdicts == [None]


def test_an_expired_certificate_is_named_with_both_times(bench: Bench) -> None:
    assert bench.refused(bench.authority.issue(PAST)) == (
        Fault.EXPIRED,
        "the server's certificate expired at 2027-01-15 07:59:59Z; here it is 2027-01-15 08:00:00Z",
    )
    assert bench.verdicts == [Fault.EXPIRED]


def test_a_certificate_that_is_not_yet_valid_is_named_with_both_times(bench: Bench) -> None:
    assert bench.refused(bench.authority.issue(FUTURE)) == (
        Fault.NOT_YET_VALID,
        "the server's certificate is not valid before 2027-01-15 08:05:01Z; here it is 2027-01-15 08:00:00Z",
    )


def test_a_certificate_made_just_now_by_a_clock_slightly_ahead_is_taken(bench: Bench) -> None:
    assert bench.ask(bench.authority.issue((NOW + SKEW_S, NOW + DAY))) is None


@pytest.mark.parametrize(("valid", "fault"), [(PAST, Fault.EXPIRED), (FUTURE, Fault.NOT_YET_VALID)])
def test_an_intermediate_certificate_has_its_time_too(bench: Bench, valid: tuple[float, float], fault: Fault) -> None:
    between = bench.authority.issue(valid, name="Between", authority=True)
    found, text = bench.refused(between.issue(YEARS))
    assert found is fault
    assert text.startswith("an intermediate certificate ")
    good = bench.authority.issue(YEARS, name="Between", authority=True)
    assert bench.ask(good.issue(YEARS)) is None


def test_an_expired_authority_is_named(bench: Bench) -> None:
    old = authority(PAST)
    bench.ca.write_bytes(old.ca_pem())
    found, text = bench.refused(old.issue(YEARS))
    assert (found, text.partition(" expired")[0]) == (Fault.EXPIRED, "the authority's certificate")


@pytest.mark.parametrize("old_first", [True, False])
def test_an_authority_whose_certificate_was_renewed_is_as_valid_as_the_new_one(bench: Bench, old_first: bool) -> None:
    old = authority(PAST)
    new = authority(YEARS, old.key)
    both = [old.ca_pem(), new.ca_pem()]
    bench.ca.write_bytes(b"".join(both if old_first else both[::-1]))
    assert bench.ask(old.issue(YEARS)) is None


def test_an_authority_below_another_one_is_believed_by_itself(bench: Bench) -> None:
    below = authority(PAST).issue(YEARS, name="Below", authority=True)
    bench.ca.write_bytes(below.ca_pem())
    assert bench.ask(below.issue(YEARS)) is None


@pytest.mark.parametrize("name", ["headend.example", "127.0.0.2"])
def test_a_certificate_for_another_name_is_named(bench: Bench, name: str) -> None:
    assert bench.refused(bench.authority.issue(YEARS, name=name)) == (
        Fault.WRONG_NAME,
        "the server's certificate is not for 127.0.0.1",
    )
    assert bench.refused(host="localhost") == (Fault.WRONG_NAME, "the server's certificate is not for localhost")


def test_an_unknown_issuer_is_named(bench: Bench) -> None:
    stranger = authority(YEARS, name="Stranger")
    wanted = (Fault.UNKNOWN_ISSUER, "the server's certificate is not from an authority that this device knows")
    for shown in (
        stranger.issue(YEARS),
        stranger,
        authority(YEARS).issue(YEARS, authority=True, name="B").issue(YEARS),
    ):
        found, text = bench.refused(shown)
        assert (found, text.partition(" (")[0]) == wanted


def test_another_authority_of_the_same_name_is_not_taken_for_ours(bench: Bench) -> None:
    assert bench.refused(authority(YEARS).issue(YEARS))[0] is Fault.UNKNOWN_ISSUER


def test_a_revoked_certificate_is_named_where_there_is_a_list(bench: Bench) -> None:
    bad, good = bench.authority.issue(YEARS), bench.authority.issue(YEARS)
    bench.ca.write_bytes(bench.authority.ca_pem() + bench.authority.revocation_list(bad))
    found, text = bench.refused(bad)
    assert (found, text.partition(" (")[0]) == (Fault.REVOKED, "the server's certificate is revoked")
    assert bench.ask(good) is None


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda ca: ca.issue(YEARS, key=weak_key()), Fault.WEAK),
        (lambda ca: ca.issue(YEARS, purpose=ExtendedKeyUsageOID.CLIENT_AUTH), Fault.BAD_CERTIFICATE),
        (
            lambda ca: ca.issue(YEARS, name="No CA", authority=True, claims_authority=False).issue(YEARS),
            Fault.BAD_CERTIFICATE,
        ),
    ],
)
def test_a_certificate_that_is_of_no_use_is_named(bench: Bench, make: Callable[[Made], Made], fault: Fault) -> None:
    found, text = bench.refused(make(bench.authority))
    assert (found, text.endswith(")")) == (fault, True)


def test_a_server_that_speaks_no_tls_is_named(bench: Bench) -> None:
    bench.server.plain = True
    found, text = bench.refused()
    assert (found, text.partition(" (")[0]) == (Fault.NO_TLS, "what answers there is not TLS")


def test_a_server_without_a_common_cipher_is_named(bench: Bench) -> None:
    bench.server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    bench.server.context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # its certificate has an elliptic key
    found, text = bench.refused()
    assert (found, text.partition(" (")[0]) == (
        Fault.NO_COMMON_GROUND,
        "no TLS version or cipher in common with the server",
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_certificate_of_ours_is_named(bench: Bench, version: ssl.TLSVersion) -> None:
    bench.server.context.maximum_version = version
    bench.server.context.verify_mode = ssl.CERT_REQUIRED
    bench.server.context.load_verify_locations(bench.ca)
    found = bench.ask()
    assert found is not None
    assert found.fault in (Fault.OWN_CERTIFICATE, Fault.NO_COMMON_GROUND)  # 1.2 says handshake_failure


# --- a clock that nothing vouches for ---


def test_without_a_believed_clock_only_what_has_certainly_expired_is_refused(bench: Bench) -> None:
    bench.moment = CertificateTime(NOW, None)
    assert bench.ask(bench.authority.issue((NOW + DAY, NOW + 2 * DAY))) is None  # issued since, for all we know
    assert bench.ask(bench.authority.issue((NOW - 2 * DAY, NOW))) is None
    assert bench.refused(bench.authority.issue(PAST)) == (
        Fault.EXPIRED,
        "the server's certificate expired at 2027-01-15 07:59:59Z; it cannot be before 2027-01-15 08:00:00Z",
    )


def test_an_intermediate_that_has_certainly_expired_is_refused_without_a_believed_clock(bench: Bench) -> None:
    bench.moment = CertificateTime(NOW, None)
    between = bench.authority.issue(PAST, name="Between", authority=True)
    assert bench.refused(between.issue(YEARS))[0] is Fault.EXPIRED


def test_a_name_and_an_issuer_are_checked_whatever_the_clock(bench: Bench) -> None:
    bench.moment = CertificateTime(0.0, None)
    assert bench.refused(bench.authority.issue(YEARS, name="headend.example"))[0] is Fault.WRONG_NAME
    assert bench.refused(authority(YEARS, name="Stranger").issue(YEARS))[0] is Fault.UNKNOWN_ISSUER


# --- parts ---


def test_a_chain_is_never_empty(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(authority(YEARS).ca_pem())
    with pytest.raises(TlsError) as caught:
        client_context(tmp_path / "ca.pem").judge([])
    assert caught.value.fault is Fault.BAD_CERTIFICATE


@pytest.mark.parametrize("data", [b"", b"\x30\x03\x02\x01\x00", b"\x30\x80\x00\x00", bytes(100)])
def test_a_certificate_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(TlsError) as caught:
        parse(data)
    assert caught.value.fault is Fault.BAD_CERTIFICATE


def test_an_error_without_a_name_keeps_its_text() -> None:
    found = explain(ssl.SSLError("something new"))
    assert (found.fault, "something new" in str(found)) == (Fault.OTHER, True)


def test_tools_take_the_machine_s_clock_as_it_is() -> None:
    moment = by_system_clock()
    assert moment.now == moment.least > NOW - 1000 * DAY
