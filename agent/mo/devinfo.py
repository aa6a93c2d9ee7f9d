"""DevInfo, `urn:oma:mo:oma-dm-devinfo:1.0` (OMA-TS-DM_StdObj 1.2, section 5.3.1): who the device is.

The client sends these leaves at the start of every session. `Ext/PushURL` is this project's own: where the device takes
notifications now, empty for nowhere. An address can change without a new registration.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.settings.device import DeviceInfo
from agent.tree.schema import Format, NodeSpec, Path, interior, live
from omadm.notification import PUSH_URL

URN = "urn:oma:mo:oma-dm-devinfo:1.0"
DM_VERSION = "1.2"


class DevInfo:
    """What a server learns of the device at the start of each session."""

    root: Path = ("DevInfo",)

    def __init__(self, device: DeviceInfo, push_url: Callable[[], str]) -> None:
        self._push_url = push_url
        self._leaves = (
            ("DevId", device.device_id),
            ("Man", device.man),
            ("Mod", device.mod),
            ("DmV", DM_VERSION),
            ("Lang", device.lang),
        )

    def leaves(self) -> tuple[tuple[str, str], ...]:
        """`(LocURI, value)` for the Replace of package 1."""
        return (*((f"./DevInfo/{name}", value) for name, value in self._leaves), (PUSH_URL, self._push_url()))

    def spec(self) -> NodeSpec:
        leaves = [_constant(name, value) for name, value in self._leaves]
        push_url = live(
            "PushURL",
            Format.CHR,
            lambda _: self._push_url(),
            "where notifications reach this device now; empty: nowhere",
        )
        return interior("DevInfo", *leaves, interior("Ext", push_url), type=URN)


def _constant(name: str, value: str) -> NodeSpec:
    return live(name, Format.CHR, lambda _: value)
