"""Drives the SSMP server core with the device table behind it: one message in, one message out.

Before a device has proven itself nothing is kept of it. Its account is drafted at AUTH and put in force at CONFIRM:
until then the one that it had stays valid.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from headend import access, db
from headend.access import Door, RefusalLog
from headend.dm import accounts
from headend.dm.jobs import queue
from headend.sealing.errors import SealingError
from headend.security import certificate_renewals, certificates, clones, devices, records, renewals
from headend.security.clones import Registering
from headend.security.limits import Limits, network_of
from omadm import bootstrap
from omadm.addresses import AddressError
from omadm.bootstrap import Account
from omadm.ssmp import certificates as x509
from omadm.ssmp import wire
from omadm.ssmp.certificates import CertificateError
from omadm.ssmp.errors import SsmpRefused, SsmpVersionError, SsmpWireError
from omadm.ssmp.limits import DEVICE_KEY_BYTES
from omadm.ssmp.server_core import (
    REFUSED_TEXT,
    UPGRADE_TEXT,
    Authenticated,
    Challenger,
    Confirmed,
    ServerSession,
    SessionTable,
)

LOG = logging.getLogger("headend.security")

TOO_MANY_TEXT = "too many registrations from this network, or in all"

DraftAccount = Callable[[str], Account]


class SecurityService:
    """The server side of SSMP. What touches the database is serialised: registrations are rare, and each takes a few
    milliseconds. A HELLO touches nothing and waits for nobody."""

    def __init__(
        self,
        engine: Engine,
        draft: DraftAccount,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        limits: Limits | None = None,
        identity: certificates.Identity | None = None,
    ) -> None:
        """`draft(device_id)` makes a DM account that is in force nowhere yet. Without `identity` devices prove
        themselves with shared keys only."""
        self._engine = engine
        self._draft = draft
        self._monotonic = monotonic
        self._wall = wall
        self._identity = identity
        self._judge = None if identity is None else certificates.Judge(engine, identity, wall)
        self._challenger = Challenger(random_bytes)
        self._table = SessionTable(random_bytes)
        self._random_bytes = random_bytes
        self._new_keys: dict[bytes, bytes] = {}  # given to the devices of sessions in the table
        self._drafts: dict[bytes, Account] = {}  # of the sessions in the table
        self._stand_in_secret = random_bytes(32)
        self._limits = limits or Limits()
        self._refusals = RefusalLog(engine)
        self._lock = threading.Lock()

    def handle(self, body: bytes, peer: str) -> tuple[int, bytes]:
        """HTTP status and body for one request. `peer` is the client's address."""
        version = body[2] if len(body) > 2 and body[2] in wire.VERSIONS else wire.VERSION_1
        try:
            return 200, self._answer(body, peer)
        except SsmpRefused as refusal:
            code, text = refusal.code, refusal.text
        except SsmpVersionError as error:
            code, text = wire.ErrorCode.VERSION, error.why
        except SsmpWireError as error:
            LOG.debug("%s sent no SSMP message: %s", peer, error, extra={"event": "ssmp.malformed"})
            code, text = wire.ErrorCode.MALFORMED, "this is not an SSMP message"
        except (SQLAlchemyError, SealingError):
            LOG.exception("registration not possible", extra={"event": "ssmp.store.failed"})
            code, text = wire.ErrorCode.UNAVAILABLE, "the server cannot register now"
        return code, wire.Error(code, text, version).emit()

    def _answer(self, body: bytes, peer: str) -> bytes:
        network, now = network_of(peer), self._monotonic()
        kind = body[3] if len(body) > 3 else None
        if kind not in (wire.Type.AUTH, wire.Type.CONFIRM) and not self._limits.hello(network, now):
            raise SsmpRefused(wire.ErrorCode.TOO_MANY, TOO_MANY_TEXT)
        message = wire.parse(body)
        match message:
            case wire.Hello() if message.version < message.offered <= wire.VERSION:
                raise SsmpRefused(wire.ErrorCode.UPGRADE, UPGRADE_TEXT)
            case wire.Hello() if message.version > wire.VERSION_1:
                return self._challenger.challenge(body, network, now, message.version)
            case wire.Hello():
                return self._hello_of_version_1(message, body, network, now)
            case wire.Auth() | wire.AuthV2():
                return self._auth(message, body, peer, now)
            case wire.AuthV1():
                return self._auth_of_version_1(message, body, peer, now)
            case wire.Confirm():
                with self._lock:
                    return self._continue(self._table.find(message.session, now), body, peer, now)
            case _:
                raise SsmpRefused(wire.ErrorCode.MALFORMED, f"{message.type.name} is not for a server")

    def _hello_of_version_1(self, message: wire.Hello, body: bytes, network: str, now: float) -> bytes:
        key, known, _ = self._keys(message.device_id, by_certificate=False)
        with self._lock:
            return self._table.open(body, key, network, known=known, now=now).challenge

    def _auth_of_version_1(self, message: wire.AuthV1, body: bytes, peer: str, now: float) -> bytes:
        with self._answering(network_of(peer), now), self._lock:
            session = self._table.find(message.session, now)
        with self._lock:
            return self._continue(session, body, peer, now)

    @contextmanager
    def _answering(self, network: str, now: float) -> Iterator[None]:
        """Look at what an AUTH answers, and then whether there may be one more: junk has cost a hash, and takes nothing
        from the limits that devices need. Raises `SsmpRefused`."""
        try:
            yield
        except (SsmpRefused, SsmpWireError):
            self._limits.junk(network, now)
            raise
        if not self._limits.auth(network, now):
            raise SsmpRefused(wire.ErrorCode.TOO_MANY, TOO_MANY_TEXT)

    def _auth(self, message: wire.Auth | wire.AuthV2, body: bytes, peer: str, now: float) -> bytes:
        network = network_of(peer)
        with self._answering(network, now):
            opening = self._challenger.opening(message, network, now)
            with self._lock:
                self._table.refuse_answered(opening, now)
        hello = wire.parse(opening.hello)
        if not isinstance(hello, wire.Hello):
            raise SsmpRefused(wire.ErrorCode.MALFORMED, "AUTH repeats no HELLO")
        by_certificate = isinstance(message, wire.Auth) and bool(message.certificate)
        key, known, following = self._keys(hello.device_id, by_certificate=by_certificate)
        with self._lock:
            session = self._table.prepare(
                opening, key, known=known, now=now, certificates=self._judge, next_key=following
            )
            return self._continue(session, body, peer, now)

    def _keys(self, device_id: str, *, by_certificate: bool) -> tuple[bytes, bool, bytes]:
        """The key of a device, whether it may register, with a certificate or without, and the key that it was given
        and has not used yet. Substitutes for a device that is not known."""
        with db.reader(self._engine).begin() as connection:
            device = devices.find(connection, device_id)
            following = renewals.given(connection, device_id)
            ended = renewals.has_ended(connection, device_id, self._wall())
            so_enrolled = certificates.expected(connection, device_id) == by_certificate
        stand_in = hmac.digest(self._stand_in_secret, device_id.encode(), "sha256")
        if device is None:
            return stand_in, False, stand_in
        may = so_enrolled and device.enabled and not device.leaving
        return (following, may, stand_in) if ended else (device.key, may, following or stand_in)

    def _continue(self, session: ServerSession, body: bytes, peer: str, now: float) -> bytes:
        try:
            session.receive(body, now)
            match session.next_event():
                case Authenticated(device_id):
                    self._bootstrap(session, device_id, now)
                    self._limits.registers(network_of(peer), now)
                case Confirmed() as confirmed:
                    with self._engine.begin() as connection:
                        self._register(session, connection, confirmed, peer)
                    LOG.info("%s registered from %s", session.device_id, peer, extra={"event": "ssmp.registered"})
            return session.take_output()
        except SsmpRefused as refusal:
            if session.over:
                self._note_refusal(session, peer, refusal, now)
            raise
        except (SQLAlchemyError, SealingError):
            session.abort()
            raise
        finally:
            self._table.settle(session)
            self._drafts = {key: value for key, value in self._drafts.items() if key in self._table}
            self._new_keys = {key: value for key, value in self._new_keys.items() if key in self._table}

    def _bootstrap(self, session: ServerSession, device_id: str, now: float) -> None:
        if not self._limits.device(device_id, now):
            session.abort()
            raise SsmpRefused(wire.ErrorCode.TOO_MANY, "this device asks too often")
        account = self._drafts[session.session] = self._draft(device_id)
        wanted = self._wants_another(session, device_id)
        new_key, time_ms = self._new_key(session), int(self._wall() * 1000)
        session.provide(bootstrap.emit_profile(account), new_key, wanted=wanted, time_ms=time_ms)

    def _new_key(self, session: ServerSession) -> bytes:
        """A key for a device that is to get one, can store it, and has none of before in use."""
        with db.reader(self._engine).begin() as connection:
            if not session.renews or not self._wants_key(connection, session):
                return b""
        key = self._new_keys[session.session] = self._random_bytes(DEVICE_KEY_BYTES)
        return key

    @staticmethod
    def _wants_key(connection: Connection, session: ServerSession) -> bool:
        """Whether a device is to get another key than that with which it has proven itself."""
        device = devices.find(connection, session.device_id)
        return device is not None and session.is_of(device.key) and renewals.is_wanted(connection, session.device_id)

    def _wants_another(self, session: ServerSession, device_id: str) -> bool:
        """Whether a device that proved itself with its old certificate is to ask for another. One that is to and cannot
        is said to the operator, and is not asked again."""
        if session.unable and not session.certificate:
            with db.reader(self._engine).begin() as connection:
                return self._wants_key(connection, session)
        if not session.certificate or self._identity is None:
            return False
        with self._engine.begin() as connection:
            if not certificate_renewals.is_wanted(connection, device_id):
                return False
            if certificate_renewals.is_given(connection, device_id, x509.read(session.certificate)):
                return False
            if session.renews_certificate:
                return certificate_renewals.may_issue(connection, device_id, self._identity)
            if session.unable:
                return True  # it hears that it was to; the order ends when it has confirmed
            certificate_renewals.forget(connection, device_id)
            text = "cannot renew its certificate: its software is too old"
            devices.note(connection, device_id, "", 200, text, self._wall())
            records.raise_alarm(connection, records.RENEWAL, device_id, f"the device {text}", self._wall())
        LOG.warning("%s %s", device_id, text, extra={"event": "ssmp.renewal.impossible"})
        return False

    def _issue(self, connection: Connection, device_id: str, shown: bytes, request: bytes) -> bytes:
        """The certificate for a request; empty where there is none, or none can be issued."""
        if not request or self._identity is None:
            return b""
        if not certificate_renewals.may_issue(connection, device_id, self._identity):
            LOG.warning("%s asks for a certificate, and no authority is set to issue it", device_id)
            return b""
        after = x509.read(shown).not_before
        try:
            return certificate_renewals.issue(connection, device_id, request, self._identity, self._wall(), after)
        except CertificateError as error:
            LOG.warning("%s asks for a certificate: %s", device_id, error, extra={"event": "ssmp.renewal.refused"})
            return b""

    def _register(self, session: ServerSession, connection: Connection, confirmed: Confirmed, peer: str) -> None:
        """Put the account in force: the device has it. What happened to the device since its AUTH counts."""
        device_id, now = confirmed.device_id, self._wall()
        device = devices.find(connection, device_id)
        account, new_key = self._drafts.pop(session.session), self._new_keys.pop(session.session, b"")
        following = renewals.given(connection, device_id)
        good = () if device is None or renewals.has_ended(connection, device_id, now) else (device.key,)
        if device is None or not device.enabled or device.leaving or not _is_of(session, *good, following):
            session.abort()
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        who = Registering(device_id, confirmed.held, peer)
        unexpected = clones.observe(connection, who, now)
        lost = not clones.lost_nothing(connection, who)
        info, unusable = _callable(confirmed.info)
        install_account(connection, device_id, account, info.push_url, now, lost=lost)
        clones.remember(connection, who, account, now, unexpected=unexpected)
        unable = confirmed.unable or session.unable
        if (session.renews or session.renews_certificate) and not unable:
            records.alarm_over(connection, records.RENEWAL, device_id, "the device says that it can renew", now)
        ended = self._end_order(connection, session, unable, now)
        if new_key and not confirmed.unable:
            renewals.stored(connection, device_id, new_key, now=now)
        elif following and session.is_of(following):
            renewals.used(connection, device_id, following, now)
        issued = b""
        if session.certificate:
            certificates.used(connection, device_id, session.certificate)
            certificate_renewals.used(connection, device_id, x509.read(session.certificate), now)
            issued = self._issue(connection, device_id, session.certificate, confirmed.request)
        devices.registered(connection, device_id, info, now)
        text = "registered, and another certificate issued" if issued else "registered"
        devices.note(connection, device_id, peer, 200, "; ".join(each for each in (text, ended, unusable) if each), now)
        session.acknowledge(issued)

    def _end_order(self, connection: Connection, session: ServerSession, unable: str, now: float) -> str:
        """Give up the order to renew what this device has proven itself with, if there is one and it says that it
        cannot. Returns what the operator is told; empty for nothing. One that says neither that it can nor that it
        cannot may have lost an answer of before: the order stays, and the operator is told."""
        device_id = session.device_id
        if session.certificate:
            shown = x509.read(session.certificate)
            if certificate_renewals.is_given(connection, device_id, shown):
                return ""
            since, what = certificate_renewals.wanted_since(connection, device_id), "certificate"
        else:
            wants = self._wants_key(connection, session)
            since, what = renewals.wanted_since(connection, device_id) if wants else None, "device key"
        if since is None:
            return ""
        if not unable:
            silent = not session.renews and not session.renews_certificate
            return f"another {what} waits: the device does not say that it can store one" if silent else ""
        text = f"the device cannot renew its {what}: {unable}"
        (certificate_renewals if session.certificate else renewals).forget(connection, device_id)
        queue.undone(connection, device_id, since, text, now)
        records.raise_alarm(connection, records.RENEWAL, device_id, text, now)
        LOG.warning("%s: %s", device_id, text, extra={"event": "ssmp.renewal.impossible"})
        return text

    def _has_no_account(self, device_id: str) -> None:
        """A device that was to erase its account says, with a proof, that it has none: the DM session in which it would
        have said so may have broken off."""
        with self._engine.begin() as connection:
            if access.decommissioned(connection, device_id, self._wall()):
                accounts.void(connection, device_id)

    def _note_refusal(self, session: ServerSession, peer: str, refusal: SsmpRefused, now: float) -> None:
        if session.proven and refusal.code == wire.ErrorCode.REFUSED:
            self._refusals.note(session.device_id, Door.REGISTRATION, peer, self._wall())
            if session.held == b"":
                self._has_no_account(session.device_id)
        if not self._limits.note(network_of(peer), now):
            LOG.debug("%s refused from %s", session.device_id, peer, extra={"event": "ssmp.refused"})
            return
        LOG.warning("%s refused from %s", session.device_id, peer, extra={"event": "ssmp.refused"})
        with self._engine.begin() as connection:
            devices.note(connection, session.device_id, peer, refusal.code, refusal.text, self._wall())


def _callable(info: wire.RegistrationInfo) -> tuple[wire.RegistrationInfo, str]:
    """What a device has told, without a push URL at which nobody can call it; and what is wrong with that. It registers
    all the same: it polls."""
    try:
        accounts.check_push_url(info.push_url)
    except AddressError as error:
        return replace(info, push_url=""), f"its push URL {error}, and is not used"
    return info, ""


def _is_of(session: ServerSession, *keys: bytes) -> bool:
    """Whether the session was begun with one of these keys, which are still good."""
    return any(session.is_of(key) for key in keys if key)


def install_account(
    connection: Connection, device_id: str, account: Account, push_url: str, now: float, *, lost: bool = True
) -> None:
    """Put an account in force, in the caller's transaction. A device that had one, and may have `lost` what it was
    provisioned with, is provisioned again: it does not say so."""
    before = accounts.exists(connection, device_id)
    accounts.put_in_force(connection, device_id, account, push_url=push_url, now=now)
    if before and lost:
        queue.provision_again(connection, device_id, now=now)
