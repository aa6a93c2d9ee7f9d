"""The uplink: at least once on the wire, exactly once in the head-end, whatever happens in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.https import HttpsError, Response
from agent.settings.provisioning import UplinkSettings
from tests.agent.metering.readings import visit
from tests.agent.metering.uplink.rig import URL, Rig

REPO = Path(__file__).resolve().parents[4]


def test_everything_is_delivered_once_in_batches_in_the_order_of_ids(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for start in range(0, 300, 100):
        rig.store.append(visit(start, 100))
    rig.run(5)
    assert rig.delivered() == list(range(300))
    assert rig.headend.seen_twice == 0
    assert [len(request["records"]) for request in rig.headend.requests] == [50] * 6  # type: ignore[arg-type]
    assert set(rig.headend.tokens) == {"Bearer secret-token"}
    assert rig.store.batch(10) is None
    assert rig.published[-1].records == 0
    assert rig.published[-1].forwarded == 300
    assert rig.published[-1].last_uplink > 0


def test_without_a_url_readings_are_kept_and_sent_once_one_is_provisioned(tmp_path: Path) -> None:
    rig = Rig(tmp_path, url="")
    rig.store.append(visit(0, 10))
    rig.run(60)
    assert rig.headend.requests == []
    assert rig.published[-1].records == 10
    rig.uplink.configure(UplinkSettings(URL, "t", 50))
    rig.run(1)
    assert rig.delivered() == list(range(10))


def test_readings_made_during_an_outage_arrive_after_it_none_twice_none_missing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.headend.mood = [HttpsError("no route to host")] * 8
    for number in range(60):
        rig.store.append(visit(number * 10, 10))
        rig.run(5)
    rig.run(120)
    assert rig.delivered() == list(range(600))
    assert rig.headend.seen_twice == 0
    assert rig.published[-1].last_error == ""


def test_an_answer_that_got_lost_means_a_repetition_on_the_wire_and_not_in_the_head_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.headend.mood = ["lost"]
    rig.store.append(visit(0, 20))
    rig.run(60)
    assert rig.headend.seen_twice == 20
    assert rig.delivered() == list(range(20))
    assert rig.store.batch(10) is None


def test_pauses_double_up_to_their_limit_and_end_with_the_first_success(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 1))
    rig.headend.mood = [503] * 9
    pauses = []
    for _ in range(9):
        pauses.append(rig.uplink.step())
        rig.clock.advance(pauses[-1])
    for pause, longest in zip(pauses, [2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
        assert longest / 2 <= pause <= longest
    assert rig.uplink.step() == 0.0
    rig.store.append(visit(1, 1))
    rig.headend.mood = [503]
    assert rig.uplink.step() <= 2.0


def test_no_request_is_made_during_a_pause(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 1))
    rig.headend.mood = [503]
    pause = rig.uplink.step()
    rig.clock.advance(pause / 2)
    assert 0 < rig.uplink.step() <= pause / 2
    assert len(rig.headend.requests) == 1


def test_new_settings_end_a_pause_and_apply_to_the_very_next_batch(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 4))
    rig.headend.mood = [401]
    assert rig.uplink.step() == 60.0
    assert "refuses the token" in rig.error()
    rig.uplink.configure(UplinkSettings(URL, "new-token", 2))
    assert rig.uplink.step() == 0.0
    assert rig.headend.tokens[-1] == "Bearer new-token"
    assert len(rig.headend.requests[-1]["records"]) == 2  # type: ignore[arg-type]


def test_a_body_that_is_too_large_is_cut_until_it_fits_and_grows_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 64)
    rig.store.append(visit(0, 200))
    rig.headend.body_records_max = 10
    rig.run(1)
    assert rig.delivered() == list(range(200))
    rig.headend.body_records_max = 1000
    rig.store.append(visit(200, 200))
    rig.run(1)
    assert max(len(request["records"]) for request in rig.headend.requests[-4:]) == 64  # type: ignore[arg-type]


def test_one_record_that_the_head_end_will_not_take_does_not_hold_up_the_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 100))
    rig.headend.poison = {38}
    rig.run(30)
    assert rig.delivered() == [number for number in range(100) if number != 37]
    assert rig.store.stats().refused == 1
    assert rig.store.batch(10) is None


def test_a_400_that_is_no_verdict_of_the_metering_server_sets_nothing_aside(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 1))
    rig.headend.mood = [400] * 5
    rig.run(120)
    assert rig.delivered() == [0]
    assert rig.store.stats().refused == 0


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"acknowledged":"3"}', b'{"acknowledged":true}', b'{"acknowledged":999}', b"\xff"]
)
def test_a_senseless_acknowledgement_releases_nothing(tmp_path: Path, answer: bytes) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 3))
    rig.headend.judge = lambda document: Response(200, {}, answer)  # type: ignore[method-assign]
    assert rig.uplink.step() > 0
    assert rig.store.stats().pending == 3


def test_a_partial_acknowledgement_releases_that_part(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 10))
    rig.headend.judge = lambda document: Response(200, {}, b'{"acknowledged":4}')  # type: ignore[method-assign]
    assert rig.uplink.step() == 0.0
    assert rig.store.stats().pending == 6


def test_a_busy_head_end_may_say_when_to_come_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 1))
    rig.headend.judge = lambda document: Response(429, {"retry-after": "40"}, b"")  # type: ignore[method-assign]
    assert 40.0 <= rig.uplink.step() <= 50.0


def test_the_token_is_in_no_log_line_and_no_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    rig = Rig(tmp_path)
    rig.store.append(visit(0, 3))
    rig.headend.mood = [401, 503, HttpsError("x")]
    rig.run(300)
    assert "secret-token" not in caplog.text
    assert "secret-token" not in repr(rig.published)
    assert "secret-token" not in repr(UplinkSettings(URL, "secret-token"))


def test_the_worker_sends_what_is_appended_and_ends_when_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    done = threading.Event()
    stop = threading.Event()
    original = rig.headend.judge

    def judge(document: dict[str, object]) -> Response:
        answer = original(document)
        done.set()
        return answer

    rig.headend.judge = judge  # type: ignore[method-assign]
    rig.store.on_append = rig.uplink.notify
    thread = threading.Thread(target=rig.uplink.run, args=(stop, lambda: None))
    thread.start()
    rig.store.append(visit(0, 3))
    assert done.wait(10)
    stop.set()
    rig.uplink.wake()
    thread.join(10)
    assert not thread.is_alive()
    assert rig.delivered() == [0, 1, 2]


# --- power cuts ---

# The process kills itself at the n-th of the moments that matter; the head-end is a file that it appends to, synced.
CUT = """
import json, os, random, signal, sys
from pathlib import Path
from agent.clock import SystemClock
from agent.https import Response
from agent.metering.store.reading_store import Progress, Store
from agent.metering.scheduling.schedule import Backoff
from agent.metering.uplink.replay import ReplayLimits
from agent.metering.uplink.worker import Uplink
from agent.settings.provisioning import UplinkSettings
from tests.agent.metering.readings import visit

