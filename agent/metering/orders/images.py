"""Images of meter firmware on the concentrator: fetched once for all meters of an order, and kept until all are done.

A file per digest in one folder. A download goes on where it was cut (`Downloader`), and an image counts as there only
with the size and the SHA-256 that the order names; these came with the order, over an authenticated session. What no
order under way needs is removed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.clock import Clock
from agent.metering.scheduling.schedule import Backoff
from updateagent.disk import Storage

LOG = logging.getLogger("agent.metering.orders")

IMAGES_BYTES_MAX = 32 << 20  # of all images together
RETRY = Backoff(30.0, 900.0)
IMAGES_EVERY_S = 30.0  # between two beats, with no image to fetch
_SUFFIXES = ("", ".state")  # of the downloader


@dataclass(frozen=True, slots=True)
class WantedImage:
    """An image that an order needs. `sha256` is in lower-case hexadecimal."""

    sha256: str
    size: int
    url: str


class Fetch(Protocol):
    """Fetches `url` into a file, at most so many bytes; returns size and SHA-256. Raises `FetchError`."""

    def __call__(
        self, url: str, into: Path, *, bytes_max: int, stop: threading.Event, beat: Callable[[], None]
    ) -> tuple[int, str]: ...


class FetchError(Exception):
    """The image could not be fetched now."""


@dataclass(slots=True)
class _KeptImage:
    """What there is of one image. `wrong`: it will never be there; `trouble`: why it is not there yet."""

    wanted: WantedImage
    there: bool = False
    wrong: str = ""
    trouble: str = ""
    failures: int = 0
    not_before: float = 0.0


class ImageStore:
    """A worker of the daemon, and what the order book asks. Thread-safe."""

    name = "images"
    budget_s = 120.0  # a request may wait for the timeouts of the HTTPS client

    def __init__(self, disk: Storage, folder: Path, fetch: Fetch, clock: Clock) -> None:
        self._disk = disk
        self._folder = folder
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, _KeptImage] = {}
        self._wake = threading.Event()
        self._tidied = False

    # --- the order book ---

    def want(self, images: Iterable[WantedImage]) -> None:
        """These are the images that orders under way need. To be called whenever that may have changed."""
        wanted = {image.sha256: image for image in images}
        with self._lock:
            if wanted.keys() == self._held.keys():
                return
            self._held = {digest: self._held.get(digest) or _KeptImage(image) for digest, image in wanted.items()}
            self._tidied = False
        self._wake.set()

    def there(self, sha256: str) -> bool:
        with self._lock:
            held = self._held.get(sha256)
            return held is not None and held.there

    def wrong(self, sha256: str) -> str:
        """Why this image will never be there; empty as long as it may."""
        with self._lock:
            held = self._held.get(sha256)
            return held.wrong if held is not None else ""

    def trouble(self, sha256: str) -> str:
        """Why this image is not there yet, as far as that is known."""
        with self._lock:
            held = self._held.get(sha256)
            return held.trouble if held is not None else ""

    def octets(self, sha256: str, offset: int, length: int) -> bytes:
        """A part of an image that is there. Raises `OSError`."""
        with self._disk.open_raw(self._folder / sha256) as file:
            return file.pread(length, offset)

    # --- the worker ---

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        while not stop.is_set():
            beat()
            self.step(stop, beat)
            self._wake.wait(self._wait_s())
            self._wake.clear()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wake.set()

    def _wait_s(self) -> float:
        """Until the next image is due."""
        with self._lock:
            now = self._clock.monotonic()
            waits = [held.not_before - now for held in self._held.values() if not (held.there or held.wrong)]
        return max(0.0, min([IMAGES_EVERY_S, *waits]))

    def step(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Remove what nobody needs, and fetch the next image that is due."""
        with self._lock:
            now = self._clock.monotonic()
            due = [held for held in self._held.values() if not (held.there or held.wrong) and now >= held.not_before]
            keep, tidied = set(self._held), self._tidied
            self._tidied = True
        if not tidied:
            self._tidy(keep)
        for held in due:
            if not stop.is_set():
                self._bring(held, stop, beat)

    def _bring(self, held: _KeptImage, stop: threading.Event, beat: Callable[[], None]) -> None:
        wanted = held.wanted
        try:
            self._disk.mkdir_durable(self._folder)
            size, digest = self._fetch(
                wanted.url, self._folder / wanted.sha256, bytes_max=wanted.size, stop=stop, beat=beat
            )
        except (FetchError, OSError) as error:
            with self._lock:
                held.failures += 1
                held.trouble = f"the image cannot be fetched: {error}"
                held.not_before = self._clock.monotonic() + RETRY.pause(held.failures, lambda: 1.0)
            level = logging.WARNING if held.failures == 1 else logging.DEBUG
            LOG.log(level, "image %s: %s", wanted.sha256[:12], error, extra={"event": "order.image.failed"})
            return
        good = (size, digest) == (wanted.size, wanted.sha256)
        if not good:
            self._remove(wanted.sha256)
        with self._lock:
            held.there, held.trouble = good, ""
            held.wrong = "" if good else f"the image that was fetched has {size} bytes and SHA-256 {digest}"
        if good:
            LOG.info("image %s is there", wanted.sha256[:12], extra={"event": "order.image"})
        else:
            LOG.warning("image %s: %s", wanted.sha256[:12], held.wrong, extra={"event": "order.image.wrong"})

    def _tidy(self, keep: set[str]) -> None:
        try:
            names = self._disk.listdir(self._folder) if self._disk.exists(self._folder) else []
            for digest in {name.partition(".")[0] for name in names} - keep:
                self._remove(digest)
        except OSError as error:
            LOG.debug("images cannot be removed: %s", error)

    def _remove(self, digest: str) -> None:
        for suffix in reversed(_SUFFIXES):  # the state first: it must not speak of a file that is gone
            self._disk.remove_durable(self._folder / f"{digest}{suffix}")
