"""From the management tree to the order book and back: jobs are handed over, what came of them is reported.

A job is handed over under its own id, again after each restart: the book knows it by then, or it was never accepted.
It leaves the tree with its result and its alert, in one transaction.

An order to change keys is made upon the keys that are provisioned when it is handed over. So that is done when those of
the message that asked for it are in force, and before those of the next one are.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.jobs import orders as jobs
from agent.metering.orders.images import FetchError
from agent.metering.orders.order import OrderRefusedError, OrderType
from agent.metering.orders.order_book import JournalError, Request
from agent.ota.errors import DownloadError, DownloadStopped
from omadm.codes import Refusal

if TYPE_CHECKING:
    from agent.metering.orders.order_book import OrderBook
    from agent.ota.download import Downloader
    from agent.tree.persistence import ManagementTree

LOG = logging.getLogger("agent.jobs.orders")

LOOK_EVERY_S = 1.0  # while a job is open


class OrderJobs:
    """`hand_over` is called at the start, and by the DM thread when what a message asked for is in force; `tick` when
    the tree was changed. `on_alert` is called when there is something to report. Thread-safe."""

    def __init__(self, tree: ManagementTree, book: OrderBook, on_alert: Callable[[], None]) -> None:
        self._tree = tree
        self._book = book
        self._on_alert = on_alert
        self._lock = threading.Lock()
        self._late: set[str] = set()  # ids of jobs that the journal did not take

    def hand_over(self) -> None:
        """Hand over the jobs that were not handed over yet."""
        with self._lock:
            for job in jobs.jobs(self._tree.view()):
                if self._book.describe(job.id) is None:
                    self._hand_over(job)

    def tick(self) -> float | None:
        """Look for results, and for what the journal takes by now. Returns in how many seconds to look again, `None`
        for whenever."""
        with self._lock:
            view = self._tree.view()
            if jobs.is_damaged(view):
                self._end_damaged()
            open_jobs = jobs.jobs(view)
            for job in open_jobs:
                found = self._book.describe(job.id)
                if found is None and job.id in self._late:
                    self._hand_over(job)
                elif found is not None and found["over"]:
                    done = all(meter["state"] == "done" for meter in _meters(found))
                    self._finish(job, jobs.Result.DONE if done else jobs.Result.NOT_ON_ALL, found)
            self._late &= {job.id for job in open_jobs}
            return LOOK_EVERY_S if open_jobs else None

    def _end_damaged(self) -> None:
        try:
            with self._tree.transaction() as changing:
                jobs.end_damaged(changing)
        except (Refusal, OSError) as error:  # the storage fails: a later tick tries again
            LOG.debug("the end of damaged jobs cannot be kept yet: %s", error)
            return
        LOG.error("jobs of the DM server cannot be read: ended as failed", extra={"event": "order.job.damaged"})
        self._on_alert()

    def _hand_over(self, job: jobs.Job) -> None:
        try:
            self._book.submit(
                Request(
                    id=job.id,
                    kind=job.kind,
                    meters=job.meters,
                    parameters=_parameters(job),
                    asked_by=job.asked_by,
                    priority=job.priority,
                    deadline_s=float(job.deadline_s),
                )
            )
        except OrderRefusedError as error:
            LOG.warning("order of the DM server refused: %s", error, extra={"event": "order.refused"})
            self._finish(job, jobs.Result.REFUSED, {"error": str(error)})
        except JournalError as error:
            LOG.debug("order %s waits: %s", job.id, error)
            self._late.add(job.id)
            if job.kind == OrderType.KEYS:  # others may be provisioned by the time that it is taken
                self._finish(job, jobs.Result.REFUSED, {"error": str(error)})

    def _finish(self, job: jobs.Job, code: jobs.Result, result: dict[str, object]) -> None:
        try:
            with self._tree.transaction() as changing:
                jobs.finish(changing, job, code, result)
        except (Refusal, OSError) as error:  # the storage fails: a later tick tries again
            LOG.debug("the result of order %s cannot be kept yet: %s", job.id, error)
            return
        self._on_alert()


def _parameters(job: jobs.Job) -> dict[str, object]:
    """The parameters of a job as an object, empty where none were given. Raises `OrderRefusedError`."""
    try:
        found = json.loads(job.parameters or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise OrderRefusedError("Parameters is no JSON object")
    return found


def _meters(found: dict[str, object]) -> list[dict[str, object]]:
    meters = found["meters"]
    return meters if isinstance(meters, list) else []


def fetch_image(
    downloader: Downloader, url: str, into: Path, *, bytes_max: int, stop: threading.Event, beat: Callable[[], None]
) -> tuple[int, str]:
    """Fetch an image of meter firmware; returns its size and SHA-256. Raises `FetchError`."""
    try:
        found = downloader.fetch(url, into, stop=stop, beat=beat, bytes_max=bytes_max)
    except DownloadError as error:
        raise FetchError(error.message) from error
    except DownloadStopped:
        raise FetchError("the agent was ended") from None
    return found.size, found.sha256
