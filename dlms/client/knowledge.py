"""What sessions learn about a meter and may keep until it is replaced: units, undefined objects, sizes, its limits.

The caller keeps one `MeterKnowledge` per meter and passes it to every session; `dump` and `load` keep it across
restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.scaler_unit import SHARED_MAX, ScalerUnit, scaler_ref, shared_scaler
from dlms.errors import LocalError

LIST_FAILURES_MAX = 2  # sessions lost on a first list before this meter gets no more lists
DUMP_VERSION = 1

# What is loaded for the meters of a network names the same few hundred references and scalers. One object each, instead
# of one per meter: 108 values take 8 kB per meter instead of 34, and are loaded in a tenth of the time.
_shared_ref = lru_cache(SHARED_MAX)(AttributeRef.parse)


@dataclass(slots=True)
class MeterKnowledge:
    """What is known of one meter. Sessions update it as they run.

    `scalers` has the scaler by `scaler_ref`, None where the meter has the object but no usable scaler. `undefined` has
    the attributes that the meter does not have. `sizes` has the length of an attribute's last answer in octets, for the
    planner. `list_max` bounds the items of a GET-with-list: 1 for a meter that takes no lists, None while no bound is
    known; `lists_work` says that one was answered, and `list_failures` counts the sessions that were lost on the first.
    `short_names` has the base names by class and code for a meter with short-name referencing. `invoke_id` is that of
    the last request: the next session goes on from it where packets may come late, so that an answer of the session
    before is none of its own. `None` for none yet; it is not dumped.
    """

    scalers: dict[AttributeRef, ScalerUnit | None] = field(default_factory=dict)
    undefined: set[AttributeRef] = field(default_factory=set)
    sizes: dict[AttributeRef, int] = field(default_factory=dict)
    list_max: int | None = None
    lists_work: bool = False
    list_failures: int = 0
    short_names: dict[tuple[int, Obis], int] | None = None
    invoke_id: int | None = field(default=None, compare=False)

    def scaler_of(self, ref: AttributeRef) -> ScalerUnit | None:
        """Scaler and unit of the attribute `ref`, if it has them and they are known."""
        where = scaler_ref(ref)
        return None if where is None else self.scalers.get(where)

    def forget(self) -> None:
        """Forget everything, because the meter was replaced or has new firmware."""
        self.scalers.clear()
        self.undefined.clear()
        self.sizes.clear()
        self.short_names = None
        self.list_max, self.lists_work, self.list_failures = None, False, 0

    def list_refused(self, items: int, *, outright: bool) -> None:
        """Note that a list of `items` was refused; `outright` when the meter reported that it takes no lists."""
        self.list_max = 1 if outright else max(1, items // 2)

    def list_lost(self) -> None:
        """Note that the session was lost with a list in flight. Some meters fall silent when they get a list."""
        if not self.lists_work:
            self.list_failures += 1
            if self.list_failures >= LIST_FAILURES_MAX:
                self.list_max = 1

    def dump(self) -> dict[str, object]:
        """The knowledge as a value for JSON."""
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
        """The inverse of `dump`. Raises `LocalError` for another version or a wrong form."""
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
                {_shared_ref(ref): None if su is None else shared_scaler(*map(int, su)) for ref, su in scalers.items()},
                {_shared_ref(ref) for ref in undefined},
                {_shared_ref(ref): int(size) for ref, size in sizes.items()},
                list_max,
                lists_work,
                short_names=None
                if names is None
                else {(int(class_id), Obis.parse(obis)): int(base) for class_id, obis, base in names},
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise LocalError(f"meter knowledge: {error}") from error
