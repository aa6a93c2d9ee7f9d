"""Downloads: broken lines, restarts, power cuts, servers that change their mind, and what is told of it."""

from __future__ import annotations

import errno
import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from agent.https import HttpsError, Response
from agent.ota import download_state
from agent.ota.download import Downloaded, Downloader, DownloadError, DownloadStopped, Progress
from agent.ota.errors import DeltaUnfit
from omadm import descriptor as dd
from tests.agent.ota.origin import Answer, Asked, Object, Origin
from tests.agent.virtual import VirtualClock
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from updateagent.errors import DELTA_SOURCE

URL = "https://packages.example/fw"
INTO = Path("/data/package.swu")
CONTENT = Random(1).randbytes(20_000)
CHECKPOINT = 4000


class Stop(threading.Event):
    """A stop flag whose waits take virtual time."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._clock.advance(timeout)
        self.waited.append(timeout)
        return self.is_set()


class Bench:
    """A downloader with everything around it."""

    def __init__(self, origin: Origin, disk: FaultyDisk | None = None, **options: int) -> None:
        self.clock = VirtualClock()
        self.stop = Stop(self.clock)
        self.origin = origin
        self.disk = disk or a_disk()
        self.seen: list[Progress] = []
        self.beats = 0
        self.downloader = Downloader(
            origin, self.disk, self.clock, jitter=lambda: 0.0, checkpoint_bytes=CHECKPOINT, **options
        )

    def fetch(self, url: str = URL) -> Downloaded:
        return self.downloader.fetch(url, INTO, progress=self.seen.append, stop=self.stop, beat=self._beat)

    def fails(self, url: str = URL) -> DownloadError:
        with pytest.raises(DownloadError) as failure:
            self.fetch(url)
        return failure.value

    def _beat(self) -> None:
        self.beats += 1


def a_disk() -> FaultyDisk:
    disk = FaultyDisk()
    disk.mkdir_durable(INTO.parent)
    return disk


def an_origin(*cuts: int | None, **options: object) -> Origin:
    return Origin({URL: Object(CONTENT, **options)}, cuts=list(cuts))  # type: ignore[arg-type]


def part(bench: Bench, size: int, url: str = URL) -> None:
    """Fetch until `size` bytes are there, and stop."""

    def halt(progress: Progress) -> None:
        if progress.have >= size:
            bench.stop.set()

    with pytest.raises(DownloadStopped):
        bench.downloader.fetch(url, INTO, progress=halt, stop=bench.stop)


def check(done: Downloaded, disk: FaultyDisk, content: bytes = CONTENT) -> None:
    assert disk.read_bytes(INTO) == content
    assert (done.size, done.sha256) == (len(content), hashlib.sha256(content).hexdigest())


# ---- the good way


def test_an_object_arrives_whole() -> None:
    bench = Bench(an_origin())
    done = bench.fetch()
    check(done, bench.disk)
    assert (done.bytes_fetched, done.resumes, done.descriptor) == (len(CONTENT), 0, None)
    assert done.content_type == "application/octet-stream"
    assert bench.seen[-1] == Progress(len(CONTENT), len(CONTENT), len(CONTENT), 0)
    assert bench.beats >= 20
    assert all(body.closed for body in bench.origin.bodies)


def test_an_empty_object_is_an_object() -> None:
    bench = Bench(Origin({URL: Object(b"")}))
    check(bench.fetch(), bench.disk, b"")


def test_a_finished_download_is_returned_again_without_asking() -> None:
    bench = Bench(an_origin())
    first = bench.fetch()
    again = Bench(Origin(), bench.disk)
    assert again.fetch() == first
    assert again.origin.asked == []


def test_a_finished_file_that_was_altered_is_fetched_again() -> None:
    bench = Bench(an_origin())
    bench.fetch()
    with bench.disk.open_raw(INTO, write=True) as file:
        file.pwrite(b"x", 5)
    again = Bench(an_origin(), bench.disk)
    check(again.fetch(), bench.disk)


def test_discard_forgets_file_and_state() -> None:
    bench = Bench(an_origin())
    bench.fetch()
    bench.downloader.discard(INTO)
    assert bench.disk.listdir(INTO.parent) == []


# ---- broken lines


def test_a_line_that_breaks_is_taken_up_where_the_file_ends() -> None:
    bench = Bench(an_origin(7000, 5500))
    done = bench.fetch()
    check(done, bench.disk)
    assert (done.bytes_fetched, done.resumes) == (len(CONTENT), 2)
    assert bench.origin.ranges() == ["", "bytes=7000-", "bytes=12500-"]
    assert bench.origin.asked[1].headers["If-Range"] == '"v1"'


def test_many_breaks_with_progress_do_not_use_up_the_attempts() -> None:
    bench = Bench(an_origin(*[500] * 39), attempts_max=2)
    done = bench.fetch()
    check(done, bench.disk)
    assert (done.bytes_fetched, done.resumes) == (len(CONTENT), 39)


def test_attempts_without_progress_are_bounded_and_wait_longer_each_time() -> None:
    bench = Bench(Origin(instead=lambda *_: HttpsError("unreachable")), attempts_max=5)
    error = bench.fails()
    assert (error.code_fumo, error.code_scomo) == (503, 1402)
    assert len(bench.origin.asked) == 5
    assert bench.clock.now - 100.0 == pytest.approx((1 + 2 + 4 + 8) * 0.5)
    assert max(bench.stop.waited) <= 2.0  # the watchdog is fed between


def test_breaks_after_the_same_byte_are_no_progress() -> None:
    bench = Bench(an_origin(7000, 0, 0, 0), attempts_max=3)
    error = bench.fails()
    assert error.code_fumo == 503
    assert "connection lost" in error.message


def test_without_a_strong_etag_nothing_is_resumed() -> None:
    for etag in (None, 'W/"weak"', "bare", '"' + "x" * 300 + '"'):
        bench = Bench(an_origin(7000, etag=etag))
        done = bench.fetch()
        check(done, bench.disk)
        assert bench.origin.ranges() == ["", ""]
        assert (done.bytes_fetched, done.resumes) == (len(CONTENT) + 7000, 0)


def test_a_server_without_ranges_is_given_up_when_it_never_gets_further() -> None:
    bench = Bench(an_origin(*[7000] * 20, ranges=False), attempts_max=4)
    assert bench.fails().code_fumo == 503
    assert len(bench.origin.asked) == 5


def test_stop_keeps_what_came_and_the_next_start_goes_on() -> None:
    bench = Bench(an_origin())
    part(bench, 9000)
    again = Bench(an_origin(), bench.disk)
    done = again.fetch()
    check(done, bench.disk)
    assert again.origin.ranges() == ["bytes=9000-"]
    assert (done.bytes_fetched, done.resumes) == (len(CONTENT), 1)


def test_stop_ends_a_wait_between_attempts() -> None:
    bench = Bench(Origin(instead=lambda *_: HttpsError("unreachable")))
    bench.stop.set()
    with pytest.raises(DownloadStopped):
        bench.fetch()
    assert bench.origin.asked == []


def test_a_slow_line_is_saved_by_time() -> None:
    bench = Bench(an_origin())
    saved: list[int] = []

    def slow(progress: Progress) -> None:
        bench.clock.advance(20.0)
        state = bench.disk.read_bytes(download_state.path_for(INTO))
        saved.append((download_state.parse(state) or download_state.State("", "")).offset)

    bench.downloader = Downloader(bench.origin, bench.disk, bench.clock, checkpoint_bytes=10**9)
    bench.downloader.fetch(URL, INTO, progress=slow, stop=bench.stop)
    assert saved[:5] == [0, 0, 3000, 3000, 5000]


# ---- servers that change their mind


def test_an_object_that_changed_is_begun_again() -> None:
    origin = an_origin(7000)
    new = Random(2).randbytes(9000)

    def change(number: int, _: Asked) -> None:
        if number == 2:
            origin.objects[URL] = Object(new, etag='"v2"')

    origin.instead = change
    bench = Bench(origin)
    done = bench.fetch()
    check(done, bench.disk, new)
    assert (done.bytes_fetched, done.resumes) == (7000 + 9000, 0)


@pytest.mark.parametrize(
    "head",
    [
        {"content-range": "bytes 6999-19999/20000"},
        {"content-range": "bytes 7000-19999/20001"},
        {"content-range": "bytes 7000-19999/*"},
        {"content-range": "bytes 7000-20000/20000"},
        {"content-range": "bytes 7000-6999/20000"},
        {"content-range": "seven"},
        {},
        {"content-range": "bytes 7000-19999/20000", "etag": '"v2"'},
        {"content-range": "bytes 7000-19999/20000", "content-encoding": "gzip"},
    ],
)
def test_a_206_that_does_not_continue_the_file_is_not_believed(head: dict[str, str]) -> None:
    def wrong(number: int, _: Asked) -> Response | None:
        return Response(206, head, CONTENT[7000:]) if number == 2 else None

    origin = an_origin(7000)
    origin.instead = wrong
    bench = Bench(origin)
    done = bench.fetch()
    check(done, bench.disk)
    assert origin.ranges() == ["", "bytes=7000-", ""]
    assert done.bytes_fetched == len(CONTENT) + 7000


def test_a_server_that_never_answers_with_a_matching_206_is_given_up() -> None:
    def wrong(_: int, asked: Asked) -> Response | None:
        return Response(206, {}, b"") if "Range" in asked.headers else None

    origin = an_origin(*[7000] * 100)
    origin.instead = wrong
    error = Bench(origin).fails()
    assert error.code_fumo == 503


def cut_before_the_length_was_known(content: bytes) -> FaultyDisk:
    """A disk with all of `content` fetched and the total still unknown: the server sent chunks, and the end broke."""
    disk = a_disk()

    def chunked(_: int, __: Asked) -> Response:
        return Response(200, {"etag": '"v1"', "transfer-encoding": "chunked"}, content + b"!")

    part(Bench(Origin(instead=chunked, cuts=[len(content)]), disk), len(content))
    return disk


def test_416_for_a_complete_object_ends_the_download() -> None:
    disk = cut_before_the_length_was_known(CONTENT)
    bench = Bench(an_origin(), disk)
    done = bench.fetch()
    check(done, disk)
    assert [asked.method for asked in bench.origin.asked] == ["GET", "HEAD"]
    assert done.bytes_fetched == len(CONTENT)


def test_416_for_another_object_begins_again() -> None:
    disk = cut_before_the_length_was_known(CONTENT)

    def gone(number: int, _: Asked) -> Response | None:
        return Response(416, {}, b"") if number == 1 else None

    origin = Origin({URL: Object(b"new and short", etag='"v2"')}, instead=gone)
    bench = Bench(origin, disk)
    check(bench.fetch(), disk, b"new and short")


def test_redirections_are_followed_and_bounded() -> None:
    def moved(_: int, asked: Asked) -> Response | None:
        return Response(302, {"location": "/real"}, b"") if asked.url == URL else None

    origin = Origin({"https://packages.example/real": Object(CONTENT)}, instead=moved, cuts=[7000])
    bench = Bench(origin)
    check(bench.fetch(), bench.disk)
    circle = Bench(Origin(instead=lambda *_: Response(302, {"location": URL}, b"")))
    assert circle.fails().code_fumo == 411
    downgrade = Bench(Origin(instead=lambda *_: Response(302, {"location": "http://packages.example/fw"}, b"")))
    assert "not an https URL" in downgrade.fails().message


# ---- refusals, and the codes for them


@pytest.mark.parametrize(
    ("status", "fumo", "scomo", "requests"),
    [
        (404, 411, 1402, 1),
        (410, 411, 1402, 1),
        (401, 406, 1403, 1),
        (403, 406, 1403, 1),
        (500, 500, 1500, 3),
        (503, 500, 1500, 3),
        (429, 500, 1500, 3),
        (206, 400, 1402, 1),
        (204, 400, 1402, 1),
        (416, 411, 1402, 1),
    ],
)
def test_each_refusal_has_its_codes(status: int, fumo: int, scomo: int, requests: int) -> None:
    bench = Bench(Origin(instead=lambda *_: Response(status, {}, b"")), attempts_max=3)
    error = bench.fails()
    assert (error.code_fumo, error.code_scomo) == (fumo, scomo)
    assert len(bench.origin.asked) == requests


def test_a_server_that_says_when_to_come_back_is_obeyed_within_reason() -> None:
    for said, waited in (("90", 90.0), ("999999", 600.0), ("soon", 0.5)):
        bench = Bench(Origin(instead=lambda *_, s=said: Response(503, {"retry-after": s}, b"")), attempts_max=2)
        bench.fails()
        assert bench.clock.now - 100.0 == pytest.approx(waited)


@pytest.mark.parametrize(
    "url", ["http://h/x", "ftp://h/x", "https://", "", "https://h:x/", "https://h:0/", "https://h/\n", "https://h/ä"]
)
def test_what_is_no_https_url_is_never_asked(url: str) -> None:
    bench = Bench(Origin())
    assert bench.fails(url).code_fumo == 411
    assert bench.origin.asked == []


def test_an_object_that_does_not_fit_is_refused_before_it_is_fetched() -> None:
    bench = Bench(Origin({URL: Object(CONTENT)}), object_bytes_max=19_999)
    error = bench.fails()
    assert (error.code_fumo, error.code_scomo) == (501, 1404)
    assert bench.seen == []


def test_a_full_disk_is_no_memory() -> None:
    disk = a_disk()

    def full(operation: Operation) -> None:
        if operation.kind == "write" and operation.path == INTO and bench.seen:
            raise OSError(errno.ENOSPC, "no space left")

    bench = Bench(an_origin(), disk)
    disk.on_operation = full
    error = bench.fails()
    assert (error.code_fumo, error.code_scomo) == (501, 1404)


def test_a_broken_disk_is_an_error_of_its_own() -> None:
    disk = a_disk()

    def broken(_: Operation) -> None:
        raise OSError(errno.EIO, "input/output error")

    disk.on_operation = broken
    assert Bench(an_origin(), disk).fails().code_fumo == 409


def test_an_answer_of_unknown_length_is_not_taken() -> None:
    bench = Bench(Origin(instead=lambda *_: Response(200, {"etag": '"v1"'}, CONTENT)))
    assert "how long" in bench.fails().message


def test_an_answer_in_an_encoding_is_not_taken() -> None:
    head = {"content-length": "20000", "content-encoding": "gzip"}
    assert Bench(Origin(instead=lambda *_: Response(200, head, CONTENT))).fails().code_fumo == 402


def test_an_answer_longer_than_it_said_is_not_taken() -> None:
    bench = Bench(Origin(instead=lambda *_: Response(200, {"content-length": "19000"}, CONTENT)))
    assert "goes on after 19000" in bench.fails().message


def test_an_answer_that_ends_early_is_asked_for_again() -> None:
    def short(number: int, _: Asked) -> Response | None:
        head = {"content-length": "20000", "etag": '"v1"'}
        return Response(200, head, CONTENT[:7000]) if number == 1 else None

    origin = an_origin()
    origin.instead = short
    bench = Bench(origin)
    done = bench.fetch()
    check(done, bench.disk)
    assert (done.bytes_fetched, done.resumes) == (len(CONTENT), 1)


# ---- descriptors

DESCRIPTOR_URL = "https://packages.example/dd"
NOTIFY = "https://packages.example/notify"


def with_descriptor(size: int = len(CONTENT), kind: str = "application/octet-stream", *cuts: int) -> Origin:
    text = dd.Descriptor((kind,), size, "fw", install_notify_uri="notify").emit()
    found = Object(text, content_type=dd.CONTENT_TYPE)
    return Origin({URL: Object(CONTENT), DESCRIPTOR_URL: found}, cuts=[None, *cuts])


def test_a_descriptor_leads_to_the_object_and_success_is_reported() -> None:
    bench = Bench(with_descriptor(20_000, "application/octet-stream", 7000))
    done = bench.fetch(DESCRIPTOR_URL)
    check(done, bench.disk)
    assert done.descriptor is not None
    assert done.descriptor.object_uri == URL
    assert (done.bytes_fetched, done.resumes) == (len(CONTENT), 1)
    assert bench.origin.reports == [(NOTIFY, b"900 Success")]


def test_a_restart_goes_on_with_the_object_and_does_not_ask_for_the_descriptor_again() -> None:
    bench = Bench(with_descriptor())
    part(bench, 7000, DESCRIPTOR_URL)
    again = Bench(with_descriptor(), bench.disk)
    again.origin.cuts = []
    done = again.fetch(DESCRIPTOR_URL)
    check(done, bench.disk)
    assert [asked.url for asked in again.origin.asked] == [URL, NOTIFY]
    assert done.bytes_fetched == len(CONTENT)


def test_success_is_reported_once() -> None:
    bench = Bench(with_descriptor())
    first = bench.fetch(DESCRIPTOR_URL)
    again = Bench(Origin(), bench.disk)
    assert again.fetch(DESCRIPTOR_URL) == first
    assert again.origin.asked == []


def test_an_object_of_another_size_than_described_is_refused_and_reported() -> None:
    bench = Bench(with_descriptor(19_999))
    assert bench.fails(DESCRIPTOR_URL).code_fumo == 402
    assert bench.origin.reports == [(NOTIFY, b"905 Attribute mismatch")]
    assert bench.seen == []


def test_an_object_of_another_type_than_described_is_refused() -> None:
    origin = with_descriptor(20_000, "application/firmware")
    origin.objects[URL].content_type = "text/html"
    assert Bench(origin).fails(DESCRIPTOR_URL).report is dd.Report.ATTRIBUTE_MISMATCH


def test_a_descriptor_of_another_version_is_reported_as_such() -> None:
    origin = with_descriptor()
    origin.objects[DESCRIPTOR_URL].content = dd.Descriptor(
        ("a/b",), 5, "fw", install_notify_uri=NOTIFY, dd_version="2.0"
    ).emit()
    bench = Bench(origin)
    bench.fails(DESCRIPTOR_URL)
    assert origin.reports == [(NOTIFY, b"951 Invalid DDVersion")]


def test_a_descriptor_that_leads_to_a_descriptor_is_an_object_like_any_other() -> None:
    origin = with_descriptor()
    origin.objects[URL] = Object(dd.Descriptor(("a/b",), 5, "fw").emit(), content_type=dd.CONTENT_TYPE)
    assert Bench(origin).fails(DESCRIPTOR_URL).report is dd.Report.ATTRIBUTE_MISMATCH


def test_loss_of_service_is_reported_when_the_object_cannot_be_had() -> None:
    origin = with_descriptor()

    def down(_: int, asked: Asked) -> Answer | None:
        return HttpsError("down") if asked.url == URL else None

    origin.instead = down
    bench = Bench(origin, attempts_max=2)
    assert bench.fails(DESCRIPTOR_URL).code_fumo == 503
    assert origin.reports == [(NOTIFY, b"903 Loss of Service")]


def test_a_report_that_cannot_be_delivered_does_not_spoil_the_download() -> None:
    origin = with_descriptor()

    def deaf(_: int, asked: Asked) -> Answer | None:
        return HttpsError("deaf") if asked.url == NOTIFY else None

    origin.instead = deaf
    bench = Bench(origin)
    check(bench.fetch(DESCRIPTOR_URL), bench.disk)
    assert sum(asked.url == NOTIFY for asked in origin.asked) == 3


def test_a_descriptor_that_is_not_wanted_costs_no_download_and_is_reported() -> None:
    bench = Bench(with_descriptor())

    def refuse(found: dd.Descriptor) -> None:
        assert found.object_uri == URL
        raise DeltaUnfit(DELTA_SOURCE, "another version runs")

    for _ in range(2):  # the same at the next start
        with pytest.raises(DeltaUnfit, match="another version runs"):
            bench.downloader.fetch(DESCRIPTOR_URL, INTO, stop=bench.stop, accept=refuse)
    assert [asked.url for asked in bench.origin.asked if asked.method == "GET"] == [DESCRIPTOR_URL] * 2
    assert bench.origin.reports == [(NOTIFY, b"953 Non-Acceptable Content")] * 2


def test_a_descriptor_is_shown_again_when_a_download_is_taken_up_again() -> None:
    bench = Bench(with_descriptor())
    part(bench, 7000, DESCRIPTOR_URL)
    shown: list[dd.Descriptor] = []
    again = Bench(with_descriptor(), bench.disk)
    again.origin.cuts = []
    again.downloader.fetch(DESCRIPTOR_URL, INTO, stop=again.stop, accept=shown.append)
    assert [found.object_uri for found in shown] == [URL]


@pytest.mark.parametrize("chunked", [False, True])
def test_no_more_is_taken_than_the_caller_allows(*, chunked: bool) -> None:
    head = {"transfer-encoding": "chunked"} if chunked else {"content-length": "20000"}
    bench = Bench(Origin(instead=lambda *_: Response(200, head, CONTENT)))
    with pytest.raises(DownloadError, match="19999"):
        bench.downloader.fetch(URL, INTO, stop=bench.stop, bytes_max=len(CONTENT) - 1)
    bench = Bench(an_origin())
    check(bench.downloader.fetch(URL, INTO, stop=bench.stop, bytes_max=len(CONTENT)), bench.disk)


# ---- restarts and power cuts


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-3],
        lambda data: data.replace(b"20000", b"20001"),
        lambda _: b"",
        lambda _: b"[]\n00000000\n",
        lambda data: b"x" * 70_000 + data,
    ],
)
def test_a_damaged_state_means_starting_again(damage: Callable[[bytes], bytes]) -> None:
    disk = a_disk()
    part(Bench(an_origin(), disk), 7000)
    state = download_state.path_for(INTO)
    disk.write_durable(state, damage(disk.read_bytes(state)))
    bench = Bench(an_origin(), disk)
    check(bench.fetch(), disk)
    assert bench.origin.ranges() == [""]


def test_the_state_of_another_url_means_starting_again() -> None:
    disk = a_disk()
    part(Bench(an_origin(), disk), 7000)
    other = "https://packages.example/other"
    new = Random(9).randbytes(5000)
    bench = Bench(Origin({other: Object(new)}), disk)
    check(bench.fetch(other), disk, new)
    back = Bench(an_origin(), disk)
    check(back.fetch(), disk)
    assert back.origin.ranges() == [""]


def test_a_file_that_is_gone_or_shorter_than_its_state_means_starting_again() -> None:
    for gone in (True, False):
        disk = a_disk()
        part(Bench(an_origin(), disk), 7000)
        if gone:
            disk.remove_durable(INTO)
        else:
            disk.open_raw(INTO, write=True).truncate(10)
        bench = Bench(an_origin(), disk)
        done = bench.fetch()
        check(done, disk)
        assert done.bytes_fetched == len(CONTENT) + 7000


def test_a_state_with_values_out_of_range_is_no_state() -> None:
    good = download_state.State("u", "u", offset=5)
    assert download_state.parse(good.emit()) == good
    good.offset = -1
    assert download_state.parse(good.emit()) is None
    good.offset = True
    assert download_state.parse(good.emit()) is None
    good.offset, good.url = 0, 5  # type: ignore[assignment]
    assert download_state.parse(good.emit()) is None


def run_until(cut: int, survival: Survival, seed: int) -> tuple[FaultyDisk, bool]:
    """A download over a line that breaks, with the power going at the `cut`-th disk operation."""
    disk = a_disk()
    start = disk.operations

    def plan(operation: Operation) -> float | None:
        if operation.number - start == cut:
            raise PowerCut
        return None

    disk.on_operation = plan
    try:
        Bench(an_origin(9500), disk).fetch()
    except PowerCut:
        return disk.after_power_cut(survival, Random(seed)), True
    disk.on_operation = None
    return disk, False


@pytest.mark.parametrize("survival", list(Survival))
def test_after_a_power_cut_at_any_point_the_download_completes_and_asks_for_no_durable_byte(
    survival: Survival,
) -> None:
    cut, went_off = 0, True
    while went_off:
        cut += 1
        disk, went_off = run_until(cut, survival, seed=cut)
        kept = _durable_bytes(disk)
        bench = Bench(an_origin(), disk)
        check(bench.fetch(), disk)
        asked_from = [int(text[6:-1]) if text else 0 for text in bench.origin.ranges()]
        assert all(start >= kept for start in asked_from), f"cut {cut}: {asked_from}, {kept} bytes were durable"
    assert cut > 20


def _durable_bytes(disk: FaultyDisk) -> int:
    """What the state on the disk vouches for."""
    try:
        state = download_state.parse(disk.read_bytes(download_state.path_for(INTO)))
    except FileNotFoundError:
        return 0
    return state.offset if state is not None and disk.exists(INTO) else 0


@pytest.mark.slow
def test_random_lines_and_power_cuts_never_yield_a_wrong_file() -> None:
    rng = random.Random(11)
    for _ in range(150):
        disk, finished = a_disk(), False
        while not finished:
            at = disk.operations + rng.randint(1, 40)

            def plan(operation: Operation, at: int = at) -> float | None:
                if operation.number >= at:
                    raise PowerCut
                return None

            disk.on_operation = plan if rng.random() < 0.7 else None
            origin = an_origin(*[rng.randint(0, 9000) for _ in range(rng.randint(0, 3))])
            try:
                done = Bench(origin, disk).fetch()
                finished = True
            except PowerCut:
                disk = disk.after_power_cut(rng.choice(list(Survival)), rng)
        disk.on_operation = None
        check(done, disk)
        assert done.bytes_fetched >= len(CONTENT)


@pytest.mark.slow
@pytest.mark.parametrize("survival", list(Survival))
def test_a_file_that_another_download_began_to_overwrite_is_never_taken_for_the_first(survival: Survival) -> None:
    other = "https://packages.example/other"
    cut, went_off = 0, True
    while went_off:
        cut, went_off = cut + 1, False
        disk = a_disk()
        part(Bench(an_origin(), disk), 9000)
        last = disk.operations + cut

        def plan(operation: Operation, last: int = last) -> float | None:
            if operation.number == last:
                raise PowerCut
            return None

        disk.on_operation = plan
        try:
            Bench(Origin({other: Object(Random(4).randbytes(30_000))}), disk).fetch(other)
        except PowerCut:
            disk, went_off = disk.after_power_cut(survival, Random(cut)), True
        disk.on_operation = None
        check(Bench(an_origin(), disk).fetch(), disk)
