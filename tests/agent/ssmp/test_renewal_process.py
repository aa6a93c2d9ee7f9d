"""The agent as a process, at a head-end in another: its certificate is renewed by itself, and sessions go on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.clock_floor import CertificateTime
from agent.https import HttpsClient
from agent.settings.device import DeviceInfo
from agent.ssmp.certificate_file import CertificateFile, ServerTrust, read_certificate
from agent.ssmp.certificate_store import CertificateStore
from agent.ssmp.registration import Registrar
from headend import config as configuration
from headend.operator.client import OperatorClient, device_path
from omadm.ssmp import certificates
from omadm.ssmp.errors import SsmpRefused
from tests.agent import certificates as made
from tests.agent.certificates import DAY, Made
from tests.agent.daemon.test_supervisor_agent import REPO, Process
from tests.headend.running import Child, child, run
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process

DEVICE = "urn:dcu:KR-000042"
WAIT_S = 120.0  # a machine at its limit; on an idle one it takes about five seconds


def until(holds: Callable[[], Any], process: Process) -> Any:
    end = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < end, process.text()
        time.sleep(0.1)
    return found


def key_pem(one: Made) -> bytes:
    return one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def headend(tmp_path: Path) -> Iterator[Child]:
    """A head-end with an authority that issues the certificates of devices."""
    folder = tmp_path / "headend"
    done = run("init", "--dir", str(folder))
    assert done.returncode == 0, done.stderr
    now = time.time()
    authority = made.authority((now - 400 * DAY, now + 4000 * DAY))
    (folder / "devices.pem").write_bytes(authority.ca_pem())
    (folder / "devices.key").write_bytes(key_pem(authority))
    settings = yaml.safe_load((folder / "headend.yaml").read_text())
    issuing = {"issuing_certificate": "devices.pem", "issuing_key": "devices.key"}
    (folder / "headend.yaml").write_text(yaml.safe_dump(settings | {"ssmp": {"device_ca": "devices.pem", **issuing}}))
    # Of its 100 days no more than a third is left: 30.
    period = (now - 70 * DAY, now + 30 * DAY)
    own = authority.issue(period, name=DEVICE, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    (tmp_path / "device.pem").write_bytes(own.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "device.key").touch(mode=0o600)
    (tmp_path / "device.key").write_bytes(key_pem(own))
    with child("headend", "serve", "--config", str(folder / "headend.yaml")) as started:
        yield started


@pytest.fixture
def operator(headend: Child, tmp_path: Path) -> Iterator[OperatorClient]:
    assert headend.ready
    client = OperatorClient.of(configuration.load(tmp_path / "headend" / "headend.yaml"))
    yield client
    client.close()


@pytest.fixture
def agent(headend: Child, operator: OperatorClient, tmp_path: Path) -> Iterator[Process]:
    operator.post("/v1/devices", {"id": DEVICE, "by_authority": True})
    (tmp_path / "release").write_text("NAME=test\nVERSION=7\n")
    (tmp_path / "boot_id").write_text("boot-1\n")
    (tmp_path / "ca.pem").write_bytes((tmp_path / "headend" / "ca.pem").read_bytes())
    (tmp_path / "dcu.yaml").write_text(f"""\
device: {{id: "{DEVICE}", man: M, mod: N, hw_version: A, release_file: release}}
security_module: {{key_file: device.key, certificate_file: device.pem}}
security_server: {{url: "https://127.0.0.1:{headend.ready["security"]}/ssmp", ca_file: ca.pem}}
dm: {{backoff_min_s: 1}}
metering: {{reading_lists_dir: {REPO}/etc/reading-lists}}
update:
  {{compatible: board, dir: update, run_dir: run, boot_id_file: boot_id, roots: ca.pem, command: [{sys.executable}]}}
state_dir: state
control_socket: run/control.sock
reboot_command: [{sys.executable}, -c, pass]
""")
    process = Process(tmp_path)
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.process.kill()
    process.process.wait()
    process.log.close()


def held(folder: Path) -> CertificateStore:
    """What the device has, as its next start finds it."""
    own = read_certificate(folder / "device.pem", DEVICE)

    def now() -> CertificateTime:
        return CertificateTime(time.time(), time.time())

    trust = ServerTrust(folder / "ca.pem", "https://127.0.0.1/ssmp", now, lambda: None)
    factory = CertificateFile(folder / "device.key", own, trust)
    return CertificateStore(RealDisk(), folder / "state" / "ssmp", factory, DEVICE, now)


def test_an_agent_whose_certificate_ends_soon_renews_it_by_itself_and_holds_sessions_after_that(
    headend: Child, operator: OperatorClient, agent: Process, tmp_path: Path
) -> None:
    factory = held(tmp_path).candidates()[0]

    def renewed() -> bool:
        candidates = held(tmp_path).candidates()
        return len(candidates) == 1 and candidates[0].certificate != factory.certificate

    until(renewed, agent)
    (own,) = held(tmp_path).candidates()
    shown = certificates.read(own.certificate)
    assert shown.names == (DEVICE,)
    assert 700 * DAY < shown.not_after - time.time() < 731 * DAY
    told = [entry["text"] for entry in operator.get("/v1/registrations")["registrations"]]
    assert "registered, and another certificate issued" in told

    job = operator.post(device_path(DEVICE, "/jobs"), {"kind": "get", "params": {"paths": ["./DevInfo/Man"]}})["id"]
    agent.ask("session")
    state = until(lambda: _ended(operator, job), agent)
    assert state == "done"

    assert "refused our credentials" not in agent.text()  # also not of the first session after it

    assert not held(tmp_path).due(1e9)  # it does not ask again
    info = DeviceInfo(DEVICE, "M", "N", "A", "7", "7")
    url = f"https://127.0.0.1:{headend.ready['security']}/ssmp"
    with pytest.raises(SsmpRefused):  # the old one is dead
        Registrar(HttpsClient(tmp_path / "ca.pem"), url, info).register(factory, "", b"")
    assert agent.end() == 0


def _ended(operator: OperatorClient, job: int) -> str:
    found = operator.get(f"/v1/jobs/{job}")
    return str(found["state"]) if found["state"] in ("done", "failed") else ""
