"""Rotation of roots and revocation: M of N, one version at a time, never backwards."""

from __future__ import annotations

import functools
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.updateagent.package.buffer import Buffer
from tests.updateagent.packages import DAY, NOW, Party, Workshop, device, party, release, signer
from updateagent.buildhost import assemble, pack, signing
from updateagent.errors import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_REVOKED,
    CERTIFICATE_TIME,
    FORMAT,
    LIMIT,
    ROOTS,
    Code,
    PackageError,
    UpdateError,
)
from updateagent.package import cms, roots
from updateagent.package.manifest import verify_package
from updateagent.package.trust import Trust


@functools.cache
def authority(name: str, algorithm: str = "p-256") -> Party:
    return party(name, authority=True, algorithm=algorithm, days=7000)


A, B, C, D = (authority(name) for name in "ABCD")


def trust_in(*believed: Party, **options: Any) -> Trust:
    return device(roots=tuple(one.certificate for one in believed), **options)


def listed(
    version: int,
    threshold: int,
    of: tuple[Party, ...],
    by: tuple[Party, ...],
    revoked: tuple[str, ...] = (),
    issued: int = NOW,
) -> bytes:
    made = roots.make(version, threshold, issued, [one.certificate for one in of], revoked)
    for one in by:
        made = roots.with_signature(made, one.certificate, one.sign(made.text))
    return roots.emit(made)


def refused(trust: Trust, *envelopes: bytes) -> Code:
    with pytest.raises(UpdateError) as caught:
        roots.accept(trust, envelopes)
    return caught.value.code


def test_a_list_signed_by_enough_old_and_new_roots_is_followed() -> None:
    envelope = listed(1, 2, (B, C, D), (A, B, C))
    after, newest = roots.accept(trust_in(A, B, C), [envelope])
    assert [root.fingerprint for root in after.roots] == [one.certificate.fingerprint for one in (B, C, D)]
    assert (after.root_version, after.root_threshold) == (1, 2)
    assert newest is not None
    assert roots.emit(newest) == envelope


def test_the_roots_of_the_pem_file_need_a_majority() -> None:
    assert refused(trust_in(A, B, C), listed(1, 1, (D,), (A, D))) is ROOTS
    roots.accept(trust_in(A, B, C), [listed(1, 1, (D,), (A, B, D))])
    roots.accept(trust_in(A), [listed(1, 1, (D,), (A, D))])


def test_the_new_roots_must_sign_too() -> None:
    assert refused(trust_in(A), listed(1, 2, (C, D), (A, C))) is ROOTS
    roots.accept(trust_in(A), [listed(1, 2, (C, D), (A, C, D))])


def test_the_threshold_of_the_list_before_counts() -> None:
    first = listed(1, 3, (A, B, C), (A, B, C))
    assert refused(trust_in(A), first, listed(2, 1, (D,), (A, B, D))) is ROOTS
    roots.accept(trust_in(A), [first, listed(2, 1, (D,), (A, B, C, D))])


def test_one_root_does_not_count_twice() -> None:
    again = signing.parsed(signing.issue("A again", A.key, authority=True, days=100))
    made = roots.make(1, 1, NOW, [D.certificate])
    for one in (A.certificate, again):
        made = roots.with_signature(made, one, A.sign(made.text))
    made = roots.with_signature(made, D.certificate, D.sign(made.text))
    believing = device(roots=(A.certificate, again, B.certificate))
    assert refused(believing, roots.emit(made)) is ROOTS
    with pytest.raises(PackageError):
        roots.make(1, 2, NOW, [A.certificate, again])


def test_versions_are_followed_one_at_a_time_and_never_backwards() -> None:
    one, two, three = (listed(version, 1, (A,), (A,)) for version in (1, 2, 3))
    after, newest = roots.accept(trust_in(A), [one, two, three])
    assert after.root_version == 3
    assert newest is not None
    assert newest.version == 3
    assert refused(trust_in(A), two) is ROOTS
    assert refused(trust_in(A), one, three) is ROOTS
    assert roots.accept(after, [one, two, three]) == (after, None)


def test_revocations_add_up() -> None:
    gone, other = "ab" * 32, "cd" * 32
    after, _ = roots.accept(trust_in(A, revoked=frozenset({other})), [listed(1, 1, (A,), (A,), (gone,))])
    assert after.revoked == {gone, other}
    later, _ = roots.accept(after, [listed(2, 1, (A,), (A,))])
    assert later.revoked == {gone, other}


def test_a_revoked_root_signs_no_list() -> None:
    gone = A.certificate.fingerprint
    first = listed(1, 1, (A, B), (A, B), (gone,))
    after, _ = roots.accept(trust_in(A), [first])
    assert refused(after, listed(2, 1, (D,), (A, D))) is ROOTS
    assert refused(trust_in(A), listed(1, 1, (A,), (A,), (gone,))) is ROOTS
    roots.accept(after, [listed(2, 1, (D,), (B, D))])


