"""The loss table: each kind of job, begun in each way, with exchanges lost singly and in pairs.

`python -m tests.headend.dm.loss [JOB…]` prints it. Both ends are the real ones; only the line between them is a call. A
result counts as right when it says what the tree of the device shows, as queued when the job is to run again, and as
wrong otherwise.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select

from agent.clock_floor import CertificateTime
from agent.daemon.device_orders import DeviceOrders, erase_if_ordered, report_reset
from agent.daemon.order_jobs import OrderJobs
from agent.https import HttpsClient
from agent.jobs import device
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from agent.metering.orders.types.steps import Ended
from agent.mo.connectivity import trial
from agent.mo.diagmon import Excerpt, Pictures
from agent.ssmp.certificate_file import HeldCertificate, ServerTrust
from agent.ssmp.certificate_store import CertificateStore
from agent.ssmp.key_store import KeyStore
from agent.ssmp.registration import Registrar
from headend.dm import accounts, tables
from headend.dm.jobs import queue
from headend.dm.server import DmServer
from headend.operator import lifecycle
from headend.operator.lifecycle import Actor
from headend.security import certificate_renewals, devices, renewals
from headend.security import certificates as server_certificates
from headend.security.app import dm_accounts
from headend.security.certificates import Identity
from headend.security.service import SecurityService
from omadm.bootstrap import emit_profile
from omadm.notification import Notification, emit
from omadm.ssmp import certificates
from tests.agent.dm.server import DEVICE_ID
from tests.agent.dm_device import DEVICE, STATE, UPDATE, Device, FakeManifest
from tests.headend.database import empty_database
from tests.headend.dm.line import CONFIG, SSMP_URL, Line
from tests.omadm.ssmp.certified import authority, issue
from tests.sim.faulty_disk import FaultyDisk
from updateagent.package.manifest import Kind

TURNS = 8  # sessions that a lost exchange or two may take
EXCHANGES = 7  # the longest of these jobs takes so many, a challenge at the beginning included
TRIGGERS = ("user", "pushed", "server")
FATES = ("request", "answer")

UPDATE_RESULT = 410
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # no power is cut here

RIGHT, QUEUED, WRONG = "right", "queued again", "wrong"

Job = Mapping[str, Any]


class TwoLines:
    """A log."""

    def collect(self, since: int, until: int, level: str) -> Excerpt:
        return Excerpt("one\ntwo", 2)


class World:
    """One device with an account, and what happens beside its sessions: packages, and orders to meters."""

    def __init__(self, path: Path) -> None:
        self.engine = empty_database(path)
        with self.engine.begin() as conn:
            account = accounts.create(conn, DEVICE_ID, server_id=CONFIG.server_id, url=CONFIG.url)
        self.line = Line(DmServer(self.engine, CONFIG))
        profile = emit_profile(account)
        self.device = Device(self.line, profile=profile, pictures=Pictures(log=TwoLines()))  # type: ignore[arg-type]
        self.device.meter_details["KEP1"] = {}
        journal = Journal(self.device.disk, Path("/state/orders"))
        self.book = OrderBook(journal, self.device.clock, allowed=(), known=lambda: {"KEP1", "KEP2"})
        self.orders_run = self.updates = 0
        self.device_orders = self._device_orders()
        self.device.turn()
        self.device.turn()

    def renewing(self, store: KeyStore | CertificateStore, identity: Identity | None = None) -> None:
        """From now on the device registers over the same line, with secrets that can be renewed."""
        accounts_of = dm_accounts(CONFIG.server_id, CONFIG.url)
        clock = self.device.clock
        self.line.security = SecurityService(
            self.engine, accounts_of, monotonic=clock.monotonic, wall=clock.wall, identity=identity
        )
        registrar = Registrar(cast("HttpsClient", self.line), SSMP_URL, DEVICE, monotonic=clock.monotonic)
        self.device.registrar = lambda held: registrar.register(store, "", held)

    def begin(self, trigger: str) -> None:
        if trigger == "user":
            self.device.service.session_now("user")
        elif trigger == "pushed":  # the SessionID comes from the notification, and is used until a session succeeds
            with self.engine.begin() as conn:
                account, _, counter = accounts.next_push(conn, DEVICE_ID)
            note = Notification(0xABCD, account.server_id)
            body = emit(note, account.server_secret, account.server_nonce, counter=counter)
            status = self.device.service.on_notification(body)
            if status not in (202, 503):  # the nonce was lost: as `headend.dm.push` does
                self._resynchronise(note)  # 503: it has no account now, and registers by itself
        else:
            self.device.service._timing.ask("push", "7")  # a device with one SessionID for ever

    def _resynchronise(self, note: Notification) -> None:
        with self.engine.begin() as conn:
            account, _, counter = accounts.next_push(conn, DEVICE_ID)
        assert self.device.service.on_notification(emit(note, account.server_secret, b"\0" * 4, counter=counter)) == 202

    def work(self) -> None:
        """What the device does outside its sessions."""
        self.device.work()
        self.device_orders.tick()
        self.device.turn()
        if self.device.reboots > self.updates:
            self._update()
        jobs = OrderJobs(self.device.tree, self.book, self.device.service.report_alerts)
        jobs.hand_over()
        for task in self.book.due({"KEP1", "KEP2"}):
            self.book.begun(task)
            self.orders_run += 1
            self.book.ended(task, Ended({"name": task.meter_id}))
        jobs.tick()

    def _device_orders(self) -> DeviceOrders:
        one = self.device
        return DeviceOrders(
            one.tree,
            one.disk,
            one.clock,
            STATE,
            one.boot_id,
            reboot=one.service.reboot,
            report=one.service.report_alerts,
            waiting=lambda: 0,
        )

    def _update(self) -> None:
        """A boot, with the Update Agent's part where it has one: the new version does not come up."""
        self.updates = self.device.reboots
        disk = self.device.disk
        if disk.exists(UPDATE / "inbox" / "request.json"):
            self._leave_result(disk)
        erase_if_ordered(disk, STATE, lambda: (STATE / "dm",), lambda: None)
        self.device.restart(boot_id=f"boot {self.updates + 1}")
        report_reset(disk, STATE, self.device.tree)
        self.device_orders = self._device_orders()
        self.device_orders.tick()
        self.device.work()

    @staticmethod
    def _leave_result(disk: FaultyDisk) -> None:
        request = json.loads(disk.read_bytes(UPDATE / "inbox" / "request.json"))
        result = {
            "version": 1,
            "id": request["id"],
            "correlator": request["correlator"],
            "code": 1,
            "name": "health",
            "fumo": UPDATE_RESULT,
            "scomo": 1405,
            "message": "did not come up",
            "from_version": "1",
            "to_version": "2",
            "attempts": 3,
            "failed_check": "meter_port",
            "log": [],
            "finished": 1_770_000_000,
        }
        disk.mkdir_durable(UPDATE / "outbox")
        disk.write_durable(UPDATE / "outbox" / "result.json", json.dumps(result).encode())
        disk.remove_durable(UPDATE / "inbox" / "request.json")

    def enqueue(self, kind: str, params: Mapping[str, Any]) -> int:
        with self.engine.begin() as conn:
            return queue.enqueue(conn, DEVICE_ID, kind, params)

    def job(self, number: int) -> Job:
        with self.engine.begin() as conn:
            shown = queue.show(conn, number)
        assert shown is not None
        return shown


