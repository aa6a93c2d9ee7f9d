"""Drives the SSMP server core with the device table behind it: one message in, one message out."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from headend import db
from headend.security import devices
from headend.security.limits import RateLimit
from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpRefused, SsmpWireError
from omadm.ssmp.server_core import Authenticated, Confirmed, ServerSession, SessionTable

LOG = logging.getLogger("headend.security")

MakeDocument = Callable[[Connection, str, wire.RegistrationInfo], bytes]


class SecurityService:
    """The server side of SSMP. Calls are serialised: registrations are rare, and each takes a few milliseconds."""

    def __init__(
        self,
        engine: Engine,
        make_document: MakeDocument,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        limit: RateLimit | None = None,
    ) -> None:
        """`make_document(connection, device_id, info)` makes the DM account in the given transaction and returns the
        bootstrap document."""
        self._engine = engine
        self._make_document = make_document
        self._monotonic = monotonic
        self._wall = wall
        self._table = SessionTable(random_bytes)
        self._stand_in_secret = random_bytes(32)
        self._limit = limit or RateLimit()
        self._lock = threading.Lock()

    def handle(self, body: bytes, peer: str) -> tuple[int, bytes]:
        """HTTP status and body for one request. `peer` is the client's address."""
        with self._lock:
            try:
                return 200, self._answer(body, peer)
            except SsmpRefused as refusal:
                return refusal.code, wire.Error(refusal.code, refusal.text).emit()
            except SsmpWireError as error:
                LOG.info("%s sent no SSMP message: %s", peer, error, extra={"event": "ssmp.malformed"})
                return 400, wire.Error(wire.ErrorCode.MALFORMED, "this is not an SSMP message").emit()
            except SQLAlchemyError:
                LOG.exception("registration not possible", extra={"event": "ssmp.store.failed"})
                return 503, wire.Error(wire.ErrorCode.UNAVAILABLE, "the server cannot register now").emit()

    def _answer(self, body: bytes, peer: str) -> bytes:
        message = wire.parse(body)
        now = self._monotonic()
        match message:
            case wire.Hello():
                return self._hello(message, body, peer, now)
            case wire.Auth() | wire.Confirm():
                return self._continue(self._table.find(message.session, now), body, peer, now)
            case _:
                raise SsmpRefused(wire.ErrorCode.MALFORMED, f"{message.type.name} is not for a server")

    def _hello(self, message: wire.Hello, body: bytes, peer: str, now: float) -> bytes:
        if not self._limit.allow(f"{message.device_id} {peer}", now):
            LOG.warning("%s asks too often from %s", message.device_id, peer, extra={"event": "ssmp.too-many"})
            raise SsmpRefused(wire.ErrorCode.TOO_MANY, "this device asks too often")
        with db.reader(self._engine).begin() as connection:
            device = devices.find(connection, message.device_id)
        stand_in = hmac.digest(self._stand_in_secret, message.device_id.encode(), "sha256")
        known = device is not None and device.enabled
        key = device.key if device is not None else stand_in
        return self._table.open(body, key, known=known, now=now).take_output()

    def _continue(self, session: ServerSession, body: bytes, peer: str, now: float) -> bytes:
        try:
            session.receive(body, now)
            with self._engine.begin() as connection:
                self._react(session, connection, peer)
            return session.take_output()
        except SsmpRefused as refusal:
            if session.over:
                self._note_refusal(session, peer, refusal)
            raise
        except SQLAlchemyError:
            session.abort()
            raise
        finally:
            self._table.forget_finished(session)

    def _react(self, session: ServerSession, connection: Connection, peer: str) -> None:
        match session.next_event():
            case Authenticated(device_id, info):
                session.provide(self._make_document(connection, device_id, info))
            case Confirmed(device_id, info):
                devices.registered(connection, device_id, info, self._wall())
                devices.note(connection, device_id, peer, 200, "registered", self._wall())
                session.acknowledge()
                LOG.info("%s registered from %s", device_id, peer, extra={"event": "ssmp.registered"})
            case None:
                pass

    def _note_refusal(self, session: ServerSession, peer: str, refusal: SsmpRefused) -> None:
        LOG.warning("%s refused from %s", session.device_id, peer, extra={"event": "ssmp.refused"})
        with self._engine.begin() as connection:
            devices.note(connection, session.device_id, peer, refusal.code, refusal.text, self._wall())
