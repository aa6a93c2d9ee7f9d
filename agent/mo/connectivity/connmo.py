"""ConnMO: how the head-end is reached, changed on trial; `urn:x-dcu:mo:connmo:1.0`, this project's own.

    Proposed/<leaf>           what to change; an empty leaf stays as it is
    Operations/Try            Exec: put what is proposed on trial, all of it together; 202
    Operations/TakeBack       Exec: end the trial now, with the old values
    InUse/<leaf>, Status/…    live

As with FUMO, an Exec only records what is wanted (`agent.mo.connectivity.trial`); `agent.dm.trial` carries it out. The
leaves of `Proposed` are emptied by the Exec that takes them. A server that replaces the address in its account itself
has it on trial as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agent.jobs import firmware
from agent.mo import dmacc
from agent.mo.connectivity import trial
from agent.mo.connectivity.trial import ROOT, Values
from agent.tls import check_anchors
from agent.tree import alerts
from agent.tree.schema import (
    GE,
    GR,
    Access,
    ExecCall,
    Format,
    NodeSpec,
    Path,
    https_url,
    int_range,
    interior,
    live,
    permanent,
)
from agent.tree.tree import Transaction
from omadm.codes import Code, Refusal

URN = "urn:x-dcu:mo:connmo:1.0"
CONFIGURED = "default"  # back to what the device's own configuration says
WITHIN_S_MIN, WITHIN_S_MAX = 60, 86_400
URL_CHARS_MAX = 1024
ANCHORS_CHARS_MAX = 32_768  # some fifteen certificates
TIME_SERVERS_MAX = 8
ACCESS_CHARS_MAX = 4096
HOST: Final = re.compile(r"[A-Za-z0-9.:-]{1,253}")

PROPOSED: Path = (*ROOT, "Proposed")


def _url_or_configured(text: str) -> None:
    if text != CONFIGURED:
        https_url(text)


def _anchors(text: str) -> None:
    if text not in {"", CONFIGURED}:
        check_anchors(text)


def _time_servers(text: str) -> None:
    hosts = text.split()
    if len(hosts) > TIME_SERVERS_MAX or not all(HOST.fullmatch(host) for host in hosts):
        raise ValueError(f"up to {TIME_SERVERS_MAX} names or addresses expected, separated by spaces")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf of `Proposed` and of `InUse`; `field` is its name in `Values`. `configured`: it can go back to what the
    device's own configuration says."""

    name: str
    field: str
    description: str
    check: Callable[[str], None] | None
    value_chars_max: int = URL_CHARS_MAX
    configured: bool = True
    secret: bool = False


_LEAVES: Final = (
    _Leaf("ServerURL", trial.DM_SERVER, "address of the DM server, https", https_url, configured=False),
    _Leaf("RegistrationURL", trial.REGISTRATION, "address of the security server, https", _url_or_configured),
    _Leaf("UplinkURL", trial.UPLINK, "where readings go, https", https_url, configured=False),
    _Leaf(
        "Anchors",
        trial.ANCHORS,
        "authorities that every server must chain to, PEM, in the place of those before",
        _anchors,
        ANCHORS_CHARS_MAX,
    ),
    _Leaf("TimeServers", trial.TIME_SERVERS, "of NTP, separated by spaces, for the system's service", _time_servers),
    _Leaf("Access", trial.ACCESS, "proxy, APN: opaque, for the device's hook", None, ACCESS_CHARS_MAX, secret=True),
)


@dataclass(frozen=True, slots=True)
class Means:
    """What this device can put into effect outside of itself."""

    time_servers: bool = True
    access: bool = True


