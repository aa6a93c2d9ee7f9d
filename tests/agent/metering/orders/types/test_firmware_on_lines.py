"""Meter firmware over simulated lines: in slices beside everything else, resumed after cuts, activated once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.cli.order import how_far
from agent.metering.orders.images import FetchError, ImageStore
from agent.metering.orders.order import OrderRefusedError, Permission
from agent.metering.orders.order_book import OrderBook, Request
from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import Obis
from dlms.server.image import ImageTransfer
from dlms.server.objects import CosemObject
from dlms.xdlms.apdu.common import ActionOutcome
from tests.agent.metering.orders.test_orders_on_lines import ended, named, order
from tests.agent.metering.test_collector import EVERY_S, BusRig, PlcRig, Rig, provisioning
from tests.agent.virtual import VirtualClock
from tests.sim.meters import SimMeter
from updateagent.disk import RealDisk

IMAGE = bytes(range(256)) * 160  # 40,960 octets, 320 blocks
DIGEST = hashlib.sha256(IMAGE).hexdigest()
BLOCKS = 320
FIRMWARE: dict[str, Any] = {
    "url": "https://head-end.example/meter-2.bin",
    "sha256": DIGEST,
    "size": len(IMAGE),
    "identifier": "meter-2",
}


class Server:
    """Gives the image, unless it is `down`."""

    def __init__(self) -> None:
        self.content = IMAGE
        self.down = False
        self.fetched = 0

    def fetch(
        self, url: str, into: Path, *, bytes_max: int, stop: threading.Event, beat: Callable[[], None]
    ) -> tuple[int, str]:
        del stop
        assert url == FIRMWARE["url"]
        beat()
        self.fetched += 1
        if self.down:
            raise FetchError("HTTP 503")
        assert bytes_max == len(IMAGE)
        into.write_bytes(self.content)
        return len(self.content), hashlib.sha256(self.content).hexdigest()


class FirmwareMeter:
    """What a meter has been told about its firmware. `blocks` are the numbers of the blocks that came, in order."""

    def __init__(self, meter: SimMeter, *, slow_polls: int = 0) -> None:
        self.running = b"meter-1"
        self.activations: list[bytes] = []
        self.blocks: list[int] = []
        self.images = ImageTransfer(activated=self._activated, slow_polls=slow_polls)
        self._block = self.images.item.methods[2]
        self.images.item.methods[2] = self._count
        meter.server.add(self.images.item)
        named = CosemObject(1, Obis.parse("1.0.0.2.0.255"))
        named.readers[2] = lambda _selection: axdr.octets(self.running)
        meter.server.add(named)

    def _count(self, parameters: Data | None) -> ActionOutcome:
        assert parameters is not None
        self.blocks.append(parameters.members()[0].integer())
        return self._block(parameters)

    def _activated(self, image: bytes) -> None:
        self.activations.append(image)
        self.running = self.images.identifier


class _Images:
    """A rig with a place for images, whose worker runs between its rounds."""

    server: Server

    def make_images(self) -> ImageStore:
        rig: Any = self
        self.images = ImageStore(RealDisk(), rig.tmp_path / "images", self.server.fetch, rig.clock)
        return self.images

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        rig: Any = self
        end = rig.clock.now + seconds
        while rig.clock.now < end and not until():
            self.images.step(threading.Event(), lambda: None)
            Rig.run(rig, min(1.0, end - rig.clock.now), until)


class ImagePlcRig(_Images, PlcRig):
    def __init__(self, tmp_path: Path, meters: int = 2) -> None:
        self.server = Server()
        super().__init__(tmp_path, meters)


class ImageBusRig(_Images, BusRig):
    def __init__(self, tmp_path: Path) -> None:
        self.server = Server()
        super().__init__(tmp_path)


RIGS: list[Callable[[Path], Any]] = [ImagePlcRig, ImageBusRig]


@pytest.fixture(params=RIGS, ids=["prime", "bus"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = request.param(tmp_path)
    named(made)
    return made


def submit(rig: Any, *meters: SimMeter, number: int = 1, deadline_s: float = 7200, **more: object) -> str:
    order_id = f"o{number}"
    ids = [meter.id for meter in meters]
    rig.orders.submit(Request(order_id, "firmware", ids, "t", FIRMWARE | more, deadline_s=deadline_s))
    return order_id


def progress(rig: Any, order_id: str, index: int = 0) -> Any:
    return rig.orders.describe(order_id)["meters"][index]


@pytest.mark.slow
def test_an_image_gets_into_every_meter_of_a_group_and_is_activated_once(rig: Any) -> None:
    meters = [FirmwareMeter(meter) for meter in rig.meters]
    order_id = submit(rig, *rig.meters)
    results = ended(rig, order_id, 3000)
    assert [(result["state"], result["error"]) for result in results] == [("done", "")] * len(meters)
    for meter, result in zip(meters, results, strict=True):
        assert meter.activations == [IMAGE]
        assert meter.blocks == list(range(BLOCKS)), "each block once, in order"
        value = result["value"]
        assert (value["of"], value["activated"]) == (BLOCKS, True)
        assert value["firmware_before"] == ["oct", b"meter-1".hex()]
        assert value["firmware_after"] == ["oct", b"meter-2".hex()]
    assert rig.server.fetched == 1
    rig.run(3)
    assert list((rig.tmp_path / "images").iterdir()) == [], "nobody needs it any more"


@pytest.mark.slow
def test_scheduled_reading_goes_on_while_an_image_is_sent(rig: Any) -> None:
    meters = [FirmwareMeter(meter) for meter in rig.meters]
    rig.clock.advance(EVERY_S - rig.clock.wall() % EVERY_S - 3)
    order_id = submit(rig, *rig.meters)
    before = len(rig.count())
    rig.run(200, lambda: len(rig.count()) >= before + len(meters))
    assert len(rig.count()) == before + len(meters), "the next run was read"
    assert all(result["state"] != "done" for result in rig.orders.describe(order_id)["meters"])
    assert all(meter.blocks for meter in meters) or isinstance(rig, ImageBusRig)
    assert {result["state"] for result in ended(rig, order_id, 3000)} == {"done"}
    assert [len(meter.activations) for meter in meters] == [1] * len(meters)


@pytest.mark.slow
def test_an_order_pre_empts_within_one_exchange_and_the_image_goes_on(rig: Any) -> None:
    meter = FirmwareMeter(rig.meters[0])
    order_id = submit(rig, rig.meters[0])
    rig.run(60, lambda: len(meter.blocks) > 5)
    had, before = len(meter.blocks), rig.clock.now
    (result,) = order(rig, "ping", rig.meters[0], number=2)
    assert result["state"] == "done"
    assert rig.clock.now - before < 3.0
    assert len(meter.blocks) <= had + 2
    (result,) = ended(rig, order_id, 3000)
    assert (result["state"], result["attempts"]) == ("done", 1)
    assert meter.blocks == list(range(BLOCKS))


@pytest.mark.slow
def test_after_a_restart_only_what_the_meter_lacks_is_sent(rig: Any) -> None:
    meter = FirmwareMeter(rig.meters[0])
    order_id = submit(rig, rig.meters[0])
    rig.run(200, lambda: len(meter.blocks) > 100)
    rig.restart()
    told = progress(rig, order_id)
    assert told["state"] == "partly done"
    meter.images.forget(7)
    rig.collector.configure(provisioning())
    (result,) = ended(rig, order_id, 3000)
    assert (result["state"], meter.activations) == ("done", [IMAGE])
    again = len(meter.blocks) - BLOCKS
    assert again <= 2, "the one that was forgotten, and the one whose answer was cut off"
    assert rig.server.fetched == 2, "looked at again after the start"


@pytest.mark.slow
def test_a_meter_is_activated_at_the_time_that_was_set(tmp_path: Path) -> None:
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    meter = FirmwareMeter(rig.meters[0], slow_polls=2)
    at = rig.clock.wall() + 1800
    when = datetime.fromtimestamp(at, UTC).isoformat()
    order_id = submit(rig, rig.meters[0], activate=when)
    rig.run(1700)
    told = progress(rig, order_id)
    assert (told["state"], told["progress"]["stage"], meter.activations) == ("partly done", "verified", [])
    assert (told["progress"]["blocks"], how_far(told["progress"])) == (BLOCKS, "verified"), "not 90 % of the blocks"
    rig.restart()
    rig.collector.configure(provisioning())
    rig.run(3000, lambda: bool(meter.activations))
    assert at <= rig.clock.wall() <= at + 60
    (result,) = ended(rig, order_id, 300)
    assert (result["state"], len(meter.activations)) == ("done", 1)
    assert meter.blocks == list(range(BLOCKS))


@pytest.mark.slow
def test_a_time_of_activation_is_that_of_a_trusted_clock_whatever_it_is_set_to_meanwhile(tmp_path: Path) -> None:
    """It was the distance from the clock of the moment: four hours late, or never, once the clock was put right."""
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    meter = FirmwareMeter(rig.meters[0], slow_polls=2)
    at = rig.clock.wall() + 6 * 3600
    order_id = submit(rig, rig.meters[0], activate=datetime.fromtimestamp(at, UTC).isoformat(), deadline_s=86_400)
    rig.clock.is_trusted = False
    rig.clock.wall_offset -= 4 * 3600
    rig.run(1800)
    assert progress(rig, order_id)["progress"]["stage"] == "verified"
    rig.clock.wall_offset += 4 * 3600
    rig.clock.is_trusted = True
    rig.run(at - rig.clock.wall() - 60)
    assert meter.activations == []
    rig.clock.wall_offset += 3600  # nobody vouches for that
    rig.clock.is_trusted = False
    rig.run(600)
    assert meter.activations == []
    rig.clock.wall_offset -= 3600
    rig.clock.is_trusted = True
    (result,) = ended(rig, order_id, 900)
    assert (result["state"], len(meter.activations)) == ("done", 1)


def test_a_time_of_activation_behind_the_deadline_is_refused(rig: Any) -> None:
    when = datetime.fromtimestamp(rig.clock.wall() + 600, UTC).isoformat()
    with pytest.raises(OrderRefusedError, match="the deadline is before the time of the activation"):
        submit(rig, rig.meters[0], activate=when, deadline_s=500)


@pytest.mark.parametrize("answered", [True, False])
def test_an_activation_whose_answer_is_lost_is_not_sent_again(tmp_path: Path, *, answered: bool) -> None:
    """The meter restarts with the new firmware; of its transfer it may know nothing then."""
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    meter = FirmwareMeter(rig.meters[0])
    activate = meter.images.item.methods[4]
    calls: list[float] = []

    def restart(parameters: Data | None) -> ActionOutcome:
        calls.append(rig.clock.now)
        outcome = activate(parameters)
        rig.network.faults.mute = frozenset({rig.meters[0].id})
        if not answered:
            meter.images.item.readers[6] = lambda _selection: axdr.enum(0)
        return outcome

    meter.images.item.methods[4] = restart
    order_id = submit(rig, rig.meters[0])
    rig.run(3000, lambda: bool(calls))
    rig.run(60)
    rig.network.faults.mute = frozenset()
    (result,) = ended(rig, order_id, 3000)
    assert (result["state"], len(calls), len(meter.activations)) == ("done", 1, 1)
    assert result["value"]["firmware_after"] == ["oct", b"meter-2".hex()]


def test_an_image_that_does_not_verify_is_not_activated(rig: Any) -> None:
    meter = FirmwareMeter(rig.meters[0])
    meter.images._verify_image = lambda _image: False
    (result,) = ended(rig, submit(rig, rig.meters[0]), 3000)
    assert (result["state"], meter.activations) == ("refused", [])
    assert result["error"] == "the image was not verified: other-reason"


def test_an_image_that_a_slow_meter_does_not_verify_is_sent_once(tmp_path: Path) -> None:
    """It was sent again and again, until the deadline, and then the order was incomplete, without a reason."""
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    meter = FirmwareMeter(rig.meters[0], slow_polls=1)
    meter.images._verify_image = lambda _image: False
    (result,) = ended(rig, submit(rig, rig.meters[0]), 3000)
    assert (result["state"], result["error"]) == ("refused", "the image was not verified")
    assert (len(meter.blocks), meter.activations) == (BLOCKS, [])


def test_a_slow_meter_that_does_not_tell_what_it_would_activate_gets_the_image_once(tmp_path: Path) -> None:
    """It was sent again and again, and never activated."""
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    meter = FirmwareMeter(rig.meters[0], slow_polls=1)
    meter.images.item.readers[7] = lambda _selection: axdr.array([])
    (result,) = ended(rig, submit(rig, rig.meters[0]), 3000)
    assert (result["state"], result["error"], len(meter.activations)) == ("done", "", 1)
    assert len(meter.blocks) == BLOCKS


def test_a_meter_whose_firmware_is_another_is_not_activated_again(tmp_path: Path) -> None:
    """Whatever its status says: it may keep that of the transfer over the restart."""
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    meter = FirmwareMeter(rig.meters[0])
    activate = meter.images.item.methods[4]
    calls: list[float] = []

    def restart(parameters: Data | None) -> ActionOutcome:
        calls.append(rig.clock.now)
        outcome = activate(parameters)
        rig.network.faults.mute = frozenset({rig.meters[0].id})
        meter.images.item.readers[6] = lambda _selection: axdr.enum(3)
        return outcome

    meter.images.item.methods[4] = restart
    order_id = submit(rig, rig.meters[0])
    rig.run(3000, lambda: bool(calls))
    rig.run(60)
    rig.network.faults.mute = frozenset()
    (result,) = ended(rig, order_id, 3000)
    assert (result["state"], len(calls)) == ("done", 1)


def test_an_image_with_another_digest_is_never_sent(rig: Any) -> None:
    meter = FirmwareMeter(rig.meters[0])
    rig.server.content = IMAGE[:-1] + b"\x00"
    (result,) = ended(rig, submit(rig, rig.meters[0]), 300)
    assert (result["state"], meter.blocks, result["attempts"]) == ("not reached", [], 0)
    assert result["error"].startswith("the image that was fetched has 40960 bytes and SHA-256 ")
    assert not (rig.tmp_path / "images" / DIGEST).exists()


def test_an_image_that_cannot_be_fetched_waits_and_its_order_says_why(tmp_path: Path) -> None:
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    FirmwareMeter(rig.meters[0])
    rig.server.down = True
    order_id = submit(rig, rig.meters[0], deadline_s=100)
    (result,) = ended(rig, order_id, 200)
    assert (result["state"], result["error"]) == ("not reached", "the image cannot be fetched: HTTP 503")
    order_id = submit(rig, rig.meters[0], number=2)
    rig.run(60)
    rig.server.down = False
    (result,) = ended(rig, order_id, 3000)
    assert result["state"] == "done"


def test_images_have_a_bound_and_firmware_needs_its_own_permission(tmp_path: Path) -> None:
    rig = ImagePlcRig(tmp_path, meters=1)
    named(rig)
    for number in range(4):
        digest = f"{number:064x}"
        submit(rig, rig.meters[0], number=number, sha256=digest, size=8 << 20)
    with pytest.raises(OrderRefusedError, match="the images of all orders have more than"):
        submit(rig, rig.meters[0], number=5, size=1, sha256="f" * 64)
    book = OrderBook(
        rig.orders._journal, VirtualClock(), allowed=[Permission.CHANGE, Permission.SUPPLY], known=lambda: {"A"}
    )
    with pytest.raises(OrderRefusedError, match=r"orders\.firmware is false"):
        book.submit(Request("o9", "firmware", ["A"], "t", FIRMWARE))


@pytest.mark.slow
def test_two_places_of_a_power_line_are_for_images_at_most(tmp_path: Path) -> None:
    rig = ImagePlcRig(tmp_path, meters=4)
    named(rig)
    for meter in rig.meters:
        FirmwareMeter(meter)
    rig.collector.configure(replace(provisioning(), tasks=()))
    submit(rig, *rig.meters)
    most = 0

    def seen() -> bool:
        nonlocal most
        most = max(most, len(rig.reader._visits))
        return False

    rig.run(60, seen)
    assert most == 2
