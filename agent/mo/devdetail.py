"""DevDetail, `urn:oma:mo:oma-dm-devdetail:1.0` (OMA-TS-DM_StdObj 1.2, section 5.3.2): versions and limits."""

from __future__ import annotations

from agent.settings.device import DeviceInfo
from agent.tree.schema import DEPTH_MAX, PATH_CHARS_MAX, SEGMENT_CHARS_MAX, Format, NodeSpec, Path, interior, live

URN = "urn:oma:mo:oma-dm-devdetail:1.0"


class DevDetail:
    """Manufacturer, hardware and versions in detail, and the limits of the tree."""

    root: Path = ("DevDetail",)

    def __init__(self, device: DeviceInfo) -> None:
        self._device = device

    def spec(self) -> NodeSpec:
        device = self._device
        return interior(
            "DevDetail",
            interior(
                "URI",
                live("MaxDepth", Format.INT, lambda _: str(DEPTH_MAX)),
                live("MaxTotLen", Format.INT, lambda _: str(PATH_CHARS_MAX)),
                live("MaxSegLen", Format.INT, lambda _: str(SEGMENT_CHARS_MAX)),
            ),
            live("DevTyp", Format.CHR, lambda _: device.dev_type),
            live("OEM", Format.CHR, lambda _: device.oem),
            live("FwV", Format.CHR, lambda _: device.fw_version),
            live("SwV", Format.CHR, lambda _: device.sw_version),
            live("HwV", Format.CHR, lambda _: device.hw_version),
            live("LrgObj", Format.BOOL, lambda _: "true"),
            type=URN,
        )
