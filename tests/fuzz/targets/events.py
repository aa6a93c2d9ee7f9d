"""What meters push, as a stranger could send it: parsers and ears of `agent.metering.events`."""

from __future__ import annotations

import json

from agent.metering.events.bus_ear import HdlcEar
from agent.metering.events.notification import PLAIN_TAGS, opaque, read_notice
from agent.metering.events.overheard import BlockAssembly, WrapperEar
from agent.metering.events.protection import open_pushed, title_of
from dlms.link.wrapper import WrapperFrame
from dlms.security.settings import MemoryCounters, Policy, Security
from omadm.readings import EVENT_OCTETS_MAX, EVENT_VALUES_MAX
from tests.agent.metering.events.captured import AM550, E450, GH740, KAIFA, OF_HDLC, OMNIPOWER, kaifa_apdu
from tests.agent.metering.events.test_notification import plain


def run_notice(data: bytes) -> None:
    """Values, or the octets: nothing is lost, and everything fits a record."""
    notice = read_notice(data)
    assert len(notice.values) <= EVENT_VALUES_MAX
    assert (notice.octets is None) == (notice.error is None)
    if notice.octets is not None:
        assert notice.octets == data[:EVENT_OCTETS_MAX] == opaque(data, "why").octets
    json.dumps(notice.values, allow_nan=False)


def notices() -> list[bytes]:
    event = bytes.fromhex("c2010c07ea030c040f181eff8000000001000060 0b01ff020600000028".replace(" ", ""))
    return [
        plain(AM550),
        plain(GH740),
        plain(OMNIPOWER),
        plain(KAIFA),
        event,
        b"\x0f\x00",
        b"\x18\x00\x01\x02\x20\x00\x01\x11\x05",
    ]


def run_pushed(data: bytes) -> None:
    """Whatever comes opens nothing that the keys did not make, and moves no counter."""
    counters = MemoryCounters(seen=7)
    keys = [
        Security(b"DCUDCU01", E450.ek, E450.ak, 0, Policy.BOTH, counters),
        Security(b"DCUDCU01", OMNIPOWER.ek, OMNIPOWER.ak, 0, Policy.BOTH, MemoryCounters()),
    ]
    opened = open_pushed(data, keys, title=b"")
    assert len(title_of(data)) in (0, 8)
    if opened.apdu is None:
        assert counters.seen() == 7
    else:
        assert opened.apdu[0] in PLAIN_TAGS


def pushed() -> list[bytes]:
    named = bytes.fromhex("dd08000000000000000108") + b"MMM12345" + bytes.fromhex("08") + b"DCUDCU01" + bytes(3)
    signed = bytes.fromhex("df08000000000000000108") + b"MMM12345" + bytes.fromhex("08") + b"DCUDCU01" + bytes(4)
    glo = bytes.fromhex("ca1e30000000080102030405060708090a0b0c0d0e0f101112131415161718191a1b")
    return [E450.apdu(), OMNIPOWER.apdu(), kaifa_apdu(), named + b"\x05" + bytes(5), signed, glo]


def run_bus(data: bytes) -> None:
    """The same octets in one piece and in two are the same messages."""
    found = []
    for cut in (0, len(data) // 2):
        ear, blocks = HdlcEar(), BlockAssembly()
        ear.receive(data[:cut], 0.0)
        ear.receive(data[cut:], 0.1)
        taken = []
        while (heard := ear.next_apdu()) is not None:
            whole, _ = blocks.take(heard.source, heard.apdu, 0.1)
            taken.append((heard, whole))
        found.append(taken)
    assert found[0] == found[1]


def run_connection(data: bytes) -> None:
    ear = WrapperEar(16, apdu_bytes_max=EVENT_OCTETS_MAX)
    heard = [*ear.receive(data[:9]), *ear.receive(data[9:])]
    assert all(each.destination != 16 for each in heard)


def connections() -> list[bytes]:
    return [WrapperFrame(1, client, AM550.apdu()).emit() + WrapperFrame(1, 102, b"\x0f").emit() for client in (16, 102)]


def buses() -> list[bytes]:
    return [capture.octets for capture in OF_HDLC]
