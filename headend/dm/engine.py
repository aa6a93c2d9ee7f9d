"""The server's side of a DM session, sans-IO (OMA-TS-DM_Protocol 1.2, sections 6 to 8).

    device                                server
    Pkg 1: Alert 1200/1201, DevInfo  →
                                     ←    Pkg 2: Status for each command, commands of a job
    Pkg 3: Status, Results           →
                                     ←    Pkg 4: with commands: on with Pkg 3; only Status: the session is over

Each of our packages is one message with Final, with as many commands as fit the device's MaxMsgSize; the others follow
in the next Pkg 4. The exception is an object larger than a message: its chunks are sent one per message, with Final in
the last only. A package of the device may span several messages: each but the last is answered with Status and
Alert 1222.

A `ServerSession` sees only messages whose sender has been authenticated. It stores through a `SessionStorage`, whose
effects the caller commits before the answer is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from headend.dm.jobs.run import BrokenJobError, Run
from headend.dm.jobs.steps import Failed, Job, Note, Outcome
from headend.dm.jobs.types import JOB_TYPES
from headend.dm.large_objects import Incoming
from omadm.codes import AlertCode, Code, succeeded
from omadm.syncml.document import TNDS_TYPES, embedded
from omadm.syncml.messages import (
    VER_DTD,
    VER_PROTO,
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
    Unsupported,
)
from omadm.syncml.text import plain, repeatable

OUR_MESSAGE_BYTES_MAX = 65_536  # what we declare as MaxMsgSize
OUR_OBJECT_BYTES_MAX = 1 << 20
PEER_MESSAGE_BYTES_MIN = 1024  # a device that declares less still gets messages of this size
MESSAGES_MAX = 2000  # in one session; a firmware job takes about ten
REFUSED = frozenset({Code.UNAUTHORIZED, Code.CREDENTIALS_MISSING})  # the peer does not believe our credentials
_TYPE_PREFIX = "Reversed-Domain-Name:"  # some devices put it before the type of a generic alert


class State(Enum):
    """Where a session with a device stands."""

    OPEN = "running"
    DONE = "done"  # complete; the device does not answer our last message
    ABORTED = "aborted"  # by the device (Alert 1223)
    FAILED = "failed"  # our credentials or version were refused, or a limit was reached


@dataclass(frozen=True, slots=True)
class AlertSeen:
    """An alert of the device: 1226 or 1224. `position` identifies it within its session when it is repeated."""

    position: str
    code: int
    type: str | None = None
    source: str | None = None
    mark: str | None = None
    data: str | None = field(default=None, repr=False)
    correlator: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """How the status of a header says that its sender is believed: 200 for this message, 212 for the whole session.

    `chal` brings the next nonce; `resp_uri` is where the device's next messages go, None for where they went.
    """

    code: Code = Code.OK
    chal: Chal | None = None
    resp_uri: str | None = None


class SessionStorage(Protocol):
    """Stores what a session receives, and supplies its jobs."""

    def value_seen(self, uri: str, item: Item) -> str:
        """Store the value of a node that the device sent (`item.meta` has its format).

        Returns why it cannot be kept; empty when it is, and for what is no value (the names below a node, a property).
        """

    def alert_seen(self, alert: AlertSeen) -> None:
        """Store an alert of the device."""

    def next_job(self) -> Job | None:
        """Take the next job for this device and mark it as running; None when there is none."""

    def job_noted(self, job: Job, note: Note) -> None:
        """Store what a job's steps note: their progress, or which nodes the device has."""

    def job_finished(self, job: Job, outcome: Outcome) -> None:
        """Store how a job ended."""


