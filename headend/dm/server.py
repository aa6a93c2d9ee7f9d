"""One HTTP request of a device: authenticate it; then let the session work and sign the answer, in one transaction.

Authentication only reads the database, so strangers, however many, never take the write lock from devices.

The answer to the last request is kept with the account. A device that lost it sends the same bytes with the same MAC
again and gets the same bytes back; nothing is executed or stored twice. A device whose session this process does not
know (the server restarted) goes on in a new one.

Which messages belong together is taken from what the device says in them, not from the SessionID alone: a device that
lost an answer may come again with the SessionID that it had (a notification names it), and some devices give every
session the same one.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, insert, update
from sqlalchemy.exc import DBAPIError

from headend import access, db
from headend.dm import accounts
from headend.dm.authentication import Authenticator, Refused
from headend.dm.engine import Accepted, ServerSession, State
from headend.dm.jobs import queue
from headend.dm.session_store import SessionStore
from headend.dm.tables import sessions as sessions_table
from headend.sealing.errors import SealingError
from omadm.auth import HMAC, NONCE_BYTES, AuthError, parse_hmac_header, verify_hmac
from omadm.bootstrap import Account
from omadm.codes import AlertCode, Code
from omadm.schemes import Mac, Schemes, next_nonce
from omadm.server_time import time_text
from omadm.syncml.codec import accepts, decode, encode, media_type
from omadm.syncml.element import BODY_BYTES_MAX
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import (
    Alert,
    Command,
    Malformed,
    Meta,
    Results,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
    Unsupported,
)

LOG = logging.getLogger("headend.dm")

SESSIONS_MAX = 4096  # one per device; the oldest are forgotten first, and their devices start again
SESSION_IDLE_S = 900.0
DEVICE_ID_CHARS_MAX = 255
BEGINNINGS = frozenset({AlertCode.SERVER_INITIATED, AlertCode.CLIENT_INITIATED})
EVENTS = frozenset({AlertCode.CLIENT_EVENT, AlertCode.GENERIC})
SESSION_ID_CHARS_SHOWN = 8  # in the table of sessions; DM 1.2 has four
TOKEN_BYTES = 16
LOCKS = 64  # requests of different devices rarely share one


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`server_id` and `url` are used in answers to unknown devices; accounts have their own.

    `algorithms` are the MAC algorithms that devices may use; answers use the first.
    """

    server_id: str
    url: str
    algorithms: tuple[str, ...] = ("SHA-256",)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `mac` is the header `x-syncml-hmac`, if there is one; `session` what its address names,
    `peer` where it came from."""

    body: bytes
    content_type: str
    mac: str | None
    session: str = ""
    peer: str = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response. With a `status` other than 200 the body is a plain sentence."""

    status: int
    body: bytes
    content_type: str
    mac: str | None = None


@dataclass(slots=True)
class _Live:
    session: ServerSession
    session_id: str
    row: int
    at: float
    device_msg_id: int = 0  # the highest that was accepted
    proved: bool = False  # the device said 212: it wants no credentials of ours in this session any more
    token: str = ""  # in the RespURI of a session whose device needs no credentials any more (we said 212)


