"""The time in a header of the DM server."""

from __future__ import annotations

import pytest

from omadm.server_time import time_in, time_text
from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.messages import Meta, SyncHdr, SyncML


@pytest.mark.parametrize("seconds", [0.0, 1.5, 1_800_000_000.0, 1_800_000_000.123, 32_503_680_000.0])
def test_what_is_written_is_read(seconds: float) -> None:
    assert time_in(("other", time_text(seconds))) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "dcu-time=", "dcu-time=-1", "dcu-time=1e9", "dcu-time=1.2345", " dcu-time=1", "dcu-time=1 "),
        *("dcu-time=nan", "dcu-time=" + "9" * 12, "dcu-time=\u0661", "time=1", "dcu-time=1\n"),
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert time_in((text,)) is None


@pytest.mark.parametrize("content_type", [DM_WBXML, DM_XML])
def test_it_goes_where_the_standard_has_what_others_need_not_understand(content_type: str) -> None:
    meta = Meta(max_msg_size=1024, max_obj_size=2048, emi=("dcu-time=1800000000.250", "another"))
    message = SyncML(SyncHdr("1", 1, "urn:dcu:1", "https://dm.example/dm", meta=meta))
    assert decode(encode(message, content_type), content_type).hdr.meta == meta
    if content_type == DM_XML:
        assert b"2048</MaxObjSize><EMI" in encode(message, content_type)
