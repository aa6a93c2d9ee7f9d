"""The client's side of one DM session (OMA-TS-DM_Protocol 1.2), sans-IO: messages in, messages out.

The states are in `agent.dm.session_states`. A driver posts what `take_output` gives, feeds the answer to `receive`, and
carries out the events:

* `CommandsReceived(message)`: authenticated commands; the driver executes them and calls `answer(replies)`;
* `NoncesChanged`: to be stored durably before the next output is sent;
* `TimeTold(seconds)`: what time it is at a server that signs its messages with a MAC;
* `Acknowledged(alert_id)`: the server has taken note of a generic alert;
* `Ended(ok, result, unproven)`: the last event.

How each side proves itself is a scheme of `omadm.schemes`, as the account says (DM Security 1.2, section 5): a MAC in
every message, or credentials in the header, which either side may accept for the whole session (212). A message that
does not prove itself is challenged once, with a fresh nonce; nothing in it is executed or believed, except that the
nonce it brings serves the next attempt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from agent.dm.packing import Limits, Outgoing, Packer, numbered
from agent.dm.session_events import (
    Acknowledged,
    Answer,
    CommandsReceived,
    Ended,
    Event,
    NoncesChanged,
    OutgoingMessage,
    SessionSettings,
    TimeTold,
    Unsendable,
)
from agent.dm.session_states import TRANSITIONS, Input, SessionUsageError, State
from agent.tree.alerts import GenericAlert
from agent.tree.chunks import OBJECT_BYTES_MAX
from omadm.auth import NONCE_BYTES, NONCE_BYTES_MAX, AuthError
from omadm.codes import AlertCode, Code, succeeded
from omadm.schemes import Credentials, Mac, Schemes
from omadm.server_time import time_in
from omadm.syncml.codec import accepts, decode, encode
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import (
    Alert,
    Chal,
    Command,
    Item,
    Malformed,
    Meta,
    Replace,
    Results,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
)
from omadm.transitions import Stateful

MESSAGES_MAX = 256  # of one session, ours; a large object of MaxObjSize in the smallest chunks a server sends
SESSION_S_MAX = 900.0
MESSAGE_BYTES_MAX = 64 * 1024  # MaxMsgSize: what we take and what we send
HTTP_OK = 200


class Session(Stateful[State, Input]):
    """One session. `entropy(n)` gives n random bytes for nonces. Times are monotonic seconds."""

    def __init__(self, settings: SessionSettings, entropy: Callable[[int], bytes]) -> None:
        self._settings = settings
        self._entropy = entropy
        super().__init__(State.READY, TRANSITIONS)
        schemes = Schemes.with_mac(settings.algorithms).with_transport()
        self._own, self._peer = (schemes.of(kind) for kind in settings.account.auth_types)
        self._accepted = False  # the server said 212: it wants no credentials in this session any more
        self._peer_accepted = False  # we said it
        self._url = settings.account.url
        self._client_nonce = settings.client_nonce
        self._server_nonce = settings.server_nonce
        self._believed_client_nonce = settings.client_nonce  # the last one from an authenticated message
        self._packer = Packer(settings.content_type, MESSAGE_BYTES_MAX)
        self._sent: list[Outgoing] = []  # content of our last message, for sending it again
        self._last_sent = Input.SENT_WHOLE
        self._alert_refs: dict[tuple[str, str], str] = {}
        self._lead: list[Outgoing] = []  # what the next message begins with: the status of the server's header
        self._believed_once = False
        self._server_msg_id = -1
        self._challenged = False  # the server has challenged us
        self._challenging = False  # we have challenged the server
        self._server_final = True
        self._output: OutgoingMessage | None = None
        self._events: deque[Event] = deque()
        self._deadline: float | None = None
        self.messages = 0

    # -- the contract -----------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Make package 1. Raises `SessionUsageError` when started before."""
        self._step(Input.START)
        self._deadline = now + SESSION_S_MAX
        self._put(self._package_1())
        self._send(whole_allowed=True)

    def take_output(self) -> OutgoingMessage | None:
        post, self._output = self._output, None
        return post

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        return None if self.over() else self._deadline

    def on_deadline(self, now: float) -> None:
        """Gives the session up once its time is over."""
        if self._deadline is not None and now >= self._deadline and TRANSITIONS.allow(self._state, Input.BROKEN):
            self._fail(f"no end after {SESSION_S_MAX:.0f} seconds")

    def receive_failure(self, why: str, now: float) -> None:  # noqa: ARG002
        """The round trip failed on the way: no answer will come."""
        if TRANSITIONS.allow(self._state, Input.BROKEN):
            self._fail(why)

    def receive(self, answer: Answer, now: float) -> None:
        """The server's answer to the last output."""
        if self._state not in {State.WAIT_PACKAGE, State.WAIT_NEXT, State.WAIT_REST}:
            raise SessionUsageError(f"an answer in {self._state.name}")
        self.on_deadline(now)
        if self.over():
            return
        message = self._decoded(answer)
        if message is not None and self._header_holds(message.hdr):
            self._server_msg_id = max(self._server_msg_id, message.hdr.msg_id)
            self._authenticated(message, answer)

    def answer(self, replies: list[Outgoing], now: float) -> None:
        """The answers to the commands of `CommandsReceived`, not yet numbered."""
        if self._state is not State.ANSWERING:
            raise SessionUsageError(f"answers in {self._state.name}")
        self.on_deadline(now)
        if not self.over():
            self._put(replies)
            self._send(whole_allowed=self._server_final)

    def abort(self, now: float) -> None:  # noqa: ARG002
        """Give the session up, telling the server (Alert 1223 with Final) where it is our turn to speak."""
        if self._state is State.ANSWERING or self._output is not None:
            self._write([Alert("", AlertCode.SESSION_ABORT)], final=True)
        if TRANSITIONS.allow(self._state, Input.ABORT):
            self._step(Input.ABORT)
            self._events.append(Ended(ok=False, result="given up on this side"))

    # -- receiving --------------------------------------------------------------------------------------------

    def _decoded(self, answer: Answer) -> SyncML | None:
        if answer.status != HTTP_OK:
            self._fail(f"the server answered HTTP {answer.status}")
        elif len(answer.body) > MESSAGE_BYTES_MAX:
            self._fail(f"a message of {len(answer.body)} bytes, more than {MESSAGE_BYTES_MAX}")
        elif not accepts(answer.content_type):
            self._fail(f"the server answered with {answer.content_type[:60] or 'no content type'}")
        else:
            try:
                return decode(answer.body, answer.content_type)
            except SyncmlError as error:
                self._fail(f"the server's message cannot be read: {error}")
        return None

    def _header_holds(self, hdr: SyncHdr) -> bool:
        if hdr.session_id.upper().lstrip("0") != self._settings.session_id.upper().lstrip("0"):
            self._fail(f"an answer for session {hdr.session_id}, not {self._settings.session_id}")
        elif hdr.numbered and hdr.msg_id <= self._server_msg_id:
            self._fail(f"message {hdr.msg_id} after message {self._server_msg_id}")
        elif not hdr.ver_proto.startswith("DM/1."):
            self._fail(f"protocol {hdr.ver_proto[:16]!r} is not DM 1.x")
        else:
            return True
        return False

    def _authenticated(self, message: SyncML, answer: Answer) -> None:
        """Both directions: does the server prove itself, and does it believe us."""
        refusal = self._refusal(message, answer)
        header = _header_status(message)
        code = header.code if header is not None else 0
        nonce = self._nonce_in(header)
        if nonce:
            self._client_nonce = nonce
            if refusal is None:
                self._believed_client_nonce = nonce
                self._note_nonces()
        # A challenge counts even from a server that is not believed: its nonce serves the next attempt, and nothing
        # else of the message does (DM Security 1.2, section 5.4).
        if code in {Code.UNAUTHORIZED, Code.CREDENTIALS_MISSING}:
            self._on_challenge(message, header, refusal)
        elif refusal is not None:
            self._on_unproven(message, refusal)
        elif code not in {Code.OK, Code.AUTHENTICATED}:
            self._fail(f"the server answered our header with {code or 'nothing'}")
        elif not nonce and self._own.nonced and not self._own.session:
            self._fail("the server gave no next nonce")
        else:
            # After a 212 only a challenge wants credentials again, be it the nonce of a 200 (RepPro 1.2, 10: Status).
            self._accepted = self._own.session and (code == Code.AUTHENTICATED or (self._accepted and not nonce))
            self._believed(message)

    def _refusal(self, message: SyncML, answer: Answer) -> AuthError | None:
        """Why the server is not believed. Once we said 212, it needs no credentials in this session any more."""
        if self._peer_accepted:
            return None
        server = replace(self._settings.account.server, nonce=self._server_nonce)
        try:
            self._peer.verify(message, answer.body, answer.mac, server)
        except AuthError as error:
            return error
        return None

    def _nonce_in(self, header: Status | None) -> bytes | None:
        """Our next nonce. A challenge that does not name its kind is one of ours."""
        chal = header.chal if header is not None else None
        if chal is None or not self._is_ours(chal):
            return None
        return chal.next_nonce if chal.next_nonce and len(chal.next_nonce) <= NONCE_BYTES_MAX else None

    def _is_ours(self, chal: Chal) -> bool:
        return chal.type.lower() in ("", self._own.type.lower())

    def _on_challenge(self, message: SyncML, header: Status | None, refusal: AuthError | None) -> None:
        chal = header.chal if header is not None else None
        if self._challenged:
            self._fail("the server refused our credentials", unproven=True)
        elif chal is None or not self._is_ours(chal) or (self._own.nonced and not self._nonce_in(header)):
            self._fail("the server wants another kind of credentials", unproven=True)
        elif refusal is not None and self._challenging:
            self._fail(f"the server did not prove itself: {refusal}", unproven=True)
        else:
            self._challenged = True
            self._accepted = False
            self._step(Input.CHALLENGED)
            self._challenging = self._challenging or refusal is not None
            self._lead = [self._status_of_header(message.hdr, refusal)]
            self._resend()

    def _on_unproven(self, message: SyncML, refusal: AuthError) -> None:
        if self._challenging:
            self._fail(f"the server did not prove itself: {refusal}", unproven=True)
            return
        self._challenging = True
        self._step(Input.UNPROVEN)
        self._lead = [self._status_of_header(message.hdr, refusal)]
        refs = message.hdr.msg_ref
        commands = [c for c in message.commands if not _is_answer(c)]
        statuses: list[Outgoing] = [
            Status("", refs, command.cmd_id, _name(command), refusal.status) for command in commands
        ]
        self._post(statuses, final=self._last_sent is Input.SENT_WHOLE)

    def _believed(self, message: SyncML) -> None:
        """An authenticated message whose sender accepted ours."""
        self._believed_once = True
        hdr = message.hdr
        if hdr.resp_uri:
            if not hdr.resp_uri.startswith("https://"):
                self._fail("RespURI is no https URL")
                return
            self._url = hdr.resp_uri
        if hdr.meta is not None:
            limits = self._packer.limits
            self._packer.limits = Limits(
                hdr.meta.max_msg_size or limits.message, hdr.meta.max_obj_size or limits.object
            )
            told = time_in(hdr.meta.emi)
            if told is not None and isinstance(
                self._peer, Mac
            ):  # other credentials do not protect what the message says
                self._events.append(TimeTold(told))
        self._read_statuses(message)
        wanted = [c for c in message.commands if not _is_answer(c)]
        work = [c for c in wanted if not _is_alert(c, AlertCode.NEXT_MESSAGE)]
        if any(_is_alert(command, AlertCode.SESSION_ABORT) for command in work):
            self._step(Input.ABORT)
            self._end(Ended(ok=False, result="the server aborted the session"))
            return
        self._advance(message, has_work=bool(work), asked=len(work) < len(wanted))

    def _advance(self, message: SyncML, *, has_work: bool, asked: bool) -> None:
        if self._state is State.WAIT_NEXT and asked and not has_work:
            given = Input.NEXT
        elif not message.final:
            given = Input.PARTIAL
        else:
            given = Input.FINAL_WORK if has_work else Input.FINAL_EMPTY
        if not TRANSITIONS.allow(self._state, given):
            self._fail("the server sent commands while it still waits for answers")
            return
        was_waiting_next = self._state is State.WAIT_NEXT
        self._step(given)
        if self._state is State.ENDED:
            self._end(Ended(ok=True, result="ok"))
            return
        if not was_waiting_next:
            self._server_final = message.final
        self._lead = [self._status_of_header(message.hdr, None)]
        if has_work:
            self._events.append(CommandsReceived(message))
        else:
            self._lead += [
                Status("", message.hdr.msg_ref, alert.cmd_id, "Alert", Code.OK) for alert in message.of(Alert)
            ]
            self._send(whole_allowed=self._server_final)

    def _read_statuses(self, message: SyncML) -> None:
        for status in message.of(Status):
            alert_id = self._alert_refs.get((status.msg_ref, status.cmd_ref))
            if alert_id is not None and succeeded(status.code):
                del self._alert_refs[status.msg_ref, status.cmd_ref]
                self._events.append(Acknowledged(alert_id))

    # -- sending ----------------------------------------------------------------------------------------------

    def _package_1(self) -> list[Outgoing]:
        """Alert, DevInfo, and what the server has not acknowledged yet (DM 1.2, section 8.3)."""
        items = tuple(
            Item(source=uri, meta=Meta(format="chr", type="text/plain"), data=value)
            for uri, value in self._settings.device_info
        )
        generic = [_generic(alert) for alert in self._settings.alerts]
        return [Alert("", self._settings.alert), Replace("", items), *generic]

    def _put(self, replies: list[Outgoing]) -> None:
        self._packer.put(replies)
        self._events.extend(Unsendable(what) for what in self._packer.unsendable)
        self._packer.unsendable.clear()

    def _header(self) -> SyncHdr:
        settings = self._settings
        meta = None
        if not self._believed_once:
            meta = Meta(max_msg_size=MESSAGE_BYTES_MAX, max_obj_size=OBJECT_BYTES_MAX)
        return SyncHdr(
            session_id=settings.session_id,
            msg_id=self.messages + 1,
            target=self._url,
            source=settings.device_id,
            source_name=settings.account.client_name,
            cred=None if self._accepted else self._own.cred(self._credentials()),
            meta=meta,
        )

    def _credentials(self) -> Credentials:
        return replace(self._settings.account.client, nonce=self._client_nonce)

    def _status_of_header(self, hdr: SyncHdr, refusal: AuthError | None) -> Status:
        """What the server's header is answered with: 212 where its credentials are good for the session, and then the
        nonce that comes with it is for the next one."""
        chal = None
        if not self._peer_accepted:
            nonce = self._entropy(NONCE_BYTES)
            chal = self._peer.accepted(nonce) if refusal is None else self._peer.chal(nonce)
            if chal is not None and chal.next_nonce is not None:
                self._server_nonce = nonce
                self._note_nonces()
        if refusal is not None:
            code = refusal.status
        else:
            self._peer_accepted = self._peer.session
            code = Code.AUTHENTICATED if self._peer.session and self._peer.type else Code.OK
        return Status("", hdr.msg_ref, "0", "SyncHdr", int(code), (hdr.target,), (hdr.source,), chal)

    def _send(self, *, whole_allowed: bool) -> None:
        """The next message of our package; Final only when the server has closed its own."""
        first = list(self._lead)
        if not whole_allowed:
            first.append(Alert("", AlertCode.NEXT_MESSAGE))
        try:
            commands = self._packer.take(self._header(), first)
        except SyncmlValueError as error:
            self._fail(f"our message cannot be written: {error}")
            return
        self._sent = [c for c in commands[len(first) :] if isinstance(c, Status | Results | Alert | Replace)]
        if not whole_allowed:
            self._sent.append(Alert("", AlertCode.NEXT_MESSAGE))
            self._last_sent = Input.SENT_ASK
        else:
            self._last_sent = Input.SENT_PART if len(self._packer) else Input.SENT_WHOLE
        self._post(self._sent, final=self._last_sent is Input.SENT_WHOLE)

    def _resend(self) -> None:
        """The last message again, with other credentials and a status for the challenge."""
        self._post(self._sent, final=self._last_sent is Input.SENT_WHOLE)

    def _post(self, content: list[Outgoing], *, final: bool) -> None:
        if self.messages >= MESSAGES_MAX:
            self._fail(f"no end after {MESSAGES_MAX} messages")
        elif self._write(content, final=final):
            self._step(self._last_sent)

    def _write(self, content: list[Outgoing], *, final: bool) -> bool:
        """Make the output. A message that cannot be written ends the session."""
        first, self._lead = self._lead, []
        message = SyncML(self._header(), numbered([*first, *content]), final)
        try:
            body = encode(message, self._settings.content_type)
        except SyncmlValueError as error:
            self._fail(f"our message cannot be written: {error}")
            return False
        self.messages += 1
        self._remember_alerts(message)
        mac = self._own.mac(body, self._credentials())
        self._output = OutgoingMessage(self._url, self._settings.content_type, body, mac)
        return True

    def _remember_alerts(self, message: SyncML) -> None:
        """Which status will acknowledge which alert. By content: package 1 may take several messages."""
        waiting = list(self._settings.alerts)
        for command in message.of(Alert):
            alert = next(
                (each for each in waiting if self._packer.carried(_generic(each, command.cmd_id)) == command), None
            )
            if alert is not None:
                waiting.remove(alert)
                self._alert_refs[str(message.hdr.msg_id), command.cmd_id] = alert.id

    # -- inner parts ------------------------------------------------------------------------------------------

    def _note_nonces(self) -> None:
        if self._events and isinstance(self._events[-1], NoncesChanged):
            self._events.pop()  # one durable write per message is enough
        self._events.append(NoncesChanged(self._believed_client_nonce, self._server_nonce))

    def over(self) -> bool:
        """Whether it has ended, well or not: no answer is wanted any more."""
        return self._state in {State.ENDED, State.FAILED}

    def _fail(self, why: str, *, unproven: bool = False) -> None:
        self._step(Input.BROKEN)
        self._end(Ended(ok=False, result=why, unproven=unproven))

    def _end(self, ended: Ended) -> None:
        self._output = None
        self._events.append(ended)


def _generic(alert: GenericAlert, cmd_id: str = "") -> Alert:
    return Alert(cmd_id, AlertCode.GENERIC, (alert.item(),), alert.correlator or None)


def _header_status(message: SyncML) -> Status | None:
    return next((s for s in message.of(Status) if s.cmd_ref == "0" or s.cmd == "SyncHdr"), None)


def _is_alert(command: Command, code: int) -> bool:
    return isinstance(command, Alert) and command.code == code


def _is_answer(command: Command) -> bool:
    return isinstance(command, Status | Results) or (isinstance(command, Malformed) and command.is_answer)


def _name(command: Command) -> str:
    return getattr(command, "name", type(command).__name__)