@dataclass(frozen=True)
class Case:
    """A kind of job, its parameters, and whether its result is right when it is over."""

    kind: str
    params: Mapping[str, Any]
    right: Callable[[World, Job], bool]
    name: str = field(default="")
    begin: Callable[[World], int] | None = None  # queues the job in a way of its own
    exchanges: int = EXCHANGES

    @property
    def title(self) -> str:
        return self.name or f"`{self.kind}`"


def _done(job: Job) -> bool:
    return bool(job["state"] == "done")


def _statuses(job: Job) -> list[Any]:
    return [reply["status"] for reply in job["result"]["replies"]]


TASK = [
    {"path": "./SCHED/Task/t1/Name", "value": "all registers"},
    {"path": "./SCHED/Task/t1/Setting/Every", "value": 60},
    {"path": "./SCHED/Task/t1/Setting/ReadingList", "value": "residential-108"},
    {"path": "./SCHED/Task/t1/Enabled", "value": True},
]
MAKE = [
    {"command": "add", "path": "./SCHED/Task/t2"},
    {"command": "add", "path": "./SCHED/Task/t2/Name", "value": "second"},
]
NAME = "./SCHED/Task/t2/Name"
TWICE = [*MAKE, {"command": "replace", "path": NAME, "value": "a"}, {"command": "replace", "path": NAME, "value": "b"}]
ANEW = [
    *MAKE,
    {"command": "delete", "path": "./SCHED/Task/t2"},
    {"command": "add", "path": "./SCHED/Task/t2"},
    {"command": "add", "path": NAME, "value": "b"},
]
FORGET = [{"command": "exec", "path": "./AMI/Registry/Operations/Forget", "value": "KEP1"}]


