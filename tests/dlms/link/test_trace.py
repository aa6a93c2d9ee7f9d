"""Traces: written, read, explained and played back."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest

from dlms.errors import DecodeError, LinkError, LocalError
from dlms.link.datalink import ApduReceived
from dlms.link.hdlc.primary import HdlcClientLink, HdlcServerLink
from dlms.link.trace import HEADER, ReplayPort, TraceLine, TraceWriter, parse_trace, read_trace


def test_what_was_written_is_read_again_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    times = iter([10.0])
    writer = TraceWriter(path, lambda: next(times))
    writer.note(">", 10.0, b"\x7e\x01")
    writer.note("<", 10.25, b"\x7e\x02")
    assert read_trace(path) == [TraceLine(0.0, True, b"\x7e\x01"), TraceLine(0.25, False, b"\x7e\x02")]  # noqa: FBT003
    writer.close()
    writer.note(">", 11.0, b"late")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(read_trace(path)) == 2


def test_comments_and_empty_lines_mean_nothing() -> None:
    assert parse_trace(f"{HEADER}\n\n# a note\n0.5 > 7E\n") == [TraceLine(0.5, sent=True, data=b"\x7e")]


@pytest.mark.parametrize("text", ["", "0.5 > 7e", f"{HEADER}\n0.5 7e", f"{HEADER}\n0.5 > 7", f"{HEADER}\n0.5 > zz"])
def test_what_is_no_trace_is_an_error_with_its_line(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_trace(text)


def test_a_file_that_is_not_there_is_a_local_error(tmp_path: Path) -> None:
    with pytest.raises(LocalError):
        read_trace(tmp_path / "none")


def test_random_text_is_a_trace_or_a_decode_error() -> None:
    pick = random.Random(1)
    for _ in range(500):
        body = "".join(pick.choice("0123456789.abcf<> \n#") for _ in range(60))
        try:
            parse_trace(f"{HEADER}\n{body}")
        except DecodeError as error:
            assert error.what == "trace"  # noqa: PT017


def record() -> list[TraceLine]:
    """A conversation of two links."""
    client, server = HdlcClientLink(17, 1), HdlcServerLink(1)
    lines: list[TraceLine] = []
    client.connect(0.0)
    for step in range(20):
        output = client.take_output()
        if output:
            lines.append(TraceLine(step, sent=True, data=output))
            server.receive(output, step)
        while (event := server.next_event()) is not None:
            if isinstance(event, ApduReceived):
                server.send(event.apdu[::-1] * 30, step)
        answer = server.take_output()
        if answer:
            lines.append(TraceLine(step, sent=False, data=answer))
            client.receive(answer, step)
        while (event2 := client.next_event()) is not None:
            if isinstance(event2, ApduReceived):
                client.disconnect(step)
            elif step == 0:
                client.send(b"request", step)
    return lines


def replay(port: ReplayPort, request: bytes) -> list[bytes]:
    """The same conversation against the trace."""
    client = HdlcClientLink(17, 1)
    client.connect(0.0)
    got: list[bytes] = []
    while True:
        output = client.take_output()
        if output:
            port.write(output[:3])
            port.write(output[3:])
        data = port.read(1.0)
        if data is None:
            return got
        client.receive(data, 0.0)
        while (event := client.next_event()) is not None:
            if isinstance(event, ApduReceived):
                got.append(event.apdu)
                client.disconnect(0.0)
            elif not got and client.state.name == "READY":
                client.send(request, 0.0)


def test_a_trace_is_played_back_to_a_client_that_says_the_same() -> None:
    assert replay(ReplayPort(record(), lambda _: None), b"request") == [b"request"[::-1] * 30]


def test_a_client_that_says_something_else_is_told_where() -> None:
    with pytest.raises(LinkError, match="the trace has"):
        replay(ReplayPort(record(), lambda _: None), b"another")


def test_silence_in_a_trace_is_waited_for() -> None:
    waited: list[float] = []
    lines = [TraceLine(0.0, sent=True, data=b"a"), TraceLine(3.0, sent=True, data=b"b")]
    port = ReplayPort(lines, waited.append)
    port.write(b"a")
    assert port.read(2.5) == b""
    assert waited == [2.5]
    port.write(b"b")
    assert port.read(1.0) is None
