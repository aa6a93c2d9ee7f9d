"""What of the epochs must be known also where the store is lost: a small file beside it, `NAME-clock`, in JSON.

Each epoch says which ids of which store it has read. `said` is what the head-end was told of the trust of readings, in
order, as far as it still holds, so that it can be told again by another store. docs/versions.md has its version.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from agent.metering.ledger.ledger import Verdict
from agent.metering.scheduling.slots import Epoch
from agent.tree.newer import NewerFormatError, check_version, set_aside
from omadm.readings import ID_MAX
from updateagent.disk import Disk

LOG = logging.getLogger("agent.metering.scheduling.epochs")

SUFFIX = "-clock"
VERSION = 1

_EPOCH = ("number", "offset", "since", "store", "first", "last", "until", "trusted", "doubted")
_EPOCH_KINDS = (
    (int,), (int, float, type(None)), (int, float), (str,), (int,), (int, type(None)), (int, float), (bool,), (bool,),
)  # fmt: skip
_SAID = tuple(field.name for field in fields(Verdict))
_SAID_KINDS = ((str,), (str,), (int,), (int,), (int,), (int,), (bool,), (str,))


@dataclass(frozen=True, slots=True)
class KeptEpochs:
    """Those of the boot `boot`, as they were when `store` was the present one, the `generation`-th of this device."""

    boot: str
    store: str
    generation: int
    epochs: tuple[Epoch, ...]
    said: tuple[Verdict, ...]

    def members(self) -> dict[str, Any]:
        """As JSON has them."""
        return {
            "boot": self.boot,
            "store": self.store,
            "generation": self.generation,
            "epochs": [[getattr(epoch, name) for name in _EPOCH] for epoch in self.epochs],
            "said": [[getattr(verdict, name) for name in _SAID] for verdict in self.said],
        }

    @classmethod
    def of(cls, members: Mapping[str, object]) -> KeptEpochs | None:
        """Take them from JSON; a row that is none is left out, and without a boot or a store there are none."""
        boot, store, generation = (members.get(name) for name in ("boot", "store", "generation"))
        if not (isinstance(boot, str) and isinstance(store, str)):
            return None
        epochs = [Epoch(*row) for row in _rows(members.get("epochs"), _EPOCH_KINDS)]
        for epoch in epochs:
            epoch.inherited = True
        said = [Verdict(*row) for row in _rows(members.get("said"), _SAID_KINDS)]
        known = generation if isinstance(generation, int) and generation > 0 else 1
        return cls(boot, store, known, tuple(epochs), tuple(said))


def _rows(found: object, kinds: tuple[tuple[type, ...], ...]) -> Iterable[list[Any]]:
    return (
        row
        for row in (found if isinstance(found, list) else ())
        if isinstance(row, list) and len(row) == len(kinds) and all(map(_is, row, kinds))
    )


def _is(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, int | float):
        low = -ID_MAX if float in kinds else 0
        return isinstance(value, kinds) and low <= value <= ID_MAX  # which no NaN is
    return isinstance(value, kinds)


class EpochFile:
    """Not thread-safe. What cannot be read counts as not there; one that cannot be written is tried again with the next
    change. Either is logged."""

    def __init__(self, file: Path, disk: Disk) -> None:
        self._file = file
        self._disk = disk

    def read(self) -> KeptEpochs | None:
        """Return what was written last; `None` where there is nothing, or nothing that can be read."""
        try:
            return parse(self._disk.read_bytes(self._file)) if self._disk.exists(self._file) else None
        except NewerFormatError as error:
            try:
                set_aside(self._disk, self._file, error)
            except OSError as trouble:
                LOG.warning("%s cannot be set aside: %s", self._file, trouble, extra={"event": "epochs.unread"})
        except (OSError, ValueError) as error:
            LOG.warning("%s cannot be read: %s", self._file, error, extra={"event": "epochs.unread"})
        return None

    def write(self, kept: KeptEpochs) -> None:
        """Make this durable in place of what was there."""
        try:
            self._disk.write_durable(self._file, emit(kept))
        except OSError as error:
            LOG.warning("%s cannot be written: %s", self._file, error, extra={"event": "epochs.unwritten"})


def emit(kept: KeptEpochs) -> bytes:
    """Return the contents of the file."""
    members = kept.members()
    return _encode({"version": VERSION, "crc32": zlib.crc32(_encode(members)), "kept": members})


def parse(data: bytes) -> KeptEpochs | None:
    """Return what a file says. Raises `NewerFormatError` for a later version, `ValueError` for what is no such file."""
    try:
        document = json.loads(data)
        check_version(document["version"], VERSION)
        members = document["kept"]
        if document["crc32"] != zlib.crc32(_encode(members)):
            raise ValueError("wrong checksum")
        return KeptEpochs.of(members)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
