"""What a head-end writes since 0.2.0: a database with rows in each of its tables, its keys, and its settings."""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

program: Any = importlib.import_module("program")
generate: Any = importlib.import_module("generate")
device_parts: Any = importlib.import_module("device_parts")
Part: Any = device_parts.Part
named, NOW, DEVICE = program.named, program.NOW, program.DEVICE
module = importlib.import_module

FACTORY = bytes(range(32))
CERTIFIED, LEAVING = "urn:dcu:KR-000043", "urn:dcu:KR-000044"
WHO = "operator, by the command line"

# A job of each kind, with secrets among what it carries.
JOBS: Mapping[str, Mapping[str, Any]] = {
    "get": {"paths": ["./DevInfo/Man", "."]},
    "provision": {"nodes": [{"path": "./AMI/Access/Secret", "value": "12345678"}], "atomic": True},
    "commands": {"commands": [{"command": "delete", "path": "./DMAcc/main"}], "mode": "sequence"},
    "tasks": {"tasks": {"load": {"every": 900, "reading_list": "residential-108"}}, "zone": "UTC0"},
    "software": {"id": "lists", "url": "https://headend.example/pkg/lists.swu"},
    "firmware": {"url": "https://headend.example/pkg/2.swu", "version": "2"},
    "connectivity": {"time_servers": "ntp.example", "uplink": "https://readings.example/v1/readings", "within_s": 900},
    "device": {"operation": "reboot"},
    "log": {"level": "warning"},
    "order": {"order": "disconnect", "meters": ["KEP0000001"]},
}
TLS = {"certificate": "server.pem", "key": "server.key", "ca": "ca.pem"}


def write_operator(folder: Path) -> None:
    """Devices with keys and certificates, renewals under way, refusals, alarms; jobs of each kind in each state;
    readings, gaps, events; packages, downloads, reports; sealed under a key that was rotated."""
    home = folder / "operator"
    home.mkdir()
    database = generate.headend_database()
    engine = generate.open_headend(database, home)
    database.create_tables(engine)
    _devices(engine)
    _jobs(engine)
    _metering(engine, folder)
    asyncio.run(_packages(engine, folder, home))
    generate.key_source(home).make()
    for _ in module("headend.sealing.rotation").rotate(engine, database.metadata):
        pass
    _leave_one_file(engine, home)


def _devices(engine: Any) -> None:
    lifecycle, access, clones = (module(f"headend.{name}") for name in
                                 ("operator.lifecycle", "access", "security.clones"))  # fmt: skip
    accounts, devices = module("headend.dm.accounts"), module("headend.security.devices")
    certificates, renewals = module("headend.security.certificates"), module("headend.security.renewals")
    records, passes = module("headend.security.records"), module("headend.passes")
    who = lifecycle.Actor(WHO, NOW)
    info = named("RegistrationInfo", "omadm.ssmp.wire")
    with engine.begin() as connection:
        for number, device in enumerate((DEVICE, LEAVING)):
            lifecycle.enrol(connection, who, device, bytes([number + 1]) * 32)
            made = accounts.create(connection, device, server_id="dm.example", url="https://dm.example/dm", now=NOW)
            devices.registered(connection, device, info("Example", "DCU-1", "A", "1", "2", "https://dcu.example"), NOW)
            devices.note(connection, device, "192.0.2.1", 200, "registered", NOW)
            registering = clones.Registering(device, None, "192.0.2.1")
            clones.remember(connection, registering, made, NOW, unexpected=False)
        lifecycle.renew_key(connection, who, DEVICE)
        renewals.stored(connection, DEVICE, b"\x07" * 32)
        certificates.enrol(connection, CERTIFIED, _certificate(), NOW)
        accounts.create(connection, CERTIFIED, server_id="dm.example", url="https://dm.example/dm", now=NOW)
        certificates.used(connection, CERTIFIED, _certificate())
        lifecycle.renew_certificate(connection, who, CERTIFIED)
        lifecycle.decommission(connection, who, LEAVING)
        records.raise_alarm(connection, clones.TWO_DEVICES, DEVICE, "two of them", NOW)
        passes.download_pass(connection, DEVICE)
        module("headend.metering.readings").new_token(connection, DEVICE, NOW)
    access.RefusalLog(engine).note(LEAVING, access.Door.DM, "192.0.2.9", NOW)


def _certificate() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(
        device_parts.certificate(ec.derive_private_key(9, ec.SECP256R1()).public_key()).public_bytes(Encoding.DER)
    )


