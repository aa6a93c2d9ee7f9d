"""The table of units."""

from __future__ import annotations

from dlms.cosem import units


def test_every_unit_of_the_blue_book_has_a_symbol_and_a_name() -> None:
    reserved = {0, 58, 59, 68, 69, *range(73, 128), *range(175, 254)}
    numbers = {number for number in range(256) if units.symbol(number) is not None}
    assert numbers == set(range(256)) - reserved == set(units.SYMBOLS)
    assert numbers == {number for number in range(-1, 300) if units.name(number) is not None}


def test_symbols_and_names_are_those_of_the_blue_book() -> None:
    known = {7: "s", 8: "°", 27: "W", 30: "Wh", 33: "A", 35: "V", 40: "Wb", 41: "T", 44: "Hz", 45: "1/(Wh)",
             46: "1/(varh)", 47: "1/(VAh)", 56: "%", 70: "dBm", 128: "in", 131: "°F", 137: "ft³", 146: "Btu",
             255: ""}  # fmt: skip
    assert {code: units.symbol(code) for code in known} == known
    assert units.name(30) == "active energy, watt-hour"
    assert units.name(14) == "corrected volume, cubic metre"


def test_a_reserved_number_has_neither_symbol_nor_name() -> None:
    assert (units.symbol(58), units.name(58)) == (None, None)
