"""DiagMon: how the device does; `urn:x-dcu:mo:diagmon:1.0`, named after OMA's DiagMon 1.0 without claiming it.

    Status, Meters, Ports, Storage, Clock    live, JSON: each readable in one Get
    Log/From, To, Level                      which lines
    Log/Operations/Collect                   Exec: 200 once they are in Data, 500 where the log cannot be read
    Log/Data, Log/Status/…                   live: what was collected last, since the start of the agent

A meter is pinged by an order (`agent.mo.order`, kind `ping`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.tree import alerts
from agent.tree.schema import GE, ExecCall, Format, NodeSpec, Path, int_range, interior, live, one_of, permanent
from agent.tree.tree import Transaction
from omadm.codes import Code, Refusal
from omadm.orders import LEVELS, SECONDS_MAX

URN = "urn:x-dcu:mo:diagmon:1.0"
ROOT: Path = ("DiagMon",)
LOG: Path = (*ROOT, "Log")

Picture = Callable[[], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines of a log, the newest ones where they are too many (`shortened`)."""

    text: str = ""
    lines: int = 0
    shortened: bool = False


class LogSource(Protocol):
    """Where the lines of this program's log are."""

    def collect(self, since: int, until: int, level: str) -> Excerpt:
        """The lines of a level and above from `since` to `until`, seconds since 1970; `until` 0 is now. Without the
        secrets that the process knows. Raises `OSError`."""


class NoLog:
    """A program whose log is nowhere."""

    def collect(self, since: int, until: int, level: str) -> Excerpt:  # noqa: ARG002
        raise OSError("the log is not kept")


def _nothing() -> Mapping[str, object]:
    return {}


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is told of the device, as values that JSON has. Called on the DM thread, must not wait."""

    status: Picture = _nothing
    meters: Picture = _nothing
    ports: Picture = _nothing
    storage: Picture = _nothing
    clock: Picture = _nothing
    log: LogSource = field(default_factory=NoLog)


class DiagMon:
    """`pictures` are asked at each Get, the log at each Exec."""

    root = ROOT

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._found = Excerpt()
        self._state = "idle"
        self._error = ""

    def spec(self) -> NodeSpec:
        def picture(name: str, value: Picture, description: str) -> NodeSpec:
            return live(name, Format.CHR, lambda _: json.dumps(value(), separators=(",", ":")), description)

        def moment(name: str, description: str) -> NodeSpec:
            return permanent(name, Format.INT, default="0", check=int_range(0, SECONDS_MAX), description=description)

        pictures = self._pictures
        return interior(
            "DiagMon",
            picture("Status", pictures.status, "what `dcuctl status --json` tells, but for the list of meters, JSON"),
            picture("Meters", pictures.meters, "how many are in which state, and their visits by their end, JSON"),
            picture("Ports", pictures.ports, "per port: what is wrong, meters by state, visits by their end, JSON"),
            picture("Storage", pictures.storage, "store of readings and free space, JSON"),
            picture("Clock", pictures.clock, "time, who vouches for it, drift, earliest time that it can be, JSON"),
            interior(
                "Log",
                moment("From", "seconds since 1970; 0: as far back as it goes"),
                moment("To", "seconds since 1970; 0: now"),
                permanent(
                    "Level",
                    Format.CHR,
                    default="info",
                    check=one_of(*LEVELS),
                    description="debug, info, warning, error",
                ),
                interior("Operations", NodeSpec("Collect", Format.NULL, GE)),
                interior(
                    "Status",
                    live("State", Format.CHR, lambda _: self._state, "idle, done, failed"),
                    live("Error", Format.CHR, lambda _: self._error, "why it failed"),
                    live("Lines", Format.INT, lambda _: str(self._found.lines), "how many are in Data"),
                    live(
                        "Shortened",
                        Format.BOOL,
                        lambda _: "true" if self._found.shortened else "false",
                        "older lines are left out",
                    ),
                ),
                live("Data", Format.CHR, lambda _: self._found.text, "the lines, at most 192 KiB, without secrets"),
            ),
            type=URN,
        )

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of Collect: 200; 412 for an end before the beginning, 500 where the log cannot be read."""
        if call.path != (*LOG, "Operations", "Collect"):
            raise Refusal(Code.NOT_ALLOWED, "nothing to execute")
        since, until = (int(changing.text((*LOG, name))) for name in ("From", "To"))
        if until and until < since:
            raise Refusal(Code.INCOMPLETE, "To is before From")
        try:
            self._found = self._pictures.log.collect(since, until, changing.text((*LOG, "Level")))
        except OSError as error:
            self._found, self._state, self._error = Excerpt(), "failed", str(error.strerror or error)
            raise Refusal(Code.COMMAND_FAILED, f"the log cannot be read: {error}") from error
        self._state, self._error = "done", ""
        return Code.OK

    def written(self, changing: Transaction, path: Path) -> None:
        """Nothing follows from a value before the Exec."""

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """No alert comes from here."""
