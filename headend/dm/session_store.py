"""The database side of `SessionStorage`, within one transaction."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from headend.dm import accounts
from headend.dm.engine import AlertSeen
from headend.dm.jobs import queue
from headend.dm.jobs.steps import URI_CHARS_MAX, Checkpoint, Failed, Job, Note, Outcome, SubtreeListed
from headend.dm.tables import alerts, values
from omadm.notification import PUSH_URL
from omadm.syncml.messages import Item, Meta

LOG = logging.getLogger("headend.dm")

VALUE_MAX = 1 << 20  # octets or characters
FORMAT_CHARS_MAX, TYPE_CHARS_MAX = 16, 128  # as the table has them
_RESULT_CODE = re.compile(r"<ResultCode>\s*(\d{1,5})\s*</ResultCode>|^\s*(\d{3,5})\s*$")


def result_code(data: str | None) -> int | None:
    """The code in a FUMO or SCOMO alert: `<ResultCode>200</ResultCode>`, or a bare number, as some devices send."""
    match = _RESULT_CODE.search(data or "")
    return int(match.group(1) or match.group(2)) if match else None


class SessionStore:
    """A `SessionStorage` for one exchange of one device; `session` is the row in `dm_sessions`."""

    def __init__(self, conn: Connection, device_id: str, session: int, now: float) -> None:
        self._conn = conn
        self._device_id = device_id
        self._session = session
        self._now = now

    def value_seen(self, uri: str, item: Item) -> str:
        meta = item.meta or Meta()
        if not isinstance(item.data, str | bytes) or "?" in uri or meta.format == "node":
            return ""
        if not 0 < len(uri) <= URI_CHARS_MAX:
            return f"its name has {len(uri)} characters, 1 to {URI_CHARS_MAX} can be kept"
        if len(item.data) > VALUE_MAX:
            return f"it has {len(item.data)} octets or characters, more than {VALUE_MAX}"
        form = {"format": (meta.format or "chr")[:FORMAT_CHARS_MAX], "type": meta.type and meta.type[:TYPE_CHARS_MAX]}
        content: dict[str, Any] = {**form, "updated": self._now}
        data = item.data.encode() if isinstance(item.data, str) and "\0" in item.data else item.data
        content |= (
            {"data": data} if isinstance(data, bytes) else {"value": data}
        )  # no text column takes a NUL everywhere
        where = (values.c.device_id == self._device_id) & (values.c.uri == uri)
        self._conn.execute(delete(values).where(where))
        self._conn.execute(insert(values).values(device_id=self._device_id, uri=uri, **content))
        if uri == PUSH_URL and not accounts.set_push_url(self._conn, self._device_id, str(item.data)):
            LOG.warning(
                "%s: its push URL is none",
                self._device_id,
                extra={"event": "dm.push.url", "device": self._device_id},
            )
        return ""

    def alert_seen(self, alert: AlertSeen) -> None:
        """Store an alert once, however often the device sends it; only the first one reaches a job."""
        identity = self._identity(alert)
        known = select(alerts.c.id).where(alerts.c.device_id == self._device_id, alerts.c.identity == identity)
        if self._conn.execute(known).first() is not None:
            return
        code = result_code(alert.data)
        self._conn.execute(
            insert(alerts).values(
                device_id=self._device_id,
                session=self._session,
                identity=identity,
                code=alert.code,
                type=alert.type,
                source=alert.source,
                mark=alert.mark,
                data=alert.data,
                correlator=alert.correlator,
                result_code=code,
                received=self._now,
            )
        )
        LOG.info(
            "%s: alert %s from %s, result %s",
            self._device_id,
            alert.type or alert.code,
            alert.source,
            code,
            extra={"event": "dm.alert", "device": self._device_id},
        )
        if alert.correlator is not None:
            told = {"type": alert.type, "data": alert.data, "result_code": code}
            queue.deliver_alert(self._conn, self._device_id, alert.correlator, told, self._now)

    def _identity(self, alert: AlertSeen) -> str:
        if (
            alert.correlator is not None
        ):  # the final alert of one Exec is the same alert in whichever session it is sent
            parts = ["correlated", alert.correlator, alert.type, alert.source, alert.data]
        else:
            parts = ["placed", str(self._session), alert.position]
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def next_job(self) -> Job | None:
        return queue.next_for(self._conn, self._device_id, self._now)

    def job_noted(self, job: Job, note: Note) -> None:
        match note:
            case Checkpoint(progress):
                queue.checkpoint(self._conn, job, progress, self._now)
            case SubtreeListed(root, uris):
                self._keep_only(root, uris)

    def _keep_only(self, root: str, uris: frozenset[str]) -> None:
        below = (values.c.uri == root) | values.c.uri.startswith(f"{root}/", autoescape=True)
        where = (values.c.device_id == self._device_id) & below
        for row in self._conn.execute(select(values.c.uri).where(where)).all():
            if row.uri not in uris:
                gone = (values.c.device_id == self._device_id) & (values.c.uri == row.uri)
                self._conn.execute(delete(values).where(gone))

    def job_finished(self, job: Job, outcome: Outcome) -> None:
        queue.finish(self._conn, job.id, outcome, self._now)
        broken, error = None, ""
        if isinstance(outcome, Failed) and outcome.cause is not None:
            broken, error = outcome.cause, f": {outcome.result.get('error')}"
        LOG.log(
            logging.INFO if broken is None else logging.ERROR,
            "%s: job %d (%s) %s%s",
            self._device_id,
            job.id,
            job.kind,
            type(outcome).__name__.lower(),
            error,
            exc_info=broken,
            extra={"event": "dm.job", "device": self._device_id, "job": job.id},
        )
