"""Interface classes, the OBIS dictionary, and profiles to typed rows."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from dlms import axdr
from dlms.axdr import Data, Tag, TypeDescription
from dlms.cosem.classes import attribute_name, interface_class
from dlms.cosem.dictionary import describe, usual_class
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import (
    CLOCK_OBIS,
    UNRESOLVED,
    CaptureObject,
    Row,
    RowDecoder,
    RowStream,
    TypedRow,
    Unresolved,
    by_entry,
    by_range,
    columns_of,
    row_step_s,
)
from dlms.cosem.scaler_unit import scaler_ref
from dlms.cosem.time import ClockPolicy, CosemDateTime
from dlms.errors import DecodeError, DlmsError, LocalError
from tests.dlms.client.test_session import ROWS
from tests.dlms.cosem.every_class import every_class
from tests.dlms.random_data import random_data
from tests.dlms.xdlms.test_app_fuzz import mutate


def test_the_table_has_every_class_a_head_end_meets() -> None:
    wanted = {1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 17, 18, 20, 21, 22, 23, 40, 64, 70, 71, 72}
    assert {found.class_id for found in every_class()} >= wanted


def test_a_class_is_given_in_the_version_asked_for_or_the_one_before() -> None:
    versions = [(None, 3), (0, 0), (1, 1), (2, 2), (3, 3), (9, 3)]
    for asked, given in versions:
        found = interface_class(15, asked)
        assert found is not None
        assert found.version == given
    assert interface_class(9999) is None
    found = interface_class(70)
    assert found is not None
    assert found.methods[1].name == "remote_disconnect"
    assert found.attributes[2].tag is Tag.BOOLEAN
    assert found.attributes[1].name == "logical_name"


def test_the_scaler_of_a_class_is_where_the_table_says() -> None:
    for found in every_class():
        where = next((n for n, member in found.attributes.items() if member.type_name == "@scal_unit"), None)
        if where is not None:
            ref = scaler_ref(AttributeRef(found.class_id, CLOCK_OBIS, 2))
            assert ref is not None
            assert ref.attribute == where


def test_names_of_attributes_and_codes() -> None:
    assert attribute_name(3, 3) == "scaler_unit"
    assert attribute_name(3, 77) == "attribute_77"
    assert attribute_name(999, 1) == "logical_name"
    assert describe(Obis.parse("1.0.1.8.2.101")) == "active energy +, tariff 2, billing period 101"
    assert describe(Obis.parse("1.0.32.7.0.255")) == "voltage L1, instantaneous"
    assert describe(Obis.parse("1.0.41.7.0.255")) == "active power + L2, instantaneous"
    assert describe(Obis.parse("1.1.1.8.0.255")) == "active energy +, channel 1"
    assert describe(Obis.parse("0.0.1.0.0.255")) == "clock"


CODES = """
1.0.1.29.0.255 3 active energy +, of the interval
1.0.21.8.0.255 3 active energy + L1
1.0.36.7.0.255 3 active power net L1, instantaneous
1.0.1.6.0.255 4 active power +, maximum
1.0.13.7.0.255 3 power factor, instantaneous
1.0.33.9.0.255 3 power factor L1, energy of the billing period
1.0.32.7.3.255 3 voltage L1, instantaneous, harmonic 3
1.0.1.5.0.255 5 active power +, last average
1.0.81.7.15.255 3 phase angle of I L2 to U L2
1.0.81.7.38.255 3
1.0.32.31.0.255 3 voltage L1, threshold under
1.0.0.0.4.255 1 electricity id
1.0.0.6.0.255 3 nominal voltage
1.0.0.1.0.255 1 billing period counter
1.0.96.5.0.255 1 operating status
1.0.98.1.0.101 7 billing profile, billing period 101
1.0.99.1.0.255 7 load profile 1
1.0.200.7.0.255 3
0.0.96.1.4.255 1 device id 5
0.0.96.8.3.255 3 operating time, tariff 3
0.1.24.2.1.255 4 M-Bus value, channel 1
0.0.10.0.7.255 9 script
0.0.16.1.2.255 21 alarm monitor
0.0.28.7.0.255 86 PRIME applications identification
0.0.25.9.0.255 40 push setup
0.0.43.1.0.255 1 invocation counter
0.0.40.0.2.255 15 association
0.0.222.0.0.255 1
7.0.3.1.0.255 3 gas volume
7.0.99.98.0.255 7 gas event log
6.0.8.0.0.255 3 heat power
5.0.1.0.0.255 3 cooling energy
8.0.1.0.0.255 3 cold water volume
4.0.2.0.0.255 3 heat cost rated integral
7.0.0.2.0.255 1 gas active firmware id
15.0.1.0.0.255 3
"""


@pytest.mark.parametrize("line", CODES.strip().splitlines())
def test_codes_of_every_medium_have_a_name_and_a_class(line: str) -> None:
    code, class_id, *name = line.split(" ", 2)
    assert describe(Obis.parse(code)) == "".join(name)
    assert usual_class(Obis.parse(code)) == int(class_id)


def test_any_code_is_described_without_fail_and_its_class_is_known() -> None:
    chance = random.Random(67)
    known = {found.class_id for found in every_class()} | {30, 46, 68, 100, 111, 112, 113, 115, 122, 124}
    for _ in range(20_000):
        code = Obis(bytes((chance.randrange(10), 0, *chance.randbytes(2), chance.choice((0, 1, 255)), 255)))
        assert "  " not in describe(code)
        assert usual_class(code) in known


def test_every_code_of_the_reading_list_has_a_name_and_its_class() -> None:
    for row in ROWS:
        assert describe(row.obis), row
        assert usual_class(row.obis) == row.class_id, row


CLOCK = CaptureObject(AttributeRef(8, CLOCK_OBIS, 2))
COLUMNS = (CLOCK, *(CaptureObject(AttributeRef(3, Obis(bytes((1, 0, c, 8, 0, 255))), 2)) for c in (1, 2)))
START = datetime(2026, 1, 1, tzinfo=UTC)


def clock(at: int) -> Data:
    return axdr.octets(CosemDateTime.from_datetime(START + timedelta(minutes=15 * at)).emit())


def buffer(rows: int) -> bytes:
    return axdr.array(axdr.structure(clock(at), axdr.u32(at), axdr.i16(-at)) for at in range(rows)).emit()


def plain(rows: int) -> list[Row]:
    return [(START + timedelta(minutes=15 * at), at, -at) for at in range(rows)]


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 65, 127, 128, 700])
def test_a_buffer_becomes_typed_rows(rows: int) -> None:
    assert RowDecoder(COLUMNS).decode(buffer(rows)) == plain(rows)


def test_a_decoder_keeps_what_it_learned_for_the_next_block() -> None:
    decoder = RowDecoder(COLUMNS)
    assert decoder.decode(buffer(3)) + decoder.decode(buffer(5)) == plain(3) + plain(5)


def test_times_left_out_follow_from_the_capture_period() -> None:
    rows = [axdr.structure(clock(at) if at % 4 == 0 else axdr.null(), axdr.u32(at), axdr.i16(-at)) for at in range(50)]
    assert RowDecoder(COLUMNS, period_s=900).decode(axdr.array(rows).emit()) == plain(50)
    assert RowDecoder(COLUMNS).decode(axdr.array(rows[:2]).emit())[1] == (UNRESOLVED, 1, -1), "no period is known"
    assert RowDecoder(COLUMNS, period_s=900).decode(axdr.array(rows[1:3]).emit()) == [
        (None, 1, -1),
        (UNRESOLVED, 2, -2),
    ]


BOUNDS = {15: (-(2**7), 2**7 - 1), 16: (-(2**15), 2**15 - 1), 17: (0, 2**8 - 1), 18: (0, 2**16 - 1),
          5: (-(2**31), 2**31 - 1), 6: (0, 2**32 - 1), 20: (-(2**63), 2**63 - 1), 21: (0, 2**64 - 1)}  # fmt: skip


def recovered(rows: list[Data]) -> list[TypedRow]:
    """Member by member: null-data is the value before, a delta is added to it (BB 4.3.6)."""
    found: list[TypedRow] = []
    for row in rows:
        cells: list[Data | Unresolved] = list(row.members())
        before = found[-1] if found else ()
        for at, member in enumerate(row.members()):
            base = before[at] if at < len(before) else None
            if member.tag == Tag.NULL and base is not None:
                cells[at] = base
            elif 28 <= member.tag <= 33:
                cells[at] = UNRESOLVED
                if isinstance(base, Data) and base.tag in BOUNDS:
                    low, high = BOUNDS[base.tag]
                    total = base.integer() + member.integer()
                    cells[at] = Data(base.tag, total) if low <= total <= high else UNRESOLVED
        found.append(tuple(cells))
    return found


def values_of(rows: list[TypedRow]) -> list[Row]:
    return [tuple([cell.value if isinstance(cell, Data) else cell for cell in row]) for row in rows]


def test_null_and_delta_stand_for_what_follows_from_the_row_before() -> None:
    rows = [
        axdr.structure(clock(0), axdr.u32(1000), axdr.u16(7)),
        axdr.structure(axdr.null(), Data(Tag.DELTA_UNSIGNED, 5), axdr.null()),
        axdr.structure(axdr.null(), Data(Tag.DELTA_UNSIGNED, 6), axdr.null()),
        axdr.structure(axdr.null(), Data(Tag.DELTA_LONG, -11), axdr.u16(9)),
    ]
    at = [START + timedelta(minutes=15 * number) for number in range(4)]
    expected = [(at[0], 1000, 7), (at[1], 1005, 7), (at[2], 1011, 7), (at[3], 1000, 9)]
    decoder = RowDecoder(COLUMNS, period_s=900)
    encoded = axdr.array(rows).emit()
    assert decoder.decode(encoded) == expected
    assert decoder.decode(encoded) == expected, "with the shapes known"


def test_a_row_s_time_stamp_is_the_same_whether_it_was_said_or_worked_out() -> None:
    """The head-end takes rows of one reading for those of another by what their time stamps say."""
    said, later = (bytes.fromhex(f"07ea0a1806{at}00008000ff") for at in ("102d", "1100"))
    decoder = RowDecoder(COLUMNS, period_s=900)
    whole = [axdr.structure(axdr.octets(stamp), axdr.u32(1), axdr.u16(7)) for stamp in (said, later)]
    short = [whole[0], axdr.structure(axdr.null(), axdr.null(), axdr.null())]
    assert decoder.decode(axdr.array(short).emit()) == decoder.decode(axdr.array(whole).emit())
    assert decoder.last_clock == later


@pytest.mark.parametrize("size", [1, 2, 7, 100, 5000])
def test_rows_are_given_as_soon_as_they_are_whole(size: int) -> None:
    encoded = buffer(70)
    stream = RowStream(RowDecoder(COLUMNS))
    rows: list[Row] = []
    for at in range(0, len(encoded), size):
        rows += stream.feed(encoded[at : at + size])
        assert len(rows) >= (min(at + size, len(encoded)) - 2) // 24 - 1
    assert rows + stream.finish() == plain(70)


@pytest.mark.slow
def test_a_stream_of_rows_ends_like_the_whole_buffer() -> None:
    chance = random.Random(23)
    compact = axdr.compact(TypeDescription(Tag.STRUCTURE, 0, (TypeDescription(Tag.UNSIGNED),)), [])
    seeds = [buffer(4), buffer(70), axdr.null().emit(), compact.emit()]
    for _ in range(2000):
        data = mutate(chance, chance.choice(seeds)) if chance.random() < 0.8 else chance.choice(seeds)
        try:
            expected: list[Row] | None = RowDecoder(COLUMNS).decode(data)
        except DlmsError:
            expected = None
        stream, rows = RowStream(RowDecoder(COLUMNS)), []
        try:
            at = 0
            while at < len(data):
                step = chance.randrange(1, 40)
                rows += stream.feed(data[at : at + step])
                at += step
            rows += stream.finish()
        except DlmsError:
            assert expected is None
        else:
            assert rows == expected


@pytest.mark.slow
def test_any_mixture_of_shapes_reads_as_member_by_member() -> None:
    chance = random.Random(5)
    kinds = [[random_data(chance) for _ in range(chance.randrange(1, 4))] for _ in range(25)]
    for _ in range(60):
        rows: list[Data] = []
        while len(rows) < 200:
            rows += [axdr.structure(*chance.choice(kinds))] * chance.choice((1, 1, 2, 9, 70))
        assert RowDecoder(COLUMNS[1:]).decode(axdr.array(rows).emit()) == values_of(recovered(rows))


WIDTHS = [(Tag.DELTA_INTEGER, -(2**7), 2**7 - 1), (Tag.DELTA_LONG, -(2**15), 2**15 - 1),
          (Tag.DELTA_DOUBLE_LONG, -(2**31), 2**31 - 1), (Tag.DELTA_UNSIGNED, 0, 2**8 - 1),
          (Tag.DELTA_LONG_UNSIGNED, 0, 2**16 - 1), (Tag.DELTA_DOUBLE_LONG_UNSIGNED, 0, 2**32 - 1)]  # fmt: skip


@pytest.mark.parametrize(("tag", "low", "high"), WIDTHS)
def test_a_delta_of_every_width_is_added_and_the_sum_has_the_register_s_type(tag: Tag, low: int, high: int) -> None:
    decoder = RowDecoder(COLUMNS[1:2])
    for step in (low, -1 if low else 0, 0, 1, high):
        rows = axdr.array([axdr.structure(axdr.u64(2**40)), axdr.structure(Data(tag, step))])
        decoder.restart()
        assert decoder.typed(rows) == [(axdr.u64(2**40),), (axdr.u64(2**40 + step),)]
        assert decoder.decode(rows.emit()) == [(2**40,), (2**40 + step,)]


def delta(step: int) -> Data:
    return Data(Tag.DELTA_INTEGER, step)


@pytest.mark.parametrize(
    ("base", "step"),
    [(axdr.u32(2**32 - 1), 1), (axdr.u32(0), -1), (axdr.i16(32_767), 1), (axdr.null(), 1), (axdr.enum(1), 1),
     (axdr.octets(b"5"), 1), (axdr.decode(b"\x03\x01"), 1), (Data(Tag.BCD, 9), 1)],
)  # fmt: skip
def test_a_delta_that_makes_no_value_is_never_a_number(base: Data, step: int) -> None:
    rows = axdr.array([axdr.structure(cell) for cell in (base, delta(step), axdr.null(), delta(0), axdr.u32(7))])
    decoder = RowDecoder(COLUMNS[1:2])
    assert decoder.typed(rows) == [(base,), *[(UNRESOLVED,)] * 3, (axdr.u32(7),)]
    assert decoder.decode(rows.emit())[1:] == [*[(UNRESOLVED,)] * 3, (7,)]


def test_the_first_row_of_an_answer_follows_the_row_that_the_decoder_was_told_of() -> None:
    nulls = [axdr.null()] * 3
    rows = axdr.array([axdr.structure(axdr.null(), delta(5), axdr.null()), axdr.structure(*nulls)])
    decoder = RowDecoder(COLUMNS, period_s=900)
    decoder.resume((clock(3), axdr.u32(100), axdr.i16(-3)))
    found = decoder.typed(rows)
    assert [row[1:] for row in found] == [(axdr.u32(105), axdr.i16(-3))] * 2
    times = [CosemDateTime.parse(row[0].octets()).to_datetime() for row in found if isinstance(row[0], Data)]
    assert times == [START + timedelta(minutes=15 * at) for at in (4, 5)]
    decoder.resume(None, clock(3).octets())
    assert decoder.typed(rows) == [(found[at][0], UNRESOLVED, UNRESOLVED) for at in (0, 1)]
    decoder.resume(None)
    assert decoder.typed(rows) == [(UNRESOLVED,) * 3] * 2


@pytest.mark.slow
def test_typed_rows_are_those_of_any_mixture_member_by_member() -> None:
    chance = random.Random(6)
    for _ in range(300):
        width = chance.randrange(1, 5)
        columns = tuple([COLUMNS[1]] * width)
        rows = [axdr.structure(*[random_data(chance) for _ in range(width)]) for _ in range(chance.randrange(1, 30))]
        decoder = RowDecoder(columns)
        assert decoder.typed(axdr.array(rows)) == recovered(rows)
    with pytest.raises(DecodeError):
        RowDecoder(COLUMNS).typed(axdr.array([axdr.structure(clock(0), axdr.u32(1))]))


def test_a_compact_array_gives_the_same_rows() -> None:
    types = [TypeDescription(tag) for tag in (Tag.OCTET_STRING, Tag.DOUBLE_LONG_UNSIGNED, Tag.LONG)]
    rows = [axdr.structure(clock(at), axdr.u32(at), axdr.i16(-at)) for at in range(30)]
    compact = axdr.compact(TypeDescription(Tag.STRUCTURE, 0, tuple(types)), rows)
    assert RowDecoder(COLUMNS).decode(compact.emit()) == plain(30)
    assert [row[1:] for row in RowDecoder(COLUMNS).typed(compact)] == [
        (axdr.u32(at), axdr.i16(-at)) for at in range(30)
    ]
    deltas = axdr.compact(
        TypeDescription(Tag.STRUCTURE, 0, (TypeDescription(Tag.DELTA_INTEGER),)), [axdr.structure(delta(2))]
    )
    decoder = RowDecoder(COLUMNS[1:2])
    decoder.resume((axdr.u32(5),))
    assert decoder.typed(deltas) == [(axdr.u32(7),)]
    assert RowDecoder(COLUMNS).decode(axdr.null().emit()) == []


def test_the_clock_column_follows_the_meters_policy() -> None:
    summer = axdr.octets(bytes.fromhex("07ea0616020e1e0f00ff8880"))
    row = axdr.array([axdr.structure(summer, axdr.u32(1), axdr.i16(1))]).emit()
    assert RowDecoder(COLUMNS).decode(row)[0][0] == datetime(2026, 6, 22, 12, 30, 15, tzinfo=UTC)
    policy = ClockPolicy(deviation_sign=-1)
    assert RowDecoder(COLUMNS, policy).decode(row)[0][0] == datetime(2026, 6, 22, 16, 30, 15, tzinfo=UTC)
    unknown = axdr.octets(bytes.fromhex("07ea0616020e1e0f008000ff"))
    row = axdr.array([axdr.structure(unknown, axdr.u32(1), axdr.i16(1))]).emit()
    assert isinstance(RowDecoder(COLUMNS).decode(row)[0][0], CosemDateTime)
    odd = axdr.octets(bytes.fromhex("07ea0230ffffffffff8000ff"))
    row = axdr.array([axdr.structure(odd, axdr.u32(1), axdr.i16(1))]).emit()
    assert isinstance(RowDecoder(COLUMNS).decode(row)[0][0], CosemDateTime)
    text = axdr.array([axdr.structure(axdr.octets(b"no time"), axdr.u32(1), axdr.i16(1))]).emit()
    assert RowDecoder(COLUMNS).decode(text)[0][0] == b"no time"


def test_fractions_of_a_second_and_odd_deviations_are_kept() -> None:
    when = axdr.octets(bytes.fromhex("07ea0616020e1e0f32ffc800"))
    row = axdr.array([axdr.structure(when, axdr.u32(1), axdr.i16(1))]).emit()
    assert RowDecoder(COLUMNS).decode(row)[0][0] == datetime(2026, 6, 22, 13, 34, 15, 500_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "encoded", ["", "01", "0184ffffffff", "0101", "010111", "010111 05", "0601020304", "01010201", "0100 00"]
)
def test_what_is_no_buffer_is_a_decode_error(encoded: str) -> None:
    with pytest.raises(DecodeError):
        RowDecoder(COLUMNS).decode(bytes.fromhex(encoded.replace(" ", "")))


@pytest.mark.slow
def test_damaged_buffers_give_rows_or_an_error() -> None:
    chance = random.Random(19)
    seeds = [buffer(4), buffer(70), axdr.array([axdr.structure(axdr.null(), axdr.u8(1))] * 9).emit()]
    for _ in range(3000):
        try:
            RowDecoder(COLUMNS, period_s=900).decode(mutate(chance, chance.choice(seeds)))
        except DlmsError:
            continue


def test_capture_objects_both_ways() -> None:
    assert columns_of(axdr.array([column.data() for column in COLUMNS])) == COLUMNS
    for wrong in (axdr.u8(1), axdr.array([axdr.u8(1)]), axdr.array([axdr.structure(axdr.u8(1))])):
        with pytest.raises(DecodeError):
            columns_of(wrong)
    with pytest.raises(LocalError):
        CaptureObject.of(axdr.structure(*[axdr.u8(1)] * 4))


def test_selections_are_those_of_the_standard() -> None:
    assert by_entry(1, 5).emit().hex() == "02" + "0204" + "0600000001" + "0600000005" + "120001" + "120000"
    column = "0204" + "120008" + "09060000010000ff" + "0f02" + "120000"
    selection = by_range(CLOCK, axdr.u32(1), axdr.u32(2), [CLOCK])
    assert selection.emit().hex() == "01" + "0204" + column + "0600000001" + "0600000002" + "0101" + column
    begin, end = (axdr.octets(CosemDateTime.from_datetime(START + timedelta(days=days)).emit()) for days in (0, 1))
    times = by_range(CLOCK, begin, end).emit().hex()
    first, last = "090c07ea010104000000000000" + "00", "090c07ea010205000000000000" + "00"
    assert times == "01" + "0204" + column + first + last + "0100"


@pytest.mark.parametrize(
    ("sort_method", "times"), [(1, ["00:00", "00:15"]), (2, ["00:00", "23:45"]), (3, ["00:00", "unresolved"])]
)
def test_a_time_that_is_left_out_follows_the_order_of_the_buffer(sort_method: int, times: list[str]) -> None:
    columns = (CaptureObject(AttributeRef(8, CLOCK_OBIS, 2)),)
    clock = CosemDateTime.of("2027-01-15 00:00").emit()
    rows = axdr.array([axdr.structure(axdr.octets(clock)), axdr.structure(axdr.null())])
    cells = [row[0] for row in RowDecoder(columns, period_s=row_step_s(sort_method, 900)).typed(rows)]
    texts = [str(CosemDateTime.parse(cell.octets())) if isinstance(cell, Data) else str(cell) for cell in cells]
    assert [text[11:16] if ":" in text else text for text in texts] == times
