"""The head-end as a process: real sockets, real TLS, and a line that breaks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from agent.clock import SystemClock
from agent.https import HttpsClient, HttpsRefused
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store
from agent.metering.uplink.replay import ReplayLimits
from agent.metering.uplink.worker import Uplink
from agent.ota.download import Downloader
from agent.settings.device import DeviceInfo
from agent.settings.provisioning import UplinkSettings
from agent.ssmp.registration import Registrar
from headend import config as configuration
from headend import db, passes
from headend.operator.client import OperatorClient, device_path
from headend.sealing.keyring import KeyRing
from headend.software.repository import PackageStore
from omadm import bootstrap
from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpRefused
from omadm.ssmp.identity import SharedKey
from tests.agent.metering.readings import visit
from tests.headend.running import Child, child, run
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process

DEVICE = DeviceInfo("urn:dcu:T-1", "Maker", "Model", "1", "1.0", "1.0")
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("headend") / "he"
    done = run("init", "--dir", str(made))
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def headend(folder: Path) -> Iterator[Child]:
    with child("headend", "serve", "--config", str(folder / "headend.yaml")) as started:
        yield started


@pytest.fixture
def operator(headend: Child, folder: Path) -> Iterator[OperatorClient]:
    client = OperatorClient.of(configuration.load(folder / "headend.yaml"))
    yield client
    client.close()


@pytest.fixture
def https(folder: Path) -> HttpsClient:
    return HttpsClient(folder / "ca.pem")


def test_a_device_registers_and_gets_its_account(headend: Child, operator: OperatorClient, https: HttpsClient) -> None:
    operator.post("/v1/devices", {"id": DEVICE.device_id, "key": KEY.hex(), "replace": True})
    url = f"https://127.0.0.1:{headend.ready['security']}/ssmp"
    document = Registrar(https, url, DEVICE).register(SharedKey(KEY), "http://127.0.0.1:9/push", b"")
    account = bootstrap.account_from_tnds(bootstrap.parse_profile(document))
    assert account.url == f"https://127.0.0.1:{headend.ready['dm']}/dm"
    assert account.client_name == DEVICE.device_id
    (shown,) = operator.get("/v1/devices")["devices"]
    assert (shown["registrations"], shown["man"], shown["fw"]) == (1, "Maker", "1.0")


def test_a_wrong_key_and_an_unknown_device_get_the_same_refusal(
    headend: Child, operator: OperatorClient, https: HttpsClient
) -> None:
    operator.post("/v1/devices", {"id": DEVICE.device_id, "key": KEY.hex(), "replace": True})
    url = f"https://127.0.0.1:{headend.ready['security']}/ssmp"
    stranger = DeviceInfo("urn:dcu:nobody", "", "", "", "", "")
    refusals = []
    for device, key in ((DEVICE, bytes(32)), (stranger, KEY)):
        with pytest.raises(SsmpRefused) as refusal:
            Registrar(https, url, device).register(SharedKey(key), "", b"")
        refusals.append((refusal.value.code, refusal.value.text))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] == 401


def test_a_device_registers_through_a_flood_of_strangers(
    headend: Child, operator: OperatorClient, https: HttpsClient, folder: Path
) -> None:
    operator.post("/v1/devices", {"id": DEVICE.device_id, "key": KEY.hex(), "replace": True})
    url = f"https://127.0.0.1:{headend.ready['security']}/ssmp"
    stop = threading.Event()
    heard: list[int] = []

    def strangers() -> None:
        client = HttpsClient(folder / "ca.pem")
        while not stop.is_set():
            hello = wire.Hello(secrets.token_hex(8), secrets.token_bytes(32)).emit()
            heard.append(client.request("POST", url, body=hello, headers={"Content-Type": wire.CONTENT_TYPE}).status)

    threads = [threading.Thread(target=strangers) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        while len(heard) < 100:
            time.sleep(0.01)
        assert Registrar(https, url, DEVICE).register(SharedKey(KEY), "", b"")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(heard) <= {200, 429}


def test_a_download_over_a_line_that_breaks_twice_fetches_no_byte_twice(tmp_path: Path) -> None:
    """The access log is read after the head-end has ended: an answer is logged when it is over on the server's side,
    which can be after the device has its last byte, and after a resumed download has begun."""
    folder = tmp_path / "he"
    assert run("init", "--dir", str(folder)).returncode == 0
    config = configuration.load(folder / "headend.yaml")
    content = random.Random(1).randbytes(3_000_000)
    file = tmp_path / "package.bin"
    file.write_bytes(content)
    with child("headend", "serve", "--config", str(folder / "headend.yaml")) as headend:
        with contextlib.closing(OperatorClient.of(config)) as operator:
            operator.put_file("/v1/packages/fw-2.swu", file, "application/octet-stream")
        target = f"127.0.0.1:{headend.ready['software']}"
        cuts = ("--cut-after", "1000000", "--cut-after", "700000")
        with child("tests.sim.cutter", "--target", target, *cuts) as relay:
            url = f"https://127.0.0.1:{relay.ready['port']}/packages/fw-2.swu?device={DEVICE.device_id}"
            downloader = Downloader(HttpsClient(folder / "ca.pem"), RealDisk(), SystemClock(), jitter=lambda: 0.0)
            done = downloader.fetch(url, tmp_path / "got", stop=threading.Event())
            assert [relay.line(), relay.line()] == ["CUT 1\n", "CUT 2\n"]
        assert headend.end() == 0
    assert done.sha256 == hashlib.sha256(content).hexdigest()
    assert (done.size, done.bytes_fetched, done.resumes) == (len(content), len(content), 2)
    answers = sorted(logged_downloads(config), key=lambda answer: answer["start"])
    assert [answer["status"] for answer in answers] == [200, 206, 206]
    assert {answer["device"] for answer in answers} == {DEVICE.device_id}
    assert answers[-1]["start"] + answers[-1]["sent"] == len(content)


def logged_downloads(config: configuration.Config) -> list[dict[str, Any]]:
    engine = db.open_engine(config.database)
    try:
        return PackageStore(engine, config.files).downloads("fw-2.swu", 100)
    finally:
        engine.dispose()


def test_a_descriptor_leads_to_the_package_and_the_report_arrives(
    headend: Child, operator: OperatorClient, https: HttpsClient, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "package.bin"
    file.write_bytes(b"package")
    operator.put_file("/v1/packages/small", file, "application/octet-stream")
    operator.post("/v1/devices", {"id": DEVICE.device_id, "key": KEY.hex(), "replace": True})
    config = configuration.load(folder / "headend.yaml")
    engine = db.open_engine(config.database, KeyRing(config.sealing.source()))
    with engine.begin() as connection:
        url = f"https://127.0.0.1:{headend.ready['software']}/descriptors/small"
        url = passes.with_pass(connection, url, DEVICE.device_id)
    engine.dispose()
    done = Downloader(https, RealDisk(), SystemClock()).fetch(url, tmp_path / "got", stop=threading.Event())
    assert done.path.read_bytes() == b"package"
    assert done.descriptor is not None
    reports = operator.get("/v1/reports")["reports"]
    assert [(r["package"], r["device"], r["code"]) for r in reports] == [("small", "urn:dcu:T-1", 900)]


def test_readings_are_kept_once_with_their_exact_value(
    headend: Child, operator: OperatorClient, https: HttpsClient
) -> None:
    operator.post("/v1/devices", {"id": DEVICE.device_id, "key": KEY.hex(), "replace": True})
    issued = operator.post(device_path(DEVICE.device_id, "/metering-token"))
    record = {
        "id": 17, "task": "t", "meter": "M1", "cls": 3, "obis": "1.0.1.8.0.255", "attr": 2, "tag": "u32", "raw": 12345,
        "scaler": -2, "unit": 30, "meter_time": None, "received": 1770000000.5, "trusted": True, "error": None,
        "run": 1770000000,
    }  # fmt: skip
    body = json.dumps({"version": 1, "device": DEVICE.device_id, "store": "0" * 32, "records": [record]}).encode()
    headers = {"Authorization": f"Bearer {issued['token']}", "Content-Type": "application/json"}
    for _ in range(2):
        answer = https.request("POST", issued["url"], body=body, headers=headers)
        assert (answer.status, json.loads(answer.body)) == (200, {"acknowledged": 17})
    (reading,) = operator.get("/v1/readings", device=DEVICE.device_id)["readings"]
    assert (reading["value"], reading["unit_symbol"], reading["id"]) == ("123.45", "Wh", 17)
    (meter,) = operator.get("/v1/meters")["meters"]
    assert (meter["meter"], meter["readings"]) == ("M1", 1)


def test_a_device_sends_a_range_once_more_when_the_command_line_asks(
    operator: OperatorClient, https: HttpsClient, folder: Path, tmp_path: Path
) -> None:
    """The device's own store and uplink, and `dcu-headend resend`."""
    operator.post("/v1/devices", {"id": DEVICE.device_id, "key": KEY.hex(), "replace": True})
    issued = operator.post(device_path(DEVICE.device_id, "/metering-token"))
    store = Store(tmp_path / "readings.db", SystemClock(), records_max=1000, keep_forwarded_max=25)
    at_once = {"backoff": Backoff(0.1, 0.1), "rng": random.Random(1), "replay": ReplayLimits(10**6, 0.0)}
    device = Uplink(store, https, SystemClock(), device_id=DEVICE.device_id, **at_once)  # type: ignore[arg-type]
    device.configure(UplinkSettings(issued["url"], issued["token"], 100))
    began = time.time()
    store.append(visit(0, 30))
    store.append(visit(30, 20))
    until(device, lambda: store.stats().pending == 0)
    resend = ("resend", "--config", str(folder / "headend.yaml"), DEVICE.device_id)
    asked = json.loads(run(*resend, "--since", str(began), "--until", "2030-01-01T00:00:00+00:00").stdout)
    assert asked["ended"] is None
    store.append(visit(50, 1))  # the order comes with the answer to the next batch
    until(device, lambda: operator.get(device_path(DEVICE.device_id, "/resend"))["orders"][0]["ended"])
    (order,) = json.loads(run(*resend, "--json").stdout)["orders"]
    assert order["request"] == asked["request"]
    assert (order["sent"], order["refused"], order["store"], order["first"]) == (21, 0, None, None)
    assert order["kept_since"] > began  # the first visit is not kept any more
    by_id = (*resend, "--store", store.stats().uuid, "--first", "30", "--last", "45")
    assert run(*by_id, "--wait", "0.1").returncode == 1  # nobody sends meanwhile
    store.append(visit(51, 1))
    until(device, lambda: operator.get(device_path(DEVICE.device_id, "/resend"))["orders"][0]["ended"])
    by_id_order = json.loads(run(*resend, "--json").stdout)["orders"][0]
    assert (by_id_order["sent"], by_id_order["gone"], by_id_order["since"]) == (15, [[30, 30]], None)
    store.close()


