"""What a download keeps on the disk: the file as far as it has come, and beside it the state that a restart reads.

The state never claims more than was synced: the file first, then the state. It is one JSON object on one line, then a
line with the CRC-32 of the first as eight hex digits. A record that does not read is no record: the download starts
again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from agent.clock import Clock
from updateagent.disk import RawFile, Storage

LOG = logging.getLogger("agent.download")

VERSION = 1
STATE_BYTES_MAX = 64 * 1024
CHECKPOINT_BYTES = 1 << 20  # at most this much is fetched again after a power cut
CHECKPOINT_S = 30.0  # the same bound for slow lines
HASH_BYTES = 1 << 20


@dataclass(slots=True)
class State:
    """A download in progress. `offset` bytes of the file are durable; `bytes_fetched` counts body bytes received.

    `object_url` differs from `url` when `url` answered with a descriptor, which is then kept in `descriptor` (XML);
    `reported`: the server that the descriptor names has been told the outcome.
    """

    url: str
    object_url: str
    descriptor: str | None = None
    etag: str | None = None
    total: int | None = None
    offset: int = 0
    bytes_fetched: int = 0
    resumes: int = 0
    content_type: str = ""
    complete: bool = False
    sha256: str = ""
    reported: bool = False

    def from_the_start(self) -> State:
        """The same download with nothing of the object there; what was fetched in vain still counts."""
        return replace(
            self, etag=None, total=None, offset=0, content_type="", complete=False, sha256="", reported=False
        )

    def emit(self) -> bytes:
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True).encode()
        return text + b"\n" + f"{zlib.crc32(text):08x}\n".encode()


def path_for(into: Path) -> Path:
    """Where the state of the file `into` is kept."""
    return into.with_name(into.name + ".state")


def parse(data: bytes) -> State | None:
    """The record, or `None` when it is damaged or of another version."""
    text, newline, crc = data.partition(b"\n")
    if len(data) > STATE_BYTES_MAX or not newline or crc.strip() != f"{zlib.crc32(text):08x}".encode():
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.pop("version", None) != VERSION:
        return None
    return State(**record) if _fits(record) else None


def _fits(record: dict[str, object]) -> bool:
    """Whether the record has exactly our fields with values of their types, in range."""
    kinds = {
        "url": (str,),
        "object_url": (str,),
        "descriptor": (str, type(None)),
        "etag": (str, type(None)),
        "total": (int, type(None)),
        "offset": (int,),
        "bytes_fetched": (int,),
        "resumes": (int,),
        "content_type": (str,),
        "complete": (bool,),
        "sha256": (str,),
        "reported": (bool,),
    }
    if set(record) != {field.name for field in fields(State)}:
        return False
    if not all(type(record[name]) in kind for name, kind in kinds.items()):  # exactly: True is no number here
        return False
    return all(not isinstance(number, int) or number >= 0 for number in record.values())


class PartialFile:
    """The file, its running hash and its state. `have` bytes are in the file; `state.offset` of them are durable.

    Raises `OSError` from every method that touches the disk.
    """

    def __init__(
        self, disk: Storage, clock: Clock, path: Path, checkpoint_bytes: int, beat: Callable[[], None]
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._path = path
        self._checkpoint_bytes = checkpoint_bytes
        self._beat = beat
        self._file: RawFile | None = None
        self._hash = hashlib.sha256()
        self._saved_at = clock.monotonic()
        self.state = State("", "")
        self.have = 0

    def load(self, url: str) -> None:
        """Take up what an earlier download of `url` left, as far as it can be trusted; else begin with nothing."""
        self.state = State(url, url)
        found = self._read_state()
        if found is None or found.url != url:
            return
        if not self._disk.exists(self._path):
            self.state = found.from_the_start()
            return
        self._file = self._disk.open_raw(self._path, write=True)
        size = self._file.size()
        if size < found.offset or (found.complete and size != found.offset):
            self.state = found.from_the_start()
            self._file.truncate(0)
            return
        self.state = found
        # Bytes past the durable end did arrive, but whether intact is not known: they count, and are dropped.
        found.bytes_fetched += size - found.offset
        self._file.truncate(found.offset)
        self._rehash()

    def write(self, piece: bytes) -> None:
        """Append bytes that were fetched; make them durable when enough have gathered."""
        self._raw().pwrite(piece, self.have)
        self._hash.update(piece)
        self.have += len(piece)
        self.state.bytes_fetched += len(piece)
        due = self._clock.monotonic() - self._saved_at >= CHECKPOINT_S
        if due or self.have - self.state.offset >= self._checkpoint_bytes:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make everything durable: the file first, then the state that speaks of it."""
        if self.have != self.state.offset:
            self._raw().sync()
            self.state.offset = self.have
            self.save()

    def restart(self) -> None:
        """Back to an empty file. The state says so before the file is written again."""
        if self.have or self.state.offset:
            self.state = self.state.from_the_start()
            self.save()
            self._raw().truncate(0)
        self.have = 0
        self._hash = hashlib.sha256()

    def finish(self) -> None:
        """The object is whole."""
        self._raw().sync()
        self.state.offset = self.have
        self.state.sha256 = self._hash.hexdigest()
        self.state.complete = True
        self.save()

    def save(self) -> None:
        """Make the state durable as it is."""
        self._disk.write_durable(path_for(self._path), self.state.emit())
        self._saved_at = self._clock.monotonic()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_state(self) -> State | None:
        try:
            return parse(self._disk.read_bytes(path_for(self._path)))
        except FileNotFoundError:
            return None

    def _rehash(self) -> None:
        state, file = self.state, self._raw()
        while self.have < state.offset:
            piece = file.pread(min(HASH_BYTES, state.offset - self.have), self.have)
            self._hash.update(piece)
            self.have += len(piece)
            self._beat()
        if state.complete and self._hash.hexdigest() != state.sha256:
            LOG.warning("the downloaded file was altered: fetching it again", extra={"event": "download.altered"})
            self.restart()

    def _raw(self) -> RawFile:
        if self._file is None:
            self.save()  # before the file loses its content, no state may speak of that content any more
            self._file = self._disk.open_raw(self._path, write=True, create=True)
            self._disk.sync_dir(self._path.parent)
        return self._file
