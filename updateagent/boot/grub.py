"""GRUB's environment block, and RAUC's policy for GRUB.

    block := "# GRUB Environment Block\\n" { "#" comment "\\n" | name "=" value "\\n" } "#" …      1024 bytes

In a value, a backslash escapes a backslash and a newline.

    ORDER="A B"    slots to try, first to last
    A_OK=1         the slot may be started
    A_TRY=0        set to 1 by the boot script before the attempt; set back to 0 when the system has proved good

A trial has one attempt, and so has a confirmed system: after a power cut between GRUB setting TRY and the system being
marked good, the other slot starts next. That is how RAUC's policy for GRUB works; the one for U-Boot has attempts to
spare. The block has no checksum and no second copy: GRUB writes it in place, so a power cut during that write may lose
it, and no updater can prevent that. We replace the file as a whole. GRUB's own tools take no lock, so there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from updateagent.boot.policy import BootEnv, BootView, Trial, Variables, with_changes
from updateagent.disk import Storage
from updateagent.errors import ENVIRONMENT, ENVIRONMENT_FULL, ENVIRONMENT_WRITE, DeviceError

BLOCK_BYTES = 1024
SIGNATURE = b"# GRUB Environment Block\n"


@dataclass(frozen=True, slots=True)
class Block:
    """The variables of a block, and its comment lines (newer versions of GRUB write a warning there)."""

    variables: dict[str, str]
    comments: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: bytes) -> Block:
        """Parse the encoded form. Raises `DeviceError` (environment)."""
        if len(raw) != BLOCK_BYTES or not raw.startswith(SIGNATURE):
            raise DeviceError(ENVIRONMENT, "not an environment block of GRUB")
        text = raw[len(SIGNATURE) :].decode("utf-8", "surrogateescape")
        variables: dict[str, str] = {}
        comments: list[str] = []
        at = 0
        while at < len(text):
            if text[at] == "#":
                line, newline, _ = text[at:].partition("\n")
                if not newline:
                    break  # the padding
                comments.append(line)
                at += len(line) + 1
            else:
                name, value, at = _entry(text, at)
                variables[name] = value
        return cls(variables, tuple(comments))

    def emit(self) -> bytes:
        """Encode. Raises `DeviceError` (environment-full)."""
        lines = [f"{comment}\n" for comment in self.comments]
        lines += [f"{name}={_escaped(value)}\n" for name, value in self.variables.items()]
        raw = SIGNATURE + "".join(lines).encode("utf-8", "surrogateescape")
        if len(raw) > BLOCK_BYTES:
            raise DeviceError(ENVIRONMENT_FULL, f"the environment needs {len(raw)} bytes, GRUB has {BLOCK_BYTES}")
        return raw.ljust(BLOCK_BYTES, b"#")


def _entry(text: str, at: int) -> tuple[str, str, int]:
    """Returns name, value and the position after one line; an escaped newline does not end the line."""
    name_end = text.find("=", at)
    if name_end < 0:
        raise DeviceError(ENVIRONMENT, "a line of GRUB's environment has no =")
    value = ""
    end = name_end + 1
    while end < len(text) and text[end] != "\n":
        if text[end] == "\\":
            end += 1
        value += text[end : end + 1]
        end += 1
    if end >= len(text):
        raise DeviceError(ENVIRONMENT, "a line of GRUB's environment does not end")
    return text[at:name_end], value, end + 1


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\\n")


def open_block(disk: Storage, config: Path, _lock: None) -> GrubStore:
    """The environment block in the file `config`."""
    return GrubStore(disk, config)


class GrubStore:
    """The variables of a block in a file (`updateagent.boot.policy.Variables`)."""

    def __init__(self, disk: Storage, path: Path) -> None:
        self._disk = disk
        self._path = path

    def places(self) -> tuple[tuple[Path, int, int | None], ...]:
        return ((self._path, 0, None),)

    def load(self) -> Block:
        try:
            return Block.parse(self._disk.read_bytes(self._path))
        except OSError as error:
            raise DeviceError(ENVIRONMENT, f"{self._path}: {error.strerror or error}") from error

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:  # noqa: ARG002  one copy
        before = self.load()
        after = with_changes(before.variables, changes)
        if after == before.variables:
            return False
        raw = Block(after, before.comments).emit()
        try:
            self._disk.write_durable(self._path, raw, mode=0o644)
        except OSError as error:
            raise DeviceError(ENVIRONMENT_WRITE, f"{self._path}: {error.strerror or error}") from error
        return True


class RaucGrubPolicy(BootEnv):
    """`ORDER`, `<slot>_OK` and `<slot>_TRY`. A trial has one attempt, whatever the settings say."""

    ORDER = "ORDER"
    has_recovery = True

    def __init__(self, variables: Variables, slots: tuple[str, ...], tries: int, recovery: str = "") -> None:  # noqa: ARG002
        super().__init__(variables, slots, 1, recovery)

    def view(self) -> BootView:
        variables = self._variables.load().variables
        order = tuple(dict.fromkeys(variables.get(self.ORDER, " ".join(self.slots)).split()))
        left = {
            slot: int(variables.get(f"{slot}_OK", "1") == "1" and variables.get(f"{slot}_TRY", "0") == "0")
            for slot in self.slots
        }
        return BootView(order, left)

    def protect(self, target: str, fallback: str) -> bool:
        view = self.view()
        if target not in view.order and view.order:
            return False
        order = self._ordered(*(slot for slot in view.order if slot != target), fallback)
        may_start = {target: False}
        if not any(view.left.get(slot) for slot in order):
            may_start[fallback] = True
        return self._commit(order, may_start)

    def try_slot(self, target: str, fallback: str) -> bool:
        return self._commit(self._ordered(target, fallback, *self.view().order), {target: True, fallback: True})

    def trial(self, target: str) -> Trial:
        view = self.view()
        if not view.order or view.order[0] != target:
            return Trial.NOT_SET
        return Trial.WAITING if view.left[target] else Trial.BEGUN

    def confirm(self, slot: str, floor: int = 0) -> bool:
        return self._commit(self._ordered(slot, *self.view().order), {slot: True}, floor)

    def fall_back(self, bad: str, good: str) -> bool:
        others = (slot for slot in self.view().order if slot != bad)
        return self._commit(self._ordered(good, *others), {bad: False, good: True})

    def mark_good(self, slot: str) -> bool:
        return self._variables.commit({f"{slot}_OK": "1", f"{slot}_TRY": "0"})

    def needs_mark(self, slot: str) -> bool:
        return self.view().left.get(slot, 1) == 0

    def has_fallback(self, slot: str) -> bool:
        view = self.view()
        return any(other != slot and view.left.get(other, 0) for other in view.order)

    def _commit(self, order: tuple[str, ...], may_start: dict[str, bool], floor: int = 0) -> bool:
        changes: dict[str, str | None] = {self.ORDER: " ".join(order), **self._kept(floor)}
        for slot, good in may_start.items():
            changes |= {f"{slot}_OK": str(int(good)), f"{slot}_TRY": "0"}
        return self._variables.commit(changes)