def _task_is_there(world: World, job: Job) -> bool:
    result = job["result"] or {}
    tasks = world.device.provisioned[-1].tasks
    return (
        _done(job) and bool(result["replaced"] + result["added"] == len(TASK)) and [t.task_id for t in tasks] == ["t1"]
    )


def _task_changed(world: World, job: Job) -> bool:
    there = [task.task_id for task in world.device.provisioned[-1].tasks]
    return _done(job) and job["result"] == {"changed": ["t1"], "deleted": [], "as_before": []} and there == ["t1"]


def _refused_as_said(world: World, job: Job) -> bool:
    return bool(job["state"] == "failed" and job["result"].get("refused") == {"./Nowhere": 404})


def _made(world: World, job: Job) -> bool:
    return _done(job) and set(_statuses(job)) <= {200}


def _last_counts(world: World, job: Job) -> bool:
    return _done(job) and world.device.tree.view().text(("SCHED", "Task", "t2", "Name"), "") == "b"


def _anew_as_told(world: World, job: Job) -> bool:
    """All of it, or not known: an Atomic that is sent again is refused where the device shows more than was set, and
    that says nothing of the first time."""
    if job["state"] == "failed":
        return set(_statuses(job)) == {None} and "not known" in job["result"]["error"]
    return _last_counts(world, job)


def _exec_is_told(world: World, job: Job) -> bool:
    """Carried out and said so, or not known: never a refusal that the device did not utter."""
    if _done(job):
        return _statuses(job) == [200] and world.device.forgotten == ["KEP1"]
    return job["state"] == "failed" and set(_statuses(job)) == {None} and "not known" in job["result"]["error"]


def _software_is_there(world: World, job: Job) -> bool:
    installs = sum(call.startswith("install") for call in world.device.software.calls)
    return _done(job) and job["result"]["result_code"] == 1200 and installs == 1


def _update_is_told(world: World, job: Job) -> bool:
    result = job["result"] or {}
    return job["state"] == "failed" and result.get("result_code") == UPDATE_RESULT and world.updates == 1


def _orders_are_told(world: World, job: Job) -> bool:
    meters = (job["result"] or {}).get("meters", [])
    told = [dict(m["value"]) for m in meters]
    return _done(job) and bool(told == [{"name": "KEP1"}, {"name": "KEP2"}]) and world.orders_run == 2


def _changed_as_told(world: World, job: Job) -> bool:
    """Confirmed and in use, or taken back and not."""
    now = trial.in_use(world.device.tree.view()).time_servers
    if _done(job):
        return bool(job["result"]["state"] == "confirmed" and now == "ntp.example")
    return "taken the change back" in job["result"]["error"] and not now


def _rebooted_once(world: World, job: Job) -> bool:
    return _done(job) and job["result"] == {"result_code": 1200} and world.device.reboots == 1


def _reset_once(world: World, job: Job) -> bool:
    """Begun anew once, with a new registration. Where the answer with the order is lost, that is not known."""
    if "not known" in job["result"].get("error", ""):
        return job["state"] == "failed" and world.device.reboots <= 1
    begun = (world.device.reboots, world.device.registrations)
    return _done(job) and job["result"] == {"result_code": 1200} and begun == (1, 2)


def _log_is_there(world: World, job: Job) -> bool:
    with world.engine.begin() as conn:
        kept = conn.scalar(select(tables.values.c.value).where(tables.values.c.uri == "./DiagMon/Log/Data"))
    return _done(job) and job["result"]["lines"] == "2" and kept == "one\ntwo"


PICTURES = [f"./DiagMon/{name}" for name in ("Status", "Meters", "Ports", "Storage", "Clock")]


def _pictures_are_there(world: World, job: Job) -> bool:
    with world.engine.begin() as conn:
        kept = conn.execute(select(tables.values.c.value).where(tables.values.c.uri.in_(PICTURES))).scalars().all()
    return _done(job) and job["result"] == {"values": len(PICTURES)} and kept == ["{}"] * len(PICTURES)


KEY = bytes(range(32))
PERIOD = (1.0, 4e9)  # whatever the clock of a world says
AUTHORITY = authority(period=PERIOD)
HOST = issue(AUTHORITY, "headend", certificates.SERVER, PERIOD)
OWN = issue(AUTHORITY, DEVICE_ID, period=PERIOD)
SECRETS = Path("/state/ssmp")
OPERATOR = "operator"


