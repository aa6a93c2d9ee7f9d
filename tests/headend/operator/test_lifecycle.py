"""A device's life: switched off it is cut off everywhere at once, and each step is audited."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from sqlalchemy import Engine, event, func, select
from starlette.types import ASGIApp, Message

from headend import db, web
from headend.dm import accounts
from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.dm.server import DmServer, ServerConfig
from headend.metering import app as metering_app
from headend.metering import readings
from headend.operator import app
from headend.sealing import columns, envelope, rotation
from headend.security import app as security_app
from headend.security import certificates, devices, records, renewals
from headend.security.service import SecurityService
from headend.software import app as software_app
from headend.software.app import CHUNK_BYTES
from headend.software.repository import PackageStore
from omadm import bootstrap
from omadm.bootstrap import Account
from omadm.codes import Code
from omadm.ssmp import wire
from omadm.ssmp.client_core import Registered, SsmpClient
from omadm.ssmp.identity import SharedKey
from omadm.syncml.codec import decode
from omadm.syncml.messages import Status, SyncML
from tests.headend.asgi import call
from tests.headend.dm_device import Device, Tree
from tests.omadm.ssmp.certified import authority, issue
from tests.omadm.test_readings import a_batch, a_record

TOKEN = "operator-token"
DEVICE = "urn:dcu:T-1"
KEY = bytes(range(32))
URLS = {"dm": "https://dm.example", "software": "https://packages.example", "metering": "https://metering.example"}
CONFIG = ServerConfig("headend", "https://dm.example/dm")


class Bench:
    """A whole head-end without sockets, and one box."""

    def __init__(self, engine: Engine, files: Path) -> None:
        self.engine = engine
        self.now = 1000.0
        self.rng = random.Random(5)
        self.packages = PackageStore(engine, files)
        self.api = app.create_app(
            app.OperatorDeps(engine, self.packages, lambda _: 1, lambda: URLS, web.token_hash(TOKEN), lambda: self.now)
        )
        self.ssmp = SecurityService(
            engine, security_app.dm_accounts("headend", CONFIG.url), monotonic=lambda: self.now, wall=lambda: self.now
        )
        self.dm = DmServer(engine, CONFIG, wall=lambda: self.now)
        self.metering = metering_app.create_app(engine, wall=lambda: self.now)
        self.software = software_app.create_app(self.packages, lambda: URLS["software"], wall=lambda: self.now)
        self.closed = software_app.create_app(self.packages, lambda: URLS["software"], open_to_all=False)
        self.account: Account | None = None

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return call(self.api, method, path, headers={"Authorization": f"Bearer {TOKEN}"}, **arguments)

    def enrol(self, key: bytes = KEY) -> None:
        assert self.ask("POST", "/v1/devices", json={"id": DEVICE, "key": key.hex()}).status_code == 201

    def switch(self, on: bool) -> None:
        assert self.ask("PATCH", f"/v1/devices/{DEVICE}", json={"enabled": on}).status_code == 200

    def register(self, key: bytes = KEY) -> bool:
        self.now += 60.0
        held = b"" if self.account is None else self.account.fingerprint()
        client = SsmpClient(
            DEVICE, SharedKey(key), wire.RegistrationInfo("", "", "", "", "", ""), self.rng.randbytes, held
        )
        client.start(0.0)
        while message := client.take_output():
            client.receive(self.ssmp.handle(message, "192.0.2.9")[1], 0.0)
        event = client.next_event()
        if not isinstance(event, Registered):
            return False
        self.account = bootstrap.account_from_tnds(bootstrap.parse_profile(event.document))
        return True

    def box(self, tree: Tree | None = None) -> Device:
        assert self.account is not None
        return Device(self.dm, self.account, tree)

    def token(self) -> httpx.Response:
        return self.ask("POST", f"/v1/devices/{DEVICE}/metering-token")

    def send(self, token: str) -> int:
        batch = a_batch(a_record(1), device=DEVICE)
        headers = {"Authorization": f"Bearer {token}"}
        return call(self.metering, "POST", "/v1/readings", content=batch, headers=headers).status_code

    def row(self) -> dict[str, Any]:
        (row,) = self.ask("GET", "/v1/devices").json()["devices"]
        assert isinstance(row, dict)
        return row

    def audit(self) -> list[str]:
        return [entry["action"] for entry in self.ask("GET", "/v1/audit").json()["audit"]]


@pytest.fixture
def bench(database: Engine, tmp_path: Path) -> Bench:
    made = Bench(database, tmp_path / "files")
    made.enrol()
    assert made.register()
    return made


def header_code(message: SyncML) -> int:
    return next(status.code for status in message.of(Status) if status.cmd_ref == "0")


def job_url(bench: Bench) -> str:
    """The URL that a job gives the device for a package of this head-end."""
    assert bench.ask("PUT", "/v1/packages/p.swu", content=b"package").status_code == 201
    params = {"url": f"{URLS['software']}/packages/p.swu"}
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/jobs", json={"kind": "firmware", "params": params}).is_success
    with bench.engine.begin() as connection:
        row = connection.execute(select(dm.jobs).order_by(dm.jobs.c.id.desc())).first()
        assert row is not None
        return str(columns.unseal(connection, dm.jobs, row)["params"]["url"])


def below(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


# ---- off, everywhere


def test_a_device_that_is_switched_off_is_refused_at_every_door_and_that_is_shown(bench: Bench) -> None:
    token = bench.token().json()["token"]
    url = below(job_url(bench))
    assert call(bench.software, "GET", url).status_code == 200
    assert bench.send(token) == 200
    bench.switch(on=False)
    assert bench.row()["refused"] == {}
    bench.now = 2000.0
    assert not bench.register()
    box = bench.box()
    assert header_code(decoded(bench, box)) == Code.FORBIDDEN
    assert bench.send(token) == 403
    assert call(bench.software, "GET", url).status_code == 403
    assert bench.token().status_code == 409
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/dm-account", json={}).status_code == 409
    row = bench.row()
    assert row["state"] == "switched off"
    assert {door: told["last"] for door, told in row["refused"].items()} == dict.fromkeys(
        ("registration", "dm", "readings", "downloads", "token"), bench.now
    )
    assert row["refused"]["registration"]["peer"] == "192.0.2.9"
    bench.switch(on=True)
    assert (bench.row()["refused"], bench.row()["state"]) == ({}, "in service")
    assert bench.send(token) == 200
    assert call(bench.software, "GET", url).status_code == 200
    assert bench.register()
    bench.box().session()
    assert bench.audit() == ["switch on", "switch off", "enrol"]


def decoded(bench: Bench, box: Device) -> SyncML:
    return box.take(bench.dm.handle(box.request(box.begin())))


def test_a_session_that_is_running_ends_with_the_next_message(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        queue.enqueue(connection, DEVICE, "get", {"paths": ["./A"]})
    box = bench.box(Tree({"./A": "secret"}))
    message = decoded(bench, box)
    assert header_code(message) == 200
    bench.switch(on=False)
    commands, final = box.reply(message)
    last = box.take(bench.dm.handle(box.request(commands, final=final)))
    assert header_code(last) == Code.FORBIDDEN
    assert not [command for command in last.commands if not isinstance(command, Status)]
    with bench.engine.begin() as connection:
        (job,) = queue.listing(connection, DEVICE)
        assert connection.scalar(select(func.count()).select_from(dm.values).where(dm.values.c.uri == "./A")) == 0
        assert connection.scalars(select(dm.sessions.c.state)).all()[-1] == "failed"
    assert job["state"] == "queued"


def test_the_answer_to_a_repeated_request_is_not_given_to_a_device_that_is_switched_off(bench: Bench) -> None:
    box = bench.box()
    request = box.request(box.begin())
    first = bench.dm.handle(request)
    assert bench.dm.handle(request) == first
    bench.switch(on=False)
    assert bench.dm.handle(request).body != first.body


async def answer_until_the_end(application: ASGIApp, url: str, at_first: Callable[[], None]) -> int:
    """The octets of an answer, after the first of which something happens."""
    path, _, query = url.partition("?")
    octets = 0
    gone = asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal octets
        if message.get("body") and not octets:
            await asyncio.to_thread(at_first)
        octets += len(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    await application({**scope, "headers": [], "client": ("192.0.2.7", 1), "root_path": ""}, receive, send)
    gone.set()
    return octets


@pytest.mark.parametrize("what", ["switch off", "end account"])
def test_a_download_that_is_running_ends_with_the_next_piece(bench: Bench, what: str) -> None:
    url = below(job_url(bench)).replace("p.swu", "q.swu")
    size = 5 * CHUNK_BYTES
    assert bench.ask("PUT", "/v1/packages/q.swu", content=bytes(size)).status_code == 201
    assert asyncio.run(answer_until_the_end(bench.closed, url, lambda: None)) == size

    def cut() -> None:
        if what == "switch off":
            bench.switch(on=False)
        else:
            new = {"key": "11" * 32, "end_account": True}
            assert bench.ask("POST", f"/v1/devices/{DEVICE}/key", json=new).status_code == 200

    assert asyncio.run(answer_until_the_end(bench.closed, url, cut)) == CHUNK_BYTES
    assert set(bench.row()["refused"]) == ({"downloads"} if what == "switch off" else set())
    assert {row["sent"] for row in bench.packages.downloads("q.swu", 2)} == {CHUNK_BYTES, size}


@pytest.mark.parametrize(("what", "status"), [("switch off", 403), ("end account", 401)])
def test_readings_that_arrive_while_a_device_is_cut_off_are_not_stored(bench: Bench, what: str, status: int) -> None:
    batch, token = a_batch(a_record(1), device=DEVICE), bench.token().json()["token"]

    async def body() -> AsyncIterator[bytes]:
        yield batch[:10]
        if what == "switch off":
            await asyncio.to_thread(bench.switch, on=False)
        else:
            new = {"key": "11" * 32, "end_account": True}
            await asyncio.to_thread(bench.ask, "POST", f"/v1/devices/{DEVICE}/key", json=new)
        yield batch[10:]

    headers = {"Authorization": f"Bearer {token}"}
    assert call(bench.metering, "POST", "/v1/readings", content=body(), headers=headers).status_code == status
    assert readings.list_readings(bench.engine) == []
    assert set(bench.row()["refused"]) == ({"readings"} if what == "switch off" else set())


def test_only_a_device_that_proves_itself_counts_as_refused(bench: Bench) -> None:
    bench.switch(on=False)
    assert not bench.register(bytes(32))
    stranger = bench.box()
    stranger.account = accounts.draft(DEVICE, server_id="headend", url=CONFIG.url)
    bench.dm.handle(stranger.request(stranger.begin()))
    assert call(bench.software, "GET", f"/packages/p?device={DEVICE}").status_code == 403
    assert bench.row()["refused"] == {}


def test_refusals_are_counted_and_written_once_a_second(bench: Bench) -> None:
    token = bench.token().json()["token"]
    bench.switch(on=False)
    for tenth in range(31):
        bench.now = 5000.0 + tenth / 10
        bench.send(token)
    told = bench.row()["refused"]["readings"]
    assert (told["first"], told["last"], told["count"]) == (5000.0, 5003.0, 31)


# ---- downloads


def test_a_closed_package_server_serves_nobody_without_a_pass(bench: Bench) -> None:
    url = below(job_url(bench))
    for wrong in ("/packages/p.swu", f"/packages/p.swu?device={DEVICE}", url[:-1] + "x", url.replace("T-1", "T-2")):
        assert call(bench.closed, "GET", wrong).status_code == 403
    assert call(bench.closed, "GET", url).status_code == 200
    descriptor = call(bench.closed, "GET", url.replace("/packages/", "/descriptors/"))
    assert descriptor.status_code == 200
    assert url.partition("pass=")[2] in descriptor.text


def test_the_pass_of_a_deleted_device_is_worth_nothing_also_once_it_is_enrolled_anew(bench: Bench) -> None:
    url = below(job_url(bench))
    report = url.replace("/packages/", "/install-notify/")
    assert call(bench.closed, "POST", report, content=b"900 Success").status_code == 200
    bench.switch(on=False)
    assert bench.ask("DELETE", f"/v1/devices/{DEVICE}").status_code == 204
    for anew in (False, True):
        if anew:
            bench.enrol(b"\x22" * 32)
        assert call(bench.closed, "GET", url).status_code == 403
        assert call(bench.closed, "POST", report, content=b"900 Success").status_code == 403
    assert bench.register(b"\x22" * 32)
    again = below(job_url(bench))
    assert again != url
    assert call(bench.closed, "GET", again).status_code == 200


def test_with_the_account_the_pass_ends_and_jobs_that_wait_get_the_new_one(bench: Bench) -> None:
    url = below(job_url(bench))
    by_version = {"kind": "firmware", "params": {"version": "2"}}
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/jobs", json=by_version).is_success
    new = {"key": "11" * 32, "end_account": True}
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/key", json=new).status_code == 200
    assert call(bench.closed, "GET", url).status_code == 403
    with bench.engine.begin() as connection:
        rows = connection.execute(select(dm.jobs).order_by(dm.jobs.c.id)).all()
        waiting, versioned = (columns.unseal(connection, dm.jobs, row)["params"] for row in rows)
    assert call(bench.closed, "GET", below(waiting["url"])).status_code == 200
    assert waiting["url"].endswith(versioned["pass"])
    assert versioned["pass"] != url.partition("pass=")[2]


def test_no_pass_is_shown_to_a_person(bench: Bench) -> None:
    url = job_url(bench)
    packages = bench.ask("POST", f"/v1/devices/{DEVICE}/jobs", json={"kind": "firmware", "params": {"version": "2"}})
    assert packages.is_success, packages.text
    shown = bench.ask("GET", f"/v1/jobs?device={DEVICE}").text
    assert f"/packages/p.swu?device={quote(DEVICE)}" in shown
    assert url.partition("pass=")[2] not in shown


# ---- keys


@pytest.mark.parametrize("end_account", [False, True])
def test_another_key_ends_the_account_only_when_that_is_asked(bench: Bench, end_account: bool) -> None:
    token = bench.token().json()["token"]
    new = {"key": "11" * 32, "end_account": end_account}
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/key", json=new).status_code == 200
    assert (bench.send(token) == 401) == end_account
    box = bench.box()
    answer = bench.dm.handle(box.request(box.begin()))
    assert header_code(decode(answer.body, answer.content_type)) == (401 if end_account else 200)
    assert not bench.register()
    assert bench.register(b"\x11" * 32)
    assert bench.audit()[0] == "replace key"


def test_another_key_does_not_switch_a_device_on(bench: Bench) -> None:
    bench.switch(on=False)
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/key", json={"key": "11" * 32}).status_code == 200
    replaced = {"id": DEVICE, "key": "22" * 32, "replace": True}
    assert bench.ask("POST", "/v1/devices", json=replaced).status_code == 201
    assert not bench.register(b"\x22" * 32)
    assert bench.row()["state"] == "switched off"


# ---- decommission


def decommission(bench: Bench) -> httpx.Response:
    return bench.ask("POST", f"/v1/devices/{DEVICE}/decommission", json={})


def test_a_device_is_switched_off_when_it_has_said_that_its_account_is_erased(bench: Bench) -> None:
    old = bench.account
    assert decommission(bench).status_code == 201
    assert decommission(bench).status_code == 409
    assert bench.row()["state"] == "leaving"
    tree = Tree({"./DMAcc/main": None, "./DMAcc/main/AppID": "w7"})
    box = bench.box(tree)
    box.session()
    assert "./DMAcc/main" not in tree.nodes
    assert bench.row()["state"] == "decommissioned"
    with bench.engine.begin() as connection:
        row = accounts.load(connection, DEVICE)
    assert row is not None
    assert old is not None
    assert row.client_secret != old.client_secret
    assert not bench.register()
    bench.switch(on=True)
    assert bench.register()
    assert bench.audit() == ["switch on", "decommission", "enrol"]


def test_a_device_that_refuses_to_erase_its_account_stays(bench: Bench) -> None:
    decommission(bench)
    bench.box(Tree({"./DMAcc/main": None}, refuse={"./DMAcc/main": 425})).session()
    assert bench.row()["state"] == "in service"
    assert bench.ask("GET", "/v1/jobs").json()["jobs"][0]["state"] == "failed"


def test_a_device_whose_session_broke_off_shows_by_registering_that_its_account_is_gone(bench: Bench) -> None:
    decommission(bench)
    assert not bench.register()  # it still has its account, and gets no other while it is to leave
    assert bench.row()["state"] == "leaving"
    bench.account = None
    assert not bench.register()
    assert bench.row()["state"] == "decommissioned"


def test_what_cannot_be_decommissioned_is_said(bench: Bench, database: Engine) -> None:
    bench.switch(on=False)
    assert "switched off" in decommission(bench).json()["error"]
    assert bench.ask("POST", "/v1/devices", json={"id": "urn:dcu:new", "key": "00" * 32}).status_code == 201
    answer = bench.ask("POST", "/v1/devices/urn:dcu:new/decommission", json={})
    assert (answer.status_code, "no DM account" in answer.json()["error"]) == (409, True)
    assert bench.ask("POST", "/v1/devices/nobody/decommission", json={}).status_code == 404


# ---- delete


def test_a_deleted_device_leaves_its_readings_and_the_logs(bench: Bench) -> None:
    token = bench.token().json()["token"]
    assert bench.send(token) == 200
    bench.box().session()
    assert bench.ask("DELETE", f"/v1/devices/{DEVICE}").status_code == 409
    bench.switch(on=False)
    assert bench.ask("DELETE", f"/v1/devices/{DEVICE}").status_code == 204
    assert bench.ask("DELETE", f"/v1/devices/{DEVICE}").status_code == 404
    assert bench.ask("GET", "/v1/devices").json()["devices"] == []
    assert bench.send(token) == 401
    assert not bench.register()
    assert len(bench.ask("GET", "/v1/readings").json()["readings"]) == 1
    assert bench.ask("GET", "/v1/registrations").json()["registrations"]
    assert bench.audit() == ["delete", "switch off", "enrol"]
    (entry, *_) = bench.ask("GET", f"/v1/audit?device={DEVICE}&limit=1").json()["audit"]
    assert (entry["who"], entry["at"]) == ("operator, API, 192.0.2.1", bench.now - 60.0)  # one try to register later


def test_where_a_device_may_be_called_is_set_shown_and_audited(bench: Bench) -> None:
    path = f"/v1/devices/{DEVICE}/push-policy"
    assert bench.row()["push_policy"] is None
    policy = {"networks": ["10.20.0.0/16"], "ports": [8030]}
    assert bench.ask("PUT", path, json=policy).json() == {"id": DEVICE, "push_policy": policy}
    assert bench.register()
    assert bench.row()["push_policy"] == policy
    no_policies: list[dict[str, Any]] = [{"networks": ["10.20.0.1/16"]}, {"networks": "all"}, {"ports": []}]
    for bad in no_policies:
        assert bench.ask("PUT", path, json=bad).status_code == 400
    assert bench.row()["push_policy"] == policy
    assert bench.ask("DELETE", path).json() == {"id": DEVICE, "push_policy": None}
    assert bench.row()["push_policy"] is None
    assert bench.ask("PUT", "/v1/devices/urn:dcu:T-2/push-policy", json=policy).status_code == 404
    told = [(entry["action"], entry["detail"]) for entry in bench.ask("GET", "/v1/audit").json()["audit"]]
    assert told[:2] == [("push policy", "as configured"), ("push policy", "10.20.0.0/16; port 8030")]


# ---- many at once


def enrol_csv(bench: Bench, text: str) -> httpx.Response:
    return bench.ask("POST", "/v1/enrolments", content=text.encode())


def test_a_csv_file_enrols_all_its_devices(bench: Bench) -> None:
    rows = "".join(f"{n + 1:064x},urn:dcu:{n}\r\n" for n in range(300))
    answer = enrol_csv(bench, f"\ufeffkey,id\r\n{rows}")
    assert (answer.status_code, answer.json()) == (201, {"enrolled": 300})
    assert len(bench.ask("GET", "/v1/devices").json()["devices"]) == 301
    assert bench.ask("GET", "/v1/audit?device=urn:dcu:299").json()["audit"][0]["action"] == "enrol"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["line 1: the columns id and key are expected, each once"]),
        ("id,key,key\n", ["line 1: the columns"]),
        ("id,key\n", ["no device"]),
        ("id,key\nurn:dcu:2\n", ["line 2: 2 columns are expected, not 1"]),
        (
            f"id,key\nurn:dcu:2,{'ab' * 32}\n\nu r n,{'ab' * 31}\n",
            ["line 4, column id", "line 4, column key: a device key"],
        ),
        (f"id,key\n{DEVICE},{'ab' * 32}\n", [f"line 2, column id: {DEVICE} is enrolled already"]),
        (
            f"id,key\nurn:dcu:2,{'ab' * 32}\nurn:dcu:2,{'ab' * 32}\n",
            ["line 3, column id: urn:dcu:2 stands in line 2 too"],
        ),
        (
            f"id,key\nurn:dcu:2,{'ab' * 32}\nurn:dcu:3,{'AB' * 32}\n",
            ["line 3, column key: it is that of line 2 too"],
        ),
        (f"id,key\nurn:dcu:2,{'00' * 32}\nurn:dcu:3,{'ff' * 32}\n", ["line 2, column key: all bits", "line 3, column"]),
        ('id,key\n"urn:dcu:2,' + "ab" * 32, ["line 2: unexpected end of data"]),
    ],
)
def test_a_csv_file_with_a_mistake_enrols_nobody_and_shows_no_key(bench: Bench, text: str, problems: list[str]) -> None:
    answer = enrol_csv(bench, text)
    assert answer.status_code == 400
    for problem in problems:
        assert problem in answer.json()["error"]
    assert "abab" not in answer.text
    assert len(bench.ask("GET", "/v1/devices").json()["devices"]) == 1
    assert bench.audit() == ["enrol"]


def test_a_csv_file_of_nothing_but_mistakes_is_answered_shortly(bench: Bench) -> None:
    answer = enrol_csv(bench, "id,key\n" + "x,y\n" * 5000)
    assert answer.status_code == 400
    assert "and 4900 more" in answer.json()["error"]


class Statements:
    """What is sent to a database, by transaction: those that write, and so keep everybody else waiting, and others."""

    def __init__(self, engine: Engine) -> None:
        self.writing: list[list[str]] = []
        self.reading: list[list[str]] = []
        self._now: list[str] = []
        event.listen(engine, "before_cursor_execute", self._seen)

    def _seen(self, _c: object, _u: object, statement: str, _p: object, _x: object, _many: bool) -> None:
        if statement.startswith("BEGIN"):
            self._now = []
            (self.writing if "IMMEDIATE" in statement else self.reading).append(self._now)
        self._now.append(statement.split(" (", maxsplit=1)[0])


def test_many_devices_are_written_by_two_statements_and_everything_else_is_done_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, sealed_in = Statements(bench.engine), set[str]()
    seal = envelope.seal

    def sealing(*arguments: Any) -> bytes:
        sealed_in.add("write" if seen.writing and seen._now is seen.writing[-1] else "read")
        return seal(*arguments)

    monkeypatch.setattr(envelope, "seal", sealing)
    for count in (3, 3000):
        rows = "".join(f"urn:dcu:{count}-{n},{n + 1:064x}\n" for n in range(count))
        assert enrol_csv(bench, f"id,key\n{rows}").json() == {"enrolled": count}
    assert sealed_in == {"read"}
    writing = [[one for one in each if not one.startswith(("BEGIN", "SELECT"))] for each in seen.writing]
    assert writing == [["INSERT INTO devices", "INSERT INTO audit"]] * 2
    assert max(map(len, seen.writing + seen.reading)) < 10


def between(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], times: int) -> None:
    """Let something happen between the look at a file's devices and the transaction that writes them."""
    prepare, left = devices.prepare, [times]

    def preparing(*arguments: Any) -> devices.Prepared:
        found = prepare(*arguments)
        if left[0]:
            left[0] -= 1
            happens()
        return found

    monkeypatch.setattr(devices, "prepare", preparing)


