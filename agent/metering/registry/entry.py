"""One meter of the registry: who it is, how it is reached, and how reading it goes."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.status import MeterStatus

NAME_BYTES_MAX = 64
ERROR_CHARS_MAX = 160


@dataclass(frozen=True, slots=True)
class Meter:
    """One meter. `joined`: first contact, seconds since the epoch; 0 for one that was added by hand and has not been
    heard yet. `named`: `meter_id` is its own name. `double_of`: a name that it says, and that another meter has, which
    answers too: such a meter is known by the way it is reached.

    One in whose place another meter was heard is *displaced*: its `key` is its former place's, with its name behind.

    `model` is what its logical device name, device type and firmware say it is (`registry.capabilities`), `None` while
    that is not known.
    """

    key: str
    port: str
    address: int
    eui48: str
    meter_id: str
    named: bool
    joined: float
    model: str | None = None
    double_of: str = ""

    @property
    def place(self) -> str:
        """The id of a meter that has no name of its own."""
        return self.eui48 or f"{self.port}-{self.address}"

    @property
    def place_key(self) -> str:
        """The key of whoever is reached where this meter was reached last."""
        return f"{self.port}/{self.eui48 or self.address}"

    @property
    def displaced(self) -> bool:
        """Whether another meter was heard in its place since."""
        return self.key != self.place_key


@dataclass(slots=True)
class Entry:
    """What changes, beside the meter. `absent_since`: monotonic seconds, `None` while it is in the network. `away`: it
    was there in this life of the process, and is not now; `left` once that has lasted.
    `asked_name`: a visit has ended well without the meter telling its name. `claims`: a name that it has told, and that
    is another meter's, which may have been there before and be gone. `flaws`: what the last good visit for
    a task had errors for, by task."""

    meter: Meter
    absent_since: float | None
    left: bool = False
    away: bool = False
    last_success: float = 0.0
    last_attempt: float = 0.0
    last_error: str = ""
    key_failures: int = 0
    security: str = ""
    silent: bool = False
    asked_name: bool = False
    claims: str = ""
    flaws: dict[str, str] = field(default_factory=dict)

    @property
    def flaw(self) -> str:
        """What the tasks lack, each thing once."""
        return "; ".join(dict.fromkeys(self.flaws.values()))[:ERROR_CHARS_MAX]

    def status(self, *, admitted: bool = True) -> MeterStatus:
        double = f"it says the name of another meter: {self.claims}" if self.claims else ""
        if not admitted:
            state = "unlisted"
        elif not self.meter.joined:
            state = "expected"
        elif self.left:
            state = "left"
        elif self.last_error:
            state = "silent" if self.silent else "failing"
        else:
            state = "read" if self.last_success else "joined"
        return MeterStatus(
            meter_id=self.meter.meter_id,
            port=self.meter.port,
            address=self.meter.address,
            state=state,
            joined=self.meter.joined,
            last_success=self.last_success,
            last_attempt=self.last_attempt,
            last_error=self.last_error or double or self.flaw,
            key_failures=self.key_failures,
            security=self.security,
            model=self.meter.model,
            named=self.meter.named,
            eui48=self.meter.eui48,
            away=self.away,
        )


def meter_name(octets: bytes) -> str:
    """Return the id that a logical device name gives: its text, else its octets as hexadecimal; empty when it is empty.

    A name may become part of a path in the management tree and of a file name, so only plain characters count as text.
    """
    text = octets.strip(b"\0 ")[:NAME_BYTES_MAX]
    if text and all(0x21 <= octet <= 0x7E and octet not in b'/\\"' for octet in text):
        return text.decode("ascii")
    return text.hex()