def _key_store(world: World) -> KeyStore:
    return KeyStore(world.device.disk, SECRETS, KEY)


def _renew_key(world: World) -> int:
    with world.engine.begin() as conn:
        devices.enrol(conn, DEVICE_ID, KEY, 1.0)
    world.renewing(_key_store(world))
    with world.engine.begin() as conn:
        return lifecycle.renew_key(conn, Actor(OPERATOR, world.device.clock.wall()), DEVICE_ID)


def _certificate_store(world: World) -> CertificateStore:
    def now() -> CertificateTime:
        return CertificateTime(world.device.clock.wall(), world.device.clock.wall())

    ca = Path(str(world.engine.url.database)).with_name("ca.pem")
    ca.write_bytes(AUTHORITY.pem())
    factory = HeldCertificate(OWN.key, OWN.certificate, ServerTrust(ca, SSMP_URL, now, lambda: None))
    return CertificateStore(world.device.disk, SECRETS, factory, DEVICE_ID, now)


def _renew_certificate(world: World) -> int:
    with world.engine.begin() as conn:
        server_certificates.enrol(conn, DEVICE_ID, None, 1.0)
    identity = Identity(HOST.certificate, HOST.key, (AUTHORITY.certificate,), (AUTHORITY.certificate, AUTHORITY.key))
    world.renewing(_certificate_store(world), identity)
    with world.engine.begin() as conn:
        actor = Actor(OPERATOR, world.device.clock.wall())
        return lifecycle.renew_certificate(conn, actor, DEVICE_ID, issues=True)


def _in_again(world: World) -> bool:
    """Whether the device gets in, and a job of after that is done; a few turns are all it needs."""
    after = world.enqueue("get", {"paths": ["./DevInfo/Man"]})
    for _ in range(TURNS):
        world.begin("user")
        world.device.turn()
        world.device.clock.advance(3600)
        if _done(world.job(after)):
            return True
    return False


def _key_renewed(world: World, job: Job) -> bool:
    if not _in_again(world):
        return False
    newest, *older = _key_store(world).candidates()
    with world.engine.begin() as conn:
        there, given = devices.find(conn, DEVICE_ID), renewals.given(conn, DEVICE_ID)
        wanted = renewals.is_wanted(conn, DEVICE_ID)
    if there is None or newest.same(KEY):
        return False
    if older:  # it was given, and waits to be used: until then both are good at both ends
        return _done(job) and newest.same(given) and older[0].same(there.key)
    return _done(job) and not wanted and newest.same(there.key)


def _certificate_renewed(world: World, job: Job) -> bool:
    if not _in_again(world):
        return False
    newest, *older = _certificate_store(world).candidates()
    with world.engine.begin() as conn:
        wanted = certificate_renewals.is_wanted(conn, DEVICE_ID)
        given = certificate_renewals.is_given(conn, DEVICE_ID, certificates.read(newest.certificate))
    renewed = newest.certificate != OWN.certificate.der
    return _done(job) and renewed and (given if older else not wanted)  # as with keys


def _locked_as_told(world: World, job: Job) -> bool:
    return _done(job) and device.is_locked(world.device.tree.view())


def _anchors_as_told(world: World, job: Job) -> bool:
    now = trial.in_use(world.device.tree.view()).anchors
    if _done(job):
        return bool(job["result"]["state"] == "confirmed" and now == AUTHORITY.pem().decode())
    return "taken the change back" in job["result"]["error"] and not now