class DmServer:
    """Thread-safe; `handle` blocks on the database."""

    def __init__(
        self,
        engine: Engine,
        config: ServerConfig,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._engine = engine
        self._config = config
        self._wall, self._monotonic, self._entropy = wall, monotonic, entropy
        self._schemes = Schemes.with_mac(config.algorithms)
        self._refusals = access.RefusalLog(engine)
        self._authenticator = Authenticator(self._schemes, entropy)
        self._live: OrderedDict[str, _Live] = OrderedDict()
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))
        self._table_lock = threading.Lock()

    def handle(self, request: Request) -> Answer:
        """Answer one POST. Raises what the database raises; nothing was stored then, and the device retries."""
        if not accepts(request.content_type):
            return _plain(415, "application/vnd.syncml.dm+xml or +wbxml wanted")
        if len(request.body) > BODY_BYTES_MAX:
            self._unreadable(request, f"a message of {len(request.body)} bytes")
            return _plain(413, "the message is too large")
        try:
            message = decode(request.body, request.content_type)
        except SyncmlError as error:
            LOG.warning("a message was not readable: %s", error, extra={"event": "dm.unreadable"})
            self._unreadable(request, str(error))
            return _plain(400, f"not a SyncML message: {error}")
        device_id = message.hdr.source
        if len(device_id) > DEVICE_ID_CHARS_MAX:
            return _plain(400, "the name of the source is too long")
        with self._locks[hash(device_id) % LOCKS]:
            try:
                return self._exchange(device_id, message, request)
            except SyncmlValueError as error:  # text of the peer that has to be repeated cannot be encoded
                LOG.warning("%s: no answer can be written: %s", device_id, error, extra={"event": "dm.unwritable"})
                return _plain(400, f"the message cannot be answered: {error}")

    def _broken(self, device_id: str, error: Exception) -> None:
        """An exchange with the device itself ended in a fault of ours, and what it had stored was undone. If it had
        come to a job, that may be the reason: it is tried again a few times only, and does not stop the queue."""
        live = self._live.get(device_id)
        self._forget(device_id)
        job_id = None if live is None else live.session.job_id
        if job_id is None:
            return
        LOG.warning(
            "%s: the session broke at job %d: %s",
            device_id,
            job_id,
            error,
            extra={"event": "dm.job.broken", "device": device_id, "job": job_id},
        )
        with self._engine.begin() as conn:
            queue.broken(conn, device_id, job_id, f"{type(error).__name__}: {error}", self._wall())

    def _unreadable(self, request: Request, why: str) -> None:
        """A message that cannot be read ends its session, and counts against the job that it answers.

        Only a MAC in the transport header tells whose it is: without one nobody is believed, and the job is tried
        again like any that was cut off.
        """
        try:
            name = parse_hmac_header(request.mac or "").username
        except AuthError:
            return
        with db.reader(self._engine).begin() as conn:
            device_id = accounts.named(conn, name)
            if device_id is None or not self._has_sent(conn, device_id, name, request):
                return
        with self._locks[hash(device_id) % LOCKS], self._engine.begin() as conn:
            if not self._has_sent(conn, device_id, name, request):
                return
            queue.unreadable(conn, device_id, why, self._wall())
            conn.execute(
                update(sessions_table)
                .where(sessions_table.c.device_id == device_id, sessions_table.c.state == State.OPEN.value)
                .values(state=State.FAILED.value, updated=self._wall())
            )
            self._forget(device_id)

    def _has_sent(self, conn: Connection, device_id: str, name: str, request: Request) -> bool:
        """Whether the MAC of a request is that of this device, and good for its next message."""
        row = accounts.load(conn, device_id)
        if row is None or row.auth_type != HMAC:
            return False
        try:
            verify_hmac(request.mac, request.body, name, row.client_secret, row.client_nonce, self._config.algorithms)
        except AuthError:
            return False
        return True

    def _exchange(self, device_id: str, message: SyncML, request: Request) -> Answer:
        proof = f"{request.mac or ''}\0{request.session}".encode()
        digest = hashlib.sha256(request.body + b"\0" + proof).hexdigest()
        with db.reader(self._engine).begin() as conn:
            row = accounts.load(conn, device_id)
            admitted = access.admits(conn, device_id)
        if admitted and row is not None and row.last_request == digest and not _may_be_another(message, row.auth_type):
            return Answer(200, row.last_answer, media_type(request.content_type), row.last_answer_mac)
        if row is None:
            account = self._authenticator.placeholder_account(device_id, self._config.server_id, self._config.url)
        else:
            account = accounts.from_row(row)
        refused = None
        if not self._in_accepted_session(device_id, message, request):
            with self._table_lock:
                refused = self._authenticator.check(message, request.body, request.mac, account, self._monotonic())
        nonce = next_nonce(message, self._schemes.of(account.auth_type))
        signer = replace(account, server_nonce=nonce or account.server_nonce)
        if refused is not None or row is None:
            return self._refuse(message, request, signer, refused or Refused(Code.UNAUTHORIZED, None, "no account"))
        if not admitted:
            return self._switched_off(device_id, message, request, signer)
        try:
            with self._engine.begin() as conn:
                row = accounts.load(conn, device_id)
                if not access.admits(conn, device_id):
                    return self._refuse(message, request, signer, Refused(Code.FORBIDDEN, None, access.SWITCHED_OFF))
                if row is None or accounts.from_row(row) != account:
                    return self._refuse(
                        message, request, signer, Refused(Code.UNAUTHORIZED, None, "the account changed meanwhile")
                    )
                once = row.accepts == accounts.SESSION
                return self._answer(conn, device_id, message, request, digest, signer, once=once)
        except (DBAPIError, SealingError, OSError, SyncmlValueError):
            # The session in memory may be ahead of what was stored. What cannot be answered is what the device said of
            # itself (the words of a job are tried out beforehand): that is no fault of the job that runs.
            self._forget(device_id)
            raise
        except Exception as error:
            self._broken(device_id, error)
            raise

    def _switched_off(self, device_id: str, message: SyncML, request: Request, signer: Account) -> Answer:
        """End the session of a device that is switched off, if it has one. Its running job waits in the queue."""
        now = self._wall()
        self._refusals.note(device_id, access.Door.DM, request.peer, now)
        if self._live.get(device_id) is not None:
            with self._engine.begin() as conn:
                queue.requeue_running(conn, device_id, now)
                conn.execute(
                    update(sessions_table)
                    .where(sessions_table.c.device_id == device_id, sessions_table.c.state == State.OPEN.value)
                    .values(state=State.FAILED.value, updated=now)
                )
            self._forget(device_id)
        return self._refuse(message, request, signer, Refused(Code.FORBIDDEN, None, access.SWITCHED_OFF))

    def _in_accepted_session(self, device_id: str, message: SyncML, request: Request) -> bool:
        """Whether a message belongs to a session in which we said 212, and came to the address that only its device
        was told. It needs no credentials then."""
        live = self._live.get(device_id)
        if live is None or not live.token or not hmac.compare_digest(live.token.encode(), request.session.encode()):
            return False
        return self._monotonic() - live.at < SESSION_IDLE_S and _goes_on(message, live)

    def _answer(
        self,
        conn: Connection,
        device_id: str,
        message: SyncML,
        request: Request,
        digest: str,
        signer: Account,
        *,
        once: bool,
    ) -> Answer:
        answer, nonce = self._work(conn, device_id, message, request, signer, once=once)
        accounts.change(
            conn,
            device_id,
            {
                "client_nonce": nonce,
                "server_nonce": signer.server_nonce,
                "last_request": digest,
                "last_answer": answer.body,
                "last_answer_mac": answer.mac,
                "updated": self._wall(),
            },
        )
        return answer

    def _work(
        self, conn: Connection, device_id: str, message: SyncML, request: Request, signer: Account, *, once: bool
    ) -> tuple[Answer, bytes]:
        """Let the session answer an authenticated message; return the answer and the device's next nonce."""
        now = self._wall()
        believed = self._in_accepted_session(device_id, message, request)
        live = self._session(conn, device_id, message, request, signer, now)
        nonce = signer.client_nonce if believed else self._entropy(NONCE_BYTES)
        accepted = Accepted(chal=None if believed else self._schemes.of(signer.auth_type).accepted(nonce))
        if once:
            live.token = live.token or self._entropy(TOKEN_BYTES).hex()
            accepted = replace(accepted, code=Code.AUTHENTICATED, resp_uri=f"{signer.url}?session={live.token}")
        store = SessionStore(conn, device_id, live.row, now)
        for why in (*message.hdr.unread, *(bad.why for bad in message.of(Malformed))):
            LOG.warning("%s: %s", device_id, why, extra={"event": "dm.malformed", "device": device_id})
        live.proved = live.proved or any(s.cmd_ref == "0" and s.code == Code.AUTHENTICATED for s in message.of(Status))
        reply = live.session.receive(message, store, accepted)
        session = live.session
        conn.execute(
            update(sessions_table)
            .where(sessions_table.c.id == live.row)
            .values(
                state=session.state.value,
                trigger=session.trigger,
                messages=session.messages,
                commands=session.commands,
                updated=now,
            )
        )
        if session.state is not State.OPEN:
            self._end(conn, device_id, live, now)
        return self._sign(reply, request, signer, proved=live.proved), nonce

    def _session(
        self, conn: Connection, device_id: str, message: SyncML, request: Request, signer: Account, now: float
    ) -> _Live:
        live = self._live.get(device_id)
        at = self._monotonic()
        if live is not None and at - live.at < SESSION_IDLE_S and _goes_on(message, live):
            live.at, live.device_msg_id = at, max(live.device_msg_id, message.hdr.msg_id)
            return live
        conn.execute(
            update(sessions_table)
            .where(sessions_table.c.device_id == device_id, sessions_table.c.state == State.OPEN.value)
            .values(state="lost")
        )
        queue.requeue_running(conn, device_id, now)
        content_type = request.content_type
        session = ServerSession(
            session_id=message.hdr.session_id,
            device_uri=message.hdr.source,
            device_name=message.hdr.source_name,
            server_uri=message.hdr.target,
            server_name=signer.server_name,
            measure=lambda m: len(encode(self._with_proof(m, signer), content_type)),
        )
        added = conn.execute(
            insert(sessions_table).values(
                device_id=device_id,
                session_id=message.hdr.session_id[:SESSION_ID_CHARS_SHOWN],
                state=State.OPEN.value,
                messages=0,
                commands=0,
                started=now,
                updated=now,
            )
        )
        key = added.inserted_primary_key
        live = _Live(session, message.hdr.session_id, int(key[0]) if key else 0, at, message.hdr.msg_id)
        with self._table_lock:
            self._live[device_id] = live
            self._live.move_to_end(device_id)
            while len(self._live) > SESSIONS_MAX:
                self._live.popitem(last=False)
        return live

    def _end(self, conn: Connection, device_id: str, live: _Live, now: float) -> None:
        queue.requeue_running(conn, device_id, now)
        self._forget(device_id)
        LOG.info(
            "%s: session %s %s after %d messages, %d commands",
            device_id,
            live.session_id,
            live.session.state.value,
            live.session.messages,
            live.session.commands,
            extra={"event": "dm.session.end", "device": device_id},
        )

    def _forget(self, device_id: str) -> None:
        with self._table_lock:
            self._live.pop(device_id, None)

    def _refuse(self, message: SyncML, request: Request, signer: Account, refused: Refused) -> Answer:
        """Refuse a message: a Status for the header and, with the same code, for every command; nothing is executed."""
        hdr = message.hdr
        LOG.warning(
            "%s: a message was refused: %s",
            hdr.source[:64],
            refused.reason,
            extra={"event": "dm.auth.refused", "device": hdr.source[:64]},
        )
        statuses = [
            Status(
                cmd_id="1",
                msg_ref=hdr.msg_ref,
                cmd_ref="0",
                cmd="SyncHdr",
                code=refused.status,
                target_refs=(hdr.target,),
                source_refs=(hdr.source,),
                chal=refused.chal,
            )
        ]
        for command in message.commands:
            if _wants_status(command):
                name = command.name if isinstance(command, Unsupported | Malformed) else type(command).__name__
                statuses.append(Status(str(len(statuses) + 1), hdr.msg_ref, command.cmd_id, name, refused.status))
        reply_hdr = SyncHdr(
            hdr.session_id,
            hdr.msg_id,
            target=hdr.source,
            source=hdr.target,
            target_name=hdr.source_name,
            source_name=signer.server_name,
        )
        return self._sign(SyncML(reply_hdr, tuple(statuses)), request, signer)

    def _sign(self, reply: SyncML, request: Request, signer: Account, *, proved: bool = False) -> Answer:
        body = encode(reply if proved else self._with_proof(reply, signer), request.content_type)
        mac = self._schemes.of(signer.auth_type).mac(body, signer.server)
        return Answer(200, body, media_type(request.content_type), mac)

    def _with_proof(self, reply: SyncML, signer: Account) -> SyncML:
        """The message with our credentials, or with what is worth saying only under a MAC: the time."""
        scheme = self._schemes.of(signer.auth_type)
        hdr = replace(reply.hdr, cred=scheme.cred(signer.server))
        if isinstance(scheme, Mac):
            hdr = replace(hdr, meta=replace(hdr.meta or Meta(), emi=(time_text(self._wall()),)))
        return replace(reply, hdr=hdr)