class ServerSession:
    """One session with one device. `measure(message)` returns the encoded size of a message in bytes."""

    def __init__(
        self,
        *,
        session_id: str,
        device_uri: str,
        device_name: str | None,
        server_uri: str,
        server_name: str,
        measure: Callable[[SyncML], int],
    ) -> None:
        self.state = State.OPEN
        self.messages = 0
        self.commands = 0
        self.trigger: int | None = None
        self._hdr = SyncHdr(
            session_id, 0, target=device_uri, source=server_uri, target_name=device_name, source_name=server_name
        )
        self._measure = measure
        self._peer_message_bytes = OUR_MESSAGE_BYTES_MAX
        self._peer_object_bytes: int | None = None
        self._cmd_id = 0
        self._run: Run | None = None
        self._incoming = Incoming(OUR_OBJECT_BYTES_MAX)
        self._resent = False  # our last message was refused once already
        self._said: list[Status] = []  # the statuses of our last message, to repeat them if the device refuses it

    @property
    def job_id(self) -> int | None:
        """The number of the job that runs."""
        return None if self._run is None else self._run.job.id

    @property
    def msg_id(self) -> int:
        """The MsgID of our last message, 0 before the first."""
        return self._hdr.msg_id

    # -- one exchange ------------------------------------------------------------------------------------------------

    def receive(self, message: SyncML, storage: SessionStorage, accepted: Accepted) -> SyncML:
        """Take an authenticated message; return our answer, whose status for the header says `accepted`."""
        self.messages += 1
        self._cmd_id = 0
        msg_id = max(self._hdr.msg_id + 1, message.hdr.msg_id)  # higher than that of a refusal sent before
        self._hdr = replace(self._hdr, msg_id=msg_id, meta=self._limits(), resp_uri=accepted.resp_uri)
        code = self._header(message.hdr, accepted.code)
        answers = [self._status("0", "SyncHdr", code, message, accepted.chal)]
        if self.state is State.OPEN:
            answers += self._repeat_if_refused(message)
        for position, command in enumerate(message.commands):
            if self.state is not State.OPEN:
                break
            answers += self._take(position, command, message, storage)
        self._said = answers[1:]
        if self.state is State.OPEN and self.messages >= MESSAGES_MAX:
            self.state = State.FAILED
        if self.state is not State.OPEN:
            return self._compose(answers, final=True)
        return self._turn(message, answers, storage)

    def _turn(self, message: SyncML, answers: list[Status], storage: SessionStorage) -> SyncML:
        """Our turn: ask for the rest of a package, send the next chunk or commands, or end the session."""
        if self._incoming.pending:
            return self._next_message(answers)
        if self._run is None or not self._run.continue_object():
            if not message.final and not _asks_next(message):
                return self._next_message(answers)
        base = self._compose(answers, final=True)
        self._measure(base)  # what repeats the device's own words: no job is to blame for what cannot be written there
        while True:
            run = self._advance(storage)
            if run is None:
                self.state = State.DONE
                return base
            try:
                commands, final = run.emit(base, self._new_id, self._measure, self._peer_message_bytes)
            except BrokenJobError as error:
                self._finish(run, _broken(error), storage)
                continue
            if commands:  # otherwise the request turned out to be too large for this device
                self.commands += len(commands)
                return replace(base, commands=(*base.commands, *commands), final=final)

    def _advance(self, storage: SessionStorage) -> Run | None:
        """Pass the replies to the job, and start the next job when it is finished."""
        while True:
            if self._run is None:
                job = storage.next_job()
                if job is None:
                    return None
                if job.kind not in JOB_TYPES:
                    storage.job_finished(job, Failed({"error": f"this head-end knows no job {job.kind!r}"}))
                    continue
                self._run = Run(job, JOB_TYPES[job.kind].steps, self._peer_object_bytes)
            outcome: Outcome | None
            try:
                outcome = self._run.advance(storage.job_noted)
                if outcome is None:
                    if self._run.fits(self._compose([], final=True), self._measure, self._peer_message_bytes):
                        return self._run
                    outcome = Failed({"error": "the commands do not fit into one message of the device"})
            except BrokenJobError as error:
                outcome = _broken(error)
            self._finish(self._run, outcome, storage)

    def _finish(self, run: Run, outcome: Outcome, storage: SessionStorage) -> None:
        storage.job_finished(run.job, outcome)
        self._run = None

    # -- reading -----------------------------------------------------------------------------------------------------

    def _header(self, hdr: SyncHdr, believed: Code) -> int:
        """The status of the header; a protocol version that we do not speak ends the session."""
        if hdr.meta is not None and hdr.meta.max_msg_size is not None:
            limit = min(hdr.meta.max_msg_size, OUR_MESSAGE_BYTES_MAX)
            self._peer_message_bytes = max(limit, PEER_MESSAGE_BYTES_MIN)
        if hdr.meta is not None and hdr.meta.max_obj_size is not None and self._peer_object_bytes is None:
            self._peer_object_bytes = hdr.meta.max_obj_size  # valid for the whole session
        if hdr.ver_dtd == VER_DTD and hdr.ver_proto == VER_PROTO:
            return believed
        self.state = State.FAILED
        if hdr.ver_dtd == VER_DTD:
            return Code.PROTOCOL_VERSION_NOT_SUPPORTED
        return Code.DTD_VERSION_NOT_SUPPORTED

    def _repeat_if_refused(self, message: SyncML) -> list[Status]:
        """If our last message was refused, repeat it once, with the nonce that came with the refusal."""
        code = next((s.code for s in message.of(Status) if s.cmd_ref == "0"), Code.OK)
        if succeeded(code):
            self._resent = False
            return []
        if code not in REFUSED or self._resent:
            self.state = State.FAILED
            return []
        self._resent = True
        if self._run is not None:
            self._run.take_back()
        return [replace(status, cmd_id=self._new_id()) for status in self._said]

    def _take(self, position: int, command: Command, message: SyncML, storage: SessionStorage) -> list[Status]:
        if not command.cmd_id and not isinstance(command, Status | Results | Malformed):
            # Nothing could refer to it: it is not carried out, but an abort is one in any form.
            if isinstance(command, Alert) and command.code == AlertCode.SESSION_ABORT:
                self.state = State.ABORTED
            return [] if command.no_resp else [self._status("", _name(command), Code.BAD_REQUEST, message, None)]
        match command:
            case Status():
                if not self._resent and command.cmd_ref != "0" and self._run is not None:
                    self._run.status(command)
                return []
            case Results():
                return self._results(command, message, storage)
            case Alert():
                code = self._alert(position, command, message, storage)
            case Replace():
                code = self._device_info(command, storage)
            case Unsupported():
                code = Code.NOT_SUPPORTED
            case Malformed():
                code = Code.BAD_REQUEST
                if command.is_answer:
                    return self._malformed_answer(command, message)
            case _:
                # A device sends Replace of DevInfo, Alert, Status and Results (DM_Protocol 1.2, section 6).
                code = Code.NOT_ALLOWED
        if command.no_resp:
            return []
        return [self._status(command.cmd_id, _name(command), code, message, None, _uris(command))]

    def _malformed_answer(self, answer: Malformed, message: SyncML) -> list[Status]:
        """An answer that cannot be read concerns its own command only: that one is without its value, or status."""
        if self._run is not None:
            self._run.unreadable(answer)
        if answer.name == "Status":
            return []
        return [self._status(answer.cmd_id, answer.name, Code.BAD_REQUEST, message, None)]

    def _results(self, results: Results, message: SyncML, storage: SessionStorage) -> list[Status]:
        """Take values for the job. Chunks of a large object and errors get a Status, complete values do not."""
        answers: list[Status] = []
        for item in results.items:
            uri = item.source or item.target or results.source_ref or results.target_ref or ""
            taken = self._incoming.feed(uri, replace(item, meta=_merged(item.meta, results.meta)))
            if taken.broken and self._run is not None:
                self._run.failed(results, Code.SIZE_MISMATCH)
            if taken.item is not None:
                told = _as_told(taken.item)
                not_kept = storage.value_seen(uri, told)
                if self._run is not None:
                    self._run.result(results, replace(told, source=uri or None), not_kept)
            if taken.status is not None:
                answers.append(
                    self._status(
                        results.cmd_id, "Results", taken.status, message, None, (uri,) if repeatable(uri) else ()
                    )
                )
                if taken.status != Code.CHUNK_BUFFERED and self._run is not None:
                    self._run.failed(results, taken.status)
        return answers

    def _alert(self, position: int, alert: Alert, message: SyncML, storage: SessionStorage) -> int:
        match alert.code:
            case AlertCode.SERVER_INITIATED | AlertCode.CLIENT_INITIATED:
                self.trigger = alert.code
            case AlertCode.NEXT_MESSAGE:
                pass
            case AlertCode.SESSION_ABORT:
                self.state = State.ABORTED
            case AlertCode.NO_END_OF_DATA:
                if self._run is not None:
                    self._run.object_refused(Code.SIZE_MISMATCH)
            case AlertCode.CLIENT_EVENT | AlertCode.GENERIC:
                for index, item in enumerate(alert.items or (Item(),)):
                    storage.alert_seen(_seen(f"{message.hdr.msg_ref}/{position}/{index}", alert, item))
            case None:
                return Code.BAD_REQUEST
            case _:
                return Code.NOT_SUPPORTED
        return Code.OK

    def _device_info(self, command: Replace, storage: SessionStorage) -> int:
        code = Code.OK
        for item in command.items:
            uri = item.source or item.target or ""
            if not uri.startswith("./DevInfo/"):
                return Code.NOT_ALLOWED
            if storage.value_seen(uri, replace(item, meta=_merged(item.meta, command.meta))):
                code = Code.TOO_LARGE
        return code

    # -- writing -----------------------------------------------------------------------------------------------------

    def _limits(self) -> Meta | None:
        first = self._hdr.msg_id == 0
        return Meta(max_msg_size=OUR_MESSAGE_BYTES_MAX, max_obj_size=OUR_OBJECT_BYTES_MAX) if first else None

    def _new_id(self) -> str:
        self._cmd_id += 1
        return str(self._cmd_id)

    def _status(
        self, cmd_ref: str, cmd: str, code: int, message: SyncML, chal: Chal | None, uris: tuple[str, ...] = ()
    ) -> Status:
        hdr = message.hdr
        return Status(
            cmd_id=self._new_id(),
            msg_ref=hdr.msg_ref,
            cmd_ref=cmd_ref,
            cmd=cmd,
            code=code,
            target_refs=(hdr.target,) if cmd_ref == "0" else (),
            source_refs=(hdr.source,) if cmd_ref == "0" else uris,
            chal=chal,
        )

    def _compose(self, answers: list[Status], *, final: bool) -> SyncML:
        return SyncML(self._hdr, tuple(answers), final=final)

    def _next_message(self, answers: list[Status]) -> SyncML:
        alert = Alert(self._new_id(), AlertCode.NEXT_MESSAGE)
        return SyncML(self._hdr, (*answers, alert), final=False)


