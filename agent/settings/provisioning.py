"""What the head-end provisions, as one immutable value.

The management tree is where these settings live; the tree's owner (the DM thread) makes a new `Provisioning` after
each commit that changed one of them and hands it to the components, which compare it with the one they hold. Nothing
here is read from a file.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from agent.settings.reading_codes import ReadingItem, parse_codes
from omadm.local_time import DayTimes, Zone
from omadm.schedule import GRID_S, Schedule, schedule_of

WILDCARD = re.compile(r"[*?\[]")  # of fnmatch, whose patterns name groups of meters
RUNS_COMPARED = 32  # to find how close two runs of a calendar come
ADDED_CHARS_MAX = 256  # of one text of an added meter


@dataclass(frozen=True, slots=True)
class MeterSelection:
    """Which meters a task reads: all, unless something is given.

    `meters` are ids, EUI-48s or places (`port/address`), `groups` names of the groups of ./AMI/Access: with either, a
    meter has to be in one of them. `models` and `pattern` (of ids) are patterns as of file names; what is given of
    these, and `ports`, a meter has to fit as well.
    """

    meters: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    pattern: str = ""
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadingTask:
    """One task of the SCHED management object: read `reading_list`, or `codes`, from the meters of `selection`.

    Runs are at every instant `t` with `(t - offset_s) % every_s == 0`, or with `times`, five fields as of cron, at
    those local times of `zone`, a POSIX TZ string; `every_s` is 0 then. `reading_list` names a CSV of OBIS codes
    (`residential-108`), from the image or from an active software package; `codes` has the same things one by one.

    A meter is visited for a run from `spread_s` after it at the latest (each device begins at a moment of its own), at
    the times of day of `windows` only, and not any more `deadline_s` after the run; without, `metering.catch_up_s`
    counts. `retries_max` is `metering.retries_max` unless given.
    """

    task_id: str
    every_s: int
    reading_list: str
    name: str = ""
    enabled: bool = True
    offset_s: int = 0
    priority: int = 0
    times: str = ""
    zone: str = "UTC0"
    codes: str = ""
    selection: MeterSelection = MeterSelection()
    windows: str = ""
    spread_s: int = 0
    deadline_s: int | None = None
    retries_max: int | None = None
    schedule: Schedule = field(init=False, repr=False, compare=False)
    open_times: DayTimes = field(init=False, repr=False, compare=False)
    items: tuple[ReadingItem, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the fields against each other. Raises `ValueError` for what cannot be."""
        if self.times:
            if self.every_s or self.offset_s:
                raise ValueError(f"task {self.task_id}: either times or a period")
            schedule = schedule_of(GRID_S, 0, f"{self.times} {self.zone}")
        else:
            if not 1 <= self.every_s <= 31 * 86_400:
                raise ValueError(f"task {self.task_id}: every_s is 1 to 2678400 seconds, not {self.every_s}")
            if not 0 <= self.offset_s < self.every_s:
                raise ValueError(f"task {self.task_id}: offset_s is 0 to every_s - 1, not {self.offset_s}")
            schedule = schedule_of(self.every_s, self.offset_s)
        if self.deadline_s is not None and self.spread_s >= self.deadline_s:
            raise ValueError(f"task {self.task_id}: a spread as long as the deadline leaves no time to read")
        if self.spread_s and self.spread_s >= _least_distance_s(schedule):
            raise ValueError(f"task {self.task_id}: a spread from one run to the next leaves no time to read")
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "items", parse_codes(self.codes) if self.codes else ())
        object.__setattr__(self, "open_times", DayTimes(self.windows, Zone(self.zone)))