RENEWAL = 12  # exchanges: a session, and two registrations
CASES = (
    Case(
        "get",
        {"paths": ["./DevInfo/Man", "./DevDetail"]},
        lambda _, job: _done(job) and bool(job["result"]["values"] > 9),
    ),
    Case("get", {"paths": ["./DevInfo/Man", "./Nowhere"]}, _refused_as_said, "`get`, one node missing"),
    Case("provision", {"nodes": TASK}, _task_is_there),
    Case("provision", {"nodes": TASK, "atomic": True}, _task_is_there, "`provision`, atomic"),
    Case("commands", {"commands": MAKE}, _made),
    Case("commands", {"commands": MAKE, "mode": "sequence"}, _made, "`commands`, sequence"),
    Case("commands", {"commands": MAKE, "mode": "atomic"}, _made, "`commands`, atomic"),
    Case("commands", {"commands": TWICE}, _last_counts, "`commands`, a node set twice"),
    Case("commands", {"commands": ANEW}, _last_counts, "`commands`, a node made anew"),
    Case("commands", {"commands": ANEW, "mode": "atomic"}, _anew_as_told, "`commands`, made anew, atomic"),
    Case("commands", {"commands": FORGET}, _exec_is_told, "`commands`, Exec"),
    Case("tasks", {"tasks": {"t1": {"every": 60, "reading_list": "residential-108"}}}, _task_changed),
    Case("software", {"id": "lists", "url": "https://headend/pkg/s"}, _software_is_there),
    Case("firmware", {"url": "https://headend/pkg/2", "version": "2"}, _update_is_told),
    Case("get", {"paths": PICTURES}, _pictures_are_there, "`get`, pictures of DiagMon"),
    Case("connectivity", {"time_servers": "ntp.example", "within_s": 86_400}, _changed_as_told),
    Case(
        "connectivity",
        {"anchors": AUTHORITY.pem().decode(), "within_s": 86_400},
        _anchors_as_told,
        "`connectivity`, authorities",
    ),
    Case("device", {"operation": "reboot"}, _rebooted_once, "`device`, reboot"),
    Case("device", {"operation": "lock"}, _locked_as_told, "`device`, lock"),
    Case("device", {"operation": "factory-reset"}, _reset_once, "`device`, factory reset"),
    Case("commands", {}, _key_renewed, "`renew-key`", _renew_key, RENEWAL),
    Case("commands", {}, _certificate_renewed, "`renew-certificate`", _renew_certificate, RENEWAL),
    Case("log", {"level": "warning"}, _log_is_there),
    Case("order", {"order": "ping", "meters": ["KEP1", "KEP2"]}, _orders_are_told),
)


def patterns(exchanges: int = EXCHANGES) -> Iterator[dict[int, str]]:
    """Which exchanges are lost, singly and in pairs, each as request or as answer."""
    for at in range(exchanges):
        for fate in FATES:
            yield {at: fate}
    for pair in itertools.combinations(range(exchanges), 2):
        for fates in itertools.product(FATES, repeat=2):
            yield dict(zip(pair, fates, strict=True))


@contextmanager
def world_in(folder: Path) -> Iterator[World]:
    path = folder / "dm.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    world = World(path)
    try:
        yield world
    finally:
        world.engine.dispose()


def tried(folder: Path, case: Case, trigger: str, lose: Mapping[int, str]) -> tuple[str, Job]:
    """What becomes of one job when these exchanges are lost."""
    with world_in(folder) as world:
        if case.kind == "software":
            world.device.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
        number = case.begin(world) if case.begin is not None else world.enqueue(case.kind, case.params)
        world.line.exchanges, world.line.lose = 0, dict(lose)
        job = world.job(number)
        for _ in range(TURNS):
            world.begin(trigger)
            world.device.turn()
            world.work()
            world.device.clock.advance(3600)
            job = world.job(number)
            if job["state"] in ("done", "failed"):
                break
        if job["state"] in ("queued", "running", "waiting"):
            return QUEUED, job
        return (RIGHT if case.right(world, job) else WRONG), job


def main() -> None:
    """Print the table of docs/dm.md, or the rows of the cases that are named, and each pattern that is not right."""
    logging.disable(logging.CRITICAL)
    wanted = [case for case in CASES if not sys.argv[1:] or case.title.replace("`", "") in sys.argv[1:]]
    print("| Job | user: right / queued / wrong | pushed | same SessionID |\n|---|---|---|---|", flush=True)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        for case in wanted:
            row = [_told(total, _counted(Path(folder), case, trigger)) for trigger in TRIGGERS]
            print(f"| {case.title} | {' | '.join(row)} |", flush=True)
    print(f"\n{total.total()} patterns: {_told(Counter(), total)}")


def _counted(folder: Path, case: Case, trigger: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for lose in patterns(case.exchanges):
        verdict, job = tried(folder, case, trigger, lose)
        counts[verdict] += 1
        if verdict != RIGHT:
            print(f"{verdict}: {case.title}, {trigger}, {lose}: {job}", file=sys.stderr, flush=True)
    return counts


def _told(total: Counter[str], counts: Counter[str]) -> str:
    total.update(counts)
    return f"{counts[RIGHT]} / {counts[QUEUED]} / {counts[WRONG]}"


if __name__ == "__main__":
    main()
