"""Signatures: the one profile, cross-checked with OpenSSL in both directions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.updateagent.packages import BEGIN, DAY, NOW, Party, device, other_root, party, root, rsa_signer, signer
from updateagent.buildhost import signing
from updateagent.errors import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_PURPOSE,
    CERTIFICATE_REVOKED,
    CERTIFICATE_TIME,
    SIGNATURE,
    SIGNATURE_PROFILE,
    Code,
    PackageError,
)
from updateagent.package import certificate, cms, der
from updateagent.package.trust import Trust

CONTENT = b'{"software": {}}\n'
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")


def accept(signature: bytes, trust: Trust | None = None, content: bytes = CONTENT) -> int:
    signed = cms.verify(content, signature)
    (trust or device()).check_signer(signed)
    return signed.signed_at


def refused(signature: bytes, trust: Trust | None = None, content: bytes = CONTENT) -> Code:
    with pytest.raises(PackageError) as caught:
        accept(signature, trust, content)
    return caught.value.code


class OpenSsl:
    """The openssl program in a folder that holds keys and certificates of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, one in (("root", root()), ("signer", signer()), ("rsa", rsa_signer())):
            (folder / f"{name}.crt").write_bytes(signing.pem(one.x509))
            signing.write_key(folder / f"{name}.key", one.key)
        (folder / "content").write_bytes(CONTENT)

    def accepts(self, signature: bytes, content: bytes = CONTENT) -> bool:
        (self.folder / "content").write_bytes(content)
        (self.folder / "sig").write_bytes(signature)
        command = ["cms", "-verify", "-binary", "-inform", "DER", "-in", "sig", "-content", "content"]
        return self.run(*command, "-CAfile", "root.crt", "-out", "out", "-attime", str(NOW)) == 0

    def sign(self, *options: str) -> bytes:
        command = ["cms", "-sign", "-binary", "-in", "content", "-outform", "DER", "-out", "made"]
        assert self.run(*command, *options) == 0
        return (self.folder / "made").read_bytes()

    def run(self, *arguments: str) -> int:
        return subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, check=False).returncode


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSsl:
    return OpenSsl(tmp_path)


@pytest.mark.parametrize("algorithm", ["p-256", "p-384", "rsa-2048"])
def test_a_signature_by_each_kind_of_key_is_accepted(algorithm: str) -> None:
    assert accept(party("signer", root(), algorithm).cms(CONTENT)) == NOW


@pytest.mark.process
@needs_openssl
@pytest.mark.parametrize("by", [signer, rsa_signer])
def test_openssl_accepts_our_signatures(openssl: OpenSsl, by: Callable[[], Party]) -> None:
    signature = by().cms(CONTENT)
    assert openssl.accepts(signature)
    assert not openssl.accepts(signature, CONTENT + b" ")


@pytest.mark.process
@needs_openssl
@pytest.mark.parametrize("name", ["signer", "rsa"])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_signatures_made_by_openssl_are_accepted(openssl: OpenSsl, name: str, digest: str) -> None:
    signature = openssl.sign("-nosmimecap", "-signer", f"{name}.crt", "-inkey", f"{name}.key", "-md", digest)
    assert cms.verify(CONTENT, signature).signed_at > 0
    with pytest.raises(PackageError):
        cms.verify(CONTENT + b" ", signature)


@pytest.mark.process
@needs_openssl
@pytest.mark.parametrize(
    "options",
    [
        ["-nosmimecap", "-keyid"],  # the signer named by its key identifier
        [],  # S/MIME capabilities among the signed attributes
        ["-nosmimecap", "-nocerts"],
        ["-noattr"],
        ["-nosmimecap", "-nodetach"],
        ["-nosmimecap", "-md", "sha1"],
        ["-nosmimecap", "-keyopt", "rsa_padding_mode:pss"],
        ["-nosmimecap", "-signer", "signer.crt", "-inkey", "signer.key"],  # two signers
    ],
)
def test_what_openssl_can_say_beyond_the_profile_is_refused(openssl: OpenSsl, options: list[str]) -> None:
    signature = openssl.sign("-signer", "rsa.crt", "-inkey", "rsa.key", *options)
    assert refused(signature) is SIGNATURE_PROFILE