def _may_be_another(message: SyncML, auth_type: str) -> bool:
    """Whether the first message of a new session can be identical to the last one answered: yes, without a nonce."""
    return auth_type == "BASIC" and _begins(message)


def _begins(message: SyncML) -> bool:
    """Whether a message says of itself that it begins a session (DM_Protocol 1.2, 8.3: package 1 has Alert 1200 or
    1201). Its MsgID says so only if it is 1: a device whose first message was challenged says it again with MsgID 2."""
    return message.hdr.msg_id == 1 or any(alert.code in BEGINNINGS for alert in message.of(Alert))


def _goes_on(message: SyncML, live: _Live) -> bool:
    """Whether a message belongs to a session that is open."""
    hdr = message.hdr
    if live.session_id != hdr.session_id or _begins(message) or (hdr.numbered and hdr.msg_id <= live.device_msg_id):
        return False
    # A device that begins with an event of its own says nothing of our last message.
    first = next((c for c in message.commands if not (isinstance(c, Status) and c.cmd_ref == "0")), None)
    answers = any(status.msg_ref == str(live.session.msg_id) for status in message.of(Status))
    return answers or (hdr.numbered and not (isinstance(first, Alert) and first.code in EVENTS))


def _wants_status(command: Command) -> bool:
    if isinstance(command, Status | Results) or (isinstance(command, Malformed) and command.is_answer):
        return False
    return not command.no_resp


def _plain(status: int, text: str) -> Answer:
    return Answer(status, text.encode(), "text/plain; charset=utf-8")
