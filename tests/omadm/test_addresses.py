"""What no door takes as an address, and what it says of it."""

from __future__ import annotations

import pytest

from omadm.addresses import AddressError, check_address

NO_ADDRESSES = {
    "https://dm.example/a b": "holds a space",
    " https://dm.example/": "holds a space",
    "https://dm.example/ ": "holds a space",
    "https://dm .example/": "holds a space",
    "https://dm.example/\tdm": "holds a control character",
    "https://dm.example/\n": "holds a control character",
    "https://dm.exam\x00ple/": "holds a control character",
    "https://dm.example/\x7f": "holds a control character",
    "https://dm.example/\u2028": "holds a control character",
    "https://dm.example/\u00a0": "holds a control character",
    "https://dm.example/dm#": "has a fragment (#)",
    "https://dm.example/#there?x=1": "has a fragment (#)",
    "": "is empty",
    "dm.example": "is no https URL",
    "ftp://dm.example/": "is no https URL",
    "https:///dm": "is no URL with a host and a port that exist",
    "https://h:0/dm": "is no URL with a host and a port that exist",
    "https://h:99999/dm": "is no URL with a host and a port that exist",
    "https://[::1/dm": "is no URL with a host and a port that exist",
}
"""Addresses of no server, and why."""
UNUSABLE = {
    "space": ("https://dm.example/a b", "holds a space"),
    "control character": ("https://dm.example/\tdm", "holds a control character"),
    "fragment": ("https://dm.example/dm#top", "has a fragment"),
}


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(AddressError) as refused:
        check_address(text)
    assert str(refused.value) == NO_ADDRESSES[text]


@pytest.mark.parametrize(
    "text",
    ["https://h", "https://dm.example:8443/dm?x=%20&y=%23", "https://[2001:db8::1]/", "https://d\u00fc.example/dm"],
)
def test_what_is_one_is_taken(text: str) -> None:
    check_address(text)


def test_what_else_may_be_asked_of_one() -> None:
    check_address("http://u@h/", ("http", "https"), ascii_max=12)
    check_address("coap://h", ())
    for text, why in (
        ("ftp://h/", "is no http or https URL"),
        ("http://u@h/", "names a user"),
        ("http://h/\u00fc", "not ASCII"),
        ("http://h/" + "x" * 300, "more than 255 characters"),
    ):
        with pytest.raises(AddressError, match=why):
            check_address(text, ("http", "https"), user=False, ascii_max=255)
