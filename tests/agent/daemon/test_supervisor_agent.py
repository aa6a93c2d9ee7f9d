"""dcu-agent as a process: how it starts, what it says about a bad start, how it ends."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.__main__ import main
from agent.cli.client import NotRunningError, ask
from agent.daemon.check import check
from agent.metering.access.keystore import KeyStore
from agent.mo.ami import provisioning_from_tree
from agent.mo.objects import DeviceObjects, MoDeps
from agent.settings.device import DeviceInfo
from agent.settings.provisioning import TaskStatus
from agent.tree.persistence import ManagementTree
from agent.tree.tree import Transaction
from tests.agent import certificates
from updateagent.disk import RealDisk

REPO = Path(__file__).resolve().parents[3]
KEY = "5a" * 32


@pytest.fixture(scope="module")
def authority() -> bytes:
    """PEM of a certificate authority that nobody else knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def home(tmp_path: Path, authority: bytes) -> Path:
    """A device's files, complete and right. Nobody listens at the security server's port."""
    (tmp_path / "device.key").touch(mode=0o600)
    (tmp_path / "device.key").write_text(KEY + "\n")
    (tmp_path / "ca.pem").write_bytes(authority)
    (tmp_path / "roots.pem").write_bytes(authority)
    (tmp_path / "release").write_text("NAME=test\nVERSION=7\n")
    (tmp_path / "boot_id").write_text("boot-1\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "dcu.yaml").write_text(f"""\
device: {{id: "urn:dcu:1", key_file: device.key, man: M, mod: N, hw_version: A, release_file: release}}
security_server: {{url: "https://127.0.0.1:{port}/ssmp", ca_file: ca.pem}}
dm: {{push_listen: {{host: 127.0.0.1, port: 0}}, backoff_min_s: 60}}
metering: {{reading_lists_dir: {REPO}/etc/reading-lists}}
update:
  {{compatible: board, dir: update, run_dir: run, boot_id_file: boot_id, roots: roots.pem, command: [{sys.executable}]}}
state_dir: state
control_socket: run/control.sock
reboot_command: [{sys.executable}, -c, pass]
""")
    return tmp_path


class Process:
    """A running dcu-agent that has said READY=1."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "run").mkdir(exist_ok=True)
        self.log = (home / "log").open("ab")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            address = home / "run" / "notify"
            address.unlink(missing_ok=True)
            notify.bind(str(address))
            notify.settimeout(90)  # a machine at its limit
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "--config", str(home / "dcu.yaml")],
                cwd=REPO,
                stderr=self.log,
                env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "30000000"},
            )
            try:
                assert notify.recv(100).startswith(b"READY=1")
            except TimeoutError:
                self.process.kill()
                pytest.fail(self.text())
            assert notify.recv(100) == b"WATCHDOG=1"

    def ask(self, command: str, **arguments: object) -> object:
        return ask(self.home / "run" / "control.sock", command, **arguments)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.log.close()
        return code

    def text(self) -> str:
        return (self.home / "log").read_text()


@pytest.fixture
def running(home: Path) -> Iterator[Process]:
    process = Process(home)
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.process.kill()
    process.process.wait()
    process.log.close()


@pytest.mark.process
def test_the_agent_runs_without_any_network_answers_dcuctl_and_ends_in_order(running: Process) -> None:
    status = running.ask("status")
    assert isinstance(status, dict)
    assert (status["device_id"], status["fw_version"]) == ("urn:dcu:1", "7")
    assert status["queue"]["records"] == 0
    queue = running.ask("queue")
    assert isinstance(queue, dict)
    assert [(sink["name"], sink["waiting"], sink["missed"]) for sink in queue["sinks"]] == [("head-end", 0, 0)]
    assert sorted(status["workers"]) == ["control", "dm", "dm-packages", "push", "services", "uplink"]
    tasks = Path(f"/proc/{running.process.pid}/task").glob("*/comm")
    assert set(status["workers"]) <= {file.read_text().strip() for file in tasks}
    health = json.loads((running.home / "run" / "health.json").read_text())
    assert health["boot"] == "boot-1"
    assert health["checks"]["agent_up"]["ok"] is True
    assert running.end() == 0
    assert "Traceback" not in running.text()
    assert KEY not in running.text()


@pytest.mark.process
def test_the_agent_starts_again_after_it_was_killed(running: Process) -> None:
    running.end(signal.SIGKILL)
    with pytest.raises(NotRunningError):
        running.ask("status")
    again = Process(running.home)
    assert isinstance(again.ask("queue"), dict)
    assert again.end() == 0


