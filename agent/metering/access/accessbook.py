"""How each meter is associated with now: which keys are tried, what follows when they are wrong, and when they change.

`open` says what the next association with a meter uses; its session tells back what became of it. Per meter there are
at most two accesses: the one that is *wanted* (provisioned, the most specific rule) and the one that is *proven* (the
last one that worked). While they differ, keys are being changed: the wanted one is tried, and when the meter refuses it
the proven one goes on being used, until the wanted one has worked. Then the switch is made durable, and the old keys
are forgotten. Keys that a meter was sent, and of which nobody knows whether it took them, are kept beside these and
tried when neither works: meanwhile others may have been provisioned. An association proves nothing of the broadcast
key, which has no part in it: that one is proven by the meter's answer to its transfer.

A key is wrong when authentication or deciphering fails before the association is open (`dlms.errors.SecurityError`).
That is one event, and then a pause that doubles from `PAUSE_MIN_S` to `PAUSE_MAX_S`: meters lock clients out after
a few attempts, and a wrong key does not mend itself. A change of what is wanted ends the pause.

A meter that has not told its name yet may have rules that are found by that name only. It is asked for its name first,
with the public client, which every meter has (GB 4.6.4); so is a meter that refuses all keys, as it may be another one.

A meter also refuses right keys when our invocation counter is not higher than the one it has seen, which is so after an
older state was put back, or with another device of the same system title. So the visit for the name asks for that
counter (0.0.43.1.e.255) as well, once after each refusal, and ours goes on behind it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum

from agent.clock import Clock
from agent.metering.access.credentials import Credentials, credentials, describe, push_security
from agent.metering.access.editions import KeysChangedError, edition_of
from agent.metering.access.keystore import SECRET_FIELDS, KeyStore, KeyStoreError
from agent.metering.access.rules import AccessRules
from agent.metering.registry.entry import Meter
from agent.metering.scheduling.schedule import Backoff
from agent.settings.provisioning import AccessRule, MeterAccess, Provisioning
from dlms.errors import DlmsError, SecurityError
from dlms.security.gcm import Replayed
from dlms.security.settings import MemoryCounters, Security

LOG = logging.getLogger("agent.metering.access")

PAUSE_MIN_S = 600.0
PAUSE_MAX_S = 86_400.0
NAME_TRIES_MAX = 3  # unanswered ones: then the meter has no public client, and its keys are tried
PUBLIC = MeterAccess()
DEFAULT = "default"  # the name under which the secrets of the default access are kept


class Which(Enum):
    """Which keys an association is to use, where those that are wanted and those that are proven differ."""

    USUAL = "the wanted ones, and after they were refused for a while the proven ones"
    WANTED = "the wanted ones, whatever was refused before"
    PROVEN = "the proven ones"


@dataclass(frozen=True, slots=True)
class Opening:
    """One association to be opened. `identify`: only the name of the meter is to be read, and with `asks_counters` the
    counters of ours that it has seen. `first`: no association of this kind has been open yet. `wanted`: it uses what is
    provisioned."""

    meter: Meter
    access: MeterAccess
    credentials: Credentials
    identify: bool = False
    first: bool = False
    wanted: bool = True
    asks_counters: bool = False


@dataclass(slots=True)
class _State:
    """One meter, while this process runs."""

    wanted: MeterAccess
    failures: int = 0  # in a row, of everything that could be tried
    refused: int = 0  # in a row, of the wanted access while another one is proven
    total: int = 0
    not_before: float = 0.0
    try_wanted_at: float = 0.0
    name_asked: bool = False
    name_tries: int = 0
    asks_counters: bool = False  # the meter refused all keys, and may have seen higher counters than ours
    tried: list[MeterAccess] = field(default_factory=list)  # what it refused since it was last open, in one round


class AccessBook:
    """Thread-safe."""

    def __init__(
        self,
        store: KeyStore,
        clock: Clock,
        jitter: Callable[[], float],
        report: Callable[[str, int, str], None] = lambda _key, _failures, _text: None,
    ) -> None:
        """`report` gets, per meter (`Meter.key`), the refused attempts since start and the kind of access in words."""
        self._report_to = report
        self._store = store
        self._clock = clock
        self._pauses = Backoff(PAUSE_MIN_S, PAUSE_MAX_S)
        self._jitter = jitter
        self._lock = threading.RLock()
        self._rules = AccessRules(MeterAccess())
        self._title = b""
        self._unstored: Provisioning | None = None  # settings that could not be joined with the stored secrets yet
        self._states: dict[str, _State] = {}

    # --- settings ---

    def configure(self, provisioning: Provisioning) -> Provisioning:
        """Follow these settings from now on. Secrets among them are put into the key store; those that are missing come
        from there, as the management tree gives them away.

        Returns the settings with all secrets.
        """
        with self._lock:
            try:
                kept = self._store.provisioned()
                secrets = {DEFAULT: _merged(kept.get(DEFAULT), _secrets(provisioning.access))}
                for rule in provisioning.access_rules:
                    secrets[rule.name] = _merged(kept.get(rule.name), dict(_given_secrets(rule)))
                self._store.set_provisioned(secrets)
            except KeyStoreError as error:
                LOG.warning("keys are not stored: %s", error, extra={"event": "meter.keystore.failed"})
                complete = self._unstored = provisioning
            else:
                self._unstored = None
                access = replace(provisioning.access, **secrets[DEFAULT])  # type: ignore[arg-type]
                rules = [_completed(rule, secrets[rule.name]) for rule in provisioning.access_rules]
                complete = replace(provisioning, access=access, access_rules=tuple(rules))
            self._rules = AccessRules(complete.access, complete.access_rules)
            self._title = complete.system_title
            return complete

    def stored(self, provisioning: Provisioning) -> bool:
        """Whether all secrets in `provisioning` are durable here, so that nobody else needs to keep them."""
        try:
            kept = self._store.provisioned()
        except KeyStoreError:
            return False
        given = {rule.name: dict(_given_secrets(rule)) for rule in provisioning.access_rules}
        given[DEFAULT] = _secrets(provisioning.access)
        return all(kept.get(name, {}).get(key) == octets for name, of in given.items() for key, octets in of.items())

    def system_title(self) -> bytes:
        """The system title that meters see of us; empty while the key store cannot be read."""
        try:
            return self._title or self._store.system_title()
        except KeyStoreError:
            return b""

    # --- associations ---

    def group(self, name: str) -> AccessRule | None:
        """The rule of the group `name`, which says by its conditions which meters are in it."""
        with self._lock:
            return self._rules.group(name)

    def pending(self, meter: Meter) -> Mapping[str, int]:
        """The fields of `MeterAccess` in which what is provisioned for `meter` differs from what it was last associated
        with, and how many octets each has, 0 of one that is no key; none when it was never associated with. Raises
        `KeyStoreError`."""
        with self._lock:
            wanted, proven = self._state(meter).wanted, self._store.proven(meter.key)
        if proven is None:
            return {}
        both = [(one.name, getattr(wanted, one.name), getattr(proven, one.name)) for one in fields(MeterAccess)]
        return {name: len(new) if isinstance(new, bytes) else 0 for name, new, old in both if new != old}

    def edition(self, meter: Meter, salt: str) -> str:
        """The edition of the keys that are provisioned for `meter` (`access.editions`); empty while the secrets in the
        store cannot be read."""
        with self._lock:
            if self._unstored is not None:
                self.configure(self._unstored)
            return "" if self._unstored is not None else edition_of(self._state(meter).wanted, salt)

    def open(self, meter: Meter, which: Which = Which.USUAL) -> Opening:
        """What the next association with `meter` uses. Raises `LocalError` when that cannot be used at all."""
        with self._lock:
            if self._unstored is not None:
                self.configure(self._unstored)
            state = self._state(meter)
            if state.asks_counters or self._asks_name(meter, state):
                public = credentials(PUBLIC, b"", lambda _: MemoryCounters())
                return Opening(meter, PUBLIC, public, identify=True, wanted=False, asks_counters=state.asks_counters)
            proven = self._store.proven(meter.key)
            access = state.wanted
            waits = which is Which.USUAL and self._clock.monotonic() < state.try_wanted_at
            if proven is not None and (waits or which is Which.PROVEN):
                access = proven
            if which is Which.USUAL and (untried := self._untried(meter, state)):
                access = untried[0]
            title = self._title or self._store.system_title()
            self._report_to(meter.key, state.total, describe(access))
            made = credentials(access, title, lambda key: self._store.counters(key, meter.key))
            return Opening(meter, access, made, first=not _alike(access, proven), wanted=access == state.wanted)

    def push_keys(self, meter: Meter) -> tuple[Security, ...]:
        """What a meter may protect notifications with: the wanted access, then the one that is proven."""
        with self._lock:
            wanted, found = self._rules.resolve(meter), list[Security]()
            try:
                title = self._title or self._store.system_title()
                for access in dict.fromkeys((wanted, self._store.proven(meter.key) or wanted)):
                    security = push_security(access, title, lambda key: self._store.pushed(key, meter.key))
                    if security is not None:
                        found.append(security)
            except DlmsError as error:  # said when the meter is visited
                LOG.debug("keys of %s: %s", meter.meter_id, error)
            return tuple(found)

    def title_of(self, meter: Meter) -> bytes:
        """The system title that a meter proved; empty where it is not known."""
        try:
            return self._store.title_of(meter.key)
        except KeyStoreError:
            return b""

    def meter_of_title(self, title: bytes) -> str:
        """The meter (`Meter.key`) that proved this system title; empty for none."""
        try:
            return self._store.meter_of_title(title)
        except KeyStoreError:
            return ""

    def note_title(self, meter: Meter, title: bytes) -> None:
        """A meter proved this system title."""
        if title:
            try:
                self._store.note_title(meter.key, title)
            except KeyStoreError:
                return

    def resting(self, meter: Meter) -> bool:
        """Whether this meter is not to be visited now, because its keys are wrong."""
        with self._lock:
            held = self._states.get(meter.key)
            if held is None or self._clock.monotonic() >= held.not_before:
                return False
            return self._state(meter).not_before > self._clock.monotonic()

    def opened(self, opening: Opening) -> None:
        """The association is open: both sides have the right keys."""
        meter = opening.meter
        with self._lock:
            state = self._state(meter)
            if opening.identify:
                state.name_asked, state.asks_counters = True, False
                return
            state.failures, state.not_before, state.tried = 0, 0.0, []
            try:
                before = self._store.proven(meter.key)
                sent = opening.access in self._store.sent(meter.key)
                if opening.access == state.wanted or sent:
                    broadcast = opening.access.broadcast_key if before is None else before.broadcast_key
                    proven = replace(opening.access, broadcast_key=broadcast)
                    self._store.prove(meter.key, proven, durable=before is not None)
                    self._store.settle_sent(meter.key)
            except KeyStoreError as error:  # the old keys are kept, and the next association tries again
                LOG.warning("the change of keys is not stored: %s", error, extra={"event": "meter.keystore.failed"})
                return
            if opening.access == state.wanted:
                state.refused, state.try_wanted_at = 0, 0.0
            elif not sent:
                return
        if before is not None and not _alike(before, opening.access):
            LOG.info(
                "meter %s works with its new keys (%s): the old ones are forgotten",
                meter.meter_id,
                opening.credentials.text,
                extra={"event": "meter.key.changed"},
            )

    def sending(self, meter: Meter, edition: str, salt: str) -> None:
        """The meter is about to be sent the keys of this `edition`; one that is empty is of an order that was sent
        before editions were kept. Raises `KeysChangedError` where others are wanted by now, and `KeyStoreError`: then
        it must not be sent any."""
        with self._lock:
            wanted = self._state(meter).wanted
            if self.superseded(meter) if not edition else edition_of(wanted, salt) != edition:
                raise KeysChangedError("other keys were provisioned just now")
            self._store.note_sent(meter.key, wanted)

    def superseded(self, meter: Meter) -> bool:
        """Whether what is wanted now is none of the keys that the meter was sent, of which nobody knows whether it took
        them. Raises `KeyStoreError`."""
        with self._lock:
            sent = self._store.sent(meter.key)
            return bool(sent) and self._state(meter).wanted not in sent

    def broadcast_taken(self, meter: Meter, edition: str, salt: str) -> None:
        """The meter has taken the broadcast key of this `edition`, as it says; of an empty one, the one that is wanted.
        Where others are wanted by now and the edition is not known any more, nothing is proven: it may be sent again.
        """
        with self._lock:
            proven, wanted = self._store.proven(meter.key), self._state(meter).wanted
            known = (one for one in (wanted, *self._store.sent(meter.key)) if edition_of(one, salt) == edition)
            taken = next(known, None) if edition else wanted
            if proven is not None and taken is not None:
                self._store.prove(meter.key, replace(proven, broadcast_key=taken.broadcast_key), durable=True)

    def told_counter(self, opening: Opening, told: int) -> None:
        """The meter told, without any proof, the highest invocation counter of ours that it has seen."""
        meter = opening.meter
        with self._lock:
            try:
                used = (self._state(meter).wanted, self._store.proven(meter.key))
                keys = dict.fromkeys(access.encryption_key for access in used if access and access.encryption_key)
                behind = [stood for key in keys if (stood := self._store.counters_behind(key, told)) is not None]
            except KeyStoreError as error:  # the next refusal asks again
                LOG.warning("the counters are not stored: %s", error, extra={"event": "meter.keystore.failed"})
                return
        if behind:
            LOG.warning(
                "meter %s has seen invocation counter %d and ours stood at %d, so it refuses right keys too (an older "
                "state was put back, or the device exchanged): ours goes on behind it",
                meter.meter_id,
                told,
                min(behind),
                extra={"event": "meter.counter"},
            )

    def failed(self, opening: Opening, error: DlmsError, *, was_open: bool) -> None:
        """The session ended by `error`, before or after the association was open."""
        meter = opening.meter
        if not isinstance(error, SecurityError):
            if opening.identify:
                with self._lock:
                    state = self._state(meter)
                    state.asks_counters = False
                    state.name_tries += 1
                    state.name_asked = state.name_tries >= NAME_TRIES_MAX
            return
        if was_open:
            # The keys are right. Somebody sends APDUs again or changes them, or the line does; the visit is repeated.
            LOG.warning("meter %s: %s", meter.meter_id, error, extra={"event": "meter.protection"})
            return
        with self._lock:
            state = self._state(meter)
            if opening.identify:
                state.name_asked, state.asks_counters = True, False
                return
            now = self._clock.monotonic()
            state.total += 1
            self._report_to(meter.key, state.total, opening.credentials.text)
            if opening.access not in state.tried:
                state.tried.append(opening.access)
            if opening.access == state.wanted and self._has_other(meter, state):
                state.refused += 1
                state.try_wanted_at = now + self._pauses.pause(state.refused, self._jitter)
                self._log(meter, opening, error, state.refused, "meter.key.pending", "the old keys go on being used")
                return
            if opening.access != state.wanted:
                state.try_wanted_at = 0.0  # the old keys do not work any more: next time the new ones again
            if self._untried(meter, state):
                self._log(
                    meter, opening, error, state.failures + 1, "meter.key.pending", "keys that it was sent follow"
                )
                return
            state.tried = []
            state.failures += 1
            state.name_asked = False
            state.asks_counters = opening.credentials.security is not None and not isinstance(error, Replayed)
            state.not_before = now + self._pauses.pause(state.failures, self._jitter)
            event = "meter.replay" if isinstance(error, Replayed) else "meter.key"
            pause = f"next attempt in {state.not_before - now:.0f} s"
            self._log(meter, opening, error, state.failures, event, pause)

    def forget(self, meters: Iterable[str]) -> None:
        """Forget what is known of these meters (`Meter.key`): which keys work, and their counters."""
        with self._lock:
            keys = list(meters)
            for key in keys:
                self._states.pop(key, None)
            self._store.forget(keys)

    def tick(self) -> None:
        self._store.tick(self._clock.monotonic())

    @property
    def problem(self) -> str:
        """Why meters may not be reached with their keys; empty while all is well."""
        return self._store.problem

    def close(self) -> None:
        """Write everything that is not written yet."""
        self._store.flush()

    # --- inside ---

    def _state(self, meter: Meter) -> _State:
        """The state of this meter. What failed with other settings says nothing about these."""
        wanted = self._rules.resolve(meter)
        state = self._states.get(meter.key)
        if state is None:
            state = self._states[meter.key] = _State(wanted)
        elif state.wanted != wanted:
            state = self._states[meter.key] = _State(wanted, total=state.total, name_asked=state.name_asked)
        return state

    def _has_other(self, meter: Meter, state: _State) -> bool:
        proven = self._store.proven(meter.key)
        return proven is not None and not _alike(proven, state.wanted)

    def _untried(self, meter: Meter, state: _State) -> list[MeterAccess]:
        """Accesses that the meter was sent and has not refused yet, once it has refused what is usually tried."""
        if not state.tried:
            return []
        proven = self._store.proven(meter.key)
        usual = [state.wanted] if proven is None or _alike(proven, state.wanted) else [state.wanted, proven]
        if any(one not in state.tried for one in usual):
            return []
        return [one for one in self._store.sent(meter.key) if one not in state.tried and one not in usual]

    def _asks_name(self, meter: Meter, state: _State) -> bool:
        if state.name_asked or not self._rules.needs_name(meter):
            return False
        return state.failures > 0 or not meter.named

    def _log(self, meter: Meter, opening: Opening, error: DlmsError, count: int, event: str, consequence: str) -> None:
        LOG.log(
            logging.WARNING if count == 1 else logging.DEBUG,
            "meter %s does not take its keys (%s): %s; %s",
            meter.meter_id,
            opening.credentials.text,
            error,
            consequence,
            extra={"event": event},
        )


def _alike(one: MeterAccess, other: MeterAccess | None) -> bool:
    """Whether an association with one proves the other: apart from the broadcast key they are the same."""
    return other is not None and replace(one, broadcast_key=b"") == replace(other, broadcast_key=b"")


def _secrets(access: MeterAccess) -> dict[str, bytes]:
    return {name: getattr(access, name) for name in SECRET_FIELDS if getattr(access, name)}


def _given_secrets(rule: AccessRule) -> Iterable[tuple[str, bytes]]:
    for name, value in rule.given:
        if name in SECRET_FIELDS and isinstance(value, bytes) and value:
            yield name, value


def _merged(kept: dict[str, bytes] | None, given: dict[str, bytes]) -> dict[str, bytes]:
    return {**(kept or {}), **given}


def _completed(rule: AccessRule, secrets: dict[str, bytes]) -> AccessRule:
    plain = [(name, value) for name, value in rule.given if name not in SECRET_FIELDS]
    return replace(rule, given=(*plain, *sorted(secrets.items())))
