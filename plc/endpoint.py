"""Where a meter with a network address of its own is, and what an option of a port may be. Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass

OptionValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A meter's network address. `host` may have a scope (`fe80::1%plc0`)."""

    host: str
    port: int
    datagrams: bool = False
