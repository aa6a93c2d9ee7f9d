"""One `read` of a session: what is still to be asked, scalers before values."""

from __future__ import annotations

from collections.abc import Sequence

from dlms.client.knowledge import MeterKnowledge
from dlms.client.planner import Limits, Planner
from dlms.cosem.obis import AttributeRef
from dlms.cosem.scaler_unit import scaler_ref


class ReadJob:
    """One `read`: what is still to ask, and how many attributes have no event yet."""

    def __init__(self, wanted: Sequence[AttributeRef], known: MeterKnowledge) -> None:
        asked = [ref for ref in dict.fromkeys(wanted) if ref not in known.undefined]
        self.undefined = [ref for ref in dict.fromkeys(wanted) if ref in known.undefined]
        self.wanted = frozenset(asked)
        self.missing = dict.fromkeys(
            where for ref in asked if (where := scaler_ref(ref)) and where not in known.scalers
        )
        self.scalers = Planner(self.missing, known)
        self.values = Planner([ref for ref in asked if ref not in self.missing], known)
        self.in_flight: tuple[AttributeRef, ...] = ()

    def take(self, limits: Limits) -> tuple[AttributeRef, ...]:
        """What to ask next: all scalers before the first value, since a value is only complete with its scaler."""
        self.in_flight = self.scalers.take(limits) or self.values.take(limits)
        return self.in_flight

    def put_back(self, refs: tuple[AttributeRef, ...]) -> None:
        """The list of `refs` was refused or answered with nonsense: ask again, in smaller pieces."""
        queue = self.scalers if refs[0] in self.missing else self.values
        queue.put_back(refs)
