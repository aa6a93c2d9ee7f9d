"""The journal: a change is asked for at most once, whenever the power goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.metering.access.rules import AccessRules
from agent.metering.orders.deadlines import UNTRUSTED
from agent.metering.orders.journal import CUT_SHORT, DAMAGED, SPOILED_MAX, Journal
from agent.metering.orders.order import ENDS, Order, OrderRefusedError, Permission, State
from agent.metering.orders.order_book import KEPT_MAX, JournalError, OrderBook, Request, Task
from agent.metering.orders.targets import Targets
from agent.metering.orders.types.steps import Ended
from agent.settings.provisioning import AccessRule, MeterAccess
from agent.status import MeterStatus
from tests.agent.virtual import VirtualClock
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival

FOLDER = Path("/state/orders")
SET = {"code": "1/0.0.96.1.0.255/2", "value": ["u16", 5]}


class Meter:
    """Counts what it was told to do, which no power cut of the concentrator takes back."""

    def __init__(self) -> None:
        self.done = 0


def book_on(disk: FaultyDisk, clock: VirtualClock | None = None) -> OrderBook:
    return OrderBook(Journal(disk, FOLDER), clock or VirtualClock(), allowed=list(Permission), known=lambda: {"A", "B"})


def request(number: int = 1, kind: str = "set", **parameters: object) -> Request:
    return Request(f"o{number}", kind, ["A"], "test", parameters or SET)


def carry_out(book: OrderBook, meter: Meter) -> None:
    """The port's part, for what waits."""
    for task in book.due({"A"}):
        book.begun(task)
        book.sending(task)
        meter.done += 1
        book.ended(task, Ended("fine"))


def states(book: OrderBook) -> list[object]:
    orders: list[Any] = book.orders()
    return [meter["state"] for order in orders for meter in order["meters"]]


def run(disk: FaultyDisk, meter: Meter, told: list[str]) -> None:
    """One life of the process: the order is asked for (again), and carried out."""
    book = book_on(disk)
    book.submit(request())
    told.append("accepted")
    carry_out(book, meter)


def cuts() -> Iterator[tuple[int, Survival]]:
    disk = FaultyDisk()
    run(disk, Meter(), [])
    for at in range(1, disk.operations + 1):
        for survival in Survival:
            yield at, survival


@pytest.mark.parametrize(("at", "survival"), list(cuts()), ids=str)
def test_a_change_is_made_at_most_once_and_its_result_is_right_or_unknown(at: int, survival: Survival) -> None:
    disk, meter, told = FaultyDisk(), Meter(), list[str]()

    def cut(operation: Operation) -> None:
        if operation.number == at:
            raise PowerCut

    disk.on_operation = cut
    with pytest.raises(PowerCut):
        run(disk, meter, told)
    before = meter.done
    disk = disk.after_power_cut(survival, Random(at))
    found = states(book_on(disk))
    assert found or not told, "an accepted order is there"
    if found == [State.DONE.value]:
        assert before == 1
    run(disk, meter, told)
    assert meter.done <= 1
    (state,) = states(book_on(disk))
    assert state in (State.DONE.value, State.UNKNOWN.value)
    assert state == State.UNKNOWN.value or meter.done == 1
    assert len(disk.listdir(FOLDER)) >= 2


def test_a_start_between_request_and_answer_says_that_nobody_knows() -> None:
    disk = FaultyDisk()
    book = book_on(disk)
    book.submit(request())
    (task,) = book.due({"A"})
    book.begun(task)
    book.sending(task)
    for _ in range(2):  # and says so at each start
        later = book_on(disk)
        order: Any = later.describe("o1")
        (result,) = order["meters"]
        assert (result["state"], result["error"]) == ("unknown", CUT_SHORT)
        assert later.due({"A"}) == []


def test_a_start_while_a_meter_is_asked_asks_again() -> None:
    disk = FaultyDisk()
    book = book_on(disk)
    book.submit(request())
    book.begun(book.due({"A"})[0])
    assert len(book_on(disk).due({"A"})) == 1


