"""Durable homes: two generations of a small document, and the management tree kept in one.

A document lives in two files, `<name>.0` and `<name>.1`, written in turn through a `Disk`:

    dcu-store 1 <name> <sequence> <length> <crc32 of everything else>\\n
    <payload>

Reading takes the whole one with the higher sequence, so one damaged file costs one change, never the document. A
generation of a later version is set aside (newer.py); what counts then is the one before it, as this version wrote it.
Of a document that is read only when the agent starts, one that the storage does not give is set aside likewise: an
agent that does not start could be told nothing any more.
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.tree.newer import NewerFormatError, check_version, set_aside, set_unreadable_aside
from agent.tree.nodes import State, foreign_nodes, state_from_json, state_to_json
from agent.tree.schema import NodeSpec
from agent.tree.tree import DEVICE, Transaction
from omadm.codes import Code, Refusal
from updateagent.disk import Disk

LOG = logging.getLogger("agent.dm")

MAGIC = "dcu-store"
VERSION = 1
HEADER_BYTES_MAX = 128
PAYLOAD_BYTES_MAX = 4 << 20  # NODES_MAX nodes of a kilobyte
# What the storage says of a file that it cannot give, however often it is asked; not of this process, or its rights.
UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EISDIR})


class TwoGenerations:
    """A document of bytes. One owner; not for concurrent use.

    After `load`, `damaged` is how many files were there and could not be read: the newest content may be lost. `newer`
    is how many a later version of this software wrote, which are set aside.
    """

    def __init__(self, disk: Disk, folder: Path, name: str, *, asked_once: bool = False) -> None:
        """`asked_once`: nobody will load again what could not be read, so it counts as damaged."""
        self._disk = disk
        self._name = name
        self._asked_once = asked_once
        self._files = (folder / f"{name}.0", folder / f"{name}.1")
        self._sequence = 0
        self.damaged = 0
        self.newer = 0
        disk.mkdir_durable(folder)

    def load(self) -> bytes | None:
        """The newest whole generation, `None` when there is none. Raises `OSError` for trouble other than absence, and
        with `asked_once` other than files that the storage does not give."""
        found: list[tuple[int, bytes]] = []
        self.damaged = self.newer = 0
        for file in self._files:
            try:
                content = self._disk.read_bytes(file)
            except FileNotFoundError:
                continue
            except OSError as error:
                if not self._asked_once or error.errno not in UNREADABLE:
                    raise
                # Not left in its place: read again some day, it would count as the newest.
                set_unreadable_aside(self._disk, file, error)
                self.damaged += 1
                continue
            try:
                found.append(self._parse(content))
            except NewerFormatError as error:
                set_aside(self._disk, file, error)
                self.newer += 1
            except ValueError as error:
                LOG.warning("%s: %s", file, error, extra={"event": "dm.store.damaged"})
                self.damaged += 1
        if not found:
            return None
        self._sequence, payload = max(found)
        return payload

    def save(self, payload: bytes) -> None:
        """Durable when this returns. Raises `OSError`; then the previous generation stands."""
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise OSError(errno.EFBIG, f"{self._name}: {len(payload)} bytes, more than {PAYLOAD_BYTES_MAX}")
        sequence = self._sequence + 1
        fields = f"{MAGIC} {VERSION} {self._name} {sequence} {len(payload)}"
        crc = zlib.crc32(payload, zlib.crc32(fields.encode("ascii")))
        header = f"{fields} {crc:08x}\n".encode("ascii")
        self._disk.write_durable(self._files[sequence % 2], header + payload, 0o600)
        self._sequence = sequence

    def _parse(self, content: bytes) -> tuple[int, bytes]:
        line, newline, payload = content[: HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX].partition(b"\n")
        parts = line.split(b" ")
        if not newline or len(parts) < 3 or parts[0] != MAGIC.encode() or parts[2] != self._name.encode():
            raise ValueError("no header")
        if parts[1] != str(VERSION).encode():  # of a later one, no more than these three fields are known
            raise _version_error(parts[1])
        if len(parts) != 6:
            raise ValueError("no header")
        if not parts[3].isdigit() or len(parts[3]) > 18 or parts[4] != str(len(payload)).encode():
            raise ValueError("wrong length")
        crc = zlib.crc32(payload, zlib.crc32(b" ".join(parts[:5])))
        if parts[5] != f"{crc:08x}".encode():
            raise ValueError("wrong checksum")
        return int(parts[3]), payload


def _version_error(said: bytes) -> ValueError:
    try:
        check_version(int(said) if said.isdigit() and len(said) <= 9 else None, VERSION)
    except ValueError as error:
        return error
    return ValueError("wrong header")


class JsonFile:
    """A JSON object in two generations. `load` returns `{}` for none; a document that is not ours is none."""

    def __init__(self, disk: Disk, folder: Path, name: str) -> None:
        self._store = TwoGenerations(disk, folder, name, asked_once=True)

    @property
    def may_be_behind(self) -> bool:
        """Whether a generation could not be read when this was loaded, which may have been the newer one."""
        return self._store.damaged + self._store.newer > 0

    def load(self) -> dict[str, Any]:
        payload = self._store.load()
        if payload is None:
            return {}
        try:
            document = json.loads(payload)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def save(self, document: dict[str, Any]) -> None:
        self._store.save(json.dumps(document, separators=(",", ":"), sort_keys=True).encode("utf-8"))


class ManagementTree:
    """The tree that the device has: one writer at a time, readers on a snapshot, every commit durable.

    Hooks run after a commit, in the committing thread, outside the lock. `behind`: what was written last is lost, and
    the head-end has to provision again; true until `caught_up`, over restarts too.
    """

    def __init__(self, schema: NodeSpec, disk: Disk, folder: Path, wall: Callable[[], float]) -> None:
        self.schema = schema
        self._wall = wall
        self._disk = disk
        self._behind_file = folder / "tree.behind"
        self._store = JsonFile(disk, folder, "tree")
        self._lock = threading.RLock()
        self._hooks: list[Callable[[], None]] = []
        self._state = self._loaded()
        self.behind = self._is_behind()

    def caught_up(self) -> None:
        """The head-end knows that it has to provision again, or has done so."""
        try:
            self._disk.remove_durable(self._behind_file)
        except OSError as error:  # once more, after the next start
            LOG.debug("%s stays: %s", self._behind_file, error)
        self.behind = False

    def _is_behind(self) -> bool:
        if self._disk.exists(self._behind_file):
            return True
        if not self._store.may_be_behind or not self._state.root.children:
            return False  # what is empty is registered anew anyway
        LOG.critical(
            "the newest generation of the tree cannot be read: the one before is in use, and the device registers anew",
            extra={"event": "dm.tree.behind"},
        )
        try:  # the next commit writes over the one that is damaged
            self._disk.write_durable(self._behind_file, b"")
        except OSError as error:
            LOG.warning("%s: %s", self._behind_file, error, extra={"event": "dm.storage"})
        return True

    def _loaded(self) -> State:
        document = self._store.load()
        if not document:
            return State()
        try:
            state = state_from_json(document)
        except ValueError as error:
            # The checksum was right, so this is our own mistake in an older version. Starting empty brings the
            # device back through registration; not starting would not.
            LOG.critical("the stored tree cannot be used: %s", error, extra={"event": "dm.tree.lost"})
            return State()
        kept = foreign_nodes(state.root)
        if kept:
            LOG.warning(
                "%d stored nodes are of a later version of this software: kept as they are, and not used",
                kept,
                extra={"event": "dm.tree.foreign"},
            )
        return state

    def on_commit(self, hook: Callable[[], None]) -> None:
        self._hooks.append(hook)

    @property
    def state(self) -> State:
        return self._state

    def view(self, server: str = DEVICE) -> Transaction:
        """Return a transaction to read in; what is done to it is never committed."""
        return Transaction(self.schema, self._state, server=server, wall=self._wall())

    @contextmanager
    def transaction(self, server: str = DEVICE) -> Iterator[Transaction]:
        """Commit on leaving the block, nothing on an exception. Raises `Refusal` 420 or 500 when storage fails; the
        tree is then as before."""
        with self._lock:
            changing = Transaction(self.schema, self._state, server=server, wall=self._wall())
            yield changing
            if changing.state is self._state:
                return
            try:
                self._store.save(state_to_json(changing.state))
            except OSError as error:
                LOG.critical("the tree cannot be stored: %s", error, extra={"event": "dm.tree.storage"})
                full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
                raise Refusal(Code.DEVICE_FULL if full else Code.COMMAND_FAILED, "storage failed") from error
            self._state = changing.state
        for hook in self._hooks:
            hook()