@pytest.mark.process
@needs_openssl
def test_no_changed_signature_that_openssl_refuses_is_accepted_here(openssl: OpenSsl) -> None:
    """A sample over the whole structure; whatever we accept, OpenSSL must accept too."""
    good = signer().cms(CONTENT)
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        try:
            accept(bytes(bad))
        except PackageError:
            continue
        assert openssl.accepts(bytes(bad)), f"byte {at}"


@pytest.mark.slow
def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    good = signer().cms(CONTENT)
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PackageError):
            accept(bytes(bad))


def test_every_truncated_signature_is_refused() -> None:
    good = signer().cms(CONTENT)
    for length in range(len(good)):
        assert refused(good[:length]) is SIGNATURE_PROFILE
    assert refused(good + b"\0") is SIGNATURE_PROFILE


def test_another_content_is_refused() -> None:
    assert refused(signer().cms(CONTENT), content=CONTENT + b" ") is SIGNATURE


def test_a_signature_by_another_key_than_the_certificates_is_refused() -> None:
    attributes = cms.signed_attributes(CONTENT, NOW)
    forged = cms.emit(attributes, other_root().sign(attributes), signer().certificate, (), "ecdsa")
    assert refused(forged) is SIGNATURE


def test_a_signer_of_another_root_is_refused() -> None:
    assert refused(party("signer", other_root()).cms(CONTENT)) is CERTIFICATE_CHAIN


def test_a_root_of_the_same_name_with_another_key_is_refused() -> None:
    impostor = party("root", authority=True)
    assert refused(party("signer", impostor).cms(CONTENT)) is CERTIFICATE_CHAIN
    assert refused(party("signer", impostor).cms(CONTENT, impostor)) is CERTIFICATE_CHAIN


def test_any_of_several_roots_may_vouch() -> None:
    trust = device(roots=(other_root().certificate, root().certificate))
    assert accept(signer().cms(CONTENT), trust) == NOW


def test_an_authority_between_root_and_signer_is_followed() -> None:
    middle = party("middle", root(), authority=True, path_length=0)
    leaf = party("leaf", middle)
    assert accept(leaf.cms(CONTENT, middle)) == NOW
    assert refused(leaf.cms(CONTENT)) is CERTIFICATE_CHAIN
    assert accept(leaf.cms(CONTENT, middle, root())) == NOW  # the root may come along, it is not believed for that


def test_the_length_of_the_path_that_a_root_allows_is_kept() -> None:
    narrow = party("narrow", authority=True, path_length=0)
    middle = party("middle", narrow, authority=True)
    signature = party("leaf", middle).cms(CONTENT, middle)
    assert refused(signature, device(roots=(narrow.certificate,))) is CERTIFICATE_CHAIN


def test_a_signer_may_not_certify_another_signer() -> None:
    leaf = party("leaf", signer())
    assert refused(leaf.cms(CONTENT, signer())) is CERTIFICATE_PURPOSE


def test_a_certificate_without_a_part_in_the_signature_is_refused() -> None:
    assert refused(signer().cms(CONTENT, other_root())) is CERTIFICATE_CHAIN


def test_more_certificates_than_the_limit_are_refused() -> None:
    crowd = [party(f"authority {number}", root(), authority=True) for number in range(cms.CERTIFICATES_MAX)]
    content_info = cms.emit(
        cms.signed_attributes(CONTENT, NOW), b"", signer().certificate, tuple(one.certificate for one in crowd), "ecdsa"
    )
    assert refused(content_info) is SIGNATURE_PROFILE


def test_an_authority_may_not_sign_packages_itself() -> None:
    assert refused(root().cms(CONTENT)) is CERTIFICATE_PURPOSE


def custom(issuer: Party, *extensions: tuple[x509.ExtensionType, bool]) -> Party:
    """A signer with exactly these extensions."""
    key = signing.new_key("p-256")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "custom")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.x509.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + timedelta(days=1000))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Party(builder.sign(issuer.key, hashes.SHA256()), key)


USAGE = (signing.issue("x", signing.new_key("p-256")).extensions.get_extension_for_class(x509.KeyUsage).value, True)
CODE_SIGNING = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), True)


def test_the_purpose_code_signing_is_required() -> None:
    assert accept(custom(root(), USAGE, CODE_SIGNING).cms(CONTENT)) == NOW
    web = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    assert refused(custom(root(), USAGE, web).cms(CONTENT)) is CERTIFICATE_PURPOSE
    assert refused(custom(root(), USAGE).cms(CONTENT)) is CERTIFICATE_PURPOSE


