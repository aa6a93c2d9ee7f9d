"""Which time decides about a signer, which path; and that no package decides about those that come after it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.updateagent.packages import BEGIN, NOW, Party, device, other_root, party, root
from updateagent.buildhost import signing
from updateagent.errors import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_PURPOSE,
    CERTIFICATE_REVOKED,
    CERTIFICATE_TIME,
    Code,
    PackageError,
)
from updateagent.package import certificate, cms, trust
from updateagent.package.cms import SignedContent
from updateagent.package.trust import Trust

CONTENT = b"what is signed"


def at(year: int, month: int, day: int = 1) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


# --- the time ---

TODAY = NOW  # 2026-09-01: what the time really is
BUILT = {"unknown": 0, "known": at(2026, 6)}
NEWEST = {"none": 0, "real": at(2026, 8, 22), "2036": at(2036, 3)}
CLOCK = {"1970": 0, "behind": at(2026, 6, 2), "right": TODAY, "ahead": at(2036, 9)}  # behind: since the image's build
SIGNERS = {
    # begin, end, signed at
    "old": (at(2024, 1), at(2026, 1), at(2025, 6)),  # had expired when the image was built
    "expired": (at(2025, 1), at(2026, 7), at(2026, 6, 20)),  # has expired since
    "valid": (at(2026, 3), at(2027, 12), TODAY - trust.AHEAD_S),
    "new": (at(2026, 8, 15), at(2027, 12), TODAY - trust.AHEAD_S),  # valid since a time that is after the build
    "2036": (at(2026, 3), at(2046, 3), at(2036, 3)),  # a valid signer, but the clock of the build host was wrong
    "future": (at(2031, 1), at(2033, 1), at(2032, 1)),  # a signer that is not valid yet
}
GOOD = ("valid", "new")
OUTCOMES = {"expired at": "e", "is not valid before": "n", "in the future": "f"}

# Rows: the clock, and whether something vouches for it. Columns: in the order of SIGNERS. + accepted, e refused since
# it has expired, n since it is not valid yet, f since it was signed in the future.
TABLE = """
                 built unknown             built known
newest:          none    real    2036      none    real    2036
1970             ++++++  ee++++  eeee+e    e+++++  ee++++  eeee+e
behind           e+++++  ee++++  eeee+e    e+++++  ee++++  eeee+e
right            ee++++  ee++++  eeee+e    ee++++  ee++++  eeee+e
ahead            eeee+e  eeee+e  eeee+e    eeee+e  eeee+e  eeee+e
1970 vouched     nnnnnn  nnnnnn  nnnnnn    e+++++  ee++++  eeee+e
behind vouched   effnfn  effnfn  effnfn    effnfn  effnfn  effnfn
right vouched    ee++fn  ee++fn  ee++fn    ee++fn  ee++fn  ee++fn
ahead vouched    eeee+e  eeee+e  eeee+e    eeee+e  eeee+e  eeee+e
"""


@functools.cache
def old_root() -> Party:
    return party("root of all", authority=True, begin=datetime(2020, 1, 1, tzinfo=UTC), days=50 * 365)


@functools.cache
def signed(name: str) -> SignedContent:
    begin, end, signed_at = SIGNERS[name]
    made = party(name, old_root(), begin=datetime.fromtimestamp(begin, UTC), days=(end - begin) // 86_400)
    return cms.verify(CONTENT, made.cms(CONTENT, signed_at=signed_at))


def knowing(clock: str, newest: int, built: str) -> Trust:
    name, _, vouched = clock.partition(" ")
    return device(
        roots=(old_root().certificate,),
        clock=CLOCK[name],
        clock_vouched=bool(vouched),
        newest_signed=newest,
        built=BUILT[built],
    )


def refusal(here: Trust, name: str) -> PackageError | None:
    try:
        here.check_signer(signed(name))
    except PackageError as error:
        return error
    return None


def outcome(here: Trust, name: str) -> str:
    error = refusal(here, name)
    if error is None:
        return "+"
    assert error.code is CERTIFICATE_TIME
    (found,) = (letter for words, letter in OUTCOMES.items() if words in error.message)
    return found


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Clock, build, newest time, what is written in the table."""
    columns = list(itertools.product(BUILT, NEWEST))
    for line in TABLE.strip().splitlines()[2:]:
        for (built, newest), cell in zip(columns, line[17:].split(), strict=True):
            yield line[:17].strip(), built, newest, cell


@pytest.mark.parametrize(("clock", "built", "newest", "wanted"), list(rows()))
def test_the_table_of_times(clock: str, built: str, newest: str, wanted: str) -> None:
    here = knowing(clock, NEWEST[newest], built)
    assert "".join(outcome(here, name) for name in SIGNERS) == wanted


