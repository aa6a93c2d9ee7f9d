"""Download descriptors: liberal in form, strict in what they hand on."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET

import pytest

from omadm import descriptor as dd
from omadm.descriptor import Descriptor, DescriptorError, Report

FULL = Descriptor(
    types=("application/x-swu", "application/octet-stream"),
    size=12,
    object_uri="https://h/o?a=1&b=2",
    install_notify_uri="https://h/n",
    dd_version="1.0",
    name="Firmware ä <2>",
    description="d",
    vendor="v",
)


def xml(*elements: str, root: str = "media") -> bytes:
    return f'<{root} xmlns="http://www.openmobilealliance.org/xmlns/dd">{"".join(elements)}</{root}>'.encode()


GOOD = ("<type>a/b</type>", "<size>5</size>", "<objectURI>https://h/o</objectURI>")


def test_what_is_emitted_parses_back() -> None:
    assert dd.parse(FULL.emit()) == FULL
    assert dd.parse(Descriptor(("a/b",), 5, "https://h/o").emit()) == Descriptor(("a/b",), 5, "https://h/o")


@pytest.mark.parametrize(
    "data",
    [
        xml(*GOOD),
        xml(*reversed(GOOD)),
        b"<media>" + "".join(GOOD).encode() + b"</media>",
        b'<?xml version="1.0"?>\n<dd:media xmlns:dd="urn:x"><dd:type>a/b</dd:type><dd:size> 5\n</dd:size>'
        b"<dd:objectURI>https://h/o</dd:objectURI></dd:media>",
        xml(*GOOD, "<unknown><deeper>x</deeper></unknown>"),
        xml(*GOOD).decode().encode("utf-16"),
    ],
)
def test_order_prefixes_blanks_and_strangers_do_not_matter(data: bytes) -> None:
    assert dd.parse(data) == Descriptor(("a/b",), 5, "https://h/o")


def test_relative_addresses_are_resolved() -> None:
    data = xml("<type>a/b</type><size>5</size><objectURI>../o</objectURI><installNotifyURI>/n</installNotifyURI>")
    found = dd.parse(data, "https://h/a/b/dd")
    assert (found.object_uri, found.install_notify_uri) == ("https://h/a/o", "https://h/n")


@pytest.mark.parametrize(
    ("data", "report", "why"),
    [
        (b"", Report.INVALID_DESCRIPTOR, "not well-formed"),
        (b"<media>", Report.INVALID_DESCRIPTOR, "not well-formed"),
        (xml(*GOOD, root="html"), Report.INVALID_DESCRIPTOR, "not media"),
        (xml(*GOOD[1:]), Report.INVALID_DESCRIPTOR, "type stands"),
        (xml(*GOOD, *["<type>a/b</type>"] * 16), Report.INVALID_DESCRIPTOR, "type stands"),
        (xml(GOOD[0], GOOD[2]), Report.INVALID_DESCRIPTOR, "is not a number"),
        (xml(GOOD[0], GOOD[2], "<size>-5</size>"), Report.INVALID_DESCRIPTOR, "is not a number"),
        (xml(GOOD[0], GOOD[2], "<size>\u0665</size>"), Report.INVALID_DESCRIPTOR, "is not a number"),
        (xml(GOOD[0], GOOD[2], "<size>0</size>"), Report.INVALID_DESCRIPTOR, "no size"),
        (xml(GOOD[0], GOOD[2], f"<size>{'9' * 16}</size>"), Report.INVALID_DESCRIPTOR, "is not a number"),
        (xml(*GOOD[:2]), Report.INVALID_DESCRIPTOR, "objectURI is empty"),
        (xml(*GOOD, "<size>6</size>"), Report.INVALID_DESCRIPTOR, "stands twice"),
        (xml(GOOD[0], GOOD[2], "<size/>"), Report.INVALID_DESCRIPTOR, "is not a number"),
        (xml(GOOD[0], GOOD[2], "<size>5<x/>6</size>"), Report.INVALID_DESCRIPTOR, "size holds elements"),
        (xml(*GOOD, "<type>a/<x/>b</type>"), Report.INVALID_DESCRIPTOR, "type holds elements"),
        (xml(*GOOD, "<DDVersion>2.0</DDVersion>"), Report.INVALID_DDVERSION, "not 1.x"),
        (xml(*GOOD, f"<name>{'x' * 2049}</name>"), Report.INVALID_DESCRIPTOR, "longer than 2048"),
        (xml(*GOOD, "<a/>" * 70), Report.INVALID_DESCRIPTOR, "more than 64 elements"),
        (xml(*GOOD, " " * 16384), Report.INVALID_DESCRIPTOR, "longer than 16384"),
        (b'<!DOCTYPE media [<!ENTITY a "b">]>' + xml(*GOOD), Report.INVALID_DESCRIPTOR, "document type"),
        (xml(*GOOD[:2], "<objectURI>https://[::</objectURI>"), Report.INVALID_DESCRIPTOR, "is no URI"),
        (b'<?xml version="1.0" encoding="nonsense"?>' + xml(*GOOD), Report.INVALID_DESCRIPTOR, "not well-formed"),
    ],
)
def test_what_is_no_descriptor_is_refused_with_its_report(data: bytes, report: Report, why: str) -> None:
    with pytest.raises(DescriptorError, match=why) as error:
        dd.parse(data, "https://h/")
    assert error.value.report is report


def test_a_refusal_tells_where_to_report_it_when_that_could_be_read() -> None:
    data = xml("<installNotifyURI>/n</installNotifyURI>", *GOOD, "<DDVersion>7</DDVersion>")
    with pytest.raises(DescriptorError) as error:
        dd.parse(data, "https://h/")
    assert error.value.notify_uri == "https://h/n"


def test_reports_have_the_form_of_the_standard() -> None:
    assert Report.SUCCESS.line() == b"900 Success"
    assert [report.line()[:3] for report in Report] == [str(report.value).encode() for report in Report]


def test_mutated_descriptors_parse_or_fail_as_such() -> None:
    rng = random.Random(5)
    good = FULL.emit()
    parsed = 0
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            else:
                del data[at : at + rng.randint(1, 9)]
        try:
            found = dd.parse(bytes(data), "https://h/")
        except DescriptorError:
            continue
        parsed += 1
        assert found.size > 0
    assert parsed > 200


# ---- deltas

ROOT = "5f" * 32
SOURCE = dd.DeltaSource("rootfs", "1.9", 67_108_864, ROOT)
DELTA = dd.DeltaFacts(("1.9", "1.8"), (SOURCE, dd.DeltaSource("kernel", "1.9", 5, "00" * 32)), "https://h/full", 7)


def test_what_a_delta_needs_is_emitted_and_parses_back() -> None:
    described = Descriptor(("a/b",), 5, "https://h/o", delta=DELTA)
    assert dd.parse(described.emit()) == described
    assert b'xmlns:dcu="urn:dcu:dd:delta:1"' in described.emit()
    assert b"dcu" not in Descriptor(("a/b",), 5, "https://h/o").emit()


def test_a_reader_that_knows_nothing_of_deltas_finds_a_plain_descriptor() -> None:
    """As strict XML readers do: by name space."""
    root = ET.fromstring(Descriptor(("a/b",), 5, "https://h/o", delta=DELTA).emit())
    known = {element.tag: element.text for element in root if element.tag.startswith(f"{{{dd.NAMESPACE}}}")}
    assert len(known) == 4
    assert known[f"{{{dd.NAMESPACE}}}objectURI"] == "https://h/o"


def test_the_address_of_the_full_package_may_be_relative() -> None:
    data = xml(*GOOD, "<fullURI>full</fullURI><fullSize>9</fullSize>")
    delta = dd.parse(data, "https://h/descriptors/delta").delta
    assert delta == dd.DeltaFacts(full_uri="https://h/descriptors/full", full_size=9)


@pytest.mark.parametrize(
    "more",
    [
        "<fullURI>https://h/full</fullURI>",
        "<fullSize>5</fullSize>",
        "<fullURI>https://h/full</fullURI><fullSize>0</fullSize>",
        "<fullURI>https://h/full</fullURI><fullSize>-1</fullSize>",
        "<fullURI></fullURI><fullSize>9</fullSize>",
        f"<deltaSource>rootfs 1 5 {ROOT[:-1]}</deltaSource>",
        f"<deltaSource>rootfs 1 5 {ROOT} more</deltaSource>",
        f"<deltaSource>rootfs 1 -5 {ROOT}</deltaSource>",
        f"<deltaSource>../rootfs 1 5 {ROOT}</deltaSource>",
        f"<deltaSource>rootfs 1 {'9' * 16} {ROOT}</deltaSource>",
        "<deltaFrom>one version</deltaFrom>",
        f"<deltaFrom>{'1' * 65}</deltaFrom>",
        "".join(f"<deltaFrom>{number}</deltaFrom>" for number in range(17)),
    ],
)
def test_a_delta_that_is_described_badly_is_an_invalid_descriptor(more: str) -> None:
    with pytest.raises(DescriptorError) as refused:
        dd.parse(xml(*GOOD, "<installNotifyURI>https://h/n</installNotifyURI>", more))
    assert (refused.value.report, refused.value.notify_uri) == (Report.INVALID_DESCRIPTOR, "https://h/n")


def test_any_text_as_a_source_is_one_or_an_error() -> None:
    chance = random.Random(5)
    good = str(SOURCE)
    for _ in range(2000):
        at = chance.randrange(len(good))
        text = good[:at] + chance.choice(" /:0az\n\u0660é") + good[at + chance.randrange(2) :]
        try:
            assert str(dd.DeltaSource.parse(text)) == text
        except ValueError:
            continue