def test_the_key_usage_digital_signature_is_required() -> None:
    assert refused(custom(root(), CODE_SIGNING).cms(CONTENT)) is CERTIFICATE_PURPOSE


def test_an_unknown_critical_extension_is_refused_and_a_harmless_one_is_not() -> None:
    unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\5\0")
    assert accept(custom(root(), USAGE, CODE_SIGNING, (unknown, False)).cms(CONTENT)) == NOW
    one = custom(root(), USAGE, CODE_SIGNING, (unknown, True))
    with pytest.raises(PackageError) as caught:
        one.cms(CONTENT)
    assert caught.value.code is SIGNATURE_PROFILE


def test_a_small_rsa_key_is_refused() -> None:
    with pytest.raises(PackageError, match="size or exponent"):
        certificate.verify_signature(_public(1024), ("rsa", "sha256"), b"", b"")


def _public(bits: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import rsa

    with_small_key = rsa.generate_private_key(65537, bits).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return with_small_key.public_bytes(serialization.Encoding.DER, form)


def test_a_revoked_signer_is_refused() -> None:
    trust = device(revoked=frozenset({signer().certificate.fingerprint}))
    assert refused(signer().cms(CONTENT), trust) is CERTIFICATE_REVOKED


def test_a_revoked_root_takes_its_signers_with_it() -> None:
    trust = device(revoked=frozenset({root().certificate.fingerprint}))
    assert refused(signer().cms(CONTENT), trust) is CERTIFICATE_REVOKED


BRIEF_END = int((BEGIN + timedelta(days=30)).timestamp())
BEFORE = int(BEGIN.timestamp()) - DAY


def brief() -> bytes:
    return party("brief", root(), days=30).cms(CONTENT, signed_at=BRIEF_END - DAY)


def test_an_expired_signer_is_refused() -> None:
    assert accept(brief(), device(clock=BRIEF_END)) == BRIEF_END - DAY
    assert refused(brief(), device(clock=BRIEF_END + 1)) is CERTIFICATE_TIME


def test_a_clock_at_1970_does_not_bring_an_expired_signer_back() -> None:
    trust = device(clock=0, newest_signed=BRIEF_END + 1)
    assert refused(brief(), trust) is CERTIFICATE_TIME


@pytest.mark.parametrize("newest", [0, BEFORE, NOW])
def test_a_clock_at_1970_does_not_refuse_a_good_signer(newest: int) -> None:
    assert accept(signer().cms(CONTENT), device(clock=0, newest_signed=newest)) == NOW


def test_a_signer_that_is_not_valid_yet_is_refused_where_something_vouches_for_the_clock() -> None:
    early = BEFORE - DAY
    assert refused(signer().cms(CONTENT), device(clock=early, clock_vouched=True)) is CERTIFICATE_TIME
    for known in ("newest_signed", "built"):
        assert accept(signer().cms(CONTENT), device(clock=early, **{known: early})) == NOW


def test_a_device_that_knows_nothing_of_the_time_holds_no_start_against_a_signer() -> None:
    assert accept(signer().cms(CONTENT), device(clock=BEFORE)) == NOW


def test_what_had_expired_when_the_image_was_built_is_refused_whatever_the_clock_says() -> None:
    assert refused(brief(), device(clock=0, built=BRIEF_END + 1)) is CERTIFICATE_TIME
    assert accept(brief(), device(clock=0, built=BRIEF_END)) == BRIEF_END - DAY


def test_a_time_of_signing_outside_the_validity_of_the_signer_is_refused() -> None:
    assert refused(signer().cms(CONTENT, signed_at=BEFORE)) is CERTIFICATE_TIME
    far = int(datetime(2060, 1, 1, tzinfo=UTC).timestamp())
    assert refused(signer().cms(CONTENT, signed_at=far)) is CERTIFICATE_TIME


def test_a_certificate_is_read_as_the_library_reads_it() -> None:
    for one in (root(), signer(), rsa_signer()):
        ours, theirs = one.certificate, one.x509
        assert ours.serial == theirs.serial_number
        assert ours.subject == theirs.subject.public_bytes()
        assert ours.issuer == theirs.issuer.public_bytes()
        assert ours.not_before == BEGIN.timestamp()
        assert ours.signed_part == theirs.tbs_certificate_bytes
        assert ours.signature == theirs.signature
        assert ours.fingerprint == theirs.fingerprint(hashes.SHA256()).hex()
        constraints = theirs.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (ours.is_authority, ours.path_length) == (constraints.ca, constraints.path_length)


def as_the_library_reads(data: bytes) -> tuple[object, ...]:
    """The fields that take part in a decision, by `cryptography.x509`."""
    theirs = x509.load_der_x509_certificate(data)
    extensions = {extension.oid: extension.value for extension in theirs.extensions}
    constraints = extensions.get(x509.BasicConstraints.oid)
    usage = extensions.get(x509.KeyUsage.oid)
    purposes = extensions.get(x509.ExtendedKeyUsage.oid)
    assert constraints is None or isinstance(constraints, x509.BasicConstraints)
    assert usage is None or isinstance(usage, x509.KeyUsage)
    assert purposes is None or isinstance(purposes, x509.ExtendedKeyUsage)
    begin = getattr(theirs, "not_valid_before_utc", None) or theirs.not_valid_before.replace(tzinfo=UTC)
    end = getattr(theirs, "not_valid_after_utc", None) or theirs.not_valid_after.replace(tzinfo=UTC)
    return (
        theirs.serial_number,
        theirs.issuer.public_bytes(),
        theirs.subject.public_bytes(),
        begin.timestamp(),
        end.timestamp(),
        constraints is not None and constraints.ca,
        constraints.path_length if constraints is not None else None,
        usage is not None and usage.digital_signature,
        usage is not None and usage.key_cert_sign,
        None if purposes is None else tuple(der.oid(purpose.dotted_string) for purpose in purposes),
    )


def as_we_read(ours: certificate.Certificate) -> tuple[object, ...]:
    return (
        ours.serial,
        ours.issuer,
        ours.subject,
        ours.not_before,
        ours.not_after,
        ours.is_authority,
        ours.path_length,
        ours.may(certificate.DIGITAL_SIGNATURE),
        ours.may(certificate.KEY_CERT_SIGN),
        ours.purposes,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("one", [root, signer, rsa_signer])
def test_a_changed_certificate_is_refused_or_read_as_the_library_reads_it(one: Callable[[], Party]) -> None:
    good = one().certificate.der
    agreed = refusals = 0
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            ours = certificate.parse(bytes(bad))
        except PackageError:
            refusals += 1
            continue
        try:
            theirs = as_the_library_reads(bytes(bad))
        except (ValueError, KeyError):  # KeyError: version 38
            continue  # what we keep as bytes, the library also interprets: names, key identifiers, the key
        assert as_we_read(ours) == theirs
        agreed += 1
    assert agreed > 500
    assert refusals > 500


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "30",
        "3080",  # indefinite length
        "308100",  # a long form for a short length
        "30820001",  # leading zero in the length
        "308401000000",  # longer than any structure here
        "3003020100",  # no SEQUENCE inside
        "3005",
    ],
)
def test_der_that_is_not_der_is_refused(raw: str) -> None:
    assert refused(bytes.fromhex(raw)) is SIGNATURE_PROFILE


