"""Orders to the device as a whole: a lock, a reboot, a factory reset, over sessions, boots and power cuts."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import pytest

from agent.daemon.control import CHANGING, ControlError, unless_locked
from agent.daemon.device_orders import (
    DELIVER_S_MAX,
    MARKER_COPY,
    MARKER_FILE,
    REBOOT_S_MAX,
    STARTS_MAX,
    DeviceOrders,
    erase_if_ordered,
    report_reset,
)
from agent.jobs import device, firmware
from agent.mo.connectivity import trial
from agent.tree import alerts
from tests.agent.dm.server import FakeDmServer, execute, get, put
from tests.agent.dm_device import STATE, Device
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival

AT = "./LAWMO/Operations"
DATA = Path("/data")
ERASED = (STATE / "dm", STATE / "services", DATA / "readings.db", DATA / "keys", DATA / "never-there")


class Life:
    """A device with the worker of its orders; it boots when it is asked to, unless `dead`."""

    def __init__(self) -> None:
        self.server = FakeDmServer()
        self.one = Device(self.server).registered()
        self.waiting = 0
        self.boots = 1
        self.dead = False
        self.told: list[tuple[str | None, str]] = []
        for file in ("readings.db", "readings.db-wal", "keep.txt"):
            self.one.disk.mkdir_durable(DATA)
            self.one.disk.write_durable(DATA / file, b"x")
        self.one.disk.mkdir_durable(DATA / "keys")
        self.one.disk.write_durable(DATA / "keys/1", b"secret")
        for folder in (STATE / "services/watch/deep", STATE / "software/watch/1"):
            self.one.disk.mkdir_durable(folder)
            self.one.disk.write_durable(folder / "file", b"gathered, or installed")
        self.ended = 0
        self._start()

    def _start(self) -> None:
        one = self.one
        self.orders = DeviceOrders(
            one.tree,
            one.disk,
            one.clock,
            STATE,
            one.boot_id,
            reboot=one.service.reboot,
            report=one.service.report_alerts,
            waiting=lambda: self.waiting,
        )

    def start(self, *, boot: bool, disk: FaultyDisk | None = None) -> None:
        """The agent starts, in another boot or in the same one."""
        self.boots += boot
        one = self.one
        one.disk = disk or one.disk
        erase_if_ordered(one.disk, STATE, lambda: ERASED, self._end)
        one.restart(boot_id=f"boot {self.boots}")
        report_reset(one.disk, STATE, one.tree)
        self._start()
        one.service.session_now("boot")

    def _end(self) -> None:
        self.ended += 1
        assert self.one.disk.exists(STATE / MARKER_FILE)

    def run(self, seconds: int = 300) -> None:
        for _ in range(0, seconds, 30):
            reboots = self.one.reboots
            self.orders.tick()
            self.server.alerts.clear()
            try:
                self.one.turn()
            finally:
                self.told += [(a.correlator, str(a.items[0].data)) for a in self.server.alerts if a.code == 1226]
            if self.one.reboots > reboots and not self.dead:
                self.start(boot=True)
            self.one.clock.advance(30)

    @property
    def order(self) -> device.DeviceOrder:
        return device.load(self.one.tree.view())


GOOD, BAD = "<ResultCode>1200</ResultCode>", "<ResultCode>1450</ResultCode>"


def test_a_reboot_is_asked_for_after_the_session_and_told_once_in_the_next_boot() -> None:
    life = Life()
    life.one.session([execute(f"{AT}/Reboot", "corr-1")])
    assert (life.server.codes, life.one.reboots) == ([202], 0)
    life.run(600)
    assert (life.one.reboots, life.boots, life.told) == (1, 2, [("corr-1", GOOD)])
    life.one.session([execute(f"{AT}/Reboot", "corr-1"), get("./LAWMO/Status/State")])
    assert (life.server.codes, life.server.values) == ([202, 200], {"./LAWMO/Status/State": "done"})
    life.run(600)
    assert (life.one.reboots, len(life.told)) == (1, 1)


def test_a_board_that_does_not_reboot_fails_the_order_and_is_left_alone() -> None:
    life = Life()
    life.dead = True
    life.one.session([execute(f"{AT}/Reboot", "corr-1")])
    life.run(int(REBOOT_S_MAX) + 120)
    assert (life.one.reboots, life.told) == (1, [("corr-1", BAD)])
    assert life.order.error == "the board did not reboot within 3600 s"


def test_an_agent_that_is_started_again_and_again_in_one_boot_does_not_ask_for_ever() -> None:
    life = Life()
    life.dead = True
    life.one.session([execute(f"{AT}/Reboot", "corr-1")])
    for _ in range(STARTS_MAX + 3):
        life.run(60)
        life.start(boot=False)
    life.run(60)
    assert (life.one.reboots, life.told) == (STARTS_MAX, [("corr-1", BAD)])


def test_nothing_reboots_in_the_middle_of_a_firmware_job_or_a_trial() -> None:
    life = Life()
    with life.one.tree.transaction() as changing:
        firmware.save(changing, firmware.Job(active=True, state=firmware.State.UPDATING))
    life.one.session([execute(f"{AT}/Reboot"), execute(f"{AT}/FactoryReset")])
    assert life.server.codes == [500, 500]
    with life.one.tree.transaction() as changing:
        firmware.save(changing, firmware.Job())
        trial.begin(changing, {trial.ACCESS: "x"}, trial_id="1")
    life.one.session([execute(f"{AT}/Reboot")])
    assert life.server.codes == [500]


def test_a_firmware_job_that_came_first_is_waited_for_and_none_begins_after_an_order() -> None:
    life = Life()
    both = "./FUMO/Firmware/DownloadAndUpdate"
    life.one.session([execute(f"{AT}/Reboot"), put(f"{both}/PkgURL", "https://p.example/f"), execute(both)])
    assert life.server.codes == [202, 200, 500]
    with life.one.tree.transaction() as changing:
        firmware.save(changing, firmware.Job(active=True, state=firmware.State.UPDATING))
    life.run(120)
    assert life.one.reboots == 0


def test_one_order_at_a_time_and_none_where_boots_look_alike() -> None:
    life = Life()
    life.one.session([execute(f"{AT}/Reboot", "a"), execute(f"{AT}/FactoryReset", "b"), execute(f"{AT}/Reboot", "a")])
    assert life.server.codes == [202, 500, 202]
    other = Life()
    other.one.boot_id = ""
    other.one.restart()
    other.one.session([execute(f"{AT}/Reboot", "a")])
    assert other.server.codes == [406]


def test_a_factory_reset_delivers_first_then_erases_registers_and_is_told_once() -> None:
    life = Life()
    life.waiting = 5
    life.one.session([put("./SCHED/QuietHours", "17:00-21:00"), execute(f"{AT}/FactoryReset", "corr-1")])
    life.run(240)
    assert (life.one.reboots, life.one.registrations) == (0, 1)
    life.waiting = 0
    life.run(600)
    assert (life.one.registrations, life.told) == (2, [("corr-1", GOOD)])
    assert life.one.service.provisioning.quiet_hours == ""
    assert life.one.disk.listdir(DATA) == ["keep.txt"]
    assert not life.one.disk.exists(STATE / MARKER_FILE)
    assert life.ended == 1
    assert not life.one.disk.exists(STATE / "services")
    assert life.one.disk.exists(STATE / "software/watch/1/file")


HURT = [b"", b"\0" * 40, b"[]", b'{"version": 1, "id": 5, "correlator": "corr-1"}', b'{"id": "x"}']


def about_to_reset() -> Life:
    """A device that was ordered a reset, and whose power goes before it boots."""
    life = Life()
    life.dead = True
    life.one.session([execute(f"{AT}/FactoryReset", "corr-1")])
    life.run(60)
    assert life.one.disk.exists(STATE / MARKER_FILE)
    life.dead = False
    return life


@pytest.mark.parametrize("hurt", HURT)
@pytest.mark.parametrize("erased", [False, True])
def test_a_damaged_marker_is_told_under_its_correlator_all_the_same(hurt: bytes, *, erased: bool) -> None:
    life = about_to_reset()
    if erased:
        erase_if_ordered(life.one.disk, STATE, lambda: ERASED, lambda: None)
    life.one.disk.write_durable(STATE / MARKER_FILE, hurt)
    life.start(boot=True)
    life.run()
    assert life.told == [("corr-1", GOOD)]
    assert not [name for name in life.one.disk.listdir(STATE) if name.startswith("factory-reset")]


def test_without_its_copy_a_damaged_marker_still_resets() -> None:
    life = about_to_reset()
    for name in (MARKER_FILE, MARKER_COPY):
        life.one.disk.write_durable(STATE / name, b"{")
    life.start(boot=True)
    life.run()
    assert life.told == [(None, GOOD)]
    assert life.one.disk.listdir(DATA) == ["keep.txt"]


def test_a_copy_without_a_marker_means_nothing() -> None:
    """As a power cut leaves it in the middle of the end, or of the beginning."""
    life = about_to_reset()
    life.one.disk.remove_durable(STATE / MARKER_FILE)
    erase_if_ordered(life.one.disk, STATE, lambda: ERASED, lambda: None)
    assert life.one.disk.exists(DATA / "readings.db")


def test_readings_that_nobody_takes_hold_a_reset_up_for_a_while_only() -> None:
    life = Life()
    life.waiting = 5
    life.one.session([execute(f"{AT}/FactoryReset", "corr-1")])
    life.run(int(DELIVER_S_MAX) - 60)
    assert life.one.registrations == 1
    life.run(600)
    assert (life.one.registrations, life.told) == (2, [("corr-1", GOOD)])


@pytest.mark.slow
@pytest.mark.parametrize("operation", device.OPERATIONS)
@pytest.mark.parametrize("survival", [Survival.LOST, Survival.HOLED])
def test_an_order_survives_a_power_cut_at_every_operation(survival: Survival, operation: str) -> None:
    for number in itertools.count(1):
        life = Life()
        disk = life.one.disk
        last = disk.operations + number
        disk.on_operation = lambda operation, last=last: 0.5 if operation.number == last else None
        cut = False
        try:
            life.one.session([execute(f"{AT}/{operation}", "corr-1")])
            life.run()
        except PowerCut:
            cut = True
            life.start(boot=True, disk=life.one.disk.after_power_cut(survival, Random(number)))
        if not life.order.id:  # the power went before the order was durable: the server sends it again
            life.one.session([execute(f"{AT}/{operation}", "corr-1")])
        life.run()
        case = (number, survival, operation)
        assert set(life.told) == {("corr-1", GOOD)}, case
        assert (life.order.under_way, alerts.pending(life.one.tree.view())) == (False, ()), case
        if operation == device.FACTORY_RESET:
            assert life.one.disk.listdir(DATA) == ["keep.txt"], case
            assert not life.one.disk.exists(STATE / "services"), case
            assert life.one.disk.exists(STATE / "software/watch/1/file"), case
            assert life.one.registrations >= 2, case
            assert not life.one.disk.exists(STATE / MARKER_FILE), case
        if not cut:
            assert number > 20
            return


def test_a_locked_device_reads_nothing_and_says_so_and_unlocked_it_is_as_before() -> None:
    life = Life()
    life.one.session([put("./SCHED/QuietHours", "17:00-21:00"), execute(f"{AT}/FullyLock")], [get("./LAWMO/State")])
    assert (life.server.codes, life.server.values["./LAWMO/State"]) == ([200, 200, 200], "locked")
    assert life.one.provisioned[-1].quiet_hours == "00:00-24:00"
    life.start(boot=True)
    assert life.one.service.provisioning.quiet_hours == "00:00-24:00"
    life.one.session([execute(f"{AT}/UnLock")])
    assert life.one.provisioned[-1].quiet_hours == "17:00-21:00"


def test_a_locked_device_takes_no_changes_from_its_own_socket() -> None:
    locked = True
    handlers = unless_locked({"order": lambda _: "done", "status": lambda _: "shown"}, lambda: locked)
    assert handlers["status"]({}) == "shown"
    with pytest.raises(ControlError):
        handlers["order"]({})
    locked = False
    assert handlers["order"]({}) == "done"
    assert "order" in CHANGING
