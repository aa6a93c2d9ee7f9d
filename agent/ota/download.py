"""Fetch one object over HTTPS into a file, across broken lines and restarts, without fetching durable bytes twice.

The state stands beside the file (`<file>.state`, see `agent.ota.download_state`). It never claims more than was synced:
the file first, then the state. A resume asks with `Range` and `If-Range` (RFC 9110, 13.1.5 and 14.2) under a strong
ETag, and believes a 206 only when its `Content-Range` starts where the file ends and its total is the one known.

The URL may answer with a download descriptor (OMA Download OTA 1.0); then the object it names is fetched, held
against the size it states, and the outcome is reported to its `installNotifyURI`.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin

from agent.clock import Clock
from agent.https import HttpsError
from agent.ota import download_state
from agent.ota.download_state import CHECKPOINT_BYTES, PartialFile
from agent.ota.errors import (
    DownloadError,
    DownloadStopped,
    RetryableDownloadError,
    check_url,
    status_error,
    storage_error,
)
from omadm import descriptor as dd
from omadm.descriptor import Descriptor, Report
from updateagent.disk import Storage

LOG = logging.getLogger("agent.download")

ATTEMPTS_MAX = 8  # in a row, without the object having grown
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 120.0
RETRY_AFTER_MAX_S = 600.0
REPORT_ATTEMPTS_MAX = 3
TURNS_MAX = 8  # answers that make the file start over or name another object, in one call
REDIRECTS_MAX = 5
OBJECT_BYTES_MAX = 1 << 30  # larger than any slot of the boards this runs on
SPARE_BYTES = 1 << 20  # left free on the file system: state files and journals must still fit
BEAT_EVERY_S = 2.0

_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", re.ASCII)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"', re.ASCII)
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is. `have` bytes of `total` (None while unknown) are in the file; the rest as in
    `Downloaded`."""

    have: int
    total: int | None
    bytes_fetched: int
    resumes: int


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A complete object. `sha256` is hexadecimal.

    `bytes_fetched` counts every body byte received for the object, over all attempts and restarts: a download that
    was only ever resumed has `bytes_fetched == size`. After a power cut the bytes since the last durable state are
    counted as far as the file shows them. `resumes` counts the answers that went on where the file ended.
    """

    path: Path
    size: int
    sha256: str
    bytes_fetched: int
    resumes: int
    content_type: str
    descriptor: Descriptor | None


class Body(Protocol):
    """An answer whose body is read piece by piece; `agent.https.Stream` is one."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Answer(Protocol):
    """A whole answer; `agent.https.Response` is one."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


class Transport(Protocol):
    """What a download needs of HTTP; `agent.https.HttpsClient` is one. Both raise `agent.https.HttpsError`."""

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer: ...

    def stream(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Body: ...


def _ignore_progress(_: Progress) -> None:
    """Nobody watches."""


def _ignore_beat() -> None:
    """No watchdog."""


def _accept_all(_: Descriptor) -> None:
    """Whatever is described is wanted."""


class Downloader:
    """Fetches objects; holds no state of its own between calls."""

    def __init__(
        self,
        https: Transport,
        disk: Storage,
        clock: Clock,
        *,
        jitter: Callable[[], float] = random.random,
        attempts_max: int = ATTEMPTS_MAX,
        object_bytes_max: int = OBJECT_BYTES_MAX,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> None:
        """`jitter` gives numbers in [0, 1)."""
        self._https = https
        self._disk = disk
        self._clock = clock
        self._jitter = jitter
        self._attempts_max = attempts_max
        self._object_bytes_max = object_bytes_max
        self._checkpoint_bytes = checkpoint_bytes

    def fetch(
        self,
        url: str,
        into: Path,
        *,
        progress: Callable[[Progress], None] = _ignore_progress,
        stop: threading.Event,
        beat: Callable[[], None] = _ignore_beat,
        accept: Callable[[Descriptor], None] = _accept_all,
        bytes_max: int | None = None,
    ) -> Downloaded:
        """Fetch `url` into the file `into`; go on with what an earlier call for the same URL left there.

        `progress` is called as bytes arrive, `beat` at least every few seconds, apart from the waits inside `https`.
        A finished download is returned again, after a check of the file, without asking the server: `discard`
        forgets it. `accept` is shown the descriptor, where there is one, before anything of the object is fetched in
        this call, and raises `DownloadError` for one that is not wanted; `bytes_max` is the most that is taken.
        Raises `DownloadError`, `DownloadStopped`.
        """
        check_url(url)
        file = PartialFile(self._disk, self._clock, into, self._checkpoint_bytes, beat)
        job = _Job(self, file, into.parent, progress, stop, beat, accept)
        job.bytes_max = min(self._object_bytes_max, bytes_max or self._object_bytes_max)
        try:
            job.run(url)
        finally:
            file.close()
        state = file.state
        LOG.info(
            "downloaded %d bytes: %d fetched, %d resumes",
            state.offset,
            state.bytes_fetched,
            state.resumes,
            extra={"event": "download.complete"},
        )
        return Downloaded(
            path=into,
            size=state.offset,
            sha256=state.sha256,
            bytes_fetched=state.bytes_fetched,
            resumes=state.resumes,
            content_type=state.content_type,
            descriptor=job.descriptor,
        )

    def discard(self, into: Path) -> None:
        """Remove the file and its state for good. Raises `OSError`."""
        self._disk.remove_durable(download_state.path_for(into))
        self._disk.remove_durable(into)


class _Job:
    """One call of `fetch`: the requests."""

    def __init__(
        self,
        owner: Downloader,
        file: PartialFile,
        folder: Path,
        progress: Callable[[Progress], None],
        stop: threading.Event,
        beat: Callable[[], None],
        accept: Callable[[Descriptor], None],
    ) -> None:
        self._owner = owner
        self._https = owner._https
        self._file = file
        self._folder = folder
        self._progress = progress
        self._stop = stop
        self._beat = beat
        self._accept = accept
        self.descriptor: Descriptor | None = None
        self.bytes_max = owner._object_bytes_max

    def run(self, url: str) -> None:
        """Until the object is complete. Raises `DownloadError`, `DownloadStopped`."""
        try:
            self._load(url)
            if not self._file.state.complete:
                self._fetch_all()
            if not self._file.state.reported and self._report(Report.SUCCESS):
                self._file.state.reported = True
                self._file.save()
        except DownloadError as error:
            self._report(error.report)
            raise
        except OSError as error:
            failure = storage_error(error)
            self._report(failure.report)
            raise failure from error

    def _load(self, url: str) -> None:
        file = self._file
        file.load(url)
        if file.state.descriptor is not None:
            try:
                self.descriptor = dd.parse(file.state.descriptor.encode())
            except dd.DescriptorError as error:  # our own record: the checksum was right, the writer was not
                raise DownloadError(409, 1412, f"kept descriptor: {error}") from error
            self._accept(self.descriptor)

    # ---- attempts

    def _fetch_all(self) -> None:
        failures, turns, furthest = 0, 0, self._file.have
        while not self._stop.is_set():
            try:
                if self._attempt():
                    return
                turns += 1
                if turns > TURNS_MAX:
                    raise DownloadError(503, 1402, "the object keeps changing while it is fetched")
            except RetryableDownloadError as again:
                have = self._file.have
                failures = 0 if have > furthest else failures + 1
                furthest = max(have, furthest)
                if failures >= self._owner._attempts_max:
                    raise again.error from again
                LOG.info("download interrupted at byte %d: %s", have, again, extra={"event": "download.interrupted"})
                self._wait(failures, again.after_s)
        raise DownloadStopped

    def _attempt(self) -> bool:
        """One request. True when the object is complete; False to ask again at once (a descriptor came, or what is
        there turned out stale). Raises `RetryableDownloadError` and `DownloadError`."""
        file = self._file
        if file.have and file.state.total == file.have:
            file.finish()
            return True
        if file.have and file.state.etag is None:
            file.restart()  # nothing proves that the next answer continues this one
        headers = {"Accept-Encoding": "identity"}
        if file.have:
            headers |= {"Range": f"bytes={file.have}-", "If-Range": str(file.state.etag)}
        self._beat()
        try:
            body = self._open(file.state.object_url, headers)
        except HttpsError as error:
            raise _lost(error) from error
        try:
            return self._answered(body)
        finally:
            body.close()

    def _open(self, url: str, headers: Mapping[str, str]) -> Body:
        for _ in range(REDIRECTS_MAX + 1):
            body = self._https.stream("GET", url, headers=headers)
            if body.status not in _REDIRECT_STATUS:
                return body
            body.close()
            url = urljoin(url, body.headers.get("location", ""))
            check_url(url)
        raise DownloadError(411, 1402, f"more than {REDIRECTS_MAX} redirections")

    def _answered(self, body: Body) -> bool:
        file = self._file
        if body.status == 200:
            if self.descriptor is None and _media_type(body.headers) == dd.CONTENT_TYPE:
                self._take_descriptor(body)
                return False
            self._begin(body.headers)
            return self._take_body(body)
        if body.status == 206 and file.have:
            if not self._continues(body.headers):
                file.restart()
                return False
            file.state.resumes += 1
            return self._take_body(body)
        if body.status == 416 and file.have:
            return self._recheck()
        raise status_error(body.status, body.headers)

    def _begin(self, headers: Mapping[str, str]) -> None:
        """A whole object begins: forget what was there, and hold its head against what is known."""
        self._file.restart()
        state = self._file.state
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise DownloadError(402, 1402, "the server sent the object encoded, unasked")
        etag = headers.get("etag", "")
        state.etag = etag if _STRONG_ETAG.fullmatch(etag) else None
        state.content_type = _media_type(headers)[:200]
        length = headers.get("content-length", "")
        state.total = int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
        if state.total is None and "chunked" not in headers.get("transfer-encoding", "").lower():
            raise DownloadError(402, 1402, "the server does not say how long the object is")
        if self.descriptor is not None:
            self._check_against(self.descriptor)
        self._check_room()

    def _check_against(self, descriptor: Descriptor) -> None:
        state = self._file.state
        if state.total not in (None, descriptor.size):
            text = f"the object has {state.total} bytes, its descriptor says {descriptor.size}"
            raise DownloadError(402, 1402, text, Report.ATTRIBUTE_MISMATCH)
        state.total = descriptor.size
        kinds = {kind.partition(";")[0].strip().lower() for kind in descriptor.types}
        if state.content_type not in {"", "application/octet-stream", *kinds}:
            text = f"the object is {state.content_type}, which its descriptor does not name"
            raise DownloadError(402, 1402, text, Report.ATTRIBUTE_MISMATCH)

    def _check_room(self) -> None:
        total, limit = self._file.state.total or 0, self.bytes_max
        if total > limit:
            text = f"the object has {total} bytes, at most {limit} are taken"
            raise DownloadError(501, 1404, text, Report.INSUFFICIENT_MEMORY)
        free = self._owner._disk.free_bytes(self._folder)
        if total + SPARE_BYTES > free:
            text = f"the object needs {total} bytes, {free} are free"
            raise DownloadError(501, 1404, text, Report.INSUFFICIENT_MEMORY)

    def _continues(self, headers: Mapping[str, str]) -> bool:
        """Whether a 206 goes on exactly where the file ends, in the object that the file is of."""
        match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if match is None or headers.get("content-encoding", "identity").lower() != "identity":
            return False
        start, last, total = (int(group) for group in match.groups())
        state = self._file.state
        same = headers.get("etag", state.etag) == state.etag and (state.total is None or state.total == total)
        if start != self._file.have or not start <= last < total or not same:
            return False
        state.total = total
        return True

    def _take_body(self, body: Body) -> bool:
        file = self._file
        try:
            for piece in body.chunks():
                self._take_piece(piece)
        except HttpsError as error:
            file.checkpoint()
            raise _lost(error) from error
        file.checkpoint()
        if file.state.total is None:
            file.state.total = file.have
        if file.have < file.state.total:
            raise _lost(HttpsError(f"the answer ended at byte {file.have} of {file.state.total}"))
        file.finish()
        return True

    def _take_piece(self, piece: bytes) -> None:
        file = self._file
        limit = self.bytes_max if file.state.total is None else file.state.total
        if file.have + len(piece) > limit:
            file.restart()
            raise DownloadError(402, 1402, f"the object goes on after {limit} bytes", Report.ATTRIBUTE_MISMATCH)
        file.write(piece)
        self._beat()
        state = file.state
        self._progress(Progress(file.have, state.total, state.bytes_fetched, state.resumes))
        if self._stop.is_set():
            file.checkpoint()
            raise DownloadStopped

    def _recheck(self) -> bool:
        """416: the server has nothing from our end on. Either the object is complete, or it is another one now."""
        file = self._file
        try:
            answer = self._https.request("HEAD", file.state.object_url, headers={"Accept-Encoding": "identity"})
        except HttpsError as error:
            raise _lost(error) from error
        same = answer.status == 200 and answer.headers.get("etag") == file.state.etag
        if same and answer.headers.get("content-length") == str(file.have):
            file.finish()
            return True
        file.restart()
        return False

    def _take_descriptor(self, body: Body) -> None:
        data = b""
        try:
            for piece in body.chunks():
                data += piece
                if len(data) > dd.DESCRIPTOR_BYTES_MAX:
                    break
        except HttpsError as error:
            raise _lost(error) from error
        state = self._file.state
        try:
            found = dd.parse(data, state.object_url)
        except dd.DescriptorError as error:
            if error.notify_uri:
                self._post_report(error.notify_uri, error.report)
            raise DownloadError(402, 1402, str(error), error.report) from error
        self.descriptor = found
        check_url(found.object_uri)
        self._accept(found)
        self._file.restart()
        state = self._file.state
        state.descriptor = found.emit().decode()
        state.object_url = found.object_uri
        self._file.save()

    # ---- waiting and reporting

    def _wait(self, failures: int, after_s: float) -> None:
        """Sleep before the next try, longer with each failure in a row. Raises `DownloadStopped`."""
        backoff = min(BACKOFF_FIRST_S * 2 ** max(0, failures - 1), BACKOFF_MAX_S)
        left = max(backoff * (0.5 + self._owner._jitter() / 2), min(after_s, RETRY_AFTER_MAX_S))
        while left > 0:
            self._beat()
            piece = min(left, BEAT_EVERY_S)
            if self._stop.wait(piece):
                raise DownloadStopped
            left -= piece

    def _report(self, report: Report) -> bool:
        if self.descriptor is None or not self.descriptor.install_notify_uri:
            return False
        return self._post_report(self.descriptor.install_notify_uri, report)

    def _post_report(self, uri: str, report: Report) -> bool:
        """Tell the server, a few times at most: that it cannot be told does not change what was downloaded."""
        for attempt in range(1, REPORT_ATTEMPTS_MAX + 1):
            self._beat()
            try:
                check_url(uri)
                answer = self._https.request("POST", uri, body=report.line(), headers={"Content-Type": "text/plain"})
                if 200 <= answer.status < 300:
                    return True
                LOG.debug("installation report answered with HTTP %d", answer.status)
            except (HttpsError, DownloadError) as error:
                LOG.debug("installation report not delivered: %s", error)
            try:
                if attempt < REPORT_ATTEMPTS_MAX:
                    self._wait(attempt, 0.0)
            except DownloadStopped:
                break
        LOG.warning("installation report %d was not delivered", report, extra={"event": "download.report.lost"})
        return False


def _lost(error: HttpsError) -> RetryableDownloadError:
    return RetryableDownloadError(DownloadError(503, 1402, str(error), Report.LOSS_OF_SERVICE))


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


__all__ = ["Progress", "Downloaded", "DownloadError", "Downloader", "DownloadStopped"]