@pytest.mark.parametrize("content", ["", "80", "0001", "ff", "0000"])
def test_an_integer_not_in_its_shortest_form_or_negative_is_refused(content: str) -> None:
    raw = der.tlv(der.INTEGER, bytes.fromhex(content))
    with pytest.raises(PackageError):
        der.Cursor(raw, "test").integer()


@pytest.mark.parametrize("number", [0, 1, 127, 128, 255, 256, 2**64])
def test_an_integer_is_read_as_written(number: int) -> None:
    assert der.Cursor(der.integer(number), "test").integer() == number


@pytest.mark.parametrize("moment", [(1970, 1, 1), (1999, 12, 31), (2026, 2, 28), (2049, 12, 31), (2050, 1, 1)])
def test_a_time_is_read_as_written(moment: tuple[int, int, int]) -> None:
    seconds = int(datetime(*moment, 23, 59, 58, tzinfo=UTC).timestamp())
    assert der.Cursor(der.utc_time(seconds), "test").time() == seconds


@pytest.mark.parametrize(
    "text", ["2602302359", "260230235959Z", "2601012359Z", "260101235959+0100", "26010123595 Z", ""]
)
def test_a_time_that_no_clock_shows_is_refused(text: str) -> None:
    with pytest.raises(PackageError):
        der.Cursor(der.tlv(der.UTC_TIME, text.encode()), "test").time()