def test_what_cannot_be_made_durable_is_not_sent() -> None:
    disk = FaultyDisk()
    book = book_on(disk)
    book.submit(request())
    (task,) = book.due({"A"})
    book.begun(task)

    def full(_operation: Operation) -> None:
        raise OSError("no space")

    disk.on_operation = full
    with pytest.raises(JournalError):
        book.sending(task)
    book.lost(task, "no space")
    assert states(book) == ["queued"]
    with pytest.raises(JournalError):
        book.submit(request(2))


def test_a_result_that_the_storage_does_not_take_is_written_later() -> None:
    disk = FaultyDisk()
    book = book_on(disk)
    book.submit(request())
    (task,) = book.due({"A"})
    book.begun(task)
    book.sending(task)

    def full(_operation: Operation) -> None:
        raise OSError("no space")

    disk.on_operation = full
    book.ended(task, Ended("fine"))
    assert states(book) == ["done"]
    disk.on_operation = None
    assert states(book_on(disk)) == ["unknown"]
    book.tick()
    assert states(book_on(disk)) == ["done"]


def test_damage_is_said_and_never_carried_out_again() -> None:
    disk = FaultyDisk()
    meter = Meter()
    book = book_on(disk)
    book.submit(request())
    carry_out(book, meter)
    disk.write_durable(FOLDER / "o1.0.json", b"{}")
    damaged = book_on(disk)
    order: Any = damaged.describe("o1")
    assert order["meters"][0]["error"] == DAMAGED
    assert damaged.due({"A"}) == []
    disk.write_durable(FOLDER / "o1.json", b"\xff")
    assert book_on(disk).orders() == []
    assert disk.listdir(FOLDER) == ["o1.damaged"]


@pytest.mark.parametrize("content", [b"\xff", b'{"version": 2, "body": {}}'])
def test_an_order_whose_record_is_lost_is_not_done_again_and_nobody_knows_what_was_done(content: bytes) -> None:
    disk, meter = FaultyDisk(), Meter()
    book = book_on(disk)
    for number in (1, 2):
        book.submit(request(number))
        carry_out(book, meter)
        disk.write_durable(FOLDER / f"o{number}.json", content)
    for _start in range(2):
        book = book_on(disk)
        for number in (1, 2):
            book.submit(request(number))
            carry_out(book, meter)
            order: Any = book.describe(f"o{number}")
            assert [(each["state"], each["error"]) for each in order["meters"]] == [("unknown", DAMAGED)]
    assert meter.done == 2
    book.submit(request(3))
    carry_out(book, meter)
    assert meter.done == 3


def test_records_that_were_set_aside_are_bounded() -> None:
    disk = FaultyDisk()
    for number in range(SPOILED_MAX + 5):
        disk.mkdir_durable(FOLDER)
        disk.write_durable(FOLDER / f"o{number}.json", b"")
    for journal in (Journal(disk, FOLDER), Journal(disk, FOLDER)):
        assert journal.load() == []
        assert len(disk.listdir(FOLDER)) == SPOILED_MAX
    assert {f"{name}.damaged" for name in journal.spoiled} == set(disk.listdir(FOLDER))


def test_the_same_order_again_is_not_done_again_and_another_of_its_id_is_refused() -> None:
    disk, meter = FaultyDisk(), Meter()
    book = book_on(disk)
    for _ in range(2):
        book.submit(request())
        carry_out(book, meter)
    assert meter.done == 1
    with pytest.raises(OrderRefusedError, match="another order"):
        book.submit(request(1, code=SET["code"], value=["u16", 6]))


def test_deadlines_survive_a_start_and_a_clock_set_back_does_not_prolong_them() -> None:
    disk, clock = FaultyDisk(), VirtualClock()
    book = book_on(disk, clock)
    book.submit(request())
    clock.advance(200)
    later = book_on(disk, clock)
    clock.wall_offset -= 86_400
    clock.advance(101)
    later.tick()
    assert states(later) == ["not reached"]
    assert states(book_on(disk, clock)) == ["not reached"]


