"""The simulated meters, asked over their control sockets what they hold; and the head-end's copy held against it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

ANSWER_BYTES_MAX = 1 << 20
TIMEOUT_S = 10.0
CLOCK_DRIFT_S = 300
DIMENSIONLESS = 255  # Blue Book, 4.3.2: "no unit, unitless, count"


class Network:
    """One simulator process: a base node with its meters, or a bus."""

    def __init__(self, control: Path) -> None:
        self.control = control

    def ask(self, **command: object) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(TIMEOUT_S)
            line.connect(str(self.control))
            line.sendall(json.dumps(command).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < ANSWER_BYTES_MAX:
                piece = line.recv(65536)
                if not piece:
                    break
                answer += piece
        return cast("dict[str, Any]", json.loads(answer))

    def meters(self) -> list[str]:
        return [str(meter["id"]) for meter in self.ask(cmd="meters")["meters"]]

    def values(self, meter: str) -> dict[str, dict[str, Any]]:
        """`class/obis/attribute` → tag, raw, scaler, unit, as the meter holds them now."""
        return cast("dict[str, dict[str, Any]]", self.ask(cmd="values", meter=meter)["values"])

    def advance(self, wh: int) -> None:
        self.ask(cmd="advance", wh=wh)


@dataclass(frozen=True)
class Comparison:
    """How many values agree, and the first that do not."""

    equal: int
    missing: tuple[str, ...]
    different: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.missing and not self.different


def compare(networks: Iterable[Network], rows: Iterable[Mapping[str, Any]], codes: set[str]) -> Comparison:
    """Hold rows of the head-end's table `readings` against what the meters say, code by code."""
    stored = {(row["meter"], f"{row['cls']}/{row['obis']}/{row['attr']}"): row for row in rows}
    equal, missing, different = 0, [], []
    for network in networks:
        for meter in network.meters():
            held = network.values(meter)
            for code in codes:
                row = stored.get((meter, code))
                if row is None:
                    missing.append(f"{meter} {code}")
                elif (problem := _difference(row, held[code])) is not None:
                    different.append(f"{meter} {code}: {problem}")
                else:
                    equal += 1
    return Comparison(equal, tuple(missing), tuple(different))


def _difference(row: Mapping[str, Any], held: Mapping[str, Any]) -> str | None:
    raw = json.loads(row["raw"])
    if row["error"] is not None:
        return f"error {row['error']}"
    if held["tag"] in ("dt", "oct") and row["obis"].startswith("0.0.1.0.0.") and row["attr"] == 2:
        return _clock_difference(str(raw), str(held["raw"]))
    if raw != held["raw"]:
        return f"the head-end has {raw!r}, the meter {held['raw']!r}"
    if held.get("scaler") is None:
        return None
    wanted = Decimal(held["raw"]).scaleb(int(held["scaler"]))
    named = bool(row["unit_symbol"]) or held["unit"] == DIMENSIONLESS
    if row["value"] is None or Decimal(row["value"]) != wanted or row["unit"] != held["unit"] or not named:
        return f"{row['value']} {row['unit_symbol']} ({row['unit']}), not {wanted} ({held['unit']})"
    return None


def _clock_difference(stored: str, held: str) -> str | None:
    """A clock goes on between reading and asking: same day or the next, and seconds not minutes apart."""

    def seconds(text: str) -> int:
        raw = bytes.fromhex(text)
        return raw[5] * 3600 + raw[6] * 60 + raw[7]

    apart = (seconds(held) - seconds(stored)) % 86_400
    return None if apart <= CLOCK_DRIFT_S else f"the clocks are {apart} s apart"
