"""The DM client as a worker of the daemon: registration, sessions and when to hold them.

Without an account the device registers with its security server (SSMP) and applies the bootstrap it gets. With one it
holds a session: after the bootstrap, at boot, on a notification, when something waits to be reported, when its own
push address has changed, and at the latest every `poll_every_s`. What failed is tried again after a growing, jittered
wait; a notification cuts the wait short, because it proves that the server is there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from agent.clock_floor import Validity
from agent.dm.deps import DmConfig, DmDeps
from agent.dm.nonces import NonceStore
from agent.dm.scheduling import Timing
from agent.dm.session import Session
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
from agent.dm.trial import TrialRun
from agent.https import HttpsError
from agent.log import hide
from agent.mo import dmacc
from agent.mo.ami import provisioning_from_tree
from agent.settings.provisioning import Provisioning
from agent.status import DmStatus, SessionSummary
from agent.tree import alerts
from agent.tree.acl import identifier
from agent.tree.commands import Executor
from omadm.auth import HMAC_HEADER
from omadm.bootstrap import Account, BootstrapError
from omadm.codes import AlertCode, Refusal
from omadm.notification import PUSH_URL, Notification, NotificationError, verify
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUnsettledError, SsmpUsageError

LOG = logging.getLogger("agent.dm")

LOOK_EVERY_S = 30.0  # how often the worker beats while nothing happens
UNPROVEN_MAX = 5  # sessions in a row that failed for credentials, before a new account is asked for
TIME_EVERY_S = 900.0  # how often the security server is asked for the time while certificates are refused for theirs
ADDRESS_EVERY_S = 60.0  # how often the push URL is compared with the one that the server knows
HEALTH = "dm_session"


class DmService:
    """Holds all sessions with the DM server.

    Construct once and add it to the supervisor; give `on_notification` to a `agent.dm.push.PushListener`.
    `provisioning` is what the stored tree says, available before `run`.
    Raises `OSError` from the constructor when the state folder cannot be used.
    """

    name = "dm"
    budget_s = 120.0

    def __init__(self, config: DmConfig, deps: DmDeps) -> None:
        self._config = config
        self._deps = deps
        self.tree = deps.tree
        self._registry = deps.objects.registry
        self._device_info = deps.objects.device_info
        self._nonces = NonceStore(deps.disk, config.state_dir / "dm")
        self._wake = threading.Event()
        self._reboot = threading.Event()
        self._timing = Timing(config.poll_every_s, config.backoff_min_s, config.backoff_max_s, deps.rng.random)
        self._unproven = 0
        self._push_url: str | None = None  # as the server knows it; None before the first session
        self._address_at = float("-inf")
        self._time_at = float("-inf")  # not before, the security server is asked for the time
        self._round_trip = RoundTrip()
        self._status = DmStatus()
        self._provisioning = provisioning_from_tree(self.tree.view())
        self.trial = TrialRun(
            deps.tree, deps.clock, deps.network, config.boot_id, self._ask_on_trial, self.report_alerts
        )

    # -- for other threads ------------------------------------------------------------------------------------

    @property
    def provisioning(self) -> Provisioning:
        return self._provisioning

    def on_notification(self, body: bytes) -> int:
        """A Package #0 arrived. Returns the HTTP status for the sender: 202, 403, 503."""
        account = dmacc.account(self.tree.view())
        if account is None:
            return 503
        try:
            found = self._verified(body, account)
        except NotificationError as error:
            LOG.debug("notification ignored: %s", error)  # the listener counts them
            return 403
        except OSError as error:
            LOG.error("notification counter not stored: %s", error, extra={"event": "dm.storage"})  # noqa: TRY400
            return 503
        LOG.info("notification for session %s", found.session_text, extra={"event": "dm.push"})
        self._timing.ask("push", found.session_text)
        self._wake.set()
        return 202

    def _verified(self, body: bytes, account: Account) -> Notification:
        """Accepts each counter once, durably before anything follows from it."""
        _, nonce = self._nonces.nonces(account)
        found = verify(
            body,
            server_id=account.server_id,
            secret=account.server_secret,
            nonce=nonce,
            last_counter=self._nonces.counter(account),
            standard=self._config.standard_notifications,
        )
        if found.counter is not None:
            self._nonces.set_counter(account, found.counter)
        return found

    def session_now(self, trigger: str = "user") -> None:
        """Ask for a session soon (`dcuctl`). Returns at once."""
        self._timing.ask(trigger)
        self._wake.set()

    def report_alerts(self) -> None:
        """An alert was queued: hold a session for it soon. Any thread."""
        self._timing.ask("alert")
        self._wake.set()

    def warnings(self) -> list[str]:
        """What an operator should know. Any thread."""
        return [*([self.trial.problem] if self.trial.problem else []), *self.trial.warnings()]

    def _ask_on_trial(self) -> None:
        self._timing.ask("trial")
        self._wake.set()

    def reboot(self) -> None:
        """The Update Agent has work: ask for a reboot when the session that is open, if any, is over. Any thread."""
        self._reboot.set()
        self._wake.set()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wake.set()

    # -- the worker -------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        self._deps.on_provisioning(self._provisioning)
        self._grant_new()
        account = self._account()
        if account is not None:
            self._registered(account)
            self._timing.ask("boot")
        else:
            self._publish(DmStatus())
        while not stop.is_set():
            beat()
            self._wake.clear()
            self.step(stop, beat)
            if not stop.is_set():
                wait = self._timing.wait(self._deps.clock.monotonic(), LOOK_EVERY_S)
                self._wake.wait(min(wait, self.trial.wait()))

    def step(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Whatever is due now: a reboot, a registration or a session."""
        if self._reboot.is_set():
            self._reboot.clear()
            LOG.info("asking for a reboot", extra={"event": "dm.reboot"})
            self._deps.request_reboot()
            return
        self.trial.step()
        now = self._deps.clock.monotonic()
        if now >= self._time_at and self._deps.time_doubted():
            beat()
            self._ask_time(now)
        account = self._account()
        if account is None:
            self.trial.account_gone()
        if account is None or self.tree.behind or (self._unproven >= UNPROVEN_MAX and not self.trial.armed):
            if self._timing.may_register(now):
                beat()
                # Who holds no account is provisioned again: what the tree has lost is among that.
                self._register(None if self.tree.behind else account)
            return
        if self._deps.renewal_due() and not self.trial.armed and self._timing.may_register(now):
            beat()
            account = self._renew(account)
        self._look_at_address(now)
        due = self._timing.due(now)
        if due is not None:
            self._session(account, *due, stop, beat)

    def _grant_new(self) -> None:
        try:
            with self.tree.transaction() as changing:
                dmacc.grant_new(changing)
        except Refusal as error:  # the next start tries again
            LOG.warning("rights on new objects are not granted: %s", error, extra={"event": "dm.storage"})

    def _account(self) -> Account | None:
        """The account in the tree, if the settings, which may have changed since, still allow it."""
        account = dmacc.account(self.tree.view())
        return None if account is None or dmacc.unusable(account, self._config.auth_types) else account

    def _look_at_address(self, now: float) -> None:
        if self._push_url is not None and now - self._address_at >= ADDRESS_EVERY_S:
            self._address_at = now
            if self._deps.push_url() != self._push_url:
                self._timing.ask("address")

    def _ask_time(self, now: float) -> None:
        """A certificate was refused for its time: ask the one server that can prove what time it is."""
        if self._deps.ask_time is None:
            return
        self._time_at = now + TIME_EVERY_S
        try:
            self._deps.ask_time()
        except (SsmpError, SsmpUsageError) as error:
            LOG.warning("the time cannot be asked for: %s", error, extra={"event": "dm.time.unknown"})
            return
        self._timing.ask("time")  # what was refused may be right now

    # -- registration -----------------------------------------------------------------------------------------

    def _register(self, held: Account | None) -> None:
        from omadm.client_provisioning import bootstrap_tree  # once in the life of most devices: not kept in memory

        slow = False
        try:
            tree = bootstrap_tree(self._deps.register(held.fingerprint() if held else b""))
            with self.tree.transaction() as changing:
                account = dmacc.install(changing, tree, self._config.auth_types)
        except SsmpRefused as error:
            slow = True
            why, state = f"refused by the security server: {error.text or error.code}", "refused"
        except (SsmpError, SsmpUsageError, BootstrapError, Refusal) as error:
            why, state = f"registration failed: {error}", "unregistered"
        else:
            LOG.info("registered with %s", account.server_id, extra={"event": "dm.registered"})
            self._unproven = 0
            self.tree.caught_up()
            self._timing.succeeded(self._deps.clock.monotonic())
            self._registered(account)
            self._announce()
            self._timing.ask("bootstrap")
            self._wake.set()
            return
        LOG.warning("%s", why, extra={"event": f"dm.{state}"})
        self._timing.failed(self._deps.clock.monotonic(), slow=slow)
        self._unproven = min(self._unproven, UNPROVEN_MAX - 1)  # the account there is, if any, gets another try
        self._publish(DmStatus(state=state, error=why, last_session=self._status.last_session))
        self._deps.health(HEALTH, False, why)  # noqa: FBT003  the signature of `DmDeps.health`

    def _renew(self, account: Account) -> Account:
        """Register again, since the device's certificate ends soon. Returns the account that is good then: where that
        fails the one of before, and the certificate's keeper says when to try again."""
        from omadm.client_provisioning import bootstrap_tree

        try:
            tree = bootstrap_tree(self._deps.register(account.fingerprint()))
            with self.tree.transaction() as changing:
                renewed = dmacc.install(changing, tree, self._config.auth_types)
        except (SsmpError, SsmpUsageError, BootstrapError, Refusal) as error:
            LOG.warning("the certificate is not renewed: %s", error, extra={"event": "dm.renewal.failed"})
            if isinstance(error, SsmpUnsettledError):  # the account may be void: register again at once
                self._unproven = UNPROVEN_MAX
            return account
        self._registered(renewed)
        self._announce()
        self._timing.ask("bootstrap")
        return renewed

    def _registered(self, account: Account) -> None:
        hide(account.client_secret)
        hide(account.server_secret)
        self._publish(DmStatus("registered", account.server_id, account.url, last_session=self._status.last_session))

    def _publish(self, status: DmStatus) -> None:
        self._status = status
        self._deps.board.publish(dm=status)

    def _announce(self) -> None:
        """Hand on what the head-end provisioned, if it changed."""
        now = provisioning_from_tree(self.tree.view())
        if now != self._provisioning:
            self._provisioning = now
            LOG.info("provisioning changed: %d tasks", len(now.tasks), extra={"event": "dm.provisioning"})
            self._deps.on_provisioning(now)

    # -- one session ------------------------------------------------------------------------------------------

    def _session(
        self, account: Account, trigger: str, session_id: str, stop: threading.Event, beat: Callable[[], None]
    ) -> None:
        started = self._deps.clock.wall()
        armed = self.trial.armed
        session_id = session_id or f"{int.from_bytes(self._deps.entropy(2), 'big') or 1:X}"
        LOG.info("session %s (%s) begins", session_id, trigger, extra={"event": "dm.session.begin"})
        device_info = self._device_info.leaves()
        session, executor = self._new_session(account, trigger, session_id, device_info)
        ended = _Drive(self, account, session, executor, stop, beat).run()
        self._announce()
        if ended is None:
            return  # the daemon stops
        summary = SessionSummary(
            started, self._deps.clock.wall(), trigger, session_id, session.messages, executor.executed, ended.result,
            up=self._deps.clock.monotonic(),
        )  # fmt: skip
        now = self._deps.clock.monotonic()
        if ended.ok:
            self._unproven = 0
            self._push_url = dict(device_info)[PUSH_URL]
            self._timing.succeeded(now, unanswered=bool(alerts.pending(self.tree.view())))
        else:
            self._unproven = self._unproven + 1 if ended.unproven else 0
            self._timing.failed(now)
            self._timing.again(trigger, session_id if trigger == "push" else "")
        self.trial.session_over(armed, ok=ended.ok, result=ended.result)
        level = logging.INFO if ended.ok else logging.WARNING
        LOG.log(level, "session %s ends: %s", session_id, ended.result, extra={"event": "dm.session.end"})
        error = "" if ended.ok else ended.result
        self._deps.health(HEALTH, ended.ok, ended.result)
        if self._account() is None:
            self._publish(DmStatus(error="its server has deleted the account", last_session=summary))
            self._wake.set()  # to register anew now
        else:
            self._publish(DmStatus("registered", account.server_id, account.url, error, summary))

    def _new_session(
        self, account: Account, trigger: str, session_id: str, device_info: tuple[tuple[str, str], ...]
    ) -> tuple[Session, Executor]:
        client_nonce, server_nonce = self._nonces.nonces(account)
        settings = SessionSettings(
            account=account,
            client_nonce=client_nonce,
            server_nonce=server_nonce,
            session_id=session_id,
            device_id=self._config.device_id,
            device_info=device_info,
            content_type=self._config.content_type,
            alert=AlertCode.SERVER_INITIATED if trigger == "push" else AlertCode.CLIENT_INITIATED,
            alerts=alerts.pending(self.tree.view()),
            algorithms=self._config.mac_algorithms,
        )
        return Session(settings, self._deps.entropy), self.executor(account.server_id)

    def executor(self, server_id: str) -> Executor:
        """What carries out the commands of one session with `server_id`."""
        return Executor(self.tree, self._registry, identifier(server_id))

    def handle(self, account: Account, session: Session, executor: Executor, event: Event) -> None:
        """Carry out one event of a session. Raises `OSError` when a nonce cannot be stored."""
        match event:
            case NoncesChanged(client, server):
                self._nonces.set_nonces(account, client, server)
            case Acknowledged(alert_id):
                self._acknowledged(alert_id)
            case CommandsReceived(message):
                for why in message.hdr.unread:
                    LOG.warning("in the server's header: %s", why, extra={"event": "dm.malformed"})
                replies = executor.run(message)
                self._announce()
                self._deps.on_commands()
                session.answer(list(replies), self._deps.clock.monotonic())
            case TimeTold(seconds):
                trip = self._round_trip
                self._deps.time_told(seconds, trip.sent, trip.received, trip.valid)
            case Unsendable(what):
                LOG.error("%s", what, extra={"event": "dm.unsendable"})
            case Ended():
                pass

    def _acknowledged(self, alert_id: str) -> None:
        try:
            with self.tree.transaction() as changing:
                alert = alerts.take(changing, alert_id)
                if alert is not None:
                    self._registry.acknowledged(changing, alert)
        except Refusal as error:
            # It stays queued and is sent again: at least once, as promised.
            LOG.warning("alert %s stays queued: %s", alert_id, error, extra={"event": "dm.storage"})

    def post(self, session: Session) -> None:
        """One round trip over HTTPS, if the session has something to send."""
        output = session.take_output()
        if output is None:
            return
        headers = {"Content-Type": output.content_type, "Accept": output.content_type}
        if output.mac is not None:
            headers[HMAC_HEADER] = output.mac
        self._round_trip.begins(output, self._deps.clock.monotonic())
        try:
            got = self._deps.https.request("POST", output.url, body=output.body, headers=headers)
        except HttpsError as error:
            session.receive_failure(str(error), self._deps.clock.monotonic())
            return
        self._round_trip.ends(self._deps.clock.monotonic(), got.valid)
        if session.over():
            return  # that was a goodbye
        answer = Answer(got.status, got.headers.get("content-type", ""), got.body, got.headers.get(HMAC_HEADER))
        session.receive(answer, self._deps.clock.monotonic())

    def now(self) -> float:
        return self._deps.clock.monotonic()


@dataclass(slots=True)
class RoundTrip:
    """When the last message went, and its answer came; monotonic seconds. `valid`: when the certificates are valid that
    the server was verified by.

    A message that is sent again octet by octet may get the answer that was made for it the first time, and lost.
    """

    sent: float = 0.0
    received: float = 0.0
    valid: Validity | None = None
    _digest: bytes = b""

    def begins(self, output: OutgoingMessage, now: float) -> None:
        digest = sha256(f"{output.mac or ''}\0".encode() + output.body).digest()
        if digest != self._digest:
            self.sent, self._digest = now, digest

    def ends(self, now: float, valid: Validity | None) -> None:
        self.received, self.valid = now, valid


class _Drive:
    """The loop of one session."""

    def __init__(
        self,
        service: DmService,
        account: Account,
        session: Session,
        executor: Executor,
        stop: threading.Event,
        beat: Callable[[], None],
    ) -> None:
        self._service = service
        self._account = account
        self._session = session
        self._executor = executor
        self._stop = stop
        self._beat = beat

    def run(self) -> Ended | None:
        """How it ended; `None` when the daemon stops meanwhile."""
        session = self._session
        session.start(self._service.now())
        while not self._stop.is_set():
            self._beat()
            try:
                ended = self._events()
            except OSError as error:
                # Without the nonce stored the next session could not prove itself: say goodbye while that is possible.
                session.abort(self._service.now())
                self._service.post(session)
                return Ended(ok=False, result=f"storage failed: {error}")
            if ended is not None:
                return ended
            self._service.post(session)
        return None

    def _events(self) -> Ended | None:
        while (event := self._session.next_event()) is not None:
            if isinstance(event, Ended):
                return event
            self._service.handle(self._account, self._session, self._executor, event)
        return None
