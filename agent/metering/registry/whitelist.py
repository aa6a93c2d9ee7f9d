"""Which meters are admitted: all of them, or those on a list. Immutable.

An entry is the id of a meter (its logical device name), the EUI-48 of its modem, or its place (`port/address`), with
`*` and `?` as in file names. A meter that has not told its name yet is admitted by EUI-48 or place; where the list has
entries of another form, it is asked for its name and for nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from agent.metering.registry.entry import Meter
from agent.settings.provisioning import WILDCARD

_EUI48 = re.compile(r"[0-9a-f]{12}")


class Whitelist:
    """`enforced` false admits everybody, whatever is listed. `always`: keys of meters that were added by hand."""

    def __init__(self, entries: Iterable[str] = (), *, enforced: bool = False, always: Iterable[str] = ()) -> None:
        texts = [entry.strip() for entry in entries]
        # An EUI-48 is written in many ways, and there is one that the registry uses.
        plain = [_plain_eui48(text) or text for text in texts if text]
        self.enforced = enforced
        self._exact = {text for text in plain if not WILDCARD.search(text)}
        self._patterns = sorted({text for text in plain if WILDCARD.search(text)})
        self._always = frozenset(always)
        self._may_be_named = any(not _EUI48.fullmatch(text) and "/" not in text for text in plain)

    def admits(self, meter: Meter) -> bool:
        """Whether this meter is on the list."""
        if not self.enforced or meter.place_key in self._always:
            return True
        names = {meter.place_key, f"{meter.port}/{meter.address}", meter.eui48 or meter.place_key}
        names |= {meter.meter_id} if meter.named else set()
        if not names.isdisjoint(self._exact):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._patterns for name in names)

    def asks_name(self, meter: Meter) -> bool:
        """Whether this meter, which is not admitted, may be on the list under a name that it has not told yet."""
        return self._may_be_named and not meter.named


def _plain_eui48(text: str) -> str:
    digits = re.sub(r"[:\-.]", "", text).lower()
    return digits if _EUI48.fullmatch(digits) and not WILDCARD.search(text) else ""