def test_a_device_of_the_file_that_is_enrolled_meanwhile_is_named_and_nobody_else_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"id": "urn:dcu:3", "key": "ab" * 32}
    between(monkeypatch, lambda: bench.ask("POST", "/v1/devices", json=other), 1)
    answer = enrol_csv(bench, f"id,key\nurn:dcu:2,{'ce' * 32}\nurn:dcu:3,{'cd' * 32}\n")
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "line 3, column id: urn:dcu:3 is enrolled already"},
    )
    assert [row["id"] for row in bench.ask("GET", "/v1/devices").json()["devices"]] == ["urn:dcu:3", DEVICE]
    assert bench.audit() == ["enrol", "enrol"]


def rotate_keys(engine: Engine) -> None:
    for _ in rotation.rotate(engine, db.metadata):
        pass


@pytest.mark.parametrize(("times", "status", "devices_there"), [(1, 201, 3), (9, 409, 1)])
def test_keys_that_are_rotated_meanwhile_seal_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, times: int, status: int, devices_there: int
) -> None:
    between(monkeypatch, lambda: rotate_keys(bench.engine), times)
    answer = enrol_csv(bench, f"id,key\nurn:dcu:2,{'ce' * 32}\nurn:dcu:3,{'cd' * 32}\n")
    assert answer.status_code == status
    with bench.engine.begin() as connection:
        found = {row["id"]: devices.find(connection, str(row["id"])) for row in devices.listing(connection)}
    assert len(found) == devices_there
    if status == 201:
        new = found["urn:dcu:3"]
        assert new is not None
        assert new.key == bytes.fromhex("cd" * 32)


