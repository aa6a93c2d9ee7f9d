"""What is known about a slot, from the journal and from the boot environment, as one value; sans-IO.

The journal says what a slot holds, the boot environment what the boot loader will do with it. `status`, `mark`,
`rollback` and an install read both here, so that they cannot disagree.

| content  | what it means                                                                                     |
|----------|---------------------------------------------------------------------------------------------------|
| good     | it runs and is confirmed, or ran healthily the last time                                          |
| trial    | a whole, verified image that has not proved healthy yet                                           |
| bad      | partly written, given up on trial, or marked by hand; `why` says which                            |
| empty    | nothing is known of it: never written, or what was known was lost with the data partition         |
| recovery | the recovery slot, which is never written                                                         |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

GOOD, TRIAL, BAD, EMPTY, RECOVERY = "good", "trial", "bad", "empty", "recovery"
BY_HAND = "marked by hand"
PARTLY_WRITTEN = "an update was writing it"


@dataclass(frozen=True, slots=True)
class SlotState:
    """One slot. `place` in the boot order, 0 for the first; None when the boot loader does not try it.

    `left` is the number of attempts, None where they are not counted. `images` are the sizes in bytes and the roots in
    hexadecimal of what was written; empty where that is not known. `proven`: this content was healthy on trial.
    """

    name: str
    version: str = ""
    content: str = EMPTY
    why: str = ""
    running: bool = False
    place: int | None = None
    left: int | None = None
    images: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    proven: bool = False

    @property
    def is_good(self) -> bool:
        """Whether a system that is known to be good starts from here."""
        return self.content in (GOOD, RECOVERY)

    @property
    def is_certain(self) -> bool:
        """Whether what it holds can be compared with what should be there, or is never changed."""
        return bool(self.images) or self.content == RECOVERY

    def describe(self) -> str:
        """The slot in words, for a refusal."""
        if self.content == EMPTY:
            return f"slot {self.name} is empty, or nothing is known of it"
        version = f" (version {self.version})" if self.version else ""
        return f"slot {self.name}{version} is {self.content}" + (f": {self.why}" if self.why else "")


def instead_of(slots: Iterable[SlotState], bad: str) -> list[SlotState]:
    """The slots that may start when `bad` is not to: the running one, then good ones, then recovery.

    The running one counts unless it is bad itself: it is as good as its last start showed.
    """
    others = [slot for slot in slots if slot.name != bad and slot.is_good]
    return sorted(others, key=lambda slot: (not slot.running, slot.content == RECOVERY))
