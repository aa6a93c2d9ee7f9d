"""Where notifications of all ports and listeners come in: who sent it, is it genuine, and into the store with it.

One desk for the process; any thread may come to it. An event is durable when a method returns, or waits in memory
(`WAITING_MAX` at most) while the store takes nothing.

A data-notification may ask for a confirm. Methods return it once what it confirms is durable, and none before: a meter
that gets none sends again, and is confirmed then. What came with protection is confirmed with protection. A meter that
sends the very octets again, because the confirm was lost, has used their invocation counter: it is answered all the
same, `AGAIN_MAX` times within `AGAIN_S`, so that whoever replays them cannot use up counters of ours.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from agent.clock import Clock
from agent.metering.access.accessbook import AccessBook
from agent.metering.events.intake import Heard, Intake
from agent.metering.events.notification import PLAIN_TAGS, Notice, opaque, read_notice
from agent.metering.events.overheard import BlockAssembly
from agent.metering.events.protection import (
    GLO_TAGS,
    LEVELS,
    OPENABLE_TAGS,
    Opened,
    open_pushed,
    seal_confirm,
    title_of,
)
from agent.metering.registry.entry import Meter, meter_name
from agent.metering.registry.registry import Registry
from agent.metering.store.reading_store import Store, StoreDefectError, StoreError
from agent.metering.visit.profile_catchup import iso_time
from dlms.cosem.time import STANDARD_CLOCK, ClockPolicy
from dlms.errors import DlmsError
from dlms.link.datalink import MAY_BE_UNSOLICITED
from dlms.security.settings import Policy
from dlms.xdlms.apdu.common import LONG_CONFIRMED
from dlms.xdlms.apdu.notify import DataNotificationConfirm
from omadm.readings import EventReport

LOG = logging.getLogger("agent.metering.events")

WAITING_MAX = 256
SAID_MAX = 256  # senders of which something was logged as a warning; from there on it is said at DEBUG
NOT_OPENED = "protected with a key of an association that is not there"
AGAIN_S = 600.0  # below `agent.metering.events.intake.REPEATED_S`: within it the same content is no second event
AGAIN_MAX = 16  # more often than push setups repeat
ASKING_KEPT = 256  # pushes that asked for a confirm, some 500 octets each


@dataclass(frozen=True, slots=True)
class Sender:
    """Where something came from: in words, the port, and the meter where it is known."""

    text: str
    port: str
    meter: Meter | None


@dataclass(frozen=True, slots=True)
class DeskCounts:
    """Notifications since the start that are no events: sent again by their meter, more than it may send, refused for
    want of protection, or replayed by somebody."""

    repeated: int
    too_many: int
    refused: int
    replayed: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """The confirm of a notification; `apdu` is empty where none is to go. `seal` protects it, where that is due."""

    apdu: bytes = b""
    seal: Callable[[bytes], bytes] | None = None

    def __bool__(self) -> bool:
        return bool(self.apdu)

    def emit(self) -> bytes:
        """The octets, protected when this is called: right before they go. Empty where they cannot be protected."""
        return self.seal(self.apdu) if self.seal is not None and self.apdu else self.apdu


NO_CONFIRM = Confirm()


@dataclass(slots=True)
class _Asking:
    """A protected push that asked for a confirm, and how often and until when it may do so again."""

    opened: Opened
    until: float
    left: int = AGAIN_MAX


class EventDesk:
    """`plain_refused`: what comes without the protection that was agreed is counted and not kept."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        access: AccessBook,
        clock: Clock,
        *,
        policy: ClockPolicy = STANDARD_CLOCK,
        plain_refused: bool = False,
    ) -> None:
        self._store = store
        self._registry = registry
        self._access = access
        self._clock = clock
        self._policy = policy
        self._plain_refused = plain_refused
        self._lock = threading.Lock()
        self._intake = Intake()
        self._blocks = BlockAssembly()
        self._waiting: deque[EventReport] = deque(maxlen=WAITING_MAX)
        self._said: set[tuple[str, str]] = set()
        self._asking: OrderedDict[bytes, _Asking] = OrderedDict()
        self._remembered = False
        self.refused = 0  # for want of protection
        self.replayed = 0
        self.untaken = 0  # that the store does not take, by a defect of ours

    # --- from a port ---

    def heard(self, port: str, address: int, apdu: bytes, *, client: int | None = None) -> Confirm:
        """A meter of a port sent this, and nobody had asked. Returns the confirm."""
        meter = self._registry.at(port, address)
        return self._take(Sender(_place(port, address, client), port, meter), apdu)

    def in_session(self, meter: Meter, apdu: bytes, *, ciphered: bool) -> Confirm | None:
        """A session got this APDU. Returns `None` where that is for the session. Else it is a notification, which is
        taken: then the confirm.

        `ciphered`: the session has keys of its own, so that what cannot be opened here may be an answer.
        """
        if apdu[:1] == b"" or apdu[0] not in MAY_BE_UNSOLICITED:
            return None
        sender = Sender(_place(meter.port, meter.address, None), meter.port, meter)
        tag = apdu[0]
        if tag in PLAIN_TAGS or tag in GLO_TAGS:
            return self._take(sender, apdu)
        if tag in OPENABLE_TAGS:
            opened = self._open(meter, apdu)
            if opened.apdu is not None or opened.replayed:
                return self._take(sender, apdu, opened)
        if ciphered or tag not in OPENABLE_TAGS:
            return None
        return self._take(sender, apdu)

    def deciphered(self, meter: Meter, apdu: bytes, policy: Policy, protect: Callable[[bytes], bytes]) -> bytes:
        """A session deciphered this notification with a key of its association, which has at least the protection of
        `policy`. Returns the confirm as `protect` makes it, which raises `DlmsError`; empty where there is none."""
        sender = Sender(_place(meter.port, meter.address, None), meter.port, meter)
        confirm = self._take(sender, apdu, Opened(apdu, LEVELS[policy]))
        return self._seal(sender, protect, confirm.apdu) if confirm else b""

    # --- from a listener ---

    def called(self, where: str, apdu: bytes, meter: Meter | None) -> bytes:
        """Somebody called in with this. `meter`: who it is by the address, where that is known. Returns the confirm,
        which is to go at once; empty where there is none."""
        title = title_of(apdu)
        if meter is None and title:
            meter = self._registry.get(self._access.meter_of_title(title))
        return self._take(Sender(where, "listener", meter), apdu).emit()

    # --- for the owner ---

    def counts(self) -> DeskCounts:
        """What was not kept, since the start."""
        with self._lock:
            return DeskCounts(self._intake.repeated, self._intake.too_many, self.refused, self.replayed)

    def tick(self) -> None:
        """Tell what is due of senders that send too much, and store what could not be stored before."""
        with self._lock:
            now = self._clock.monotonic()
            due = self._intake.next_deadline()
            reports: list[EventReport] = []
            if due is not None and due <= now:
                reports = self._intake.on_deadline(now, self._clock.wall(), trusted=self._clock.trusted())
            if reports or self._waiting:
                self._keep(reports)

    # --- inside ---

    def _take(self, sender: Sender, apdu: bytes, opened: Opened | None = None) -> Confirm:
        with self._lock:
            now = self._clock.monotonic()
            self._remember(now)
            whole, wrong = self._blocks.take(sender.text, apdu, now)
            if whole is None:
                return NO_CONFIRM
            if wrong:
                self._note(sender, whole, opaque(whole, wrong), Opened(None, "unopened", wrong), now)
                return NO_CONFIRM
            if opened is None:
                opened = self._open(sender.meter, whole)
            if opened.replayed:
                asked = self._asked_before(whole, now)
                if asked is None:
                    self.replayed += 1
                    self._say(sender, "event.replay", f"sent again: {opened.error}")
                    return NO_CONFIRM
                opened = asked
            notice = read_notice(opened.apdu) if opened.apdu is not None else opaque(whole, opened.error)
            durable = self._note(sender, opened.apdu or whole, notice, opened, now)
            if notice.invoke is None or not notice.invoke & LONG_CONFIRMED:
                return NO_CONFIRM
            return self._confirm(sender, whole, opened, notice.invoke, now, durable=durable)

    def _confirm(
        self, sender: Sender, whole: bytes, opened: Opened, invoke: int, now: float, *, durable: bool
    ) -> Confirm:
        """The confirm of what asks for one, if it is kept; whoever protected it may ask with the same octets again."""
        plain = opened.apdu == whole  # or deciphered by a session, which protects the confirm
        if not plain:
            self._asking.setdefault(_digest(whole), _Asking(opened, now + AGAIN_S))
            while len(self._asking) > ASKING_KEPT:
                self._asking.popitem(last=False)
        if not durable:
            return NO_CONFIRM
        apdu = DataNotificationConfirm(invoke).emit()
        if plain or opened.security is None:
            return Confirm(apdu)
        protect = partial(seal_confirm, pushed=whole, security=opened.security)
        return Confirm(apdu, partial(self._seal, sender, protect))

    def _seal(self, sender: Sender, protect: Callable[[bytes], bytes], confirm: bytes) -> bytes:
        try:
            return protect(confirm)
        except DlmsError as error:
            with self._lock:
                self._say(sender, "event.unconfirmed", f"gets no confirm, for it cannot be protected: {error}")
            return b""

    def _asked_before(self, whole: bytes, now: float) -> Opened | None:
        """What these very octets were, if they asked for a confirm and may ask again."""
        asking = self._asking.get(_digest(whole))
        if asking is None or now >= asking.until or not asking.left:
            return None
        asking.left -= 1
        return asking.opened

    def _open(self, meter: Meter | None, apdu: bytes) -> Opened:
        keys = self._access.push_keys(meter) if meter is not None else ()
        if apdu and apdu[0] in PLAIN_TAGS:
            agreed = any(security.policy is not Policy.NONE for security in keys)
            return Opened(apdu, "unauthenticated" if agreed else "none")
        if not apdu or apdu[0] not in OPENABLE_TAGS:
            return Opened(None, "unopened", NOT_OPENED)
        title = self._access.title_of(meter) if meter is not None else b""
        opened = open_pushed(apdu, keys, title=title)
        if meter is not None and opened.level in ("authenticated", "both") and not title:
            self._access.note_title(meter, title_of(apdu))
        return opened

    def _note(self, sender: Sender, content: bytes, notice: Notice, opened: Opened, now: float) -> bool:
        """Make an event of it. Returns whether it is one, or one of before, and is durable."""
        meter = sender.meter
        if meter is None and notice.device_name:
            # Only a claim: it decides whose event this is called, and which keys it should have come with.
            meter = self._called(meter_name(notice.device_name))
            if meter is not None and opened.level == "none":
                opened = self._open(meter, content)
        if opened.level == "unauthenticated":
            self._say(sender, "event.unauthenticated", opened.error or "came without the protection that was agreed")
            if self._plain_refused:
                self.refused += 1
                return False
        if meter is None:
            self._say(sender, "event.unknown", "is no meter that is known here")
        heard = Heard(
            meter=meter.meter_id if meter is not None else "",
            sender=sender.text,
            allowance=meter.key if meter is not None and sender.meter is not None else f"{sender.port}?",
            apdu=content,
            notice=notice,
            meter_time=iso_time(notice.clock, self._policy) if notice.clock else None,
            received=self._clock.wall(),
            trusted=self._clock.trusted(),
            security=opened.level,
            error=opened.error,
        )
        before = self._intake.too_many, self.untaken
        self._keep(self._intake.take(heard, now))
        return (self._intake.too_many, self.untaken) == before and not self._waiting

    def _called(self, name: str) -> Meter | None:
        """The meter of this name."""
        known = next((meter for meter in self._registry.meters() if meter.meter_id == name), None)
        there = self._registry.at(known.port, known.address) if known is not None else None
        return there if there is not None and there.meter_id == name else None  # not one that has its place now

    def _keep(self, reports: Sequence[EventReport]) -> None:
        """Store these, and what waits. Where the store takes nothing they wait."""
        for report in reports:
            if report.event == "notice":
                LOG.warning(
                    "meter %s %s (%d)", report.meter or report.sender, report.name, report.count,
                    extra={"event": "event.babbling"},
                )  # fmt: skip
        if len(self._waiting) + len(reports) > WAITING_MAX:
            LOG.error("the store takes nothing: events of meters are lost", extra={"event": "event.lost"})
            self._intake.forget([*self._waiting][: len(self._waiting) + len(reports) - WAITING_MAX])
        self._waiting.extend(reports)
        if not self._waiting or (not reports and self._store.waits()):
            return
        try:
            self._store.append([], urgent=tuple(self._waiting))
        except StoreDefectError:
            self._keep_one_by_one()
            return
        except StoreError as error:
            LOG.debug("events wait, the store takes nothing: %s", error)
            return
        self._waiting.clear()

    def _keep_one_by_one(self) -> None:
        """The store does not take one of those that wait, and never will: it costs that one."""
        for report in tuple(self._waiting):
            try:
                self._store.append([], urgent=(report,))
            except StoreDefectError:
                LOG.exception(
                    "an event of %s is lost, the store does not take it: %s",
                    report.meter or report.sender, report, extra={"event": "event.lost"},
                )  # fmt: skip
                self._intake.forget([report])
                self.untaken += 1
            except StoreError as error:
                LOG.debug("events wait, the store takes nothing: %s", error)
                return
            self._waiting.popleft()

    def _remember(self, now: float) -> None:
        """Know the newest events of before this start, once."""
        if self._remembered:
            return
        try:
            keys = self._store.event_keys()
        except StoreError:
            return
        wall = self._clock.wall()
        self._intake.remember([(key, max(0.0, wall - at)) for key, at in keys], now)
        self._remembered = True

    def _say(self, sender: Sender, event: str, text: str) -> None:
        who = sender.meter.meter_id if sender.meter is not None else sender.text
        first = (who, event) not in self._said and len(self._said) < SAID_MAX
        if first:
            self._said.add((who, event))
        LOG.log(
            logging.WARNING if first else logging.DEBUG, "notification of %s: %s", who, text, extra={"event": event}
        )


def _digest(apdu: bytes) -> bytes:
    return hashlib.sha256(apdu).digest()


def _place(port: str, address: int, client: int | None) -> str:
    return f"{port}/{address}" if client is None else f"{port}/{address} to client {client}"