DAY_S = 86_400.0


def lives(disk: FaultyDisk, clock: VirtualClock, boot: str) -> OrderBook:
    """The book of a process of this boot."""
    return OrderBook(
        Journal(disk, FOLDER), clock, allowed=list(Permission), known=lambda: {"A"}, boot=boot
    )  # fmt: skip


def test_an_order_that_a_power_cut_outlived_waits_for_a_clock_that_can_be_trusted() -> None:
    """A board without a battery starts where its floor was: the order is three days old, and its clock says seconds."""
    disk, clock = FaultyDisk(), VirtualClock()
    lives(disk, clock, "one").submit(request())
    later = VirtualClock(wall=clock.wall() + 5, monotonic=3.0)
    later.is_trusted = False
    book = lives(disk, later, "two")
    book.tick()
    assert (book.due({"A"}), states(book)) == ([], ["queued"])
    later.wall_offset += 3 * DAY_S
    later.is_trusted = True
    assert book.due({"A"}) == []
    book.tick()
    assert states(book) == ["not reached"]


def test_an_order_that_a_power_cut_outlived_goes_on_when_there_is_time_left() -> None:
    disk, clock = FaultyDisk(), VirtualClock()
    lives(disk, clock, "one").submit(request())
    later = VirtualClock(wall=clock.wall() + 5, monotonic=3.0)
    later.is_trusted = False
    book = lives(disk, later, "two")
    assert book.due({"A"}) == []
    later.is_trusted = True
    assert len(book.due({"A"})) == 1
    book.tick()
    later.wall_offset -= DAY_S  # settled: whatever the clock is set to
    later.advance(294)
    assert len(book.due({"A"})) == 1
    later.advance(2)
    book.tick()
    assert (book.due({"A"}), states(book)) == ([], ["not reached"])


def test_an_order_that_waits_for_a_clock_in_vain_is_over_and_says_why() -> None:
    disk, clock = FaultyDisk(), VirtualClock()
    lives(disk, clock, "one").submit(request())
    later = VirtualClock(monotonic=3.0)
    later.is_trusted = False
    book = lives(disk, later, "two")
    later.advance(301)
    book.tick()
    order: Any = book.describe("o1")
    assert [(each["state"], each["error"]) for each in order["meters"]] == [("not reached", UNTRUSTED)]


def test_an_order_of_a_clock_that_was_not_trusted_is_as_old_as_the_monotonic_clock_says() -> None:
    disk, clock = FaultyDisk(), VirtualClock(wall=5.0)
    clock.is_trusted = False
    lives(disk, clock, "one").submit(request())
    clock.advance(200)
    book = lives(disk, clock, "one")  # another process of the same boot
    assert len(book.due({"A"})) == 1
    later = VirtualClock(wall=clock.wall(), monotonic=3.0)
    over = lives(disk, later, "two")  # of another one: nobody knows how long the power was away
    over.tick()
    assert (over.due({"A"}), states(over)) == ([], ["not reached"])


def test_when_it_was_asked_is_put_right_once_the_clock_is_trusted() -> None:
    disk, clock = FaultyDisk(), VirtualClock(wall=5.0)
    clock.is_trusted = False
    book = lives(disk, clock, "one")
    book.submit(request())
    clock.advance(100)
    clock.wall_offset += 20_000 * DAY_S
    clock.is_trusted = True
    book.tick()
    order: Any = book.describe("o1")
    assert order["asked_at"] == clock.wall() - 100
    later = VirtualClock(wall=clock.wall() + 150, monotonic=3.0)
    again = lives(disk, later, "two")
    assert len(again.due({"A"})) == 1
    later.advance(51)
    assert again.due({"A"}) == []


def test_what_is_kept_is_bounded_and_the_newest() -> None:
    disk, meter = FaultyDisk(), Meter()
    book = book_on(disk)
    for number in range(KEPT_MAX + 5):
        book.submit(request(number))
        carry_out(book, meter)
    kept = [order["id"] for order in book_on(disk).orders()]
    assert kept == [f"o{number}" for number in reversed(range(5, KEPT_MAX + 5))]