@pytest.mark.parametrize("clock", [0, NOW, NOW + 10 * 365 * DAY])
def test_the_time_of_a_list_moves_nothing(clock: int) -> None:
    here = trust_in(A, clock=clock)
    after, _ = roots.accept(here, [listed(1, 1, (A,), (A,), issued=NOW + 10 * 365 * DAY)])
    assert (after.least, after.newest_signed) == (here.least, 0)


def test_a_list_of_the_future_is_refused_where_something_vouches_for_the_clock() -> None:
    here = trust_in(A, clock_vouched=True)
    assert refused(here, listed(1, 1, (A,), (A,), issued=NOW + DAY + 1)) is ROOTS
    roots.accept(here, [listed(1, 1, (A,), (A,), issued=NOW + DAY)])


def test_a_key_of_which_one_certificate_was_revoked_signs_no_list() -> None:
    again = signing.parsed(signing.issue("A again", A.key, authority=True, days=100))
    here = device(roots=(A.certificate, again, B.certificate), revoked=frozenset({again.fingerprint}))
    assert refused(here, listed(1, 1, (D,), (A, D))) is ROOTS


@pytest.mark.parametrize("algorithm", ["p-384", "rsa-2048"])
def test_roots_of_each_kind_of_key_sign_lists(algorithm: str) -> None:
    other = authority(f"of {algorithm}", algorithm)
    after, _ = roots.accept(trust_in(A), [listed(1, 1, (other,), (A, other))])
    assert after.roots == (other.certificate,)


def test_a_list_is_kept_and_believed_again() -> None:
    after, newest = roots.accept(trust_in(A), [listed(1, 2, (B, C), (A, B, C))])
    assert newest is not None
    kept = roots.emit(newest)
    assert roots.apply_roots(trust_in(A), roots.parse(kept)) == after
    with pytest.raises(PackageError):
        roots.apply_roots(trust_in(A), roots.parse(listed(1, 2, (B, C), (A, B))))


def test_a_signature_that_does_not_fit_is_not_added() -> None:
    made = roots.make(1, 1, NOW, [A.certificate])
    with pytest.raises(PackageError):
        roots.with_signature(made, A.certificate, B.sign(made.text))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("version", -1),
        ("version", 10**9),
        ("threshold", 0),
        ("threshold", 2),
        ("roots", []),
        ("roots", ["!"]),
        ("roots", ["AAAA"]),
        ("revoked", ["x"]),
        ("revoked", ["ab" * 32] * 257),
        ("issued", "now"),
        ("extra", 1),
    ],
)
def test_a_list_without_sense_is_refused(key: str, value: object) -> None:
    said = json.loads(roots.make(1, 1, NOW, [A.certificate]).text)
    said[key] = value
    envelope = json.dumps({"signed": json.dumps(said), "signatures": {}}, indent=1) + "\n"
    assert refused(trust_in(A), envelope.encode()) is ROOTS


def test_a_root_that_is_not_an_authority_is_refused() -> None:
    with pytest.raises(PackageError):
        roots.make(1, 1, NOW, [signer().certificate])


@pytest.mark.slow
def test_changed_bytes_are_refused_whatever_they_are() -> None:
    good = listed(1, 2, (B, C), (A, B, C))
    chance = random.Random(7)
    for _ in range(600):
        bad = bytearray(good)
        at = chance.randrange(len(bad))
        bad[at] ^= 1 << chance.randrange(8)
        assert refused(trust_in(A), bytes(bad)) is ROOTS
    for length in range(0, len(good), 50):
        assert refused(trust_in(A), good[:length]) is ROOTS


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def package(shop: Workshop, lists: list[bytes], by: Party) -> bytes:
    prepared = [assemble.prepare(shop.image("rootfs", b"image"), 0, shop.folder)]
    text = assemble.describe(release(), prepared)
    out = io.BytesIO()
    assemble.write(out, text, by.cms(text), prepared, [roots.parse(one) for one in lists])
    return out.getvalue()


def test_a_package_brings_the_roots_that_its_own_signer_needs(shop: Workshop) -> None:
    lists = [listed(1, 1, (C,), (A, C)), listed(2, 1, (D,), (C, D))]
    made = package(shop, lists, party("signer of D", D))
    said = verify_package(Buffer(made), trust_in(A))
    assert said.new_roots == lists[1]
    again = roots.apply_roots(trust_in(A), roots.parse(lists[1]))
    assert verify_package(Buffer(made), again).new_roots is None
    with pytest.raises(UpdateError) as caught:
        verify_package(Buffer(package(shop, [], party("signer of D", D))), trust_in(A))
    assert caught.value.code is CERTIFICATE_CHAIN


def test_a_package_that_takes_its_own_signer_back_is_refused(shop: Workshop) -> None:
    mine = party("signer of A", A)
    made = package(shop, [listed(1, 1, (A,), (A,), (mine.certificate.fingerprint,))], mine)
    with pytest.raises(UpdateError) as caught:
        verify_package(Buffer(made), trust_in(A))
    assert caught.value.code is CERTIFICATE_REVOKED