def _jobs(engine: Any) -> None:
    queue, tables, steps = module("headend.dm.jobs.queue"), module("headend.dm.tables"), module("headend.dm.jobs.steps")
    store, messages = module("headend.dm.session_store"), module("omadm.syncml.messages")
    sqlalchemy = module("sqlalchemy")
    desired = module("headend.dm.jobs.desired")
    with engine.begin() as connection:
        for kind, params in JOBS.items():
            queue.enqueue(connection, DEVICE, kind, params, now=NOW)
        session = connection.execute(
            sqlalchemy.insert(tables.sessions).values(
                device_id=DEVICE, session_id="1F", trigger=1201, state="done", messages=3, commands=5, started=NOW,
                updated=NOW,
            )
        ).inserted_primary_key[0]  # fmt: skip
        seen = store.SessionStore(connection, DEVICE, session, NOW)
        first = seen.next_job()
        seen.job_noted(first, steps.Checkpoint({"step": 2}))
        seen.job_finished(first, steps.Failed({"error": "refused", "refused": {"./Nowhere": 404}}))
        second = seen.next_job()
        seen.job_finished(second, steps.Done({"values": 9}))
        seen.next_job()
        seen.value_seen("./DevInfo/Man", messages.Item(data="Example", meta=messages.Meta(format="chr")))
        seen.value_seen("./DiagMon/Log", messages.Item(data=b"\x00\xff", meta=messages.Meta(format="bin")))
        alert = module("headend.dm.engine").AlertSeen("1.2", 1226, "urn:x", "./LAWMO", "critical", "<a/>", "c-9")
        seen.alert_seen(alert)
        desired.note(connection, DEVICE, "tasks", JOBS["tasks"], NOW)
        desired.note(connection, DEVICE, "provision", JOBS["provision"], NOW)
        account = {"last_request": "ab" * 32, "last_answer": b"\x02answer", "last_answer_mac": "m"}
        module("headend.dm.accounts").change(connection, DEVICE, account)


def _metering(engine: Any, folder: Path) -> None:
    readings, events = module("headend.metering.readings"), module("headend.metering.events")
    resend, order = module("headend.metering.resend"), named("ResendOrder", "omadm.readings")
    parse = named("parse", "omadm.readings")
    posted = parse((folder / "collection" / "uplink.json").read_bytes())
    readings.store(engine, posted, NOW)
    later = {"version": 1, "device": DEVICE, "store": "ab" * 16, "records": [{"id": 1, "kind": "weather", "sun": 0.5}]}
    readings.store(engine, parse(module("json").dumps(later).encode()), NOW)
    with engine.begin() as connection:
        resend.order(connection, DEVICE, order(0, posted.store, 1, 9), NOW)
        resend.order(connection, DEVICE, order(0, since=NOW - 900, until=NOW), NOW)
        alarm = next(row for row in events.listing(engine) if row["grave"])
        events.acknowledge(connection, alarm["id"], NOW)
    resend.close(engine, DEVICE, [named("ResendReport", "omadm.readings")(1, 5, 1, ((2, 3),), NOW)], NOW)


async def _packages(engine: Any, folder: Path, home: Path) -> None:
    store = of("software.repository", "software.store").PackageStore(engine, home / "packages")

    async def chunks(file: str) -> AsyncIterator[bytes]:
        yield (folder / "packages" / file).read_bytes()

    for file in ("lists.swu", "firmware.swu"):
        await store.add(file, "application/octet-stream", chunks(file), NOW)
    store.note_download(
        {"at": NOW, "ended": NOW + 1, "package": "lists.swu", "device": DEVICE, "peer": "192.0.2.1", "status": 206,
         "start": 5, "wanted": 10, "sent": 7}
    )  # fmt: skip
    store.note_report("lists.swu", DEVICE, 1200, "installed", NOW)


def read_operator(folder: Path) -> Any:
    database = generate.headend_database()
    engine = generate.open_headend(database, folder / "operator")
    try:
        database.create_tables(engine)
        gaps, events, readings = (module(f"headend.metering.{name}") for name in ("gaps", "events", "readings"))
        return {
            **_found(engine, database, folder / "operator"),
            "gaps": sorted([row["meter"], row["state"], str(row["how"])] for row in gaps.listing(engine)),
            "events": sorted(row["key"] for row in events.listing(engine)),
            "readings": len(readings.list_readings(engine)),
        }
    finally:
        engine.dispose()