def test_the_urgent_goes_first_then_the_older_and_one_per_meter() -> None:
    book = book_on(FaultyDisk())
    for number, priority in ((1, 5), (2, 9), (3, 9)):
        book.submit(Request(f"o{number}", "ping", ["A", "B"], "test", priority=priority))
    assert [(task.order.id, task.meter_id) for task in book.due({"A", "B"})] == [("o2", "A"), ("o2", "B")]
    assert [task.meter_id for task in book.due({"B"})] == ["B"]


def test_what_has_begun_cannot_be_cancelled() -> None:
    book = book_on(FaultyDisk())
    book.submit(Request("o1", "ping", ["A", "B"], "test"))
    book.begun(book.due({"A"})[0])
    book.cancel("o1")
    assert states(book) == ["asking", "cancelled"]
    assert not {State.ASKING, State.SENT} & ENDS
    with pytest.raises(OrderRefusedError, match="no order"):
        book.cancel("o2")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Request("", "ping", ["A"], "t"), "id of an order"),
        (Request("../x", "ping", ["A"], "t"), "id of an order"),
        (Request("o", "sing", ["A"], "t"), "unknown kind"),
        (Request("o", "ping", [], "t"), "1 to 256 meters"),
        (Request("o", "ping", ["C"], "t"), "no meter C"),
        (Request("o", "ping", ["A"], "t", priority=10), "priority"),
        (Request("o", "ping", ["A"], "t", deadline_s=0), "deadline_s"),
    ],
    ids=str,
)
def test_an_order_that_makes_no_sense_is_refused(wrong: Request, said: str) -> None:
    book = book_on(FaultyDisk())
    with pytest.raises(OrderRefusedError, match=said):
        book.submit(wrong)
    assert book.orders() == []


@pytest.mark.parametrize(("kind", "allowed"), [("disconnect", [Permission.CHANGE]), ("demand-reset", [])], ids=str)
def test_what_the_configuration_does_not_allow_is_refused(kind: str, allowed: list[Permission]) -> None:
    book = OrderBook(Journal(FaultyDisk(), FOLDER), VirtualClock(), allowed=allowed, known=lambda: {"A"})
    with pytest.raises(OrderRefusedError, match=r"is not allowed here: orders\.(supply|change)"):
        book.submit(Request("o", kind, ["A"], "t"))


def test_a_task_names_its_meter() -> None:
    record = book_on(FaultyDisk()).submit(Request("o", "ping", ["B", "A"], "t"))
    assert isinstance(record.order, Order)
    assert [Task(record.order, index).meter_id for index in (0, 1)] == ["B", "A"]


class Named:
    """A registry of meters that are known by the way they are reached, until they say their names."""

    def __init__(self) -> None:
        self.own = {"plc0-1": "plc0-1", "plc0-2": "plc0-2"}
        self.disk = FaultyDisk()

    def book(self) -> OrderBook:
        return OrderBook(
            Journal(self.disk, FOLDER),
            VirtualClock(),
            allowed=list(Permission),
            known=lambda: {*self.own, *self.own.values()},
            own_name=lambda name: self.own.get(name, name),
        )

    def name(self, book: OrderBook | None, key: str, meter_id: str) -> None:
        self.own[key] = meter_id
        if book is not None:
            book.named(key, meter_id)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("heard_at_once", [False, True])
def test_an_order_follows_the_meter_to_its_name(restarts: bool, heard_at_once: bool) -> None:
    """Also where the meter says it just before the power goes."""
    meters = Named()
    book = meters.book()
    asked = ["plc0-2", "plc0-1"]
    task = Task(book.submit(Request("o1", "ping", asked, "test")).order, 1)
    book.begun(task)
    meters.name(book if heard_at_once else None, "plc0-1", "ABC")
    if restarts or not heard_at_once:
        book = meters.book()
    else:
        book.lost(task, "the visit was for the name")  # a visit under way knows the order as it was
    assert [found.meter_id for found in book.due({"ABC"})] == (["ABC"] if restarts or not heard_at_once else [])
    assert book.submit(Request("o1", "ping", asked, "test")).order.meters == ("plc0-2", "ABC")
    told: Any = book.describe("o1")
    assert (told["asked_for"], [meter["meter"] for meter in told["meters"]]) == (asked, ["plc0-2", "ABC"])


