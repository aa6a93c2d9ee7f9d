"""Image transfer and push of a meter."""

from __future__ import annotations

import hashlib

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef
from dlms.cosem.profile import CaptureObject
from dlms.errors import LocalError
from dlms.server.image import IMAGE_TRANSITIONS, ImageEvent, ImageStatus, ImageTransfer
from dlms.server.push import PushSetup
from dlms.server.server import MeterServer
from dlms.xdlms.apdu.notify import DataNotification, Notification
from tests.dlms.server.test_objects import SCRIPTS, called, value
from tests.dlms.server.test_server import CODE, Store

# -------------------------------------------------------------------------------------------------- image transfer

IMAGE = bytes(range(256)) + b"the end"


def brought(images: ImageTransfer, image: bytes = IMAGE) -> None:
    assert called(images.item, 1, axdr.structure(axdr.octets(b"v2"), axdr.u32(len(image)))) == "success"
    for at in range(images.blocks):
        piece = axdr.structure(axdr.u32(at), axdr.octets(image[at * 128 : (at + 1) * 128]))
        assert called(images.item, 2, piece) == "success"


@pytest.mark.parametrize("step", list(ImageEvent))
@pytest.mark.parametrize("status", list(ImageStatus))
def test_every_pair_of_image_transfer(status: ImageStatus, step: ImageEvent) -> None:
    images = ImageTransfer()
    images._state = status
    following = IMAGE_TRANSITIONS.get((status, step))
    if following is None:
        with pytest.raises(LocalError):
            images._step(step)
        assert images.state is status
    else:
        images._step(step)
        assert images.state is following


def test_the_way_of_an_image() -> None:
    activated: list[bytes] = []
    images = ImageTransfer(activated=activated.append)
    item = images.item
    assert (value(item, 2), value(item, 3), value(item, 4), value(item, 5), value(item, 6)) == (128, "", 0, True, 0)
    brought(images)
    images.forget(1)
    assert (value(item, 3), value(item, 4), value(item, 6)) == ("101", 1, 1)
    assert called(item, 3) == "other-reason"
    assert value(item, 6) == ImageStatus.NOT_VERIFIED
    assert value(item, 7) == ()
    brought(images)
    assert called(item, 3) == "success"
    (info,) = item.get(7, None).members()  # type: ignore[union-attr]
    assert [part.value for part in info.members()] == [len(IMAGE), b"v2", hashlib.sha256(IMAGE).digest()]
    assert called(item, 4) == "success"
    assert activated == [IMAGE]
    assert value(item, 6) == ImageStatus.ACTIVATED
    assert called(item, 4) == "read-write-denied"


def test_activating_verifies_what_was_not_verified() -> None:
    activated: list[bytes] = []
    images = ImageTransfer(verify=lambda image: image != IMAGE, activated=activated.append)
    brought(images)
    assert called(images.item, 4) == "other-reason"
    assert value(images.item, 6) == ImageStatus.NOT_ACTIVATED
    assert not activated


def test_a_slow_meter_says_later_and_is_asked_for_its_status() -> None:
    images = ImageTransfer(slow_polls=2)
    brought(images)
    assert called(images.item, 3) == "temporary-failure"
    assert called(images.item, 1, axdr.structure(axdr.octets(b"v3"), axdr.u32(1))) == "read-write-denied"
    assert called(images.item, 3) == "temporary-failure"
    assert [value(images.item, 6) for _ in range(3)] == [2, 2, 3]
    assert called(images.item, 4) == "temporary-failure"
    assert [value(images.item, 6) for _ in range(4)] == [5, 5, 6, 6]


@pytest.mark.parametrize(
    ("parameters", "outcome"),
    [
        (axdr.structure(axdr.octets(b"v"), axdr.i32(-5)), "read-write-denied"),
        (axdr.structure(axdr.octets(b"v"), axdr.u32(0)), "read-write-denied"),
        (axdr.structure(axdr.octets(b"v"), axdr.u32(2**32 - 1)), "read-write-denied"),
        (axdr.structure(axdr.octets(bytes(65)), axdr.u32(1)), "read-write-denied"),
        (axdr.structure(axdr.octets(b"v")), "type-unmatched"),
        (axdr.u8(1), "type-unmatched"),
        (None, "type-unmatched"),
    ],
)
def test_an_image_that_cannot_be_is_not_begun(parameters: Data | None, outcome: str) -> None:
    images = ImageTransfer()
    assert called(images.item, 1, parameters) == outcome
    assert value(images.item, 6) == 0


@pytest.mark.parametrize(
    ("number", "piece", "outcome"),
    [
        (axdr.i8(-1), bytes(128), "read-write-denied"),
        (axdr.u32(3), bytes(128), "read-write-denied"),
        (axdr.u32(0), bytes(127), "type-unmatched"),
        (axdr.u32(0), bytes(129), "type-unmatched"),
        (axdr.u32(2), bytes(128), "type-unmatched"),
        (axdr.octets(b""), bytes(128), "type-unmatched"),
    ],
)
def test_a_block_that_does_not_fit_is_refused_and_changes_nothing(number: Data, piece: bytes, outcome: str) -> None:
    images = ImageTransfer()
    brought(images)
    assert called(images.item, 2, axdr.structure(number, axdr.octets(piece))) == outcome
    assert images.image == IMAGE
    assert value(images.item, 3) == "111"


def test_a_meter_that_takes_no_images_says_so() -> None:
    images = ImageTransfer()
    assert images.item.set(5, axdr.boolean(value=False)) is DataAccessResult.SUCCESS
    assert images.item.set(5, axdr.u8(1)) is DataAccessResult.TYPE_UNMATCHED
    assert value(images.item, 5) is False
    assert called(images.item, 1, axdr.structure(axdr.octets(b"v"), axdr.u32(5))) == "read-write-denied"


# ------------------------------------------------------------------------------------------------------------ push


def pushed() -> tuple[PushSetup, list[Notification], Store]:
    store, sent = Store(), list[Notification]()
    ref = AttributeRef(1, CODE, 2)
    objects = [CaptureObject(ref), CaptureObject(ref, 2), CaptureObject(AttributeRef(1, SCRIPTS, 2))]
    return PushSetup(MeterServer([store.item]), objects, sent.append), sent, store


def test_a_push_sends_the_list_with_null_for_what_is_not_there() -> None:
    push, sent, store = pushed()
    store.value = axdr.structure(axdr.u8(1), axdr.u8(2))
    assert called(push.item, 1) == "success"
    store.value = axdr.u8(3)
    assert called(push.item, 1) == "success"
    assert sent == [
        DataNotification(1, None, axdr.structure(axdr.structure(axdr.u8(1), axdr.u8(2)), axdr.u8(2), axdr.null())),
        DataNotification(2, None, axdr.structure(axdr.u8(3), axdr.null(), axdr.null())),
    ]


def test_the_list_of_a_push_is_written() -> None:
    push, sent, _store = pushed()
    one = axdr.array([CaptureObject(AttributeRef(1, CODE, 1)).data()])
    assert push.item.set(2, one) is DataAccessResult.SUCCESS
    assert push.item.get(2, None) == one
    push.push()
    assert sent == [DataNotification(1, None, axdr.structure(axdr.octets(CODE.code)))]
    assert push.item.set(2, axdr.u8(1)) is DataAccessResult.TYPE_UNMATCHED
    many = axdr.array([CaptureObject(AttributeRef(1, CODE, 1)).data()] * 65)
    assert push.item.set(2, many) is DataAccessResult.OTHER_REASON