@pytest.mark.process
def test_a_session_cannot_be_had_before_the_registration(running: Process) -> None:
    from agent.cli.client import RefusedError

    with pytest.raises(RefusedError, match="not registered yet"):
        running.ask("session")
    with pytest.raises(RefusedError, match="no meter x"):
        running.ask("forget-meter", meter="x")
    assert running.ask("meters") == []
    assert running.ask("tasks") == {}
    assert running.end() == 0


def second_start(home: Path) -> tuple[int, str]:
    """Exit code and what is said by an agent that is started while another one runs."""
    command = [sys.executable, "-m", "agent", "--config", str(home / "dcu.yaml")]
    ended = subprocess.run(command, cwd=REPO, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    return ended.returncode, ended.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for what a running agent renews by itself."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "health.json")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.process
def test_a_second_instance_names_the_first_and_leaves_it_alone(running: Process) -> None:
    home = running.home
    with (home / "dcu.yaml").open("a") as file:
        file.write("log: {file: state/agent.log}\n")  # the first one does not write it; the second one must not either
    assert isinstance(running.ask("queue"), dict)  # its store is there now
    before = contents(home / "state")
    socket_before = (home / "run" / "control.sock").stat()
    code, said = second_start(home)
    pid = running.process.pid
    assert (code, said) == (
        75,
        f"dcu-agent: {home}/state is in use by a running dcu-agent (process {pid}); it is for one agent\n",
    )
    assert contents(home / "state") == before
    assert before["agent.lock"] == b"%d\n" % pid
    assert (home / "run" / "control.sock").stat() == socket_before
    assert isinstance(running.ask("queue"), dict)
    assert running.end() == 0
    again = Process(home)
    assert again.end() == 0


@pytest.mark.process
def test_an_instance_with_a_state_folder_of_its_own_does_not_take_the_other_ones_socket(running: Process) -> None:
    home = running.home
    (home / "dcu.yaml").write_text((home / "dcu.yaml").read_text().replace("state_dir: state", "state_dir: other"))
    code, said = second_start(home)
    assert code == 71
    assert "another process answers at this control_socket" in said
    assert isinstance(running.ask("queue"), dict)
    assert running.end() == 0


def bad_start(home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--config", str(home / "dcu.yaml")]) == 2
    return capsys.readouterr().err


def test_a_bad_configuration_is_told_whole_and_ends_with_2(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (home / "dcu.yaml").read_text().replace("state_dir: state", "state_dri: state\nlog: {level: 5}")
    (home / "dcu.yaml").write_text(text)
    assert bad_start(home, capsys).splitlines() == [
        f"{home}/dcu.yaml:7: state_dri: unknown key; did you mean state_dir?",
        f"{home}/dcu.yaml:8: log.level: wanted text, got a whole number '5' (quote it)",
    ]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("device.key", None, "device.key: cannot be read: No such file or directory"),
        ("device.key", b"what", "device.key: wanted hexadecimal digits"),
        ("ca.pem", None, "ca.pem: cannot be read: No such file or directory"),
        ("ca.pem", b"nothing", "ca.pem: holds no certificate"),
    ],
)
@pytest.mark.slow
def test_a_named_file_that_cannot_be_used_ends_with_2(
    home: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, complaint: str
) -> None:
    if content is None:
        (home / file).unlink()
    else:
        (home / file).write_bytes(content)
    assert complaint in bad_start(home, capsys)


@pytest.mark.slow
def test_a_readable_key_ends_with_2(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "device.key").chmod(0o644)
    assert "others may use it (mode 0644)" in bad_start(home, capsys)


@pytest.mark.slow
def test_storage_that_fails_ends_with_a_code_that_is_tried_again(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "state").write_text("a file where the folder should be")
    assert main(["--config", str(home / "dcu.yaml")]) == 71
    assert "cannot start" in capsys.readouterr().err


# --- the check without a start ---


def checked(home: Path) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    return check(home / "dcu.yaml", out, err), out.getvalue() + err.getvalue()


def test_a_good_configuration_checks_good(home: Path) -> None:
    assert checked(home) == (0, f"{home}/dcu.yaml: good; device urn:dcu:1, 0 ports\n")


def test_the_check_finds_everything_at_once(home: Path) -> None:
    (home / "device.key").chmod(0o640)
    (home / "release").write_text("NAME=x\n")
    (home / "ca.pem").write_text("x")
    (home / "roots.pem").unlink()
    text = (home / "dcu.yaml").read_text().replace(f"{REPO}/etc/reading-lists", "lists")
    text = text.replace(f"reboot_command: [{sys.executable}", "reboot_command: [no-such-program")
    text += "ports:\n- {name: a, protocol: hdlc, url: /dev/none, address_bytes: 2, scan: {first: 1, last: 300}}\n"
    text += "watchdog: {device: /dev/nowatchdog}\n"
    (home / "dcu.yaml").write_text(text)
    (home / "lists").mkdir()
    (home / "lists" / "a.csv").write_text("obis,cls,attr\nx,3,2\n1.0.1.8.0.255,3,y\n")
    code, said = checked(home)
    assert code == 2
    for key in (
        "device.key_file: ",
        "device.release_file: ",
        "security_server.ca_file: ",
        "update.roots: ",
        f"metering.reading_lists_dir: {home}/lists/a.csv:2: ",
        f"metering.reading_lists_dir: {home}/lists/a.csv:3: ",
        "ports[0].url: no device /dev/none",
        "ports[0].scan.last: HDLC address 1/300",
        "reboot_command: no program no-such-program",
        "watchdog.device: no /dev/nowatchdog",
    ):
        assert f"{home}/dcu.yaml: {key}" in said, (key, said)


def test_the_check_of_a_file_that_is_no_configuration_fails_like_a_start(home: Path) -> None:
    (home / "dcu.yaml").write_text("- a\n")
    assert checked(home) == (2, f"{home}/dcu.yaml:1: the top of the file is a mapping of sections\n")


def _no_view() -> Transaction:
    raise AssertionError("nothing here looks at the tree through the objects")


@pytest.mark.process
def test_keys_of_meters_go_from_the_management_tree_to_the_key_store_and_nowhere_else(home: Path) -> None:
    secrets = {"EncKey": "3c" * 16, "AuthKey": "a5" * 16}
    device = DeviceInfo("urn:dcu:1", "M", "N", "A", "7", "0")
    objects = DeviceObjects(
        MoDeps(device, view=_no_view, new_id=str, task_status=lambda _: TaskStatus(), meters=lambda: ())
    )
    tree = ManagementTree(objects.registry.schema, RealDisk(), home / "state" / "dm", lambda: 0.0)
    with tree.transaction() as changing:
        for name, value in secrets.items():
            changing.put(("AMI", "Access", "Meter", "m", name), value)
        changing.put(("AMI", "Access", "Secret"), "hush-hush-hush")
    for _ in range(2):
        running = Process(home)
        shown = json.dumps(running.ask("status"))
        assert running.end() == 0
        kept = ManagementTree(objects.registry.schema, RealDisk(), home / "state" / "dm", lambda: 0.0).view()
        assert provisioning_from_tree(kept).secrets() == ()
        assert kept.find(("AMI", "Access", "Meter", "m")) is not None
        for secret in (*secrets.values(), "hush-hush-hush"):
            assert secret not in shown + running.text()
        store = KeyStore(RealDisk(), home / "state" / "keys")
        assert store.provisioned() == {
            "default": {"secret": b"hush-hush-hush"},
            "meter/m": {"encryption_key": bytes.fromhex("3c" * 16), "authentication_key": bytes.fromhex("a5" * 16)},
        }
    assert {file.stat().st_mode & 0o777 for file in (home / "state" / "keys").iterdir()} == {0o600}


@pytest.mark.process
def test_why_tls_was_refused_and_that_no_push_can_come_stands_in_status_health_and_log(home: Path) -> None:
    server = certificates.authority((0, 4e9))
    (home / "ca.pem").write_bytes(server.ca_pem())
    (home / "release").write_text("VERSION=7\nBUILT=2026-01-02T00:00:00Z\n")
    shown = certificates.TlsServer(home, server.issue((0, 1_767_225_600)))  # to 2026-01-01
    settings = (home / "dcu.yaml").read_text()
    settings = re.sub(r"https://127\.0\.0\.1:\d+/ssmp", shown.url, settings)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        push_port = taken.getsockname()[1]
        (home / "dcu.yaml").write_text(settings.replace("port: 0", f"port: {push_port}"))
        process = Process(home)
        try:
            assert shown.refused.wait(60)
            status = process.ask("status")
            ended = process.end()
        finally:
            shown.close()
    text = process.text()
    assert isinstance(status, dict)
    assert (ended, status["warnings"]) == (
        0,
        [f"no notification can reach this device: cannot listen on 127.0.0.1:{push_port}: Address already in use"],
    )
    assert "the server's certificate expired at 2026-01-01 00:00:00Z; " in text
    assert f"cannot listen on 127.0.0.1:{push_port}: Address already in use" in text
    push = json.loads((home / "run" / "health.json").read_text())["checks"]["push"]
    assert (push["ok"], push["detail"]) == (False, f"cannot listen on 127.0.0.1:{push_port}: Address already in use")