def test_the_name_is_taken_also_when_the_storage_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    meters = Named()
    book = meters.book()
    book.submit(Request("o1", "ping", ["plc0-1"], "test"))

    def full(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(meters.disk, "write_durable", full)
        meters.name(book, "plc0-1", "ABC")
    assert [task.meter_id for task in book.due({"ABC"})] == ["ABC"]
    assert [task.meter_id for task in meters.book().due({"ABC"})] == ["ABC"]


def test_a_meter_that_is_ordered_twice_does_it_once() -> None:
    meters = Named()
    book = meters.book()
    meters.name(book, "plc0-2", "ABC")
    assert book.submit(Request("o1", "ping", ["ABC", "plc0-2"], "test")).order.meters == ("ABC",)
    book.submit(Request("o2", "ping", ["ABC", "plc0-1"], "test"))
    meters.name(book, "plc0-1", "ABC")
    told: Any = book.describe("o2")
    assert [(meter["state"], meter["error"]) for meter in told["meters"]] == [
        ("queued", ""),
        ("not reached", "it is ABC, which the order is for as well"),
    ]


class Registered:
    """A registry whose meters come and go."""

    def __init__(self, *ids: str) -> None:
        self.ids = list(ids)

    def meters(self) -> list[MeterStatus]:
        return [MeterStatus(name, "plc0" if name < "K" else "bus", 1, "read", 0.0) for name in self.ids]


def test_a_group_is_settled_when_the_order_is_accepted() -> None:
    disk, registry = FaultyDisk(), Registered("A1", "A2", "B1", "X1")
    rules = AccessRules(MeterAccess(), [AccessRule("group/first", pattern="A*"), AccessRule("group/bus", port="bus")])
    targets = Targets(registry, rules)

    def book() -> OrderBook:
        known = {meter.meter_id for meter in registry.meters()}
        made = OrderBook(Journal(disk, FOLDER), VirtualClock(), allowed=(), known=lambda: known, expand=targets.meters)
        for name in ("group:third", "group:", "port:none", "Z*"):
            with pytest.raises(OrderRefusedError, match="there is no such"):
                made.submit(Request("o9", "ping", [name], "test"))
        return made

    asked = ["group:first", "X1", "group:bus", "B?"]
    made = book().submit(Request("o1", "ping", asked, "test"))
    assert made.order.meters == ("A1", "A2", "X1", "B1")
    registry.ids.append("A3")
    again = book()
    assert again.submit(Request("o1", "ping", asked, "test")).order.meters == ("A1", "A2", "X1", "B1")
    told: Any = again.describe("o1")
    assert (told["asked_for"], [meter["meter"] for meter in told["meters"]]) == (asked, ["A1", "A2", "X1", "B1"])
    assert again.submit(Request("o2", "ping", ["port:plc0"], "test")).order.meters == ("A1", "A2", "A3", "B1")
    with pytest.raises(OrderRefusedError, match="another order"):
        again.submit(Request("o1", "ping", ["group:first"], "test"))


def test_what_was_noted_before_there_were_steps_is_read() -> None:
    """The files of a program without steps, progress and groups."""
    disk = FaultyDisk()
    book = book_on(disk)
    book.submit(request())
    carry_out(book, Meter())
    order = json.loads(disk.read_bytes(FOLDER / "o1.json"))["body"]
    result = json.loads(disk.read_bytes(FOLDER / "o1.0.json"))["body"]
    assert "asked_for" not in order
    assert set(result) <= {"state", "value", "error", "at", "attempts", "sent"}
    assert states(book_on(disk)) == ["done"]


def test_an_order_that_is_partly_done_holds_up_others_of_its_kind_on_its_meter_alone() -> None:
    """Otherwise what it finds by reading might be the work of another order, and it would do its own twice."""
    entry: Any = {"insert": [{"index": 1, "date": "2027-05-01", "day": 2}]}
    book = book_on(FaultyDisk())
    book.submit(Request("o1", "special-days", ["A"], "test", entry))
    (task,) = book.due({"A"})
    book.begun(task)
    book.sending(task, {"step": 1, "of": 1})
    book.lost(task, "no answer")
    later: list[tuple[str, str, Any]] = [
        ("o2", "special-days", entry),
        ("o3", "set", SET),
        ("o4", "ping", {}),
        ("o5", "clock-parameters", {"dst_enabled": True}),
    ]
    for order_id, kind, parameters in later:
        book.submit(Request(order_id, kind, ["A", "B"], "test", parameters, priority=9))

    def due(meter: str) -> list[str]:
        found = []
        while tasks := book.due({meter}):
            found.append(tasks[0].order.id)
            book.begun(tasks[0])
            book.ended(tasks[0], Ended())
        return found

    assert due("B") == ["o2", "o3", "o4", "o5"]
    assert due("A") == ["o4", "o5"]
    assert book.cancel("o1")["over"]
    assert due("A") == ["o2", "o3"]


# --- what is known at the deadline, meter by meter ---

DAYS = {"insert": [{"index": index, "date": f"2027-05-{index:02}", "day": 3} for index in range(1, 4)]}


def test_at_the_deadline_each_meter_has_the_result_that_is_known_of_it() -> None:
    """One did it; one was never asked; one answered its first step and rests; one has not answered its first step; one
    paused in good order, since its time has not come."""
    clock, disk = VirtualClock(), FaultyDisk()
    meters = ["done", "absent", "rests", "silent", "not due"]
    book = OrderBook(Journal(disk, FOLDER), clock, allowed=list(Permission), known=lambda: set(meters))
    book.submit(Request("o1", "special-days", meters, "test", DAYS, deadline_s=60))
    for task in book.due(set(meters) - {"absent"}):
        book.begun(task)
        book.sending(task, {"step": 1, "of": 3})
        if task.meter_id != "silent":
            book.answered(task)
        if task.meter_id == "done":
            book.ended(task, Ended("fine"))
        elif task.meter_id == "not due":
            book.paused(task, 5.0, {"step": 1, "of": 3}, until=clock.wall() + 1000)
        else:
            book.lost(task, "no answer in time")
    assert states(book) == ["done", "queued", "partly done", "partly done", "partly done"]
    clock.advance(61.0)
    book.tick()
    assert states(book) == ["done", "not reached", "incomplete", "unknown", "incomplete"]
    (order,) = book.orders()
    assert order["over"]
    assert states(book_on(disk)) == states(book), "and so it is kept"


def test_a_start_knows_of_no_answer_until_the_meter_was_asked_again() -> None:
    clock, disk = VirtualClock(), FaultyDisk()
    book = book_on(disk, clock)
    book.submit(Request("o1", "special-days", ["A", "B"], "test", DAYS, deadline_s=60))
    for task in book.due({"A", "B"}):
        book.begun(task)
        book.sending(task, {"step": 1, "of": 3})
        book.answered(task)
        book.lost(task, "cut off")
    later = book_on(disk, clock)
    for task in later.due({"A"}):
        later.begun(task)
        later.paused(task, 5.0)  # its plan has read what there is
    clock.advance(61.0)
    later.tick()
    assert states(later) == ["incomplete", "unknown"]


def test_what_is_cancelled_between_two_steps_is_incomplete_and_not_unknown() -> None:
    clock = VirtualClock()
    book = book_on(FaultyDisk(), clock)
    book.submit(Request("o1", "special-days", ["A", "B"], "test", DAYS))
    for task in book.due({"A", "B"}):
        book.begun(task)
        book.sending(task)
        if task.meter_id == "A":
            book.answered(task)
        book.lost(task, "no answer in time")
    book.cancel("o1")
    assert states(book) == ["incomplete", "unknown"]
