"""Profiles over lines that fail: rows one by one, none twice, none left out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.client.meter import Meter
from dlms.client.reading import ItemFailed
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject
from dlms.cosem.time import ClockPolicy, CosemDateTime
from dlms.errors import LinkError
from dlms.server.objects import CosemObject, constant
from dlms.server.profile import ProfileObject
from dlms.server.server import MeterServer
from dlms.xdlms.apdu.common import AccessError, Result
from tests.dlms.client.test_meter import Fault, Line

START = datetime(2026, 3, 1, tzinfo=UTC)
PROFILE = Obis.parse("1.0.99.1.0.255")
COLUMNS = [
    CaptureObject(AttributeRef(8, CLOCK_OBIS, 2)),
    CaptureObject(AttributeRef(1, Obis.parse("0.0.96.11.0.255"), 2)),
]
ROWS = 150


def minutes(at: int) -> datetime:
    return START + timedelta(minutes=at)


def profile(times: list[datetime], *, entries: int = 4000) -> ProfileObject:
    found = ProfileObject(PROFILE, COLUMNS, entries=entries)
    for number, when in enumerate(times):
        found.capture([axdr.octets(CosemDateTime.from_datetime(when).emit()), axdr.u16(number % 7)])
    return found


def meter(
    item: CosemObject, monkeypatch: pytest.MonkeyPatch, faults: list[Fault], **options: Any
) -> tuple[Meter, Line]:
    line = Line(MeterServer([item], pdu_size=200), "wrapper", faults)
    monkeypatch.setattr("dlms.client.meter.open_port", line)
    return Meter("loop://", link="wrapper", pdu_size=200, retry_pause_s=0, **options), line


def breaks(after: int) -> Fault:
    """The line is cut instead of the answer with this number."""
    return lambda number, data: None if number > after else data


def newest_first(source: ProfileObject) -> CosemObject:
    """The same profile in a meter that keeps the newest row in front."""
    ascending = source.item.readers[2]

    def descending(selection: Selection | None) -> Result:
        by_entry = selection is not None and selection.selector == 2
        found = ascending(None if by_entry else selection)
        if not isinstance(found, Data):
            return found
        rows = found.members()[::-1]
        if by_entry and selection is not None:
            first, last = (member.integer() for member in selection.parameters.members()[:2])
            rows = rows[first - 1 : last or None]
        return axdr.array(rows)

    source.item.readers[2] = descending
    source.item.readers[5] = constant(axdr.enum(2))
    return source.item


TIMES: dict[str, Callable[[], list[datetime]]] = {
    "ascending": lambda: [minutes(at) for at in range(ROWS)],
    "several in a second": lambda: [minutes(at // 5) for at in range(ROWS)],
    "all at once": lambda: [START] * ROWS,
    "clock set back": lambda: [minutes(at if at < 60 else at - 45) for at in range(ROWS)],
}


UNKNOWABLE = ("clock set back", "since")  # what is chosen by time is asked for by time
ANSWERS_BEFORE_ROWS = 2  # the association, and what the columns are


def expected(times: list[datetime]) -> list[tuple[datetime, int]]:
    return [(when, number % 7) for number, when in enumerate(times)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "chosen"),
    [(order, chosen) for order in TIMES for chosen in ("all", "since", "entries") if (order, chosen) != UNKNOWABLE],
)
def test_a_line_cut_at_any_answer_neither_loses_nor_repeats_a_row(
    order: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = TIMES[order]()
    options: dict[str, dict[str, Any]] = {"all": {}, "since": {"since": START}, "entries": {"entries": (1, 0)}}
    client, line = meter(profile(times).item, monkeypatch, [])
    assert [row.raw for row in client.profile(PROFILE, **options[chosen])] == expected(times)
    assert line.ports[0].answers > ANSWERS_BEFORE_ROWS + 12
    for cut in range(ANSWERS_BEFORE_ROWS, line.ports[0].answers):
        client, line = meter(profile(times).item, monkeypatch, [breaks(cut)])
        rows = [row.raw for row in client.profile(PROFILE, **options[chosen])]
        client.close()
        assert rows == expected(times), f"cut after answer {cut}"
        assert len(line.ports) == 2


def test_rows_the_other_way_round_are_all_given(monkeypatch: pytest.MonkeyPatch) -> None:
    times = TIMES["ascending"]()
    for cut in (1000, 4, 9, 15):
        for options in ({}, {"since": START, "until": minutes(ROWS)}, {"entries": (1, 0)}):
            client, line = meter(newest_first(profile(times)), monkeypatch, [breaks(cut)])
            rows = [row.raw for row in client.profile(PROFILE, **options)]
            client.close()
            assert rows == expected(times)[::-1]
            assert len(line.ports) == (1 if cut == 1000 else 2)


def test_after_a_cut_only_what_is_missing_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [])
    list(whole.profile(PROFILE, since=START))
    total = line.ports[0].read_octets
    client, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [breaks(22)])
    assert len(list(client.profile(PROFILE, since=START))) == ROWS
    assert sum(port.read_octets for port in line.ports) < total + 600


def test_rows_that_left_a_full_buffer_meanwhile_make_none_of_the_others_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    source = profile(TIMES["ascending"](), entries=ROWS)

    def rolls(number: int, data: bytes) -> bytes | None:
        if number <= 12:
            return data
        for at in range(5):
            source.capture([axdr.octets(CosemDateTime.from_datetime(minutes(ROWS + at)).emit()), axdr.u16(99)])
        return None

    client, _ = meter(source.item, monkeypatch, [rolls])
    rows = [row.raw[0] for row in client.profile(PROFILE)]
    assert rows == [minutes(at) for at in range(ROWS + 5)]


def test_rows_are_there_before_the_answer_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    client, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [])
    rows = iter(client.profile(PROFILE))
    next(rows)
    early = line.ports[0].answers
    assert len(list(rows)) == ROWS - 1
    assert line.ports[0].answers > early + 12


def test_another_call_in_the_middle_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = meter(profile(TIMES["ascending"]()).item, monkeypatch, [])
    found = []
    for row in client.profile(PROFILE):
        found.append(row.raw)
        if len(found) in (1, 40):
            assert client.read("7/1.0.99.1.0.255/7").value == ROWS
    assert found == expected(TIMES["ascending"]())
    one, two = client.profile(PROFILE), client.profile(PROFILE)
    assert [(a.raw, b.raw) for a, b in zip(one, two, strict=True)] == [(row, row) for row in found]


def test_a_call_that_finds_the_line_dead_leaves_the_failure_to_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    client, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [breaks(10)])
    rows = client.profile(PROFILE)
    found = [next(rows).raw]
    assert client.read("7/1.0.99.1.0.255/7").value == ROWS
    found += [row.raw for row in rows]
    assert found == expected(TIMES["ascending"]())
    assert len(line.ports) == 2


def test_rows_that_nobody_wants_any_more_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    client, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [])
    for _row in client.profile(PROFILE):
        break
    answers = line.ports[0].answers
    assert client.read("7/1.0.99.1.0.255/7").value == ROWS
    assert line.ports[0].answers <= answers + 2
    assert len(list(client.profile(PROFILE))) == ROWS


@pytest.mark.slow
def test_a_closed_meter_ends_its_rows_and_the_next_ones_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [])
    rows = client.profile(PROFILE)
    found = [next(rows).raw]
    client.close()
    found += [row.raw for row in rows]
    assert found == expected(TIMES["ascending"]())
    assert len(line.ports) == 2


def test_a_meter_that_ends_a_long_answer_is_asked_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = bytes((DataAccessResult.LONG_GET_ABORTED,))

    def fault(number: int, data: bytes) -> bytes:
        if number != 20:
            return data
        block = data[8:]
        assert block[:2] == b"\xc4\x02"
        answer = block[:3] + b"\x01" + block[4:8] + b"\x01" + aborted
        return data[:6] + len(answer).to_bytes(2, "big") + answer

    client, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [fault])
    assert [row.raw for row in client.profile(PROFILE)] == expected(TIMES["ascending"]())
    assert len(line.ports) == 1


def test_short_names_bring_rows_in_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    times = TIMES["ascending"]()
    for cut in (1000, 9, 14, 18):
        server = MeterServer([profile(times).item], pdu_size=200, short_names=True)
        line = Line(server, "wrapper", [breaks(cut)])
        monkeypatch.setattr("dlms.client.meter.open_port", line)
        client = Meter("loop://", link="wrapper", pdu_size=200, retry_pause_s=0, short_names=True)
        rows = client.profile(PROFILE)
        found = [next(rows).raw]
        early = line.ports[0].answers
        found += [row.raw for row in rows]
        assert found == expected(times)
        assert early < 8
        assert len(line.ports) == (1 if cut == 1000 else 2)


def test_a_meter_that_does_not_know_entries_goes_on_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    source = profile(TIMES["ascending"]())
    whole = source.item.readers[2]

    def only_ranges(selection: Selection | None) -> Result:
        entries = selection is not None and selection.selector == 2
        return AccessError(DataAccessResult.OTHER_REASON) if entries else whole(selection)

    source.item.readers[2] = only_ranges
    client, _ = meter(source.item, monkeypatch, [breaks(15)])
    assert [row.raw for row in client.profile(PROFILE)] == expected(TIMES["ascending"]())
    with pytest.raises(ItemFailed, match="other-reason"):
        list(client.profile(PROFILE, entries=(1, 5)))


def test_a_line_that_stays_dead_is_told_after_the_rows_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    client, line = meter(profile(TIMES["ascending"]()).item, monkeypatch, [breaks(15), *[breaks(1)] * 9])
    found = []
    with pytest.raises(LinkError):
        for row in client.profile(PROFILE):
            found.append(row.raw)  # noqa: PERF401 - what came before the failure is the point
    assert 0 < len(found) < ROWS
    assert found == expected(TIMES["ascending"]())[: len(found)]
    assert len(line.ports) == 4


def test_a_meter_that_knows_only_its_local_time_is_asked_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meter is in Seoul, with a daylight saving hour, and its deviation means nothing."""
    policy = ClockPolicy(deviation_sign=0, utc_offset_minutes=540)
    source = ProfileObject(PROFILE, COLUMNS)
    for at in range(48):
        clock = CosemDateTime.from_instant(minutes(60 * at), policy, dst=at >= 24)
        source.capture([axdr.octets(clock.emit()), axdr.u16(at)])
    client, _ = meter(source.item, monkeypatch, [], clock=policy)
    for first, last in ((0, 3), (10, 13), (22, 26), (30, 40), (47, 47)):
        rows = list(client.profile(PROFILE, since=minutes(60 * first), until=minutes(60 * last)))
        assert [row.raw[1] for row in rows] == list(range(first, last + 1))
        assert [row.time for row in rows] == [minutes(60 * at) for at in range(first, last + 1)]


def test_an_end_without_a_beginning_is_a_range_too(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = meter(profile(TIMES["ascending"]()).item, monkeypatch, [])
    assert [row.raw for row in client.profile(PROFILE, until=minutes(3))] == expected(TIMES["ascending"]())[:4]