# ---- alarms


def test_security_alarms_are_shown_and_acknowledged(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        records.raise_alarm(connection, "two-devices", DEVICE, "seen", 5.0)
    (alarm,) = bench.ask("GET", "/v1/security-alarms?state=open").json()["alarms"]
    assert (alarm["kind"], alarm["device"], alarm["count"]) == ("two-devices", DEVICE, 1)
    path = f"/v1/security-alarms/{alarm['id']}/acknowledge"
    assert bench.ask("POST", path).status_code == 200
    assert bench.ask("POST", path).status_code == 404
    assert bench.ask("GET", "/v1/security-alarms?state=open").json() == {"alarms": []}
    assert bench.audit()[:2] == ["acknowledge alarm", "alarm two-devices"]


def test_a_device_is_enrolled_by_one_way_of_proof(bench: Bench) -> None:
    own = issue(authority(), "urn:dcu:T-9")
    for wrong in (
        {},
        {"key": KEY.hex(), "by_authority": True},
        {"by_authority": False},
        {"certificate": 5},
        {"certificate": "no PEM"},
    ):
        assert bench.ask("POST", "/v1/devices", json={"id": "urn:dcu:T-9", **wrong}).status_code == 400
    made = bench.ask("POST", "/v1/devices", json={"id": "urn:dcu:T-9", "certificate": own.pem().decode()})
    assert made.status_code == 201
    assert bench.ask("POST", "/v1/devices", json={"id": "urn:dcu:T-9", "by_authority": True}).status_code == 409
    again = bench.ask("POST", "/v1/devices", json={"id": "urn:dcu:T-9", "by_authority": True, "replace": True})
    assert again.status_code == 201
    assert bench.audit()[:2] == ["replace key", "enrol"]


def test_a_device_is_told_to_come_for_a_new_key(bench: Bench) -> None:
    """The order erases its account, so it registers at once; a device without an account gets none of this."""
    bench.ask("POST", "/v1/devices", json={"id": "urn:dcu:T-9", "key": KEY.hex()})
    assert bench.ask("POST", "/v1/devices/urn:dcu:T-9/renew-key").status_code == 409
    assert bench.register()
    ordered = bench.ask("POST", f"/v1/devices/{DEVICE}/renew-key")
    assert ordered.status_code == 201
    assert ordered.json()["params"]["commands"] == [{"command": "delete", "path": "./DMAcc/main"}]
    assert bench.audit()[0] == "renew key"
    assert bench.register()  # it cannot store a key: the old one stays good
    bench.switch(on=False)
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/renew-key").status_code == 409


def test_the_api_orders_another_certificate(bench: Bench, database: Engine) -> None:
    assert bench.register()
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/renew-certificate").status_code == 409  # a shared key
    with database.begin() as connection:
        made = issue(authority(), DEVICE).certificate.der
        certificates.enrol(connection, DEVICE, made, 1.0, replace=True)
    ordered = bench.ask("POST", f"/v1/devices/{DEVICE}/renew-certificate")
    assert ordered.status_code == 201
    assert ordered.json()["params"]["commands"] == [{"command": "delete", "path": "./DMAcc/main"}]
    assert bench.audit()[0] == "renew certificate"


@pytest.mark.parametrize("what", ["key", "certificate"])
def test_a_device_that_has_said_that_it_cannot_renew_is_not_ordered_to(
    bench: Bench, database: Engine, what: str
) -> None:
    """It would erase its account for nothing. Whoever has mended it acknowledges the alarm."""
    assert bench.register()
    with database.begin() as connection:
        if what == "certificate":
            certificates.enrol(connection, DEVICE, issue(authority(), DEVICE).certificate.der, 1.0, replace=True)
        records.raise_alarm(connection, records.RENEWAL, DEVICE, "the device cannot renew it: no room", 5.0)
    refused = bench.ask("POST", f"/v1/devices/{DEVICE}/renew-{what}")
    assert refused.status_code == 409
    assert refused.json()["error"].startswith("the device cannot renew it: no room; acknowledge")
    assert bench.ask("GET", "/v1/jobs").json() == {"jobs": []}
    (alarm,) = bench.ask("GET", "/v1/security-alarms?state=open").json()["alarms"]
    assert bench.ask("POST", f"/v1/security-alarms/{alarm['id']}/acknowledge").status_code == 200
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/renew-{what}").status_code == 201


def test_a_key_by_hand_ends_a_renewal(bench: Bench, database: Engine) -> None:
    assert bench.register()
    bench.ask("POST", f"/v1/devices/{DEVICE}/renew-key")
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/key", json={"key": "11" * 32}).status_code == 200
    with database.begin() as connection:
        assert not renewals.is_wanted(connection, DEVICE)