def test_roots_forged_by_a_signer_of_packages_are_refused(shop: Workshop) -> None:
    mine = party("signer of A", A)
    made = package(shop, [listed(1, 1, (D,), (D,))], mine)
    with pytest.raises(UpdateError) as caught:
        verify_package(Buffer(made), trust_in(A))
    assert caught.value.code is ROOTS


def test_a_list_under_another_name_is_refused(shop: Workshop) -> None:
    made = package(shop, [listed(1, 1, (A,), (A,))], party("signer of A", A))
    assert b"roots-1.json" in made
    with pytest.raises(UpdateError) as caught:
        verify_package(Buffer(made.replace(b"roots-1.json", b"roots-2.json")), trust_in(A))
    assert caught.value.code is FORMAT


def test_the_same_list_twice_is_refused(shop: Workshop) -> None:
    lists = [listed(1, 1, (A,), (A,))] * 2
    with pytest.raises(UpdateError) as caught:
        verify_package(Buffer(package(shop, lists, party("signer of A", A))), trust_in(A))
    assert caught.value.code is FORMAT


def test_more_lists_than_the_limit_are_refused(shop: Workshop) -> None:
    lists = [listed(version, 1, (A,), (A,)) for version in range(1, roots.LISTS_MAX + 2)]
    with pytest.raises(UpdateError) as caught:
        verify_package(Buffer(package(shop, lists, party("signer of A", A))), trust_in(A))
    assert caught.value.code is LIMIT


def test_the_lists_of_a_package_survive_another_signature(shop: Workshop) -> None:
    path = shop.folder / "p.swu"
    path.write_bytes(package(shop, [listed(1, 1, (A,), (A,))], party("one", A)))
    text = assemble.read_description(path)
    out = io.BytesIO()
    assemble.sign_again(path, out, party("two", A).cms(text))
    assert verify_package(Buffer(out.getvalue()), trust_in(A)).new_roots is not None


def run(*arguments: object) -> str:
    done = CliRunner().invoke(pack.cli, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_dcu_pack_makes_signs_and_shows_a_list(tmp_path: Path) -> None:
    for name, one in (("a", A), ("b", B), ("c", C), ("signer", signer())):
        (tmp_path / f"{name}.crt").write_bytes(signing.pem(one.x509))
        signing.write_key(tmp_path / f"{name}.key", one.key)
    (tmp_path / "now.pem").write_bytes(signing.pem(A.x509))
    out = tmp_path / "roots-1.json"
    crt = {name: tmp_path / f"{name}.crt" for name in ("a", "b", "c", "signer")}
    said = ("--version", 1, "--threshold", 2, "--issued", NOW, "--revoke", crt["signer"], "--revoke", "ab" * 32)
    run("roots", "new", *said, "--clock", NOW, "--root", crt["b"], "--root", crt["c"], "-o", out)
    run("roots", "sign", out, "--cert", crt["a"], "--key", tmp_path / "a.key")
    run("roots", "sign", out, "--cert", crt["b"], "--key", tmp_path / "b.key")
    with pytest.raises(PackageError, match="fewer than 2 of its own"):
        run("roots", "show", out, "--clock", NOW, "--from", tmp_path / "now.pem")
    run("roots", "sign", out, "--cert", crt["c"], "--to-sign", tmp_path / "bytes")
    (tmp_path / "answer").write_bytes(C.sign((tmp_path / "bytes").read_bytes()))
    run("roots", "sign", out, "--cert", crt["c"], "--signature", tmp_path / "answer")
    shown = run("roots", "show", out, "--clock", NOW, "--from", tmp_path / "now.pem")
    assert "devices will follow" in shown
    assert shown.count("signed") >= 2
    assert f"revoked {signer().certificate.fingerprint}" in shown
    after, _ = roots.accept(trust_in(A), [out.read_bytes()])
    assert "ab" * 32 in after.revoked
    (tmp_path / "image").write_bytes(b"image")
    os.utime(tmp_path / "image", (NOW, NOW))
    (tmp_path / "b-signer.crt").write_bytes(signing.pem((one := party("signer of B", B)).x509))
    signing.write_key(tmp_path / "b-signer.key", one.key)
    arguments = (
        "--key",
        tmp_path / "b-signer.key",
        "--cert",
        tmp_path / "b-signer.crt",
        "--roots",
        out,
        "--clock",
        NOW,
    )
    about = ("--version", 2, "--security-version", 2, "--compatible", "dcu-a1", "--image", f"rootfs={tmp_path}/image")
    run("build", *arguments, *about, "-o", tmp_path / "p.swu")
    assert verify_package(tmp_path / "p.swu", trust_in(A)).new_roots == out.read_bytes()


def test_a_root_that_came_with_a_list_expires_like_any_other() -> None:
    brief = party("brief", authority=True, days=30)
    after, _ = roots.accept(trust_in(A), [listed(1, 1, (brief,), (A, brief))])
    with pytest.raises(UpdateError) as caught:
        after.check_signer(cms.verify(b"x", party("leaf", brief).cms(b"x")))
    assert caught.value.code is CERTIFICATE_TIME
