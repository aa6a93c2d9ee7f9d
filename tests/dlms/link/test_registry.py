"""The registry of data links."""

from __future__ import annotations

import pytest

from dlms.errors import LocalError
from dlms.link.datalink import LinkUp
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


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(LocalError, match="hdlc, wrapper, llc"):
        open_link("smoke-signals", LinkOptions())


def test_the_time_of_an_octet_follows_from_the_speed() -> None:
    assert LinkOptions(baudrate=9600).octet_s == pytest.approx(10 / 9600)
    assert LinkOptions().octet_s == 0.0