def _least_distance_s(schedule: Schedule) -> int:
    """The least time between two of the runs that come next after an arbitrary one."""
    runs = [schedule.next(0)]
    for _ in range(RUNS_COMPARED):
        runs.append(schedule.next(runs[-1]))
    return min(after - before for before, after in itertools.pairwise(runs))


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What became of a task. Times are seconds since the epoch; 0 is "never". `state`: idle, running, disabled, closed
    (runs wait for a window, or for quiet hours to end), incomplete (it cannot run).

    `local`: `next_run` as a clock of the task's zone shows it. `times`: when the runs are, in words as of the settings.
    `meters`: how many are selected; `waiting` and `left_out`: which are not, and why not. Of those that wait, something
    is not known yet.
    """

    state: str = "idle"
    last_run: int = 0
    next_run: int = 0
    last_result: str = ""
    local: str = ""
    times: str = ""
    windows: str = ""
    selection: str = ""
    meters: int = 0
    waiting: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """Where readings go. An empty `url` means: store, do not forward."""

    url: str = ""
    token: str = field(default="", repr=False)
    batch_records_max: int = 500


@dataclass(frozen=True, slots=True)
class MeterAccess:
    """How a meter is associated with. Nothing here is checked: `agent.metering.access.credentials` does that.

    `auth` is one of `AUTHS`, `policy` one of `POLICIES`. `secret` is the password of LLS, or the secret of HLS 2, 3, 4
    and 6. The keys are octets: 16 of suites 0 and 1, 32 of suite 2. `signing_key` is our private key (PKCS #8 in DER)
    and `meter_key` the meter's public key (x | y), both for ECDSA.
    """

    client: int = 16
    auth: str = "none"
    secret: bytes = field(default=b"", repr=False)
    suite: int = 0
    policy: str = "plain"
    authentication_key: bytes = field(default=b"", repr=False)
    encryption_key: bytes = field(default=b"", repr=False)
    broadcast_key: bytes = field(default=b"", repr=False)
    signing_key: bytes = field(default=b"", repr=False)
    meter_key: bytes = b""

    def secrets(self) -> tuple[bytes, ...]:
        """What no log line may show."""
        keys = (self.authentication_key, self.encryption_key, self.broadcast_key, self.signing_key)
        return tuple(secret for secret in (self.secret, *keys) if secret)


AUTHS = ("none", "low", "aes", "md5", "sha1", "gmac", "sha256", "ecdsa")
"""Mechanisms 0 to 7. Mechanism 2 belongs to the maker of the meter; the one that is known here, as `aes`, encrypts the
challenge with AES-128-ECB, as many makers do."""

POLICIES = ("plain", "authenticated", "encrypted", "both")
"""How APDUs are protected; `plain` uses the keys for authentication only."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What is different for one meter, or for a group of meters; what is not given comes from the less specific.

    `meter` names one meter by its id, EUI-48 or place (`port/address`). Without it the rule is for a group: meters
    whose id fits `pattern` (as file names do: `*`, `?`, `[...]`) and that are on `port`, where those are given. `given`
    holds fields of `MeterAccess`, by name.
    """

    name: str
    meter: str = ""
    pattern: str = ""
    port: str = ""
    given: tuple[tuple[str, int | str | bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class AddedMeter:
    """A meter that somebody added by hand: behind a base node by the `eui48` of its modem, elsewhere by its `address`
    on the port. `url` is its network address, `wport` its logical device (0: the management one), for meters with the
    COSEM wrapper. `baudrate` (0), `parity` (empty) and `mode_e` (`None`) are those of the port unless given; `mode_e`
    is the meter's number in that opening, which may be empty."""

    port: str
    address: int = 0
    eui48: str = ""
    url: str = ""
    baudrate: int = 0
    parity: str = ""
    mode_e: str | None = None
    wport: int = 0

    def __post_init__(self) -> None:
        texts = (self.port, self.eui48, self.url, self.parity, self.mode_e or "")
        numbers = (self.address, self.baudrate, self.wport)
        if not all(isinstance(text, str) and len(text) <= ADDED_CHARS_MAX for text in texts):
            raise ValueError("an added meter: texts of at most 256 characters")
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise ValueError("an added meter: address, baudrate and wport are numbers")


@dataclass(frozen=True, slots=True)
class Provisioning:
    """Everything provisioned, whole. `access` is for meters without a rule; `system_title` is ours, empty for one that
    the device makes for itself. `whitelist` are ids, EUI-48s or places of meters, as patterns; it counts when
    `whitelist_enforced`. `added`: meters that are to be known before they are heard. At the times of day `quiet_hours`,
    in the local time of `zone`, nothing scheduled goes over the lines."""

    tasks: tuple[ReadingTask, ...] = ()
    uplink: UplinkSettings = UplinkSettings()
    access: MeterAccess = MeterAccess()
    access_rules: tuple[AccessRule, ...] = ()
    system_title: bytes = b""
    whitelist: tuple[str, ...] = ()
    whitelist_enforced: bool = False
    added: tuple[AddedMeter, ...] = ()
    quiet_hours: str = ""
    zone: str = "UTC0"

    def secrets(self) -> tuple[bytes, ...]:
        """The secrets of meters, which no log line may show."""
        given = [MeterAccess(**dict(rule.given)) for rule in self.access_rules]  # type: ignore[arg-type]
        return tuple(secret for access in (self.access, *given) for secret in access.secrets())
