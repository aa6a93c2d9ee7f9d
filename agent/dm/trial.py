"""Carries out changes of how the head-end is reached (`agent.mo.connectivity.trial`), on the DM thread.

A change is in effect when what lies outside the tree follows it. Then its deadline runs, and it is confirmed once a
session that began afterwards went well, with a server that proved itself, and every other server that the change is
about has shown a certificate that is believed. Otherwise the old values come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from agent.mo.connectivity import trial
from agent.mo.connectivity.trial import Trial, Values
from omadm.codes import Refusal

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.tree.persistence import ManagementTree
    from agent.tree.tree import Transaction

LOG = logging.getLogger("agent.dm")

TRY_AGAIN_S = 60.0  # between two attempts to put values into effect, or to reach the other servers
FOREVER_S = float("inf")


class Reached(Enum):
    """What came of asking a server for its certificate."""

    YES = auto()
    UNREACHABLE = auto()  # nobody can say what it would have shown
    REFUSED = auto()  # it was reached, and is not believed


class Network(Protocol):
    """What lies outside of the tree."""

    def apply(self, values: Values, *, outdated: bool) -> str:
        """Put values into effect; the same ones again do no harm. `outdated`: others may be in effect, whatever this
        process knows. Empty, or why it failed."""

    def reach(self, url: str) -> tuple[Reached, str]:
        """Open a connection to a server and judge its certificate; with why, where it is not `YES`."""


class NoNetwork:
    """A device without anything outside: for programs that only look."""

    def apply(self, values: Values, *, outdated: bool) -> str:  # noqa: ARG002
        return ""

    def reach(self, url: str) -> tuple[Reached, str]:  # noqa: ARG002
        return Reached.YES, ""


@dataclass(slots=True)
class TrialRun:
    """`boot`: the id of this boot. `ask()` wishes for a session now, `report()` for one that takes an alert."""

    tree: ManagementTree
    clock: Clock
    network: Network
    boot: str
    ask: Callable[[], None]
    report: Callable[[], None]
    problem: str = ""  # why the values in use are not in effect
    _armed: str = ""  # the id of the change that is in effect, and whose session is awaited
    _why: str = "no session was held"  # what is missing for the change to be confirmed
    _applied: Values | None = None
    _again_at: float = 0.0
    _noted_at: float = 0.0

    @property
    def armed(self) -> str:
        """The id of the change whose session is awaited; empty for none."""
        return self._armed

    def left_s(self) -> float:
        """How long the trial still has, 0 without one. Any thread."""
        now = trial.load(self.tree.view())
        if not now.under_way:
            return 0.0
        return max(0.0, now.ends - self.clock.monotonic()) if now.running else now.left_s

    def warnings(self) -> list[str]:
        """That the addresses and authorities in use may be taken back. Any thread."""
        last = trial.load(self.tree.view())
        if not last.under_way:
            return []
        return [f"a change of {_about(last)} is on trial, and is taken back in {self.left_s():.0f} s unless it works"]

    def wait(self) -> float:
        """Seconds until there is something to do."""
        now = self.clock.monotonic()
        last = trial.load(self.tree.view())
        if last.under_way:
            return max(0.0, min(last.ends, self._again_at) - now) if self._armed == last.id else 0.0
        return max(0.0, self._again_at - now) if self.problem else FOREVER_S

    def step(self) -> None:
        """Whatever is due: values into effect, the deadline. Between sessions only."""
        now = self.clock.monotonic()
        if trial.is_damaged(self.tree.view()):
            self._end_damaged()
        last = trial.load(self.tree.view())
        self._put_into_effect(now, last)
        last = trial.load(self.tree.view())
        if not last.under_way:
            self._armed = ""
        elif self._armed != last.id:
            if not self.problem:
                self._arm(now)
        elif now >= last.ends:
            self._revert(f"no session in {last.within_s:.0f} s: {self._why}")
        elif now >= self._again_at:
            self._again_at = now + TRY_AGAIN_S
            self.ask()
        elif now - self._noted_at >= trial.NOTED_EVERY_S:
            self._noted_at = now
            self._change(lambda changing: trial.note_time(changing, now))

    def session_over(self, armed: str, *, ok: bool, result: str) -> None:
        """A session ended that began while the change `armed` was in effect."""
        last = trial.load(self.tree.view())
        if not armed or not last.under_way or armed != last.id:
            return
        if not ok:
            self._why = result
            return
        missing = self._missing(last)
        if missing:
            self._why = missing
            self._again_at = self.clock.monotonic() + TRY_AGAIN_S
            return
        if self._change(trial.confirm):
            LOG.info("the change of %s is confirmed", _about(last), extra={"event": "dm.connectivity.confirmed"})
            self._armed = ""
            self.report()

    def account_gone(self) -> None:
        """There is no account any more: no session will tell how the change went."""
        if trial.load(self.tree.view()).under_way:
            self._revert("the account is gone")

    # -- inside -----------------------------------------------------------------------------------------------

    def _put_into_effect(self, now: float, last: Trial) -> None:
        view = self.tree.view()
        values = trial.in_use(view)
        if self._applied == values and not self.problem and not trial.is_outdated(view):
            return
        if self.problem and now < self._again_at:
            return
        outdated = trial.is_outdated(view)
        self.problem = self.network.apply(values, outdated=outdated)
        self._applied = values
        if not self.problem:
            if outdated:
                self._change(trial.note_applied)
            return
        self._again_at = now + TRY_AGAIN_S
        LOG.error("%s", self.problem, extra={"event": "dm.connectivity.not_applied"})
        if last.under_way:
            self._revert(self.problem)

    def _arm(self, now: float) -> None:
        if not self._change(lambda changing: trial.run_from(changing, now, self.boot)):
            return
        last = trial.load(self.tree.view())
        if not last.under_way:  # one boot too many
            self._reverted(last)
            return
        LOG.warning(
            "a change of %s is on trial for %.0f s", _about(last), last.ends - now,
            extra={"event": "dm.connectivity.trial"},
        )  # fmt: skip
        self._armed, self._why = last.id, "no session was held"
        self._noted_at, self._again_at = now, now + TRY_AGAIN_S
        self.ask()

    def _missing(self, last: Trial) -> str:
        """Which other server is not there as the change wants it. Of those that only the certificates concern, one that
        cannot be reached now says nothing."""
        values = trial.in_use(self.tree.view())
        for name, url in ((trial.UPLINK, values.uplink), (trial.REGISTRATION, values.registration)):
            concerned = name in (last.new or {})
            if not url or not (concerned or trial.ANCHORS in (last.new or {})):
                continue
            reached, why = self.network.reach(url)
            if reached is Reached.REFUSED or (concerned and reached is Reached.UNREACHABLE):
                return why
        return ""

    def _revert(self, why: str) -> None:
        if self._change(lambda changing: trial.revert(changing, why)):
            self._reverted(trial.load(self.tree.view()))
            self._put_into_effect(self.clock.monotonic(), trial.load(self.tree.view()))

    def _end_damaged(self) -> None:
        was = trial.load(self.tree.view())
        if not self._change(trial.end_damaged):
            return
        LOG.error("the record of the last change was damaged", extra={"event": "dm.connectivity.damaged"})
        if was.under_way:
            self._reverted(trial.load(self.tree.view()))
            self.report()

    def _reverted(self, last: Trial) -> None:
        LOG.warning(
            "the change of %s is taken back: %s", _about(last), last.reason, extra={"event": "dm.connectivity.reverted"}
        )
        self._armed = ""
        self._again_at = 0.0
        self.ask()  # over the old values at once, whatever the wait after failures says; it takes the alert along

    def _change(self, what: Callable[[Transaction], None]) -> bool:
        try:
            with self.tree.transaction() as changing:
                what(changing)
        except Refusal as error:  # the storage fails: the next step tries again
            LOG.debug("a change on trial waits for the storage: %s", error)
            return False
        return True


def _about(last: Trial) -> str:
    return ", ".join(last.new or {}) or "nothing"
