"""DevInfo, `urn:oma:mo:oma-dm-devinfo:1.0` (OMA-TS-DM_StdObj 1.2, section 5.3.1): who the device is.

The client sends these leaves at the start of every session.
"""

from __future__ import annotations

from agent.device import DeviceInfo
from agent.dm.schema import Format, NodeSpec, Path, interior, live

URN = "urn:oma:mo:oma-dm-devinfo:1.0"
DM_VERSION = "1.2"


class DevInfo:
    root: Path = ("DevInfo",)

    def __init__(self, device: DeviceInfo) -> None:
        self._leaves = (
            ("DevId", device.device_id),
            ("Man", device.man),
            ("Mod", device.mod),
            ("DmV", DM_VERSION),
            ("Lang", device.lang),
        )

    def leaves(self) -> tuple[tuple[str, str], ...]:
        """`(LocURI, value)` for the Replace of package 1."""
        return tuple((f"./DevInfo/{name}", value) for name, value in self._leaves)

    def spec(self) -> NodeSpec:
        leaves = [_constant(name, value) for name, value in self._leaves]
        return interior("DevInfo", *leaves, type=URN)


def _constant(name: str, value: str) -> NodeSpec:
    return live(name, Format.CHR, lambda _: value)