def until(device: Uplink, there: Callable[[], object]) -> None:
    """Let the device send until that is so."""
    end = time.monotonic() + 60.0
    while not there():
        assert time.monotonic() < end
        device.step()


def test_plain_http_and_foreign_authorities_get_nowhere(
    headend: Child, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    assert run("init", "--dir", str(other / "he")).returncode == 0
    stranger = HttpsClient(other / "he" / "ca.pem")
    for name in ("security", "dm", "software", "metering", "operator"):
        with pytest.raises(HttpsRefused):
            stranger.request("GET", f"https://127.0.0.1:{headend.ready[name]}/healthz")
        with pytest.raises(httpx.TransportError):  # the server takes no octet of it for a request
            httpx.get(f"http://127.0.0.1:{headend.ready[name]}/healthz", timeout=10.0, trust_env=False)


def test_secrets_are_for_the_owner_alone(headend: Child, folder: Path) -> None:
    for name in ("operator.token", "headend.yaml", "headend.db", "server.key", "ca.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name


def test_sigterm_ends_it_cleanly_and_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "he"
    assert run("init", "--dir", str(folder)).returncode == 0
    config = str(folder / "headend.yaml")
    with child("headend", "serve", "--config", config) as first:
        done = run("enrol", "--config", config, "urn:dcu:T-2", "--new-key-file", str(folder / "device.key"))
        assert done.returncode == 0, done.stderr
        ports = first.ready
        assert first.end() == 0
    with child("headend", "serve", "--config", config) as second:
        assert second.ready == ports
        listed = json.loads(run("devices", "--config", config).stdout)
        assert [device["id"] for device in listed["devices"]] == ["urn:dcu:T-2"]
        assert second.end() == 0


def test_each_server_can_be_a_process_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "he"
    assert run("init", "--dir", str(folder)).returncode == 0
    config = folder / "headend.yaml"
    document = yaml.safe_load(config.read_text())
    for server in document["servers"].values():
        server["port"] = 0
    config.write_text(yaml.safe_dump(document))
    with (
        child("headend", "serve", "--config", str(config), "--only", "metering") as metering,
        child("headend", "serve", "--config", str(config), "--only", "operator") as operator,
    ):
        assert set(metering.ready) == {"metering"}
        assert set(operator.ready) == {"operator"}
        ports = json.loads((folder / "ports.json").read_text())
        assert ports == metering.ready | operator.ready


def test_a_port_that_is_taken_is_named_and_ends_with_2(headend: Child, folder: Path, tmp_path: Path) -> None:
    done = run("serve", "--config", str(folder / "headend.yaml"))
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr


def test_the_command_line_says_what_it_did_and_what_it_could_not(headend: Child, folder: Path, tmp_path: Path) -> None:
    """The way of a new operator: enrol, account, package, jobs for a device that cannot be notified, lists."""
    device, config = "urn:dcu:OP-1", ["--config", str(folder / "headend.yaml")]
    (tmp_path / "fw.swu").write_bytes(b"package")
    assert run("enrol", *config, device, "--new-key-file", str(tmp_path / "key")).returncode == 0
    again = run("enrol", *config, device, "--new-key-file", str(tmp_path / "other"))
    assert (again.returncode, "enrolled already" in again.stderr) == (1, True)
    assert not (tmp_path / "other").exists()
    secret = tmp_path / "account.json"
    made = run("account", *config, device, "--auth", "digest", "--out", str(secret))
    assert json.loads(secret.read_text())["client_secret"] not in made.stdout + made.stderr
    assert secret.stat().st_mode & 0o777 == 0o600
    assert run("upload", *config, str(tmp_path / "fw.swu")).returncode == 0
    queued = run("job", *config, device, "firmware", "--package", "fw.swu")
    job = json.loads(queued.stdout)
    assert (queued.returncode, urlsplit(job["params"]["url"]).path) == (0, "/packages/fw.swu")
    assert "was not notified" in queued.stderr
    missing = run("job", *config, device, "firmware", "--package", "none.swu")
    assert (missing.returncode, "uploaded are: " in missing.stderr) == (1, True)
    assert run("job", *config, device, "firmware", "--package", "fw.swu", "--no-push", "--wait", "0.01").returncode == 1
    uplink = run("uplink", *config, device)
    assert [node["path"] for node in json.loads(uplink.stdout)["params"]["nodes"]] == [
        "./AMI/Uplink/URL",
        "./AMI/Uplink/Token",
    ]
    assert json.loads(run("cancel", *config, str(job["id"])).stdout)["state"] == "failed"
    assert run("cancel", *config, str(job["id"])).returncode == 1
    assert "cancelled by the operator" in run("jobs", *config, "--table", "--device", device).stdout
    assert "nothing to show" in run("values", *config, "--table").stdout
    unknown = run("job", *config, "urn:dcu:NOBODY", "get", "--params", '{"paths": ["./DevInfo"]}')
    assert "there is no such device" in unknown.stderr
