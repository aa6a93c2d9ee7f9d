"""Pushes of real meters, captured from their ports (keys, titles and numbers of people's meters replaced)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agent.metering.events.bus_ear import HdlcEar
from agent.metering.events.overheard import BlockAssembly

FOLDER = Path(__file__).parent / "captures"


@dataclass(frozen=True, slots=True)
class Capture:
    """`octets` as they came from the port; `leaves`: the values of the message in order, octets as hexadecimal text."""

    name: str
    octets: bytes
    ek: bytes
    ak: bytes
    leaves: list[int | str]

    def apdu(self) -> bytes:
        """The APDU inside, with its protection."""
        ear, blocks = HdlcEar(), BlockAssembly()
        ear.receive(self.octets, 0.0)
        whole = None
        while (heard := ear.next_apdu()) is not None:
            assert whole is None
            whole, error = blocks.take(heard.source, heard.apdu, 0.0)
            assert not error
        assert whole is not None
        return whole


def capture(name: str) -> Capture:
    found = json.loads((FOLDER / f"{name}.json").read_text())
    keys = [bytes.fromhex(found[key] or "") for key in ("ek", "ak")]
    return Capture(name, bytes.fromhex(found["hex"]), keys[0], keys[1], found["leaves"])


OMNIPOWER = capture("hdlc_push_ciphered_omnipower")
E450 = capture("hdlc_push_gbt_ciphered_e450")
GH740 = capture("hdlc_push_gbt_gh740")
AM550 = capture("hdlc_push_segmented_ui_am550")
OF_HDLC = (OMNIPOWER, E450, GH740, AM550)
KAIFA = capture("mbus_push_two_frames")


def kaifa_apdu() -> bytes:
    """The APDU of the two wired M-Bus frames: 68 L L 68, 53 FF, sequence, 01 67, data, checksum, 16."""
    octets, apdu = KAIFA.octets, b""
    while octets:
        size = octets[1]
        apdu += octets[9 : 4 + size]
        octets = octets[6 + size :]
    return apdu
