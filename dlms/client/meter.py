"""A blocking client for one meter.

    from dlms import Lls, Meter

    with Meter("socket://127.0.0.1:4059", link="wrapper", client=1, server=1, auth=Lls("...")) as meter:
        print(meter.read("1.0.1.8.0.255"))
        for result in meter.read_many(["1.0.32.7.0.255", "1.0.52.7.0.255"]): ...
        for row in meter.profile("1.0.99.1.0.255", since=yesterday): ...

`dlms.client.session` does the work; this module has the loop that moves bytes between it and a port. After a session
was lost, the next call opens a new one. A `Meter` is for use by one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dlms.axdr import Data
from dlms.client.events import (
    ItemError,
    ItemRead,
    ReadDone,
    Replied,
    SessionClosed,
    SessionEvent,
    SessionFailed,
    SessionOpened,
)
from dlms.client.knowledge import MeterKnowledge
from dlms.client.reading import Failed, ItemFailed, Reading, declared, present, refusal, unscaled
from dlms.client.session import MeterSession
from dlms.codes import Conformance, data_access_text
from dlms.cosem.associations import ASSOCIATION, ObjectInfo, objects_of
from dlms.cosem.dictionary import usual_class
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.cosem.scaler_unit import ScalerUnit, scaler_ref, scaler_unit
from dlms.cosem.time import STANDARD_CLOCK, ClockPolicy
from dlms.errors import DlmsError, LinkError, LocalError, PeerError
from dlms.link.options import LinkOptions
from dlms.link.port import Port, open_port
from dlms.link.registry import data_link, open_link
from dlms.security.settings import Auth, Security
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Item, Result
from dlms.xdlms.exchange import ActionAnswer, Answer, Exchange, GetAnswer, GetExchange, SetAnswer

if TYPE_CHECKING:
    from dlms.client.image_transfer import MeterImage
    from dlms.client.objects import MeterClock, MeterSecurity
    from dlms.client.profile import Column, ProfileRow
    from dlms.client.streaming import AnswerStream
    from dlms.link.mode_e.port import ModeE
    from dlms.xdlms.exchange_sn import SnReadExchange

Trace = Callable[[str, float, bytes], None]
"""Called for everything that crosses the port: ">" (sent) or "<" (received), monotonic seconds, the bytes."""


class Meter:
    """One meter on one port. The first call that needs a session opens it.

    `url` names the port (`dlms.link.port`), unless `port` is an open one; `link` names the data link
    (`dlms.link.registry`); `client` and `server` are the SAPs. `auth`, `security`, `conformance` and `pdu_size`
    (octets) are proposed for the association. `info_max` (octets) and `window` (frames) are parameters of HDLC.
    `timeout_s` is the wait for an answer, `retry_pause_s` the pause before a failed line is opened again. `known` is
    what earlier sessions learned about the meter. `clock` says how to read the meter's time. With `mode_e` the port is
    opened at 300 baud as IEC 62056-21 mode E requires (`dlms.link.mode_e.port`), and `baudrate` is the highest speed to
    agree to.

    Methods raise `LinkError` when the line fails, `PeerError` when the meter refuses, `DecodeError` for an answer that
    cannot be decoded, and `LocalError` for a wrong argument; all are `DlmsError`.
    """

    def __init__(
        self,
        url: str,
        *,
        link: str = "hdlc",
        client: int = 16,
        server: int | str = 1,
        auth: Auth | None = None,
        security: Security | None = None,
        pdu_size: int = 1024,
        short_names: bool = False,
        conformance: Conformance | None = None,
        info_max: int = 128,
        window: int = 1,
        baudrate: int = 9600,
        timeout_s: float | None = None,
        retry_pause_s: float = 1.0,
        known: MeterKnowledge | None = None,
        clock: ClockPolicy = STANDARD_CLOCK,
        port: Port | None = None,
        mode_e: ModeE | bool = False,
        trace: Trace | None = None,
    ) -> None:
        self.known = MeterKnowledge() if known is None else known
        self.policy = clock
        self._url = url
        self._link_name = link
        asynchronous = not url.startswith(("socket://", "udp://", "loop://"))
        self._options = LinkOptions(
            client, server, info_max, window, url.startswith("udp://"), baudrate if asynchronous else None, timeout_s
        )
        self._auth = auth
        self._security = security
        self._pdu_size = pdu_size
        self._short_names = short_names
        self._conformance = conformance
        self._baudrate = baudrate
        self._port = port
        self._given_port = port is not None
        self._mode_e = mode_e
        self._lost_at: int | None = None  # the speed that a meter is still at, because its session was never closed
        if mode_e and (not data_link(link).mode_e or self._given_port):
            raise LocalError("mode E opens a port of its own for HDLC: neither another link nor a given port")
        self._trace = trace
        self._retry_pause_s = retry_pause_s
        self._session: MeterSession | None = None
        self._stream: AnswerStream | None = None
        self._objects: dict[Obis, ObjectInfo] = {}
        self.columns: dict[Obis, tuple[tuple[Column, ...], int, int]] = {}

    # ------------------------------------------------------------------------------------------------- the connection

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is a session now."""
        return self._session is not None

    def open(self) -> None:
        """Connect and associate. Does nothing when there is a session."""
        if self._session is not None:
            return
        if self._port is None:
            self._port = self._open_port()
        self._session = MeterSession(
            open_link(self._link_name, self._options),
            client=self._options.client,
            server=self._options.sap,
            auth=self._auth,
            security=self._security,
            pdu_size=self._pdu_size,
            short_names=self._short_names,
            conformance=self._conformance,
            known=self.known,
        )
        self._session.open(time.monotonic())
        self.run(lambda event: isinstance(event, SessionOpened))

    def _open_port(self) -> Port:
        if not self._mode_e:
            return open_port(self._url, self._baudrate)
        from dlms.link.mode_e.port import ModeE, open_mode_e

        how = self._mode_e if isinstance(self._mode_e, ModeE) else ModeE()
        port = open_mode_e(self._url, self._baudrate, how, lost_at=self._lost_at)
        self._options = replace(self._options, baudrate=port.baudrate)
        self._lost_at = port.baudrate
        return port

    def close(self) -> None:
        """Release, disconnect, and close the port. Never raises: what cannot be closed in order is dropped."""
        session = self._session
        if session is not None:
            try:
                session.close(time.monotonic())
                self.run(lambda event: isinstance(event, SessionClosed))
                self._lost_at = None
            except DlmsError:
                pass  # the port is closed in any case
        self._drop()

    def _drop(self) -> None:
        self._session = None
        if self._stream is not None:
            self._stream.end(LinkError("the session ended"))
            self._stream = None
        if self._port is not None and not self._given_port:
            self._port.close()
            self._port = None

    def run(
        self,
        wanted: Callable[[SessionEvent], bool],
        come: Callable[[], bool] = lambda: False,
        seen: Callable[[SessionEvent], None] = lambda _event: None,
    ) -> list[SessionEvent]:
        """Run the session until a `wanted` event, or until `come` is true; return all events up to then.

        `seen` is called with each event. Raises the error that ended the session, which is then dropped.
        """
        session, port = self._session, self._port
        if session is None or port is None:
            raise LocalError("the meter is not open")
        events: list[SessionEvent] = []
        try:
            while True:
                self._send(session, port)
                while (event := session.next_event()) is not None:
                    events.append(event)
                    seen(event)
                    if isinstance(event, SessionFailed):
                        raise event.error
                    if wanted(event):
                        return events
                if come():
                    return events
                self._wait(session, port)
        except DlmsError:
            self._drop()
            raise

    def _send(self, session: MeterSession, port: Port) -> None:
        while output := session.take_output():
            self._note(">", output)
            port.write(output)

    def _wait(self, session: MeterSession, port: Port) -> None:
        deadline = session.next_deadline()
        now = time.monotonic()
        data = port.read(None if deadline is None else max(0.0, deadline - now))
        now = time.monotonic()
        if data is None:
            session.receive_eof(now)
        elif data:
            self._note("<", data)
            session.receive(data, now)
        deadline = session.next_deadline()  # checked after input, too: a line that babbles never falls silent
        if deadline is not None and now >= deadline:
            session.on_deadline(now)

    def pause(self) -> None:
        """Wait a moment before a failed line is opened again."""
        time.sleep(self._retry_pause_s)

    def _note(self, way: str, data: bytes) -> None:
        if self._trace is not None:
            self._trace(way, time.monotonic(), data)

    def _opened(self) -> MeterSession:
        if self._stream is not None:
            self._stream.drain()
            self._stream = None
        self.open()
        if self._session is None:
            raise LocalError("the meter is not open")
        return self._session

    def request(self, exchange: Exchange) -> Answer:
        """Carry out one service of `dlms.xdlms.exchange` and return its answer.

        Raises `PeerError` when the service is refused as a whole.
        """
        self._opened().request(exchange, time.monotonic())
        event = self.run(lambda event: isinstance(event, Replied))[-1]
        outcome = event.outcome if isinstance(event, Replied) else PeerError("no reply")
        if isinstance(outcome, PeerError):
            raise outcome
        return outcome

    # -------------------------------------------------------------------------------------------------------- reading

    def ref(self, what: AttributeRef | Obis | str, attribute: int = 2) -> AttributeRef:
        """Parse a reference: `3/1.0.1.8.0.255/2`, or only a code. Raises `LocalError`.

        The class of a code is taken from the object list if `discover` has read it, and is otherwise the usual one.
        """
        if isinstance(what, AttributeRef):
            return what
        if isinstance(what, str) and "/" in what:
            return AttributeRef.parse(what)
        obis = Obis.parse(what) if isinstance(what, str) else what
        return AttributeRef(self._class_of(obis), obis, attribute)

    def _class_of(self, obis: Obis) -> int:
        info = self._objects.get(obis)
        return usual_class(obis) if info is None else info.class_id

    def _version_of(self, ref: AttributeRef | MethodRef) -> int | None:
        info = self._objects.get(ref.obis)
        return info.version if info is not None and info.class_id == ref.class_id else None

    def read(self, what: AttributeRef | Obis | str, attribute: int = 2) -> Reading:
        """Read one attribute, scaled. Raises `ItemFailed` when the meter gives no value."""
        (result,) = self.read_many([self.ref(what, attribute)])
        if isinstance(result, Failed):
            raise ItemFailed(result.ref, result.error)
        return result

    def read_many(self, what: Sequence[AttributeRef | Obis | str]) -> list[Reading | Failed]:
        """Read attributes; return a reading, or why there is none, for each in the order given.

        When the line fails it is opened again for the rest, as long as each attempt brings something. Raises only when
        nothing at all could be read.
        """
        refs = [self.ref(each) for each in what]
        found: dict[AttributeRef, Reading | Failed] = {}

        def seen(event: SessionEvent) -> None:
            if isinstance(event, ItemRead):
                found[event.ref] = self._result(event)

        missing = list(dict.fromkeys(refs))
        while missing:
            try:
                self._opened().read(missing, time.monotonic())
                self.run(lambda event: isinstance(event, ReadDone), seen=seen)
            except DlmsError as error:
                left = [ref for ref in missing if ref not in found]
                if not found:
                    raise
                if isinstance(error, LinkError) and len(left) < len(missing):
                    missing = left
                    self.pause()
                    continue
                found.update({ref: Failed(ref, "session-failed", error) for ref in left})
            break
        return [found[ref] for ref in refs]

    def _result(self, event: ItemRead) -> Reading | Failed:
        if isinstance(event.result, ItemError):
            return Failed(event.ref, event.result.code)
        return present(event.ref, event.result, self.policy, self._version_of(event.ref))

    def get(self, ref: AttributeRef, selection: Selection | None = None) -> Data:
        """Read one attribute as the meter sends it. Raises `ItemFailed`."""
        answer = self.request(self.reading(Item(ref, selection)))
        (result,) = _results(answer)
        if isinstance(result, AccessError):
            raise refusal(ref, result.code, result.text)
        return result

    def scalers(self, refs: Sequence[AttributeRef]) -> dict[AttributeRef, ScalerUnit]:
        """Scaler and unit of those of `refs` that have them; read from the meter once per `MeterKnowledge`."""
        where = {ref: found for ref in refs if (found := scaler_ref(ref)) is not None}
        missing = [found for found in where.values() if found not in self.known.scalers]
        for result in self.read_many(missing) if missing else ():
            self.known.scalers[result.ref] = scaler_unit(result.raw) if isinstance(result, Reading) else None
        known = {ref: self.known.scalers.get(found) for ref, found in where.items()}
        return {ref: scaler for ref, scaler in known.items() if scaler is not None}

    def reading(self, item: Item) -> GetExchange | SnReadExchange:
        """The exchange that reads one item, for `request`."""
        return self._opened().reading((item,))

    def stream(self, item: Item) -> AnswerStream:
        """One attribute's encoded value in pieces, as they arrive (`dlms.client.streaming`)."""
        from dlms.client.streaming import AnswerStream

        exchange = self.reading(item)
        self._opened().request(exchange, time.monotonic())
        self._stream = AnswerStream(self, item.ref, exchange)
        return self._stream

    # ------------------------------------------------------------------------------------------------------- changing

    def set(self, what: AttributeRef | Obis | str, value: object) -> None:
        """Write one attribute.

        `value` is a `Data`, or a value as `read` returns it: a number is in the attribute's unit. It is encoded in the
        attribute's declared type (`dlms.cosem.values`), or, where that is a CHOICE, in the type of the present value,
        which is read first. Raises `ItemFailed`, and `LocalError` for a value that does not fit.
        """
        from dlms.xdlms.exchange_write import SetExchange

        ref = self.ref(what)
        data = value if isinstance(value, Data) else self._to_write(ref, value)
        if self._short_names:
            from dlms.xdlms.exchange_sn import SnWriteExchange

            answer = self.request(SnWriteExchange((Item(ref),), (data,), self._names()))
        else:
            answer = self.request(SetExchange((Item(ref),), (data,), self._request_octets()))
        code = answer.results[0] if isinstance(answer, SetAnswer) else 0
        if code:
            raise refusal(ref, code, data_access_text(code))

    def _to_write(self, ref: AttributeRef, value: object) -> Data:
        from dlms.cosem.values import encode

        kind = declared(ref, self._version_of(ref), lambda: self.get(ref))
        scaler = self.scalers([ref]).get(ref)
        return encode(kind, unscaled(value, scaler), self.policy, str(ref))

    def action(self, method: MethodRef | str, parameters: object = None) -> Result | None:
        """Call one method and return its result. `parameters` as for `set`; None for a method without parameters.

        Raises `ItemFailed`, and `LocalError` for parameters that do not fit.
        """
        from dlms.xdlms.exchange_write import ActionExchange

        ref = MethodRef.parse(method) if isinstance(method, str) else method
        data = parameters if isinstance(parameters, Data) else self._to_call(ref, parameters)
        if self._short_names:
            self._write_method(ref, data)
            return None
        answer = self.request(ActionExchange((ref,), (data,), self._request_octets()))
        outcome = answer.outcomes[0] if isinstance(answer, ActionAnswer) else ActionOutcome(250)
        if outcome.code:
            raise refusal(ref, outcome.code, outcome.text)
        return outcome.returned

    def _to_call(self, ref: MethodRef, parameters: object) -> Data | None:
        from dlms.cosem.classes import method_type
        from dlms.cosem.types import ANY
        from dlms.cosem.values import encode

        kind = method_type(ref.class_id, ref.method, self._version_of(ref)) or ANY
        return None if parameters is None and kind.name != "-" else encode(kind, parameters, self.policy, str(ref))

    def _write_method(self, method: MethodRef, parameters: Data | None) -> None:
        from dlms.xdlms.exchange_sn import SnWriteExchange

        answer = self.request(SnWriteExchange.call(method, parameters, self._names()))
        code = answer.results[0] if isinstance(answer, SetAnswer) else 0
        if code:
            raise refusal(method, code, data_access_text(code))

    def _names(self) -> dict[tuple[int, Obis], int]:
        self.open()
        return self.known.short_names or {}

    def _request_octets(self) -> int:
        return self._opened().request_octets

    # --------------------------------------------------------------------------------------------- whole objects

    def discover(self) -> list[ObjectInfo]:
        """Read the association's object list: the objects that this client sees. Their classes are remembered."""
        found = self._named_objects() if self._short_names else objects_of(self.get(ASSOCIATION))
        self._objects = {info.obis: info for info in found}
        return found

    def _named_objects(self) -> list[ObjectInfo]:
        from dlms.cosem.associations import OBJECT_LIST, SN_ACCESS_RIGHTS, named_objects_of

        (rights,) = self.read_many([SN_ACCESS_RIGHTS])
        return named_objects_of(self.get(OBJECT_LIST), None if isinstance(rights, Failed) else rights.raw)

    def profile(
        self,
        what: Obis | str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        entries: tuple[int, int] | None = None,
    ) -> Iterator[ProfileRow]:
        """Read rows of a profile in the meter's order: captured between two instants, or by entry from 1, or all.

        An instant without a zone is the meter's local time. Each row is yielded as soon as the block that completes it
        has arrived. When the line fails it is opened again and the rest is requested from the last complete row on: no
        row is yielded twice, none is left out. Repeated failures without a new row are raised.
        """
        from dlms.client.profile import read_profile

        obis = Obis.parse(what) if isinstance(what, str) else what
        return read_profile(self, obis, since, until, entries)

    @property
    def clock(self) -> MeterClock:
        """Access to the meter's clock."""
        from dlms.client.objects import MeterClock

        return MeterClock(self)

    @property
    def image(self) -> MeterImage:
        """Firmware transfer to the meter."""
        from dlms.client.image_transfer import MeterImage

        return MeterImage(self)

    @property
    def security_setup(self) -> MeterSecurity:
        """Access to the meter's security setup: policy, keys, certificates."""
        from dlms.client.objects import MeterSecurity

        return MeterSecurity(self)

    def disconnect(self) -> None:
        """Disconnect the customer: remote_disconnect of the disconnect control."""
        from dlms.client.objects import DISCONNECT
        from dlms.xdlms.apdu.common import NO_PARAMETER

        self.action(DISCONNECT, NO_PARAMETER)

    def reconnect(self) -> None:
        """Reconnect the customer, or allow it: remote_reconnect of the disconnect control."""
        from dlms.client.objects import RECONNECT
        from dlms.xdlms.apdu.common import NO_PARAMETER

        self.action(RECONNECT, NO_PARAMETER)


def _results(answer: Answer) -> tuple[Result, ...]:
    return answer.results() if isinstance(answer, GetAnswer) else ()
