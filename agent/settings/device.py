"""Who this device is: the values that DevInfo, DevDetail, SSMP registration and `dcuctl status` all show."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN_VERSION = "unknown"


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Identity of the device and of what runs on it.

    `device_id` is the DevId of DevInfo, a URN (`urn:dcu:KR-000042`); `fw_version` comes from the release file of the
    running image, never from configuration.
    """

    device_id: str
    man: str
    mod: str
    hw_version: str
    fw_version: str
    sw_version: str
    oem: str = ""
    dev_type: str = "dcu"
    lang: str = "en"

    @property
    def known_fw_version(self) -> str:
        """The version of the firmware as packages name it; empty where it is not known."""
        return "" if self.fw_version == UNKNOWN_VERSION else self.fw_version
