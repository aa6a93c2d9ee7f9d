"""The home of the meters' secrets and of their invocation counters: the only module that keeps them.

Two documents in two generations each, mode 0600, written through the `Disk` port (`agent.tree.persistence`):

    keys    our system title; the secrets that the head-end provisioned; per meter the access that is known to work,
            and those that it may have been given since (`sent`): of a transfer whose answer nobody has seen
            per encryption key the bound below which all invocation counters count as used
            per meter the system title that it proved
    seen    per meter and key the highest invocation counter that the meter used, in answers and in what it pushes

**A counter is never used twice under one key.** AES-GCM loses its secrets when one is. `next` returns a value only
below a bound that is durable; a bound is raised by `BLOCK` values, those of all keys in one write; and a start goes on
at the bound, never below. When the newest generation is damaged, the one before may have a bound that is one block
behind: everything goes on one block later. When both are damaged, a new system title is drawn, which makes all nonces
new, and counters begin at `LOST_FLOOR`, because meters remember ours. Keys that are not used any more are forgotten by
raising `floor`, where the counters of new keys begin, to their bound.

The meter's counters are checked against `seen` when an APDU comes in, and written at most `SEEN_FLUSH_S` later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from agent.settings.provisioning import MeterAccess
from agent.tree.persistence import TwoGenerations
from dlms.errors import LocalError
from dlms.security.random_octets import RandomOctets, system_random
from dlms.security.settings import COUNTER_MAX, SYSTEM_TITLE_OCTETS
from updateagent.disk import Disk

LOG = logging.getLogger("agent.metering.access")

VERSION = 1
BLOCK = 1024  # values reserved per write: some fifty visits of every meter; a start skips at most so many of 2^32
_MEMBERS = ("version", "title", "floor", "bounds", "provisioned", "accesses", "titles", "proven", "sent")
RESERVE_MIN = 512  # values that a session finds reserved when it begins, so that it need not write in the middle
TOLD_MAX = 1 << 31  # what a meter may tell of our counters: who lies to us cannot use a key up
LOST_FLOOR = 1 << 30  # after the loss of all counters; twice as many APDUs as a meter takes in thirty years
SENT_MAX = 4  # accesses of one meter that nobody knows to work; the oldest goes
SENT_METERS_MAX = 4096  # likewise; a full network
KEYS_MAX = 8192  # keys with counters of their own: two per meter of a full network
SEEN_FLUSH_S = 300.0
TRY_EVERY_S = 60.0  # whether files that could not be read or written can be
PROVEN_FLUSH_S = 10.0  # once for the many meters of a network that is read for the first time
PUSHED = "#push"  # behind the name of a meter: the counters of what it pushes
TITLE_HEAD = b"DCU"  # where the maker's three letters are; the rest is random

OCTET_FIELDS = tuple(field.name for field in fields(MeterAccess) if field.default == b"")
SECRET_FIELDS = tuple(name for name in OCTET_FIELDS if name != "meter_key")


class KeyStoreError(LocalError):
    """The keys cannot be read, or a change of them cannot be recorded. The text has no secret."""


class KeyCounters:
    """`dlms.security.settings.InvocationCounters` of one key, as one meter uses it.

    `next` is shared by all meters that have the key; what the peer used is the meter's own.
    """

    def __init__(self, store: KeyStore, name: str, meter: str) -> None:
        self._store = store
        self._name = name
        self._meter = meter

    def next(self) -> int:
        return self._store.next_counter(self._name)

    def seen(self) -> int | None:
        return self._store.seen_counter(self._meter, self._name)

    def note(self, counter: int) -> None:
        self._store.note_counter(self._meter, self._name, counter)


class KeyStore:
    """Thread-safe. Methods raise `KeyStoreError` while the files cannot be read or written."""

    def __init__(self, disk: Disk, folder: Path, random_octets: RandomOctets = system_random) -> None:
        self._disk = disk
        self._folder = folder
        self._random_octets = random_octets
        self._lock = threading.RLock()
        self._files: tuple[TwoGenerations, TwoGenerations] | None = None
        self._title = b""
        self._foreign: dict[str, Any] = {}  # what a later version keeps there
        self._floor = 0
        self._next: dict[str, int] = {}  # per key, the value that is used next
        self._bounds: dict[str, int] = {}  # per key, the durable bound
        self._seen: dict[str, dict[str, int]] = {}
        self._provisioned: dict[str, dict[str, bytes]] = {}
        self._proven: dict[str, MeterAccess] = {}
        self._sent: dict[str, tuple[MeterAccess, ...]] = {}
        self._titles: dict[str, bytes] = {}
        self._unsaved = False
        self._seen_unsaved = False
        self._flush_at: float | None = None
        self._trouble = ""  # why the files cannot be read or written
        self._damage = ""  # what was found to be lost, until secrets are provisioned again
        self._try_at: float | None = None
        self._saved = False  # in this life

    def __repr__(self) -> str:
        return f"KeyStore({self._folder})"

    @property
    def problem(self) -> str:
        """Why meters may not be reached with their keys: the files cannot be read or written, or some of what was in
        them is lost. Empty while all is well."""
        return "; ".join(filter(None, (self._trouble, self._damage)))

    # --- what is provisioned ---

    def system_title(self) -> bytes:
        """Our system title where none is provisioned: drawn once, and durable before it is used."""
        with self._lock:
            self._open()
            return self._title

    def provisioned(self) -> dict[str, dict[str, bytes]]:
        """The secrets that were provisioned: rule → field → octets."""
        with self._lock:
            self._open()
            return {rule: dict(secrets) for rule, secrets in self._provisioned.items()}

    def set_provisioned(self, secrets: Mapping[str, Mapping[str, bytes]]) -> None:
        """Replace them. Durable when this returns; on an error the old ones stand."""
        with self._lock:
            self._open()
            fresh = {rule: dict(given) for rule, given in secrets.items() if given}
            if fresh == self._provisioned:
                return
            old, self._provisioned = self._provisioned, fresh
            try:
                self._save()
            except KeyStoreError:
                self._provisioned = old
                raise
            if fresh:
                self._damage = ""

    # --- what works ---

    def proven(self, meter: str) -> MeterAccess | None:
        """The access that this meter was last associated with."""
        with self._lock:
            self._open()
            return self._proven.get(meter)

    def prove(self, meter: str, access: MeterAccess, *, durable: bool) -> None:
        """Record that `access` works. Not `durable`: with the next write; then a power cut loses no key."""
        with self._lock:
            self._open()
            if self._proven.get(meter) == access:
                return
            old = self._proven.get(meter)
            self._proven[meter] = access
            self._unsaved = True
            if not durable:
                return
            try:
                self._save()
            except KeyStoreError:
                if old is not None:
                    self._proven[meter] = old
                raise

    def sent(self, meter: str) -> tuple[MeterAccess, ...]:
        """The accesses that this meter may have been given, the newest first."""
        with self._lock:
            self._open()
            return self._sent.get(meter, ())

    def note_sent(self, meter: str, access: MeterAccess) -> None:
        """The meter is about to be given this access. Durable when this returns, for nobody else may have its keys by
        the time its answer is lost."""
        with self._lock:
            self._open()
            old = self._sent.get(meter, ())
            if old[:1] == (access,):
                return
            self._keep_sent(meter, (access, *(one for one in old if one != access))[:SENT_MAX])
            try:
                self._save()
            except KeyStoreError:
                self._sent[meter] = old
                raise

    def settle_sent(self, meter: str) -> None:
        """Which access the meter has is known. Written with the next change."""
        with self._lock:
            self._open()
            self._unsaved |= self._sent.pop(meter, None) is not None

    def _keep_sent(self, meter: str, accesses: tuple[MeterAccess, ...]) -> None:
        self._sent.pop(meter, None)
        self._sent[meter] = accesses
        while len(self._sent) > SENT_METERS_MAX:
            del self._sent[next(iter(self._sent))]

    def forget(self, meters: Iterable[str]) -> None:
        """Forget what is known of these meters, but for the keys that one may still have while others are provisioned:
        they may be nowhere else any more. Counters of ours stay: a key may come back."""
        with self._lock:
            for meter in meters:
                proven = self._proven.pop(meter, None)
                if proven is not None:
                    kept = (one for one in self._sent.get(meter, ()) if one != proven)
                    self._keep_sent(meter, (proven, *kept)[:SENT_MAX])
                    self._unsaved = True
                self._unsaved |= self._titles.pop(meter, None) is not None
                for name in (meter, meter + PUSHED):
                    self._seen_unsaved |= self._seen.pop(name, None) is not None

    # --- counters ---

    def counters(self, key: bytes, meter: str) -> KeyCounters:
        """The counters of `key`, with `RESERVE_MIN` values reserved."""
        name = _counters_name(key)
        with self._lock:
            self._open()
            self._know(name)
            self._bounds[name] = self._bounds.pop(name)  # the keys in use stand behind the others
            if min(self._next[name] + RESERVE_MIN, COUNTER_MAX + 1) > self._bounds[name]:
                self._reserve()
        return KeyCounters(self, name, meter)

    def pushed(self, key: bytes, meter: str) -> KeyCounters:
        """The counters of what `meter` pushes under `key`, which are apart from those of its answers: a push may be
        late. Only for checking; nothing is reserved for sending."""
        with self._lock:
            self._open()
        return KeyCounters(self, _counters_name(key), meter + PUSHED)

    def title_of(self, meter: str) -> bytes:
        """The system title of a meter; empty where it is not known."""
        with self._lock:
            self._open()
            return self._titles.get(meter, b"")

    def meter_of_title(self, title: bytes) -> str:
        """The meter that has this system title; empty for none."""
        with self._lock:
            self._open()
            return next((meter for meter, known in self._titles.items() if known == title), "")

    def note_title(self, meter: str, title: bytes) -> None:
        """A meter proved this system title. Written with the next change."""
        with self._lock:
            self._open()
            if self._titles.get(meter) != title:
                self._titles[meter] = title
                self._unsaved = True

    def next_counter(self, name: str) -> int:
        """A value that was never returned before for this key, whatever happens to the process."""
        with self._lock:
            self._know(name)
            value = self._next[name]
            if value > COUNTER_MAX:
                raise LocalError("the invocation counter is used up: change the key")
            if value >= self._bounds[name]:
                self._reserve()
            self._next[name] = value + 1
            return value

    def counters_behind(self, key: bytes, told: int) -> int | None:
        """Move the counters of `key` a block ahead of `told`, the highest one of ours that a meter says it has seen;
        durable when this returns. They never go back.

        Returns where they stood; None where they are ahead already, or `told` is above what anybody can have used.
        """
        name = _counters_name(key)
        with self._lock:
            self._open()
            self._know(name)
            stood = self._next[name]
            if not stood <= told < TOLD_MAX:
                return None
            self._next[name] = self._bounds[name] = told + BLOCK
            self._reserve()  # where that fails, the next counter that is asked for tries it again
            return stood

    def seen_counter(self, meter: str, name: str) -> int | None:
        with self._lock:
            return self._seen.get(meter, {}).get(name)

    def note_counter(self, meter: str, name: str, counter: int) -> None:
        with self._lock:
            self._seen.setdefault(meter, {})[name] = counter
            self._seen_unsaved = True

    def _know(self, name: str) -> None:
        if name not in self._next:
            self._next[name] = self._bounds[name] = self._floor

    def _reserve(self) -> None:
        """Raise the bound of every key that has used half of its block. The old bounds stand on an error."""
        old = dict(self._bounds)
        for name, bound in old.items():
            following = self._next[name]
            if bound - following <= BLOCK // 2:
                self._bounds[name] = min(max(bound, following) + BLOCK, COUNTER_MAX + 1)
        try:
            self._save()
        except KeyStoreError:
            self._bounds = old
            raise

    # --- the files ---

    def tick(self, now: float) -> None:
        """Write what may wait, once it has waited its time. Trouble of the disk is logged, and tried again. After a
        start, and while there is trouble, find out whether the files can be read and written: the next association may
        be hours away."""
        with self._lock:
            if self._try_at is None or (self._trouble and now >= self._try_at):
                self._try_at = now + TRY_EVERY_S
                with suppress(KeyStoreError):  # `problem` has it
                    self._open()
                    if self._trouble or not self._saved:
                        self._save()
            if self._unsaved or self._seen_unsaved:
                due = now + (PROVEN_FLUSH_S if self._unsaved else SEEN_FLUSH_S)
                self._flush_at = due if self._flush_at is None else min(self._flush_at, due)
            if self._flush_at is not None and now >= self._flush_at:
                self._flush_at = None
                self.flush()

    def flush(self) -> None:
        """Write everything that is not written yet. Trouble of the disk is logged."""
        with self._lock:
            try:
                if self._unsaved:
                    self._save()
                if self._seen_unsaved:
                    self._open()[1].save(_emit({"version": VERSION, "seen": self._seen}))
                    self._seen_unsaved = False
            except OSError as error:
                self._trouble = f"the keys' files cannot be written: {error}"
                LOG.warning("%s", self._trouble, extra={"event": "meter.keystore.failed"})
            except KeyStoreError as error:
                LOG.warning("%s", error, extra={"event": "meter.keystore.failed"})

    def _save(self) -> None:
        self._make_room()
        held = [*self._proven.values(), *(access for sent in self._sent.values() for access in sent)]
        accesses = {_fingerprint(access): access for access in held}
        document = {
            **self._foreign,
            "version": VERSION,
            "title": self._title.hex(),
            "floor": self._floor,
            "bounds": self._bounds,
            "provisioned": {
                rule: {name: octets.hex() for name, octets in given.items()}
                for rule, given in self._provisioned.items()
            },
            "accesses": {name: _access_document(access) for name, access in accesses.items()},
            "titles": {meter: title.hex() for meter, title in self._titles.items()},
            "proven": {meter: _fingerprint(access) for meter, access in self._proven.items()},
            "sent": {meter: [_fingerprint(one) for one in sent] for meter, sent in self._sent.items() if sent},
        }
        try:
            self._open()[0].save(_emit(document))
        except OSError as error:
            self._trouble = f"the keys' files cannot be written: {error}"
            raise KeyStoreError(self._trouble) from error
        self._unsaved, self._saved, self._trouble = False, True, ""

    def _make_room(self) -> None:
        """Forget the keys that have counters for the longest time, in a way that their counters never come back."""
        for name in list(self._bounds)[: max(0, len(self._bounds) - KEYS_MAX)]:
            self._floor = max(self._floor, self._bounds.pop(name))
            self._next.pop(name, None)
            for seen in self._seen.values():
                seen.pop(name, None)

    def _open(self) -> tuple[TwoGenerations, TwoGenerations]:
        """Read the files, once."""
        if self._files is not None:
            return self._files
        try:
            keys = TwoGenerations(self._disk, self._folder, "keys")
            seen = TwoGenerations(self._disk, self._folder, "seen")
            document, seen_document = _parse(keys.load()), _parse(seen.load())
        except OSError as error:
            self._trouble = f"the keys' files cannot be read: {error}"
            raise KeyStoreError(self._trouble) from error
        except KeyStoreError as error:
            self._trouble = str(error)
            raise
        if document is not None:
            self._load(document, behind=keys.damaged + keys.newer > 0)
        elif keys.damaged or keys.newer:
            self._floor = LOST_FLOOR
            self._damage = "the keys of the meters are lost, no file of them can be read: provision them again"
            LOG.error("%s", self._damage, extra={"event": "meter.keystore.lost"})
        self._seen = _seen(seen_document)
        self._files = keys, seen
        if not self._title:
            self._title = TITLE_HEAD + self._random_octets(SYSTEM_TITLE_OCTETS - len(TITLE_HEAD))
            try:
                self._save()
            except KeyStoreError:
                self._files, self._title = None, b""
                raise
        return self._files

    def _load(self, document: Mapping[str, Any], *, behind: bool) -> None:
        skipped = BLOCK if behind else 0
        self._foreign = {name: member for name, member in document.items() if name not in _MEMBERS}
        self._title = bytes.fromhex(document["title"])
        self._floor = document["floor"] + skipped
        self._bounds = {name: min(bound + skipped, COUNTER_MAX + 1) for name, bound in document["bounds"].items()}
        self._next = dict(self._bounds)
        self._provisioned = {
            rule: {name: bytes.fromhex(octets) for name, octets in given.items()}
            for rule, given in document["provisioned"].items()
        }
        self._titles = {meter: bytes.fromhex(title) for meter, title in document.get("titles", {}).items()}
        accesses = {name: _access_of(held) for name, held in document["accesses"].items()}
        self._proven = {meter: accesses[name] for meter, name in document["proven"].items()}
        # A program that does not know this member hands it on, and drops the accesses that only it names.
        sent = document.get("sent", {}).items()
        self._sent = {meter: tuple(accesses[name] for name in names if name in accesses) for meter, names in sent}
        if behind:
            self._damage = (
                "the meters' keys: the newest file cannot be read, its last change is lost, counters go on after a gap"
            )
            LOG.error("%s", self._damage, extra={"event": "meter.keystore.damaged"})


def _counters_name(key: bytes) -> str:
    return hashlib.sha256(b"counters" + key).hexdigest()[:32]


def _emit(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _parse(content: bytes | None) -> dict[str, Any] | None:
    """The document, which a checksum has proven to be one of ours; None for none."""
    if content is None:
        return None
    document: dict[str, Any] = json.loads(content)
    if document["version"] > VERSION:
        raise KeyStoreError("the keys' files are of a newer version of this program: left alone")
    return document


def _seen(document: Mapping[str, Any] | None) -> dict[str, dict[str, int]]:
    return {} if document is None else {meter: dict(counters) for meter, counters in document["seen"].items()}


def _access_document(access: MeterAccess) -> dict[str, object]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(access).items()}


def _access_of(document: Mapping[str, Any]) -> MeterAccess:
    known = {field.name for field in fields(MeterAccess)}  # what a later version adds is learned anew where it is known
    octets = {name: bytes.fromhex(value) for name, value in document.items() if name in OCTET_FIELDS}
    return MeterAccess(**{name: octets.get(name, value) for name, value in document.items() if name in known})


def _fingerprint(access: MeterAccess) -> str:
    return hashlib.sha256(_emit(_access_document(access))).hexdigest()[:32]
