"""SyncML between XML and WBXML, both ways, beside libwbxml's `xml2wbxml` and `wbxml2xml`: CPU time per KiB of XML.

The tools are programs with a start-up of their own, so what counts is the slope: the time of a large message less that
of a small one, over the difference of their sizes.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.messages import Command, Item, Meta, Replace, SyncHdr, SyncML
from tests.bench.figure import Figure, absent, at_most, plain
from tests.bench.programs import least

SMALL, LARGE = 20, 2000  # commands in a message
SESSION = 100  # commands: half of what a message of 16 KiB, the usual limit, can carry
ROUNDS = 9
LIMIT = 15  # an interpreter beside C
DOCTYPE = b'<!DOCTYPE SyncML PUBLIC "-//SYNCML//DTD SyncML 1.2//EN" "http://www.openmobilealliance.org/x.dtd">'


def message(commands: int) -> SyncML:
    """What a device says of its tree: one Replace after another."""
    header = SyncHdr("1", 1, target="https://dm.example/dm", source="urn:dcu:KR-000042")
    return SyncML(header, tuple(_replace(number) for number in range(1, commands + 1)))


def _replace(number: int) -> Command:
    item = Item(source=f"./AMI/Meter/{number:05}/State", meta=Meta("chr", "text/plain"), data=f"read {number * 7919}")
    return Replace(str(number), (item,))


def _least_cpu(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def _slope(work: Callable[[bytes], object], small: bytes, large: bytes) -> float:
    return _least_cpu(lambda: work(large)) - _least_cpu(lambda: work(small))


def _tool_slopes() -> tuple[float, float]:
    """CPU seconds of `xml2wbxml` and `wbxml2xml` for the difference of the two sizes."""
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        folder = Path(name)
        commands: list[tuple[list[str | Path], Path]] = []
        for size in (SMALL, LARGE):
            head, _, rest = encode(message(size), DM_XML).partition(b"?>")
            (folder / f"{size}.xml").write_bytes(head + b"?>" + DOCTYPE + rest)
            (folder / f"{size}.wbxml").write_bytes(encode(message(size), DM_WBXML))
            commands.append((["xml2wbxml", "-k", "-n", "-o", f"{size}.out", f"{size}.xml"], folder))
            commands.append((["wbxml2xml", "-k", "-o", f"{size}.out", f"{size}.wbxml"], folder))
        to_wbxml, to_xml, to_wbxml_large, to_xml_large = least(ROUNDS, commands)
        return to_wbxml_large - to_wbxml, to_xml_large - to_xml


def run() -> list[Figure]:
    """Both directions, and what a message of a usual session takes."""
    small, large = (encode(message(size), DM_XML) for size in (SMALL, LARGE))
    packed_small, packed_large = (encode(message(size), DM_WBXML) for size in (SMALL, LARGE))
    kib = (len(large) - len(small)) / 1024
    to_wbxml = _slope(lambda body: encode(decode(body, DM_XML), DM_WBXML), small, large)
    to_xml = _slope(lambda body: encode(decode(body, DM_WBXML), DM_XML), packed_small, packed_large)
    usual = message(SESSION)
    packed = encode(usual, DM_WBXML)
    figures = [
        plain("XML to WBXML, per KiB of XML, CPU", f"{1e6 * to_wbxml / kib:.0f} us"),
        plain("WBXML to XML, per KiB of XML, CPU", f"{1e6 * to_xml / kib:.0f} us"),
        plain(
            f"a WBXML message of {SESSION} commands, {len(packed):,} octets: written, read",
            f"{1000 * _least_cpu(lambda: encode(usual, DM_WBXML)):.1f} ms, "
            f"{1000 * _least_cpu(lambda: decode(packed, DM_WBXML)):.1f} ms",
        ),
    ]
    names = ("XML to WBXML : xml2wbxml, slope of CPU", "WBXML to XML : wbxml2xml, slope of CPU")
    if shutil.which("xml2wbxml") is None or shutil.which("wbxml2xml") is None:
        return [*figures, *(absent(what, "no libwbxml2-utils") for what in names)]
    slopes = zip(names, (to_wbxml, to_xml), _tool_slopes(), strict=True)
    return [*figures, *(at_most(what, ours / theirs, LIMIT, "x", 1) for what, ours, theirs in slopes)]