folder, left, visits = Path(sys.argv[1]), [int(sys.argv[2])], int(sys.argv[3])

def moment():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

class Headend:
    def request(self, method, url, *, body=None, headers=None):
        import gzip
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        document = json.loads(body)
        moment()                                    # before the head-end has it
        with open(folder / "headend", "ab") as journal:
            records = [[record["id"], record["raw"]] for record in document["records"]]
            journal.write(json.dumps([document["store"], records]).encode() + b"\\n")
            journal.flush()
            os.fsync(journal.fileno())
        moment()                                    # committed there, not acknowledged
        return Response(200, {}, json.dumps({"acknowledged": document["records"][-1]["id"]}).encode())

store = Store(folder / "readings.db", SystemClock(), records_max=10**6, keep_forwarded_max=0)
uplink = Uplink(store, Headend(), SystemClock(), device_id="d", backoff=Backoff(0.1, 1), rng=random.Random(1),
                replay=ReplayLimits(10**9, 0))
uplink.configure(UplinkSettings("https://x/", "t", 10))
done = store.progress().get(("m1", "t1"), 0)
while done < visits:
    moment()
    store.append(visit(done * 7, 7), [Progress("m1", "t1", done + 1)])
    done += 1
    moment()                                        # stored, not sent
    uplink.step()
    moment()                                        # acknowledged and released
while store.batch(1) is not None:
    uplink.step()
    moment()
"""


def live_once(folder: Path, cut_after: int, visits: int) -> int:
    command = [sys.executable, "-c", CUT, str(folder), str(cut_after), str(visits)]
    return subprocess.run(command, cwd=REPO, check=False).returncode


@pytest.mark.process
def test_killed_at_every_moment_between_store_and_head_end_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """One run of the device, killed at its n-th moment, started again and killed at the n-th moment again, and so on,
    for a spread of n: what the head-end's file holds is each reading once by its key, and all of them."""
    visits = 12
    for cut_after in (1, 2, 3, 5, 11):
        folder = tmp_path / str(cut_after)
        folder.mkdir()
        kills = 0
        while (code := live_once(folder, cut_after, visits)) != 0:
            assert code == -signal.SIGKILL, "it died of something else than the cut"
            kills += 1
            # With a cut at the first moment of each life nothing can move; let such a device live a little longer.
            if kills > 6:
                cut_after = 1000
        assert kills > 0, "the cut never fired"
        kept: dict[tuple[str, int], int] = {}
        for line in (folder / "headend").read_text().splitlines():
            uuid, records = json.loads(line)
            for record_id, raw in records:
                assert kept.setdefault((uuid, record_id), raw) == raw, "one id, two readings"
        assert sorted(kept.values()) == list(range(visits * 7))


@pytest.mark.parametrize(("provisioned", "used"), [(0, 1), (-5, 1), (7, 7), (10**9, 5000)])
def test_a_batch_size_that_makes_no_sense_is_brought_into_bounds(tmp_path: Path, provisioned: int, used: int) -> None:
    rig = Rig(tmp_path, provisioned)
    for start in range(0, 6000, 1000):
        rig.store.append(visit(start, 1000))
    rig.uplink.step()
    assert len(rig.headend.requests[-1]["records"]) == used  # type: ignore[arg-type]