def _broken(error: BrokenJobError) -> Failed:
    """It is not tried again: the same words would end the same way."""
    return Failed({"error": str(error)}, error.cause)


def _asks_next(message: SyncML) -> bool:
    return any(alert.code == AlertCode.NEXT_MESSAGE for alert in message.of(Alert))


def _name(command: Command) -> str:
    return command.name if isinstance(command, Unsupported | Malformed) else type(command).__name__


def _uris(command: Command) -> tuple[str, ...]:
    items = command.items if isinstance(command, Replace | Alert) else ()
    return tuple(item.source for item in items if item.source and repeatable(item.source))


def _merged(inner: Meta | None, outer: Meta | None) -> Meta | None:
    """The item's meta information, completed from the command's, whose format and type apply to every item."""
    if inner is None or outer is None:
        return inner or outer
    return replace(inner, format=inner.format or outer.format, type=inner.type or outer.type)


def _as_told(item: Item) -> Item:
    """Text is text again, however it had to be carried, and a document that took several messages is one."""
    meta = item.meta or Meta()
    if meta.type in TNDS_TYPES and isinstance(item.data, str | bytes):
        return replace(item, data=embedded(item.data))
    if not isinstance(item.data, bytes):
        return item
    data = plain(item.data, meta.format, meta.type)
    return item if data is item.data else replace(item, data=data, meta=replace(meta, format="chr"))


def _seen(position: str, alert: Alert, item: Item) -> AlertSeen:
    meta = item.meta or Meta()
    kind = meta.type.removeprefix(_TYPE_PREFIX).strip() if meta.type else None
    data = item.data.decode("utf-8", "replace") if isinstance(item.data, bytes) else item.data
    return AlertSeen(
        position=position,
        code=alert.code or 0,
        type=kind,
        source=item.source,
        mark=meta.mark,
        data=data if isinstance(data, str) else None,
        correlator=alert.correlator,
    )
