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
from collections.abc import Callable

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from headend import access, db
from headend.access import Door, RefusalLog
from headend.dm import accounts
from headend.dm.jobs import queue
from headend.security import clones, devices
from headend.security.clones import Registering
from headend.security.limits import Limits, network_of
from omadm import bootstrap
from omadm.bootstrap import Account
from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpRefused, SsmpVersionError, SsmpWireError
from omadm.ssmp.server_core import (
    REFUSED_TEXT,
    Authenticated,
    Challenger,
    Confirmed,
    ServerSession,
    SessionTable,
)

LOG = logging.getLogger("headend.security")

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
    ) -> None:
        """`draft(device_id)` makes a DM account that is in force nowhere yet."""
        self._engine = engine
        self._draft = draft
        self._monotonic = monotonic
        self._wall = wall
        self._challenger = Challenger(random_bytes)
        self._table = SessionTable(random_bytes)
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
        except SQLAlchemyError:
            LOG.exception("registration not possible", extra={"event": "ssmp.store.failed"})
            code, text = wire.ErrorCode.UNAVAILABLE, "the server cannot register now"
        return code, wire.Error(code, text, version).emit()

    def _answer(self, body: bytes, peer: str) -> bytes:
        network, now = network_of(peer), self._monotonic()
        kind = body[3] if len(body) > 3 else None
        allowed = self._limits.auth if kind == wire.Type.AUTH else self._limits.hello
        if kind != wire.Type.CONFIRM and not allowed(network, now):
            raise SsmpRefused(wire.ErrorCode.TOO_MANY, "too many registrations from this network, or in all")
        message = wire.parse(body)
        match message:
            case wire.Hello(version=wire.VERSION):
                return self._challenger.challenge(body, network, now)
            case wire.Hello():
                return self._hello_of_version_1(message, body, network, now)
            case wire.Auth():
                return self._auth(message, body, peer, now)
            case wire.AuthV1() | wire.Confirm():
                with self._lock:
                    return self._continue(self._table.find(message.session, now), body, peer, now)
            case _:
                raise SsmpRefused(wire.ErrorCode.MALFORMED, f"{message.type.name} is not for a server")

    def _hello_of_version_1(self, message: wire.Hello, body: bytes, network: str, now: float) -> bytes:
        key, known = self._key(message.device_id)
        with self._lock:
            return self._table.open(body, key, network, known=known, now=now).challenge

    def _auth(self, message: wire.Auth, body: bytes, peer: str, now: float) -> bytes:
        network = network_of(peer)
        opening = self._challenger.opening(message, network, now)
        hello = wire.parse(opening.hello)
        if not isinstance(hello, wire.Hello):
            raise SsmpRefused(wire.ErrorCode.MALFORMED, "AUTH repeats no HELLO")
        key, known = self._key(hello.device_id)
        with self._lock:
            session = self._table.prepare(opening, key, known=known, now=now)
            return self._continue(session, body, peer, now)

    def _key(self, device_id: str) -> tuple[bytes, bool]:
        """The key of a device, and whether it may register; a substitute for one that is not known."""
        with db.reader(self._engine).begin() as connection:
            device = devices.find(connection, device_id)
        stand_in = hmac.digest(self._stand_in_secret, device_id.encode(), "sha256")
        return (stand_in, False) if device is None else (device.key, device.enabled and not device.leaving)

    def _continue(self, session: ServerSession, body: bytes, peer: str, now: float) -> bytes:
        try:
            session.receive(body, now)
            match session.next_event():
                case Authenticated(device_id):
                    self._bootstrap(session, device_id, now)
                case Confirmed() as confirmed:
                    with self._engine.begin() as connection:
                        self._register(session, connection, confirmed, peer)
                    LOG.info("%s registered from %s", session.device_id, peer, extra={"event": "ssmp.registered"})
            return session.take_output()
        except SsmpRefused as refusal:
            if session.over:
                self._note_refusal(session, peer, refusal, now)
            raise
        except SQLAlchemyError:
            session.abort()
            raise
        finally:
            self._table.settle(session)
            self._drafts = {key: value for key, value in self._drafts.items() if key in self._table}

    def _bootstrap(self, session: ServerSession, device_id: str, now: float) -> None:
        if not self._limits.device(device_id, now):
            session.abort()
            raise SsmpRefused(wire.ErrorCode.TOO_MANY, "this device asks too often")
        account = self._drafts[session.session] = self._draft(device_id)
        session.provide(bootstrap.emit_profile(account))

    def _register(self, session: ServerSession, connection: Connection, confirmed: Confirmed, peer: str) -> None:
        """Put the account in force: the device has it. What happened to the device since its AUTH counts."""
        device_id, now = confirmed.device_id, self._wall()
        device = devices.find(connection, device_id)
        account = self._drafts.pop(session.session)
        if device is None or not device.enabled or device.leaving or not session.is_of(device.key):
            session.abort()
            raise SsmpRefused(wire.ErrorCode.REFUSED, REFUSED_TEXT)
        who = Registering(device_id, confirmed.held, peer)
        unexpected = clones.observe(connection, who, now)
        install_account(connection, device_id, account, confirmed.info.push_url, now)
        clones.remember(connection, who, account, now, unexpected=unexpected)
        devices.registered(connection, device_id, confirmed.info, now)
        devices.note(connection, device_id, peer, 200, "registered", now)
        session.acknowledge()

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


def install_account(connection: Connection, device_id: str, account: Account, push_url: str, now: float) -> None:
    """Put an account in force, in the caller's transaction. A device that had one is provisioned again: it may have
    lost what it was provisioned with, and does not say so."""
    before = accounts.load(connection, device_id)
    accounts.put_in_force(connection, device_id, account, push_url=push_url, now=now)
    if before is not None:
        queue.provision_again(connection, device_id, now=now)
