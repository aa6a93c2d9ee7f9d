"""AMI: where readings go, how meters are talked to, and which there are; `urn:x-dcu:mo:ami:1.0`, this project's own.

./AMI/Uplink/URL chr, Token chr (no Get), BatchMax int
./AMI/Access/Client int, Auth chr (none, low), Secret chr (no Get)
./AMI/Meter/<id>/Id, Port, Address, State, LastSuccess              live
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.mo.sched import tasks
from agent.settings.provisioning import MeterAccess, Provisioning, UplinkSettings
from agent.status import MeterStatus
from agent.tree.schema import (
    Access,
    Format,
    NodeSpec,
    Path,
    group,
    https_url,
    int_range,
    interior,
    live,
    one_of,
    permanent,
)
from agent.tree.tree import Transaction
from agent.tree.uri import node_name
from omadm.readings import RECORDS_MAX

URN = "urn:x-dcu:mo:ami:1.0"
CLIENT_SAP_MAX = 127


class Ami:
    """The meters, their access and the uplink, as a server provisions them, and how each meter is doing."""

    root: Path = ("AMI",)

    def __init__(self, meters: Callable[[], Sequence[MeterStatus]]) -> None:
        self._meters = meters

    def spec(self) -> NodeSpec:
        return interior(
            "AMI",
            interior(
                "Uplink",
                permanent(
                    "URL", Format.CHR, check=https_url, description="where readings go, https; empty: they are kept"
                ),
                permanent("Token", Format.CHR, access=Access.REPLACE, secret=True, description="bearer token"),
                permanent(
                    "BatchMax",
                    Format.INT,
                    default="500",
                    check=int_range(1, RECORDS_MAX),
                    description="records of one POST, 1 to 5000",
                ),
            ),
            interior(
                "Access",
                permanent(
                    "Client",
                    Format.INT,
                    default="16",
                    check=int_range(1, CLIENT_SAP_MAX),
                    description="DLMS client SAP, 1 to 127",
                ),
                permanent(
                    "Auth", Format.CHR, default="none", check=one_of("none", "low"), description="`none` or `low`"
                ),
                permanent("Secret", Format.CHR, access=Access.REPLACE, secret=True, description="LLS password"),
            ),
            NodeSpec("Meter", Format.NODE, Access.GET, (self._meter(),), names=self._names),
            type=URN,
        )

    def _meter(self) -> NodeSpec:
        return group(
            live("Id", Format.CHR, lambda path: self._find(path[2]).meter_id, "COSEM logical device name, or EUI-48"),
            live("Port", Format.CHR, lambda path: self._find(path[2]).port, "name of the serial port"),
            live("Address", Format.INT, lambda path: str(self._find(path[2]).address), "on the power line or bus"),
            live("State", Format.CHR, lambda path: self._find(path[2]).state, "joined, read, silent, failing, left"),
            live(
                "LastSuccess",
                Format.INT,
                lambda path: str(int(self._find(path[2]).last_success)),
                "seconds since 1970, 0: never",
            ),
            access=Access.GET,
        )

    def _names(self, _: Path) -> list[str]:
        return [node_name(meter.meter_id) for meter in self._meters()]

    def _find(self, name: str) -> MeterStatus:
        for meter in self._meters():
            if node_name(meter.meter_id) == name:
                return meter
        return MeterStatus(meter_id="", port="", address=0, state="left", joined=0.0)


def provisioning_from_tree(looking: Transaction) -> Provisioning:
    """Everything that the head-end has provisioned, as one value."""
    uplink, access = ("AMI", "Uplink"), ("AMI", "Access")
    return Provisioning(
        tasks=tasks(looking),
        uplink=UplinkSettings(
            url=looking.text((*uplink, "URL")),
            token=looking.text((*uplink, "Token")),
            batch_records_max=_number(looking.text((*uplink, "BatchMax")), 500),
        ),
        access=MeterAccess(
            client=_number(looking.text((*access, "Client")), 16),
            auth=looking.text((*access, "Auth")) or "none",
            secret=looking.text((*access, "Secret")).encode("utf-8"),
        ),
    )


def _number(text: str, default: int) -> int:
    return int(text) if text.isascii() and text.isdigit() else default