def test_the_table_has_every_combination() -> None:
    clocks = [f"{clock}{vouched}" for vouched in ("", " vouched") for clock in CLOCK]
    assert [row[:3] for row in rows()] == list(itertools.product(clocks, BUILT, NEWEST))
    assert {len(row[3]) for row in rows()} == {len(SIGNERS)}


def kept(here: Trust, name: str) -> int:
    """The newest signing time after this package, as the journal has it."""
    return max(here.newest_signed, here.confirmed(signed(name).signed_at))


def test_no_accepted_package_makes_a_later_good_one_refused() -> None:
    """Whatever was accepted, with whatever clock: what is good is taken as before, unless both the signature and the
    clock that was vouched for lied, and then as soon as a clock is vouched for that does not."""
    accepted = 0
    for clock, built, newest, cell in rows():
        if newest == "2036":
            continue  # how a device came to that is what the rest is about
        here = knowing(clock, NEWEST[newest], built)
        for name in (name for name, letter in zip(SIGNERS, cell, strict=True) if letter == "+"):
            accepted += 1
            after = kept(here, name)
            later = ["right vouched"]
            if clock != "ahead vouched":
                assert after <= TODAY
                later += ["1970", "behind", "right"]
            for then, good in itertools.product(later, GOOD):
                assert outcome(knowing(then, after, built), good) == "+", (clock, built, newest, name, then)
    assert accepted > 60


def test_a_signing_time_counts_as_far_as_a_clock_that_is_vouched_for_confirms_it() -> None:
    assert kept(knowing("right vouched", 0, "known"), "valid") == signed("valid").signed_at
    assert kept(knowing("right", 0, "known"), "valid") == 0
    assert kept(knowing("1970 vouched", 0, "known"), "valid") == 0  # no clock is right that is before the build
    assert device(clock=NOW, clock_vouched=True).confirmed(NOW + 5) == NOW


def test_what_was_signed_after_an_authority_had_expired_is_refused_whatever_the_clock_says() -> None:
    brief = party("brief", authority=True, days=100)
    late = cms.verify(CONTENT, party("leaf", brief).cms(CONTENT))
    with pytest.raises(PackageError, match="when the package was signed"):
        device(clock=0, roots=(brief.certificate,)).check_signer(late)


@pytest.mark.parametrize("ahead_s", [0, trust.AHEAD_S])
def test_clocks_of_build_hosts_may_differ_by_a_day(ahead_s: int) -> None:
    leaf = party("leaf", root())
    fresh = cms.verify(CONTENT, leaf.cms(CONTENT, signed_at=NOW))
    here = device(clock=NOW - ahead_s, clock_vouched=True)
    here.check_signer(fresh)
    with pytest.raises(PackageError, match="in the future"):
        replace(here, clock=NOW - trust.AHEAD_S - 1).check_signer(fresh)
    new = Party(renewed(leaf, root(), begin=datetime.fromtimestamp(NOW, UTC)).x509, leaf.key)
    here.check_signer(cms.verify(CONTENT, new.cms(CONTENT)))


# --- paths ---


def renewed(one: Party, issuer: Party | None = None, **options: Any) -> Party:
    """Another certificate of the same name and key, by `issuer` or by itself."""
    options.setdefault("begin", BEGIN)
    if issuer is not None:
        options.update(issuer=issuer.x509, issuer_key=issuer.key)
    subject = one.x509.subject.rfc4514_string().removeprefix("CN=")
    return Party(signing.issue(subject, one.key, **options), one.key)


def check(here: Trust, leaf: Party, *along: Party) -> None:
    here.check_signer(cms.verify(CONTENT, leaf.cms(CONTENT, *along)))


def refused(here: Trust, leaf: Party, *along: Party) -> Code:
    with pytest.raises(PackageError) as caught:
        check(here, leaf, *along)
    return caught.value.code


def in_any_order(*roots: Party, **options: Any) -> Iterator[Trust]:
    for order in itertools.permutations(roots):
        yield device(roots=tuple(one.certificate for one in order), **options)


def test_a_root_that_was_renewed_vouches_in_whatever_order_the_file_has_them() -> None:
    brief = party("old", authority=True, days=100)
    narrow = renewed(brief, authority=True, days=9000, path_length=0)
    wide = renewed(brief, authority=True, days=9000)
    leaf, middle = party("leaf", brief), party("middle", brief, authority=True)
    for here in in_any_order(brief, narrow, wide):
        check(here, leaf)
        check(here, party("leaf", middle), middle)
    for here in in_any_order(brief, narrow):
        check(here, leaf)
        assert refused(here, party("leaf", middle), middle) is CERTIFICATE_TIME
    for here in in_any_order(brief, other_root()):
        assert refused(here, leaf) is CERTIFICATE_TIME


