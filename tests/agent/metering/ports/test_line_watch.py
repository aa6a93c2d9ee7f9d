"""What conversations tell about a line."""

from __future__ import annotations

import logging

import pytest

from agent.metering.ports.line_watch import LineWatch
from dlms.link.datalink import LineHeard

TEXT = "bytes are heard that are no HDLC frames: baud rate or parity?"
GOOD, SILENT = LineHeard(octets=40, frames=2), LineHeard()
GARBLED, GLITCH = LineHeard(octets=40), LineHeard(octets=3)
OTHERS, DOUBLED = LineHeard(octets=40, others=2), LineHeard(octets=40, frames=2, doubles=1)


@pytest.mark.parametrize(
    ("conversations", "whole_line", "of_17"),
    [
        ([(17, GARBLED)] * 2, False, ""),
        ([(17, GARBLED)] * 3, True, ""),  # nothing else was ever heard there
        ([(16, GARBLED), (17, GARBLED), (18, GARBLED)], True, ""),
        ([(16, GARBLED), (17, SILENT), (18, GARBLED), (19, GARBLED)], True, ""),  # silence says nothing about a speed
        ([(16, GLITCH), (17, GLITCH), (18, GLITCH)], False, ""),
        ([(16, OTHERS), (17, OTHERS), (18, OTHERS)], False, ""),
        ([(16, GARBLED), (17, GARBLED), (18, GOOD), (19, GARBLED)], False, ""),
        ([(16, GARBLED), (17, GARBLED), (18, GARBLED), (16, GOOD)], False, ""),
        ([(17, GOOD), (17, GARBLED), (17, GARBLED), (17, GARBLED)], True, ""),  # the only meter, since then
        ([(16, GOOD), (17, GARBLED)], False, ""),
        ([(16, GOOD), (17, GARBLED), (17, GARBLED)], False, "garbled"),
        ([(16, GOOD)] + [(17, GARBLED)] * 9, False, "garbled"),
        ([(16, GOOD), (17, GARBLED), (17, GARBLED), (17, GOOD)], False, ""),
        ([(17, DOUBLED)], False, ""),
        ([(17, DOUBLED), (17, DOUBLED)], False, "two meters answer"),
        ([(17, DOUBLED), (17, GOOD), (17, DOUBLED)], False, ""),
        ([(17, DOUBLED), (17, DOUBLED), (17, GOOD)], False, ""),
    ],
)
def test_the_line_and_the_address_are_told_apart(
    conversations: list[tuple[int, LineHeard]], whole_line: bool, of_17: str
) -> None:
    watch = LineWatch("rs485", "HDLC")
    for address, heard in conversations:
        watch.conversation(address, heard)
    assert watch.garbage == (TEXT if whole_line else "")
    assert of_17 in watch.suspicion(17)
    assert bool(watch.suspicion(17)) == bool(of_17)
    assert watch.suspicion(99) == ""


ECHOED = LineHeard(echoes=3)


@pytest.mark.parametrize(
    ("conversations", "echo"),
    [
        ([(17, ECHOED)] * 2, False),
        ([(17, ECHOED)] * 3, True),
        ([(16, ECHOED), (17, ECHOED), (18, ECHOED)], True),
        ([(16, ECHOED), (17, SILENT), (18, ECHOED), (19, ECHOED)], True),
        ([(16, GOOD), *[(17, ECHOED)] * 5], False),  # the others are there
        ([(16, GOOD), *[(17, ECHOED)] * 5, (16, ECHOED)], True),  # they were
        ([*[(17, ECHOED)] * 3, (17, GOOD)], False),
        ([*[(17, ECHOED)] * 3, (17, LineHeard(octets=40, echoes=1))], False),  # there is something
        ([(17, LineHeard(octets=40, frames=2, echoes=9))] * 5, False),
    ],
)
def test_a_line_that_gives_nothing_but_echoes_is_named(conversations: list[tuple[int, LineHeard]], echo: bool) -> None:
    watch = LineWatch("rs485", "HDLC")
    for address, heard in conversations:
        watch.conversation(address, heard)
    assert bool(watch.echo) == echo
    assert watch.trouble == watch.echo


def test_each_trouble_is_logged_when_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watch = LineWatch("rs485", "HDLC")
    for _ in range(2):
        for _ in range(50):
            watch.conversation(17, GARBLED)
        watch.conversation(16, GOOD)
        for _ in range(50):
            watch.conversation(17, DOUBLED)
        watch.conversation(17, GOOD)
    found = [getattr(record, "event", "") for record in caplog.records]
    assert found.count("port.garbage") == 1  # the second time others had been heard well: it is that address
    assert found.count("port.address.shared") == 3


def test_a_base_node_that_garbles_is_a_line_that_does() -> None:
    watch = LineWatch("plc0", "prime-usi")
    for _ in range(3):
        watch.noise(3)
    assert watch.garbage == ""
    for _ in range(3):
        watch.noise(30)
    assert "prime-usi" in watch.garbage
    watch.frame()
    assert watch.garbage == ""


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("AB", [""]),  # exchanged
        ("ABBB", [""]),
        ("ABC", ["", ""]),
        ("ABA", ["", "two"]),
        ("ABABA", ["", "two", "two"]),  # it goes on being known as B
        ("ABAAA", ["", "two", "two", ""]),  # A stayed: B is gone
    ],
)
def test_names_that_take_turns_are_two_meters_and_a_name_that_stays_is_an_exchange(names: str, told: list[str]) -> None:
    watch, known, said = LineWatch("rs485", "HDLC"), names[0], []
    for name in names:
        watch.named(17, name)
        if name != known:
            said.append(watch.renamed(17, known, name).partition(" ")[0])
            known = known if said[-1] else name
    assert said == told


def test_two_names_are_told_with_their_address() -> None:
    watch = LineWatch("rs485", "HDLC")
    watch.renamed(17, "A", "B")
    assert watch.renamed(17, "B", "A") == "two meters answer at address 17: A and B"
