"""A running job in a session: its steps, the batch they wait for, and which requests have been sent and answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from headend.dm.jobs.steps import Batch, CommandName, Job, Mode, Note, Outcome, Reply, Request, Steps
from headend.dm.large_objects import LargeObject
from omadm.codes import Code, carried_out
from omadm.syncml.messages import (
    Add,
    Atomic,
    Command,
    Copy,
    Delete,
    Exec,
    Get,
    Item,
    Malformed,
    Meta,
    Replace,
    Results,
    Sequence,
    Status,
    SyncML,
    SyncmlValueError,
)

Measure = Callable[[SyncML], int]
NewId = Callable[[], str]

RESULT_ITEMS_MAX = 2000  # for one command; with more it is not answered whole (an interior node returns one)
SIZE_MARGIN_BYTES = 32  # CmdIDs get longer towards the end of a message


@dataclass(slots=True)
class _Slot:
    """One request, and the device's answers to it so far."""

    request: Request
    status: int | None = None
    items: list[Item] = field(default_factory=list)
    lacking: bool = False  # some of its items were dropped
    not_kept: str = ""  # why a value of it could not be stored


class BrokenJobError(Exception):
    """A job cannot go on, through no fault of any other: its steps failed, or what it wants said cannot be written."""

    def __init__(self, why: str, cause: Exception) -> None:
        # Not the repr of the cause: that of an encoding error repeats the whole text, which may be a secret.
        kind = "" if isinstance(cause, SyncmlValueError) else f"{type(cause).__name__}: "
        super().__init__(f"{why}: {kind}{cause}")
        self.cause = cause


