"""Images of meter firmware over the daemon's own downloader: resumed, compared with their digest, removed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from agent.daemon.order_jobs import fetch_image
from agent.metering.orders.images import ImageStore, WantedImage
from agent.ota.download import Downloader
from tests.agent.ota.origin import Object, Origin
from tests.agent.virtual import VirtualClock
from tests.sim.faulty_disk import FaultyDisk

FOLDER = Path("/state/meter-images")
URL = "https://images.example/1"
CONTENT = bytes(range(256)) * 64
IMAGE = WantedImage(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), URL)


class Bench:
    """A store of images over a line that breaks after `cuts` bytes of the next answers."""

    def __init__(self, content: bytes = CONTENT, *cuts: int | None, disk: FaultyDisk | None = None) -> None:
        self.disk = disk or FaultyDisk()
        self.clock = VirtualClock()
        self.origin = Origin({URL: Object(content)}, list(cuts))
        downloader = Downloader(
            self.origin, self.disk, self.clock, jitter=lambda: 0.0, attempts_max=1, checkpoint_bytes=1000
        )

        def fetch(
            url: str, into: Path, *, bytes_max: int, stop: threading.Event, beat: Callable[[], None]
        ) -> tuple[int, str]:
            return fetch_image(downloader, url, into, bytes_max=bytes_max, stop=stop, beat=beat)

        self.images = ImageStore(self.disk, FOLDER, fetch, self.clock)
        self.images.want([IMAGE])

    def step(self) -> None:
        self.images.step(threading.Event(), lambda: None)

    def there(self) -> bool:
        return self.images.there(IMAGE.sha256)


def test_an_image_is_fetched_across_cuts_and_given_in_parts() -> None:
    bench = Bench(CONTENT, 0, 5000, None)
    bench.step()
    assert not bench.there()
    assert bench.images.trouble(IMAGE.sha256).startswith("the image cannot be fetched: ")
    bench.step()
    assert len(bench.origin.asked) == 1, "not at once again"
    bench.clock.advance(31)
    bench.step()
    assert bench.there()
    assert bench.origin.asked[-1].headers["Range"] == "bytes=5000-"
    assert bench.images.octets(IMAGE.sha256, 300, 20) == CONTENT[300:320]
    assert bench.images.trouble(IMAGE.sha256) == ""


def test_another_image_than_the_order_names_is_thrown_away() -> None:
    for content in (CONTENT[:-1] + b"\0", CONTENT[:-1]):
        bench = Bench(content)
        bench.step()
        assert not bench.there()
        assert bench.images.wrong(IMAGE.sha256).startswith(f"the image that was fetched has {len(content)} bytes")
        assert bench.disk.listdir(FOLDER) == []
        bench.clock.advance(5000)
        bench.step()
        assert len(bench.origin.asked) == 1, "it is not fetched again"


def test_an_image_longer_than_the_order_says_is_not_taken() -> None:
    bench = Bench(CONTENT + b"\0")
    bench.step()
    assert not bench.there()
    assert "at most 16384 are taken" in bench.images.trouble(IMAGE.sha256)


def test_an_image_is_kept_as_long_as_an_order_needs_it() -> None:
    bench = Bench()
    bench.step()
    assert sorted(bench.disk.listdir(FOLDER)) == [IMAGE.sha256, f"{IMAGE.sha256}.state"]
    again = Bench(CONTENT, disk=bench.disk)
    again.step()
    assert again.there()
    assert again.origin.asked == [], "it is compared with its digest, and not fetched"
    again.images.want([])
    again.step()
    assert not again.there()
    assert bench.disk.listdir(FOLDER) == []
