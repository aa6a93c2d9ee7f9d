"""What is learned about one meter and holds until the meter changes: units, what it does not have, what it cannot do.

The caller keeps one `MeterKnowledge` per meter and passes it to every session; `dump` and `load` carry it over a
restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.scaler_unit import ScalerUnit, scaler_ref
from dlms.errors import LocalError

LIST_FAILURES_MAX = 2  # sessions lost on a first list before lists are given up for this meter
DUMP_VERSION = 1


@dataclass(slots=True)
class MeterKnowledge:
    """What sessions with one meter learned; they write here as they go on.

    `scalers` has the scaler of a `scaler_ref`, None where the meter has the object but no usable scaler. `sizes` is the
    octets the last answer of an attribute took, for the planner. `list_max` bounds the items of a GET-with-list: 1 for
    a meter that takes no lists, None while no bound is known. `short_names` are the base names of the objects by class
    and code, of a meter with short-name referencing.
    """

    scalers: dict[AttributeRef, ScalerUnit | None] = field(default_factory=dict)
    undefined: set[AttributeRef] = field(default_factory=set)
    sizes: dict[AttributeRef, int] = field(default_factory=dict)
    list_max: int | None = None
    lists_work: bool = False
    list_failures: int = 0
    short_names: dict[tuple[int, Obis], int] | None = None

    def scaler_of(self, ref: AttributeRef) -> ScalerUnit | None:
        """Scaler and unit of the attribute `ref`, if it has them and they are known."""
        where = scaler_ref(ref)
        return None if where is None else self.scalers.get(where)

    def forget(self) -> None:
        """The meter was exchanged or got new firmware: learn everything again."""
        self.scalers.clear()
        self.undefined.clear()
        self.sizes.clear()
        self.short_names = None
        self.list_max, self.lists_work, self.list_failures = None, False, 0

    def list_refused(self, items: int, *, outright: bool) -> None:
        """A list of `items` was refused; `outright` when the meter said that it knows no lists."""
        self.list_max = 1 if outright else max(1, items // 2)

    def list_lost(self) -> None:
        """The session died with a list in flight. Meters exist that fall silent over a list."""
        if not self.lists_work:
            self.list_failures += 1
            if self.list_failures >= LIST_FAILURES_MAX:
                self.list_max = 1

    def dump(self) -> dict[str, object]:
        """A value that JSON can hold."""
        return {
            "version": DUMP_VERSION,
            "scalers": {str(ref): [su.scaler, su.unit] if su else None for ref, su in self.scalers.items()},
            "undefined": sorted(map(str, self.undefined)),
            "sizes": {str(ref): size for ref, size in self.sizes.items()},
            "list_max": self.list_max,
            "lists_work": self.lists_work,
            "short_names": None
            if self.short_names is None
            else [[class_id, str(obis), base] for (class_id, obis), base in self.short_names.items()],
        }

    @classmethod
    def load(cls, dumped: Mapping[str, object]) -> MeterKnowledge:
        """The inverse of `dump`. Raises `LocalError` when it is not of this version or form."""
        if dumped.get("version") != DUMP_VERSION:
            raise LocalError(f"meter knowledge of version {dumped.get('version')!r}")
        scalers, sizes, undefined = dumped.get("scalers"), dumped.get("sizes"), dumped.get("undefined")
        names = dumped.get("short_names")
        list_max, lists_work = dumped.get("list_max"), dumped.get("lists_work")
        if not isinstance(scalers, dict) or not isinstance(sizes, dict) or not isinstance(undefined, list):
            raise LocalError("meter knowledge lacks scalers, sizes or undefined")
        if not isinstance(names, list | None):
            raise LocalError("meter knowledge: short_names has the wrong type")
        if not isinstance(list_max, int | None) or not isinstance(lists_work, bool):
            raise LocalError("meter knowledge: list_max or lists_work has the wrong type")
        try:
            return cls(
                {
                    AttributeRef.parse(ref): None if su is None else ScalerUnit(*map(int, su))
                    for ref, su in scalers.items()
                },
                {AttributeRef.parse(ref) for ref in undefined},
                {AttributeRef.parse(ref): int(size) for ref, size in sizes.items()},
                list_max,
                lists_work,
                short_names=None
                if names is None
                else {(int(class_id), Obis.parse(obis)): int(base) for class_id, obis, base in names},
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise LocalError(f"meter knowledge: {error}") from error