class Run:
    """The steps of one job against one device, batch after batch."""

    def __init__(self, job: Job, begin: Callable[[Job], Steps], object_bytes_max: int | None) -> None:
        self.job = job
        self._begin = begin
        self._steps: Steps | None = None
        self._object_bytes_max = object_bytes_max
        self._mode = Mode.PLAIN
        self._slots: list[_Slot] = []
        self._unsent: deque[_Slot] = deque()
        self._sent: dict[tuple[str, str], _Slot] = {}
        self._last: list[_Slot] = []  # the requests in our last message
        self._parent: _Slot | None = None  # the Atomic or Sequence itself
        self._large: tuple[LargeObject, _Slot] | None = None

    # -- from the device ---------------------------------------------------------------------------------------------

    def status(self, status: Status) -> None:
        """Take a Status for one of our commands; one for an unknown command is ignored."""
        slot = self._sent.get((status.msg_ref, status.cmd_ref))
        if slot is not None:
            slot.status = status.code

    def result(self, results: Results, item: Item, not_kept: str = "") -> None:
        """Take a value for the request it answers. `not_kept`: why it could not be stored."""
        slot = self._slot_of(results)
        if slot is None:
            return
        slot.not_kept = slot.not_kept or not_kept
        if len(slot.items) < RESULT_ITEMS_MAX:
            slot.items.append(item)
        else:
            slot.lacking = True

    def failed(self, results: Results, code: int) -> None:
        """Note that the value of this Results could not be taken."""
        slot = self._slot_of(results)
        if slot is not None:
            slot.status = code

    def unreadable(self, answer: Malformed) -> None:
        """Note that a Status or Results could not be read: its command is without it."""
        slot = self._sent.get((answer.msg_ref or "", answer.cmd_ref or ""))
        if slot is not None and answer.name == "Results":
            slot.lacking = True

    def _slot_of(self, results: Results) -> _Slot | None:
        if results.msg_ref is not None:
            return self._sent.get((results.msg_ref, results.cmd_ref))
        return next((slot for (_, cmd), slot in reversed(self._sent.items()) if cmd == results.cmd_ref), None)

    def object_refused(self, code: int) -> None:
        """Note that the device gave up on the object that we are sending (Alert 1225)."""
        if self._large is not None:
            self._large[1].status = code
            self._large = None

    def take_back(self) -> None:
        """Prepare to repeat everything in our last message, which the device refused."""
        if self._large is not None:
            large, slot = self._large
            large.back()
            slot.status = Code.CHUNK_BUFFERED
            return
        self._unsent.extendleft(reversed([slot for slot in self._last if slot.status is None]))
        self._last = []
        self._parent = None

    # -- from the job ------------------------------------------------------------------------------------------------

    def continue_object(self) -> bool:
        """Whether the next message must carry the next chunk of an object. Ends the object when one was refused."""
        if self._large is None:
            return False
        large, slot = self._large
        if not large.finished and slot.status in (Code.CHUNK_BUFFERED, Code.OK):
            slot.status = None
            return True
        if slot.status == Code.CHUNK_BUFFERED and large.finished:
            slot.status = None  # the last chunk has no status that closes the object
        self._large = None
        return False

    def advance(self, note: Callable[[Job, Note], None]) -> Outcome | None:
        """Resume the steps with the replies. Returns None when there are requests to send, else the job's outcome.
        Raises `BrokenJobError`, and what `note` raises."""
        while not self._unsent and self._large is None:
            said = self._resume(self._replies())
            while isinstance(said, Note):
                note(self.job, said)
                said = self._resume([])
            if not isinstance(said, Batch):
                return said
            self._start(said)
        return None

    def _resume(self, replies: list[Reply]) -> Batch | Note | Outcome:
        try:
            if self._steps is not None:
                return self._steps.send(replies)
            self._steps = self._begin(self.job)
            return next(self._steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        except Exception as error:
            raise BrokenJobError("the head-end cannot carry the job out", error) from error

    def _start(self, batch: Batch) -> None:
        self._mode = batch.mode
        self._slots = [_Slot(request) for request in batch.requests]
        self._unsent = deque(self._slots)
        self._sent, self._last, self._parent = {}, [], None

    def _replies(self) -> list[Reply]:
        return [self._reply(slot) for slot in self._slots]

    def _reply(self, slot: _Slot) -> Reply:
        status = slot.status if self._parent is None else self._nested_status(slot.status, self._parent.status)
        wants_value = slot.request.command is CommandName.GET and status is not None and carried_out(status)
        lacking = slot.lacking or (wants_value and not _answered(slot))
        later = slot.request.command is CommandName.EXEC
        return Reply(status, tuple(slot.items), lacking, slot.not_kept, later=later)

    def _nested_status(self, own: int | None, parent: int | None) -> int | None:
        """What a status inside an Atomic or Sequence amounts to (DM_RepPro 1.2, 6.6.2 and 6.6.13).

        The status of an Atomic holds for all that is in it: only with that are those inside carried out, with or
        without statuses of their own. A Sequence is 200 once it has begun, which says nothing of those inside; another
        status says that it has not, or not to its end.
        """
        if own is not None and not carried_out(own, later=True):
            return own
        if self._mode is Mode.ATOMIC:
            return parent
        if parent is not None and not carried_out(parent):
            return parent
        return own

    # -- into a message ----------------------------------------------------------------------------------------------

    def fits(self, empty: SyncML, measure: Measure, limit: int) -> bool:
        """Whether an Atomic or Sequence fits one message; it cannot be divided. Raises `BrokenJobError`."""
        if self._mode is Mode.PLAIN:
            return True
        whole = self._nested([_command(slot.request, "9") for slot in self._slots], "9")
        for slot in self._slots:  # one by one first: the error names the node
            self._measured(measure, replace(empty, commands=(_command(slot.request, "9"),)))
        size = measure(replace(empty, commands=(whole,)))
        return size + SIZE_MARGIN_BYTES * len(self._slots) <= limit

    @staticmethod
    def _measured(measure: Measure, message: SyncML) -> int:
        """The size of a message that can be written but for what this job has put into it."""
        try:
            return measure(message)
        except Exception as error:
            last = message.commands[-1]
            uris = [item.target or "" for item in getattr(last, "items", ())]
            where = f" {ascii(uris[0])[1:-1]}" if uris else ""
            raise BrokenJobError(f"{type(last).__name__}{where} cannot be written", error) from error

    def emit(self, base: SyncML, new_id: NewId, measure: Measure, limit: int) -> tuple[list[Command], bool]:
        """The commands to add to the message `base`, and whether the message has Final.

        `limit` is the size of a message that the device takes, in bytes. Raises `BrokenJobError`; what had been sent
        before is not taken back.
        """
        if self._large is not None:
            return self._emit_chunk(base, new_id, measure, limit)
        if self._mode is not Mode.PLAIN:
            return self._emit_nested(base, new_id), True
        commands: list[Command] = []
        self._last = []
        empty = measure(base)
        used = empty + SIZE_MARGIN_BYTES
        while self._unsent:
            slot = self._unsent[0]
            command = _command(slot.request, new_id())
            size = self._measured(measure, replace(base, commands=(*base.commands, command))) - empty
            if used + size > limit:
                if not commands:
                    return self._emit_too_large(slot, base, new_id, measure, limit)
                break
            used += size
            self._unsent.popleft()
            self._note(slot, base, command)
            commands.append(command)
        return commands, True

    def _note(self, slot: _Slot, base: SyncML, command: Command) -> None:
        self._sent[str(base.hdr.msg_id), command.cmd_id] = slot
        self._last.append(slot)

    def _emit_nested(self, base: SyncML, new_id: NewId) -> list[Command]:
        outer = new_id()
        self._parent = _Slot(self._slots[0].request)
        self._sent[str(base.hdr.msg_id), outer] = self._parent
        self._last = []
        inner: list[Command] = []
        while self._unsent:
            slot = self._unsent.popleft()
            inner.append(_command(slot.request, new_id()))
            self._note(slot, base, inner[-1])
        return [self._nested(inner, outer)]

    def _nested(self, inner: list[Command], cmd_id: str) -> Command:
        kind = Atomic if self._mode is Mode.ATOMIC else Sequence
        return kind(cmd_id, tuple(inner))

    def _emit_too_large(
        self, slot: _Slot, base: SyncML, new_id: NewId, measure: Measure, limit: int
    ) -> tuple[list[Command], bool]:
        """A request larger than a message: sent in chunks, or failed (the message is then sent without it)."""
        self._unsent.popleft()
        data = slot.request.data
        large = LargeObject(data if data is not None else "")
        if slot.request.command not in (CommandName.ADD, CommandName.REPLACE) or not large.size or self._too_big(large):
            slot.status = Code.OBJECT_TOO_LARGE
            return [], True
        self._large = (large, slot)
        return self._emit_chunk(base, new_id, measure, limit)

    def _too_big(self, large: LargeObject) -> bool:
        return self._object_bytes_max is not None and large.size > self._object_bytes_max

    def _emit_chunk(self, base: SyncML, new_id: NewId, measure: Measure, limit: int) -> tuple[list[Command], bool]:
        """The largest next chunk that fits. Text can grow when encoded, so its size is found by trying."""
        if self._large is None:
            raise RuntimeError("no object to send")
        large, slot = self._large
        cmd_id = new_id()
        size = max(4, limit - measure(base) - SIZE_MARGIN_BYTES)
        while True:
            first = large.first
            piece = large.chunk(size)
            command = _chunk(slot.request, cmd_id, piece, large.size if first else None, more=not large.finished)
            if size <= 4 or self._measured(measure, replace(base, commands=(*base.commands, command))) <= limit:
                self._last = []
                self._sent[str(base.hdr.msg_id), cmd_id] = slot
                return [command], large.finished
            large.back()
            size = size * 7 // 8


def _answered(slot: _Slot) -> bool:
    """Whether an item of the answer to a Get is of the node that was asked for, or of one below it, and has what such
    a node has. Devices write `./A/x` as `A/x` as well."""
    wanted = _plain(slot.request.uri)
    for item in slot.items:
        told = _plain(item.source or slot.request.uri)
        is_of_it = wanted in ("", told) or told.startswith(f"{wanted}/")
        is_empty = item.meta is not None and item.meta.format in ("node", "null")
        if is_of_it and (item.data is not None or is_empty):
            return True
    return False


def _plain(uri: str) -> str:
    return uri.partition("?")[0].removeprefix("./").removeprefix(".").rstrip("/")


def _command(request: Request, cmd_id: str) -> Command:
    meta = None
    if request.format is not None or request.type is not None:
        meta = Meta(format=request.format, type=request.type)
    item = Item(target=request.uri, source=request.source, meta=meta, data=request.data)
    match request.command:
        case CommandName.GET:
            return Get(cmd_id, (item,))
        case CommandName.ADD:
            return Add(cmd_id, (item,))
        case CommandName.REPLACE:
            return Replace(cmd_id, (item,))
        case CommandName.DELETE:
            return Delete(cmd_id, (item,))
        case CommandName.COPY:
            return Copy(cmd_id, (item,))
        case CommandName.EXEC:
            return Exec(cmd_id, (item,), request.correlator)


def _chunk(request: Request, cmd_id: str, piece: str | bytes, size: int | None, *, more: bool) -> Command:
    meta = Meta(format=request.format, type=request.type, size=size)
    item = Item(target=request.uri, meta=meta, data=piece, more_data=more)
    return (Add if request.command is CommandName.ADD else Replace)(cmd_id, (item,))
