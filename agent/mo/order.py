"""AMI/Order: orders to meters (docs/orders.md), nodes of this project's own.

    ./AMI/Order/<x>/Kind, Meters, Parameters, Priority, Deadline    what to do; made by a server
                   /Operations/Run                                  Exec: do it, once
                   /Status/State, Result, Progress                  live

As with FUMO, an Exec records a job (`agent.jobs.orders`) and is answered 202. What the device does not allow, or what
makes no sense, is said by the alert: the order is checked where it is carried out.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.jobs import orders
from agent.jobs.orders import ORDERS
from agent.tree import alerts
from agent.tree.schema import GE, ExecCall, Format, NodeSpec, Path, group, interior, live, number, setting
from agent.tree.tree import Transaction
from agent.tree.uri import show
from omadm.codes import Code, Refusal
from omadm.orders import DEADLINE_S_MAX, PARAMETERS_CHARS_MAX, PRIORITY_MAX

METERS_CHARS_MAX = 16_384  # 256 of 64 characters


class Order:
    """`new_id()` makes the id under which the order is known on the device; `progress(id)` says how far it is, as JSON
    text."""

    root = ORDERS

    def __init__(
        self,
        view: Callable[[], Transaction],
        new_id: Callable[[], str],
        progress: Callable[[str], str] = lambda _order: "",
    ) -> None:
        self._view = view
        self._new_id = new_id
        self._progress = progress

    def spec(self) -> NodeSpec:
        order = group(
            setting("Kind", Format.CHR, value_chars_max=32, description="ping, read, set, … (orders.md); required"),
            setting(
                "Meters",
                Format.CHR,
                value_chars_max=METERS_CHARS_MAX,
                description="ids and groups, one per line; required",
            ),
            setting(
                "Parameters",
                Format.CHR,
                value_chars_max=PARAMETERS_CHARS_MAX,
                description="of the kind, a JSON object; none when absent",
            ),
            number("Priority", 0, PRIORITY_MAX, "0 to 9; 5 when absent"),
            number("Deadline", 1, DEADLINE_S_MAX, "seconds within which a meter may be asked; 300 when absent"),
            interior("Operations", NodeSpec("Run", Format.NULL, GE)),
            interior(
                "Status",
                live(
                    "State",
                    Format.CHR,
                    lambda path: orders.state_of(self._view(), path[len(ORDERS)]),
                    "idle, waiting, over",
                ),
                live(
                    "Result",
                    Format.CHR,
                    lambda path: orders.result_of(self._view(), path[len(ORDERS)]),
                    "of the last run, JSON",
                ),
                live(
                    "Progress",
                    Format.CHR,
                    self._how_far,
                    "while it is under way: states of its meters, JSON",
                ),
            ),
        )
        return interior("Order", order)

    def _how_far(self, path: Path) -> str:
        waiting = orders.waiting_id(self._view(), path[len(ORDERS)])
        return self._progress(waiting) if waiting else ""

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of Run: 202; 405 elsewhere, 412 without Kind or Meters, 420 with too many jobs, 500 while it runs."""
        if len(call.path) != len(ORDERS) + 3 or call.path[-2:] != ("Operations", "Run"):
            raise Refusal(Code.NOT_ALLOWED, f"{show(call.path)} is no operation")
        name = call.path[len(ORDERS)]
        base = (*ORDERS, name)
        waiting = orders.jobs(changing)
        for job in waiting:
            if job.name == name:
                if call.correlator and job.correlator == call.correlator:
                    return Code.ACCEPTED
                raise Refusal(Code.COMMAND_FAILED, "this order is under way")
        kind, meters = changing.text((*base, "Kind")), changing.text((*base, "Meters")).split("\n")
        if not kind or not any(meter.strip() for meter in meters):
            raise Refusal(Code.INCOMPLETE, "Kind or Meters is empty")
        if len(waiting) >= orders.JOBS_MAX:
            raise Refusal(Code.DEVICE_FULL, f"{orders.JOBS_MAX} orders are waiting")
        job = orders.Job(
            id=self._new_id(),
            name=name,
            correlator=call.correlator,
            asked_by=f"DM server, {show(base)}",
            kind=kind,
            meters=tuple(meter.strip() for meter in meters if meter.strip()),
            parameters=changing.text((*base, "Parameters")),
            priority=int(changing.text((*base, "Priority")) or orders.PRIORITY),
            deadline_s=int(changing.text((*base, "Deadline")) or orders.DEADLINE_S),
        )
        orders.set_jobs(changing, [*waiting, job])
        return Code.ACCEPTED

    def written(self, changing: Transaction, path: Path) -> None:
        """Nothing follows from a value."""

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """Nothing is kept beyond the alert."""