def _found(engine: Any, database: Any, home: Path) -> Any:
    queue, renewals = module("headend.dm.jobs.queue"), module("headend.security.renewals")
    accounts, devices = module("headend.dm.accounts"), module("headend.security.devices")
    sqlalchemy = module("sqlalchemy")
    with engine.begin() as connection:
        counts = {
            table.name: connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table))
            for table in database.metadata.sorted_tables
        }
        jobs = [queue.show(connection, job["id"]) for job in queue.listing(connection)]
        taken = queue.next_for(connection, DEVICE, NOW)
        certified = module("headend.security.certificates").certified
        columns = (certified.c.device, certified.c.pinned.is_(None), certified.c.wanted)
        registered = connection.execute(sqlalchemy.select(*columns))
        return {
            "empty tables": sorted(name for name, count in counts.items() if not count),
            "key": devices.find(connection, DEVICE).key.hex(),
            "new key": renewals.given(connection, DEVICE).hex(),
            "account": accounts.load(connection, DEVICE).last_answer.hex(),
            "certified": [list(row) for row in registered],
            "leaving": devices.standing(connection, LEAVING).leaving,
            "jobs": sorted([job["kind"], job["state"]] for job in jobs),
            "job taken up": [taken.kind, dict(taken.params)],
            "alarms": [one["kind"] for one in module("headend.security.records").alarm_listing(connection, None, 9)],
            "audit": sorted({one["action"] for one in
                             module("headend.security.records").audit_listing(connection, None, 99)}),
            "packages": [[one["name"], one["kind"]] for one in _store(engine, home).listing()],
        }  # fmt: skip


def _store(engine: Any, home: Path) -> Any:
    return module("headend.software.repository").PackageStore(engine, home / "packages")


def of(*names: str) -> Any:
    """The first of these modules of the head-end that the release has."""
    for name in names:
        if program.has(f"headend.{name}"):
            return module(f"headend.{name}")
    raise SystemExit(f"no module {names[0]}")


PASSWORD, ANSWER = "not for the log", b"\x02an answer with a token"


def write_rows(folder: Path) -> None:
    """What every head-end has kept: a registered device with its account and token, jobs in each state, what the device
    told, packages with their downloads and reports."""
    home = folder / "rows"
    home.mkdir()
    database = generate.headend_database()
    engine = generate.open_headend(database, home)
    database.create_tables(engine)
    devices, accounts = of("security.devices"), of("dm.accounts")
    queue, tables = of("dm.jobs.queue", "dm.jobs"), of("dm.tables")
    steps, store = of("dm.jobs.steps", "dm.steps"), of("dm.session_store", "dm.store")
    info = named("RegistrationInfo", "omadm.ssmp.wire", "agent.ssmp.wire")
    messages = (
        named("Item", "omadm.syncml.messages", "agent.syncml.messages"),
        named("Meta", "omadm.syncml.messages", "agent.syncml.messages"),
    )
    member = "command" if "command" in (queue.__doc__ or "") or program.has("headend.sealing") else "verb"
    with engine.begin() as connection:
        devices.enrol(connection, DEVICE, FACTORY, NOW)
        devices.registered(connection, DEVICE, info("Example", "DCU-1", "A", "1", "2", "https://dcu.example/p"), NOW)
        devices.note(connection, DEVICE, "192.0.2.1", 200, "registered", NOW)
        accounts.create(connection, DEVICE, server_id="dm.example", url="https://dm.example:8444/dm", now=NOW)
        account = tables.accounts.c.device_id == DEVICE
        if not program.has("headend.sealing"):
            answered = {"last_request": "ab" * 32, "last_answer": ANSWER, "last_answer_mac": "m"}
            connection.execute(tables.accounts.update().where(account).values(answered))
        else:
            accounts.change(connection, DEVICE, {"last_request": "ab" * 32, "last_answer": ANSWER})
        added = [
            queue.enqueue(connection, DEVICE, kind, params, now=NOW)
            for kind, params in (
                ("get", {"paths": ["./DevInfo/Man"]}),
                ("commands", {"commands": [{member: "get", "path": "./DevInfo/Mod"}], "mode": "sequence"}),
                ("provision", {"nodes": [{"path": "./AMI/Access/Secret", "value": PASSWORD}]}),  # stays under way
                ("commands", {"commands": [{member: "delete", "path": "./SCHED/Task/t"}]}),
                ("software", {"id": "lists", "url": "https://headend.example/pkg/lists.swu"}),
                ("firmware", {"url": "https://headend.example/pkg/2.swu", "version": "2"}),
            )
        ]
        row = {
            "device_id": DEVICE, "session_id": "1F", "trigger": 1201, "state": "done", "messages": 3, "commands": 5,
            "started": NOW, "updated": NOW,
        }  # fmt: skip
        session = connection.execute(tables.sessions.insert().values(row)).inserted_primary_key[0]
        seen = store.SessionStore(connection, DEVICE, session, NOW)
        failed = {"error": "refused", "refused": {"./DevInfo/Man": 404}}
        seen.job_finished(seen.next_job(), steps.Failed(failed))
        reply = {member: "get", "path": "./DevInfo/Mod", "status": 200, "values": {"./DevInfo/Mod": "DCU-1"}}
        seen.job_finished(seen.next_job(), steps.Done({"replies": [reply]}))
        running = seen.next_job()
        seen.job_noted(running, steps.Checkpoint({"sent": 1}))
        seen.value_seen("./DevInfo/Man", messages[0](data="Example", meta=messages[1](format="chr")))
        seen.value_seen("./Binary", messages[0](data=b"\x00\xff", meta=messages[1](format="bin")))
        seen.alert_seen(named("AlertSeen", "headend.dm.engine", "headend.dm.run")(
            "1.2", 1226, "urn:x", "./FUMO", "critical", "<ResultCode>200</ResultCode>", "c-9"))  # fmt: skip
        assert len(added) == 6, added
    of("metering.readings", "metering.store").issue_token(engine, DEVICE, NOW)
    asyncio.run(_packages(engine, folder, home))
    _leave_one_file(engine, home)