def test_an_authority_that_two_roots_certify_is_followed_to_the_one_that_is_known_here() -> None:
    middle = party("middle", root(), authority=True)
    crossed = renewed(middle, other_root(), authority=True)
    leaf = party("leaf", middle)
    for known in (root(), other_root()):
        here = device(roots=(known.certificate,))
        for along in itertools.permutations((middle, crossed)):
            check(here, leaf, *along)
    for here in in_any_order(root(), other_root()):
        check(here, leaf, middle, crossed)
    assert refused(device(roots=(other_root().certificate,)), leaf, middle) is CERTIFICATE_CHAIN


def test_an_authority_that_was_renewed_is_followed_beside_the_one_that_has_expired() -> None:
    brief = party("middle", root(), authority=True, days=100)
    good = renewed(brief, root(), authority=True, days=9000)
    leaf = party("leaf", brief)
    for along in itertools.permutations((brief, good)):
        check(device(), leaf, *along)
    assert refused(device(), leaf, brief) is CERTIFICATE_TIME


def test_a_root_that_the_next_one_certifies_is_followed_to_that() -> None:
    old = party("old", authority=True, days=100)
    bridge = renewed(old, root(), authority=True, days=9000)
    leaf = party("leaf", old)
    check(device(), leaf, bridge)
    check(device(roots=(renewed(old, authority=True, days=9000).certificate,)), leaf, bridge)  # it needs none
    for here in in_any_order(old, root()):
        check(here, leaf, bridge)
        assert refused(here, leaf) is CERTIFICATE_TIME


def test_the_reason_is_that_of_the_path_which_fails_last() -> None:
    first = party("twin", authority=True, days=100)
    longer = renewed(first, authority=True, days=150)
    no_authority = renewed(first, days=9000)
    leaf = party("leaf", first)
    end = f"{datetime.fromtimestamp(longer.certificate.not_after, UTC):%Y-%m-%d %H:%M:%SZ}"
    for here in in_any_order(first, longer, no_authority):
        with pytest.raises(PackageError, match=f"expired at {end}") as caught:
            check(here, leaf)
        assert caught.value.code is CERTIFICATE_TIME
    for here in in_any_order(no_authority, other_root()):
        assert refused(here, leaf) is CERTIFICATE_PURPOSE


def test_a_key_of_which_one_certificate_was_revoked_vouches_with_none() -> None:
    good = party("twin", authority=True, days=9000)
    again = renewed(good, authority=True, days=8000)
    for gone in (good, again):
        for here in in_any_order(good, again, revoked=frozenset({gone.certificate.fingerprint})):
            assert refused(here, party("leaf", good)) is CERTIFICATE_REVOKED
    middle = party("middle", root(), authority=True)
    crossed = renewed(middle, other_root(), authority=True)
    for here in in_any_order(root(), other_root(), revoked=frozenset({crossed.certificate.fingerprint})):
        assert refused(here, party("leaf", middle), middle, crossed) is CERTIFICATE_REVOKED
    for here in in_any_order(root(), other_root(), revoked=frozenset({root().certificate.fingerprint})):
        check(here, party("leaf", middle), middle, crossed)  # by the other root


def test_a_certificate_that_comes_along_twice_is_refused() -> None:
    middle = party("middle", root(), authority=True)
    assert refused(device(), party("leaf", middle), middle, middle) is CERTIFICATE_CHAIN


def test_a_certificate_whose_key_has_signed_nothing_of_the_path_is_refused() -> None:
    middle = party("middle", root(), authority=True)
    aside = party("aside", middle, authority=True)
    assert refused(device(), party("leaf", middle), middle, aside) is CERTIFICATE_CHAIN


def test_the_work_is_bounded_however_many_certificates_have_one_name_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    one = party("one", authority=True, days=100)
    roots = [renewed(one, authority=True, days=101 + number) for number in range(trust.ROOTS_MAX)]
    along = [renewed(one, authority=True, days=10 + number) for number in range(cms.CERTIFICATES_MAX - 1)]
    found = cms.verify(CONTENT, party("leaf", one).cms(CONTENT, *along))
    checks = 0
    verify = certificate.verify_signature

    def counted(*arguments: Any) -> None:
        nonlocal checks
        checks += 1
        verify(*arguments)

    monkeypatch.setattr(certificate, "verify_signature", counted)
    here = device(roots=tuple(one.certificate for one in roots))
    assert len(trust.find_paths(found, here.roots)) == 256
    assert checks == 4 * (3 + 16)
    with pytest.raises(PackageError) as caught:
        here.check_signer(found)
    assert caught.value.code is CERTIFICATE_TIME
