"""Meters for the serial simulators, and their values as the uplink's records have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dlms.axdr import Data
from dlms.codes import Apdu
from dlms.cosem.obis import AttributeRef
from dlms.security.settings import Auth, Lls, Security
from dlms.server.objects import Row
from dlms.server.rights import MANAGEMENT, Rights
from dlms.simulator.meter import CLOCK_CLASS, SimulatedMeter
from dlms.simulator.reading_list import rows_from_csv
from dlms.xdlms.apdu.notify import Notification

# Types of the uplink's records, where the list's type column says it differently.
RECORD_TAGS = {"clock": "dt"}


def _civil_now() -> datetime:
    return datetime.now(UTC)


# First octets of what is no request: confirms of data-notifications. The client of the concentrator uses the general
# forms for nothing else.
CONFIRM_TAGS = frozenset(
    (Apdu.DATA_NOTIFICATION_CONFIRM, Apdu.GENERAL_GLO, Apdu.GENERAL_CIPHERING, Apdu.GENERAL_SIGNING)
)


class SimMeter(SimulatedMeter):
    """A simulated meter that can say what a head-end must hold of it in the end."""

    def __init__(
        self,
        serial: int,
        rows: Sequence[Row],
        phases: int,
        password: bytes | None,
        pdu_size: int = 1024,
        *,
        auth: Auth | Mapping[int, Auth] | None = None,
        security: Mapping[int, Security] | None = None,
        rights: Rights | Mapping[int, Rights] = MANAGEMENT,
    ) -> None:
        """With `password` every client needs it; else `auth`, `security` and `rights` are those of `SimulatedMeter`."""
        auth = Lls(password) if password else auth
        # What the head-end got is compared with what the meter holds later: nothing may change meanwhile by itself.
        super().__init__(
            serial,
            rows,
            now=_civil_now,
            phases=phases,
            auth=auth,
            security=security,
            rights=rights,
            pdu_size=pdu_size,
            dynamic=False,
        )
        self._connection = self.connect()

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        """The answers to one APDU on the meter's only connection."""
        return self._connection.receive_apdu(client, apdu, now)

    def notify(self, message: Notification) -> dict[int, bytes]:
        """What the meter's only connection makes of a notification, per client that takes such."""
        return self._connection.notify(message)

    def forget_clients(self) -> None:
        """The line went down, and all associations with it."""
        self._connection = self.connect()

    def records(self) -> dict[str, dict[str, object]]:
        """Every value of the list, by reference."""
        found: dict[str, dict[str, object]] = {}
        for row in self.rows:
            ref = AttributeRef(row.class_id, row.obis, row.attribute)
            data = self.get(ref)
            if isinstance(data, Data):
                kind = row.type_name.partition(":")[0]
                raw = data.value.hex() if isinstance(data.value, bytes) else data.value
                tag = RECORD_TAGS.get(kind, kind)
                found[str(ref)] = {"tag": tag, "raw": raw, "scaler": row.scaler, "unit": row.unit}
        return found

    def volatile(self) -> list[str]:
        """What changes by itself between two calls of `records`."""
        live = [row for row in self.rows if row.class_id == CLOCK_CLASS and row.attribute == 2]
        return [str(AttributeRef(row.class_id, row.obis, row.attribute)) for row in live]


def make_meters(
    list_file: Path, phases: int, serials: list[int], password_file: Path | None, pdu_size: int = 1024
) -> list[SimMeter]:
    """Meters that hold the values of a reading list; with a password file, LLS is required of every client."""
    rows = rows_from_csv(list_file)
    password = password_file.read_bytes().strip() if password_file else None
    return [SimMeter(serial, rows, phases, password, pdu_size) for serial in serials]