def _leave_one_file(engine: Any, home: Path) -> None:
    engine.dispose()
    with sqlite3.connect(home / "headend.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        (home / f"headend.db{suffix}").unlink(missing_ok=True)


def read_rows(folder: Path) -> Any:
    database = generate.headend_database()
    engine = generate.open_headend(database, folder / "rows")
    try:
        database.create_tables(engine)
        return _rows(engine, folder / "rows")
    finally:
        engine.dispose()


def _rows(engine: Any, home: Path) -> Any:
    devices, accounts, tables = of("security.devices"), of("dm.accounts"), of("dm.tables")
    queue, repository = of("dm.jobs.queue", "dm.jobs"), of("software.repository", "software.store")
    store = repository.PackageStore(engine, home / "packages")
    if hasattr(store, "learn"):
        store.learn()
    with engine.begin() as connection:
        jobs = {job["id"]: job for job in queue.listing(connection)}
        queue.requeue_running(connection, DEVICE, NOW)
        taken = queue.next_for(connection, DEVICE, NOW)
        said = [
            next(iter(one.values()))
            for number in (2, 4)
            for one in (queue.show(connection, number) or {"params": {"commands": [{}]}})["params"]["commands"]
        ]
        replied = jobs[2]["result"]["replies"][0]
        return {
            "key": devices.find(connection, DEVICE).key.hex(),
            "last answer": accounts.load(connection, DEVICE).last_answer.hex(),
            "jobs": [[jobs[number]["kind"], jobs[number]["state"]] for number in sorted(jobs)],
            "orders": sorted(said),
            "reply": [replied.get("command", replied.get("verb")), replied["values"]],
            "failed": jobs[1]["result"],
            "taken": [taken.kind, taken.params["nodes"][0]["value"], dict(taken.progress)],
            "registered": devices.listing(connection)[0]["mod"],
            "log": len(devices.log_listing(connection, 9)),
            "values": [bytes(row.data or b"").hex() or row.value for row in
                       connection.execute(tables.values.select().order_by(tables.values.c.uri))],
            "alerts": [row.correlator for row in connection.execute(tables.alerts.select())],
            "sessions": [row.session_id for row in connection.execute(tables.sessions.select())],
            "packages": [one["name"] for one in store.listing()],
            "downloads": [one["sent"] for one in store.downloads(None, 9)],
            "reports": [one["code"] for one in store.reports(9)],
        }  # fmt: skip


def write_settings(folder: Path) -> None:
    """The file that `dcu-headend init` makes."""
    config = module("headend.config")
    (folder / "headend-settings").mkdir()
    ports = {name: 8440 + number for number, name in enumerate(config.SERVERS)}
    text = config.template("dm.example", ports, "127.0.0.1", TLS)
    (folder / "headend-settings" / "headend.yaml").write_text(text, encoding="utf-8")


def read_settings(folder: Path) -> Any:
    found = module("headend.config").load(folder / "headend-settings" / "headend.yaml")
    return [found.server_id, {name: one.port for name, one in found.servers.items()}, found.database[:10]]


_SINCE = "headend.security.certificate_renewals"
PARTS = (
    Part("rows", ("database", "sealed values in it"), "headend", write_rows, read_rows, "headend"),
    Part("headend_settings", ("settings",), "headend", write_settings, read_settings, "headend"),
    Part(
        "operator",
        ("database", "sealed values in it", "key file", "packages"),
        _SINCE,
        write_operator,
        read_operator,
        "headend",
    ),
)
