"""The registry of data links."""

from __future__ import annotations

import pytest

from dlms.errors import LocalError
from dlms.link.datalink import ApduReceived, LinkEvent, LinkUp
from dlms.link.options import LinkOptions
from dlms.link.registry import DATA_LINKS, data_link, open_link


@pytest.mark.parametrize("name", DATA_LINKS)
def test_every_link_is_made_from_the_common_options_and_connects(name: str) -> None:
    assert data_link(name).name == name
    link = open_link(name, LinkOptions(client=1, server=1, timeout_s=3.0))
    link.connect(0.0)
    assert link.take_output() or isinstance(link.next_event(), LinkUp)


@pytest.mark.parametrize("name", DATA_LINKS)
def test_a_server_that_is_no_address_is_refused_by_every_link(name: str) -> None:
    with pytest.raises(LocalError):
        open_link(name, LinkOptions(server="upper"))


@pytest.mark.parametrize("name", [link.name for link in DATA_LINKS.values() if link.serve and link.on_port])
def test_a_meter_served_over_a_link_hears_the_client_of_that_link(name: str) -> None:
    kind = data_link(name)
    assert kind.serve is not None
    client, meter = kind.open(LinkOptions(client=16, server=1)), kind.serve(LinkOptions(server=1))
    meter.connect(0.0)
    client.connect(0.0)
    heard: list[LinkEvent] = []
    for turn in range(6):
        meter.receive(client.take_output(), float(turn))
        heard += iter(meter.next_event, None)
        client.receive(meter.take_output(), float(turn))
        for event in iter(client.next_event, None):
            if isinstance(event, LinkUp):
                client.send(b"\xc0 an APDU", float(turn))
    assert [event.apdu for event in heard if isinstance(event, ApduReceived)] == [b"\xc0 an APDU"]
    assert meter.client == 16


@pytest.mark.parametrize("name", ["wrapper", "wrapper-udp", "llc"])
def test_only_a_meter_on_hdlc_has_two_addresses(name: str) -> None:
    serve = data_link(name).serve
    assert serve is not None
    with pytest.raises(LocalError, match="only HDLC"):
        serve(LinkOptions(server="1/17"))


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(LocalError, match="hdlc, wrapper, wrapper-udp, llc"):
        open_link("smoke-signals", LinkOptions())


def test_the_time_of_an_octet_follows_from_the_speed() -> None:
    assert LinkOptions(baudrate=9600).octet_s == pytest.approx(10 / 9600)
    assert LinkOptions().octet_s == 0.0