@dataclass(frozen=True, slots=True)
class ConnMo:
    """`view()` is the tree as committed, `new_id()` makes the identifier of a change. `configured` are the values of
    the device's own configuration, where there are any; `left_s()` is how long a trial still has."""

    view: Callable[[], Transaction]
    new_id: Callable[[], str]
    means: Means = field(default_factory=Means)
    configured: Values = field(default_factory=Values)
    left_s: Callable[[], float] = lambda: 0.0
    root: Path = ROOT

    def spec(self) -> NodeSpec:
        proposed = [
            permanent(
                leaf.name,
                Format.CHR,
                access=Access.REPLACE if leaf.secret else GR,
                check=leaf.check,
                secret=leaf.secret,
                value_chars_max=leaf.value_chars_max,
                description=f"{leaf.description}; `{CONFIGURED}`: as configured on the device"
                if leaf.configured
                else leaf.description,
            )
            for leaf in _LEAVES
        ]
        within = permanent(
            "Within",
            Format.INT,
            default=str(trial.WITHIN_S),
            check=int_range(WITHIN_S_MIN, WITHIN_S_MAX),
            description="seconds within which a session has to succeed, 60 to 86400",
        )
        in_use = [live(leaf.name, Format.CHR, self._value) for leaf in _LEAVES if not leaf.secret]
        return interior(
            "ConnMO",
            interior("Proposed", *proposed, within),
            interior("InUse", *in_use),
            interior("Operations", NodeSpec("Try", Format.NULL, GE), NodeSpec("TakeBack", Format.NULL, GE)),
            interior(
                "Status",
                live("State", Format.CHR, lambda _: trial.load(self.view()).state, "idle, trial, confirmed, reverted"),
                live("Reason", Format.CHR, lambda _: trial.load(self.view()).reason, "why it was taken back"),
                live(
                    "Changed",
                    Format.CHR,
                    lambda _: _names(trial.load(self.view())),
                    "leaves that the last change is about, separated by commas",
                ),
                live("Correlator", Format.CHR, lambda _: trial.load(self.view()).correlator, "of its Exec"),
                live("Left", Format.INT, lambda _: str(int(self.left_s())), "seconds until it is taken back; 0: none"),
            ),
            type=URN,
        )

    def _value(self, path: Path) -> str:
        (leaf,) = (leaf for leaf in _LEAVES if leaf.name == path[-1])
        value = getattr(trial.in_use(self.view()), leaf.field) or getattr(self.configured, leaf.field)
        return str(value or (CONFIGURED if leaf.configured else ""))

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of Try: 202; 406 for what this device has no means for, 412 with nothing proposed or no account, 500
        while a change is on trial or firmware is under way. Exec of TakeBack: 202; 500 without a trial."""
        operation = call.path[len(ROOT) :]
        last = trial.load(changing)
        if operation == ("Operations", "TakeBack"):
            if not last.under_way:
                raise Refusal(Code.COMMAND_FAILED, "nothing is on trial")
            trial.revert(changing, "the server has taken it back")
            return Code.ACCEPTED
        if operation != ("Operations", "Try"):
            raise Refusal(Code.NOT_ALLOWED, "nothing to execute")
        if call.correlator and call.correlator == last.correlator:
            return Code.ACCEPTED  # the server has lost our answer
        if firmware.load(changing).active:  # whose trial is judged by sessions
            raise Refusal(Code.COMMAND_FAILED, "a firmware job is under way")
        new = self._proposed(changing)
        trial.begin(
            changing,
            new,
            trial_id=self.new_id(),
            correlator=call.correlator,
            within_s=float(changing.text((*PROPOSED, "Within"))),
        )
        for leaf in _LEAVES:
            if changing.text((*PROPOSED, leaf.name)):
                changing.put((*PROPOSED, leaf.name), "")
        return Code.ACCEPTED

    def _proposed(self, changing: Transaction) -> dict[str, str]:
        found = {leaf.field: changing.text((*PROPOSED, leaf.name)) for leaf in _LEAVES}
        new = {name: "" if value == CONFIGURED else value for name, value in found.items() if value}
        if not new:
            raise Refusal(Code.INCOMPLETE, "nothing is proposed")
        if trial.TIME_SERVERS in new and not self.means.time_servers:
            raise Refusal(Code.NOT_SUPPORTED, "this device has no way to set time servers")
        if trial.ACCESS in new and not self.means.access:
            raise Refusal(Code.NOT_SUPPORTED, "this device has no hook for its access")
        return new

    def written(self, changing: Transaction, path: Path) -> None:
        """Nothing follows from a value before the Exec."""

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """Nothing is kept beyond the alert."""


@dataclass(frozen=True, slots=True)
class AccountGuard:
    """What follows when a server writes into its own account: another address is on trial."""

    view: Callable[[], Transaction]
    new_id: Callable[[], str]
    root: Path = dmacc.ROOT

    def written(self, changing: Transaction, path: Path) -> None:
        """500 while a change is on trial, 400 for what is no https URL, 405 where the address in use would change by
        another account."""
        before, after = dmacc.account(self.view()), dmacc.account(changing)
        if before is not None and after is None and dmacc.is_address(path):
            raise Refusal(Code.BAD_REQUEST, "no address of a server")
        if before is None or after is None or after.url == before.url:
            return
        last = trial.load(changing)
        if last.under_way and (last.new or {}).get(trial.DM_SERVER) == after.url:
            return  # put on trial in this very message
        if not dmacc.is_address(path):
            raise Refusal(Code.NOT_ALLOWED, "the address in use changes by itself, not by another account")
        if not after.url.startswith("https://"):
            raise Refusal(Code.BAD_REQUEST, "an https URL expected")
        trial.begin_written(changing, before.url, trial_id=self.new_id())


@dataclass(frozen=True, slots=True)
class UplinkGuard:
    """While the uplink's address is on trial, nobody else changes it: taking it back would undo that."""

    root: Path = trial.UPLINK_URL

    def written(self, changing: Transaction, path: Path) -> None:  # noqa: ARG002 - there is only one
        """500 while the uplink's address is on trial."""
        last = trial.load(changing)
        if last.under_way and trial.UPLINK in (last.new or {}):
            raise Refusal(Code.COMMAND_FAILED, "the uplink's address is on trial")


def _names(last: trial.Trial) -> str:
    return ",".join(leaf.name for leaf in _LEAVES if leaf.field in (last.new or {}))
