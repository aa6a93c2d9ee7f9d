"""Writes the files and messages of one release, by the release's own code: a fixture of `tests/versions`.

    python tests/versions/generate.py SOURCE OUT

`SOURCE` is a checkout of the release. A module is looked for under every name that it had, so one script serves every
release: what it writes differs only by what the releases do. Nothing of the tests is imported. See README.md.
"""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

program: Any = importlib.import_module("program")  # beside this file; of no package, in any release
named, has, real_disk, clock = program.named, program.has, program.real_disk, program.clock
NOW, DEVICE = program.NOW, program.DEVICE

TASKS = {"load": 900, "billing": 86400}
READINGS = 12
SOFTWARE_FLOORS = {"reading-lists": 3}
SECURITY_FLOOR = 7
UPDATE_ID = "0123456789abcdef"
PARTS_FILE = "parts.json"  # the names of the parts that a release has written; without it there are none


def open_tree(folder: Path) -> tuple[Any, Any]:
    """The management tree in `folder`, with every object of the release, and their registry."""
    schema_of = importlib.import_module
    holder: list[Any] = []
    ids = itertools.count(1)

    def view() -> Any:
        return holder[0].view()

    device = named("DeviceInfo", "agent.settings.device", "agent.device")(
        DEVICE, "Example Metering", "DCU-1", "", "A", "1", "2"
    )
    try:
        objects: Any = schema_of("agent.mo.objects")
    except ModuleNotFoundError:
        mo = {name: schema_of(f"agent.mo.{name}") for name in ("devinfo", "devdetail", "dmacc", "sched", "ami")}
        fumo, scomo = schema_of("agent.mo.fumo"), schema_of("agent.mo.scomo")
        make = (view, lambda: f"{next(ids):032x}")
        parts = (
            mo["devinfo"].DevInfo(device, lambda: ""),
            mo["devdetail"].DevDetail(device),
            mo["dmacc"].DmAcc(),
            mo["dmacc"].Inbox(),
            mo["sched"].Sched(lambda _task: None),
            mo["ami"].Ami(lambda: ()),
            firmware := fumo.Fumo(*make),
            software := scomo.Scomo(*make),
        )
        registry = schema_of("agent.mo.registry").Registry(parts, executables=(firmware, software))
    else:
        deps = objects.MoDeps(
            device=device,
            view=view,
            new_id=lambda: f"{next(ids):032x}",
            task_status=lambda _task: None,
            meters=lambda: (),
        )
        registry = objects.DeviceObjects(deps).registry
    tree = named("ManagementTree", "agent.tree.persistence", "agent.dm.store")(
        registry.schema, real_disk(), folder, lambda: NOW
    )
    holder.append(tree)
    return tree, registry


def write_tree(folder: Path) -> None:
    """Two tasks, an account, a firmware job under way, and a software job that waits."""
    tree, registry = open_tree(folder)
    call = named("ExecCall", "agent.tree.schema", "agent.dm.schema")
    with tree.transaction() as changing:
        for task, every in TASKS.items():
            for leaf, value in (("Every", str(every)), ("ReadingList", "residential-108"), ("Priority", "5")):
                changing.put(("SCHED", "Task", task, "Setting", leaf), value)
            changing.put(("SCHED", "Task", task, "Enabled"), "true")
        changing.put(("AMI", "Uplink", "URL"), "https://readings.example:8445/v1/readings")
        changing.put(("AMI", "Uplink", "Token"), "0123456789abcdef0123456789abcdef")
        account = ("DMAcc", "operator")
        leaves: tuple[tuple[tuple[str, ...], str], ...] = (
            (("AppID",), "w7"),
            (("ServerID",), "dm.example"),
            (("AppAddr", "1", "Addr"), "https://dm.example:8444/dm"),
            (("AppAuth", "1", "AAuthLevel"), "CLCRED"),
            (("AppAuth", "1", "AAuthName"), DEVICE),
            (("AppAuth", "1", "AAuthSecret"), "client secret"),
            (("AppAuth", "2", "AAuthLevel"), "SRVCRED"),
            (("AppAuth", "2", "AAuthName"), "dm.example"),
            (("AppAuth", "2", "AAuthSecret"), "server secret"),
        )
        for path, value in leaves:
            changing.put((*account, *path), value)
        changing.put(("FUMO", "Firmware", "DownloadAndUpdate", "PkgURL"), "https://software.example:8446/fw-3.swu")
        changing.put(("SCOMO", "Download", "job7", "PkgURL"), "https://software.example:8446/lists-4.swu")
    with tree.transaction() as changing:
        registry.execute(changing, call(("FUMO", "Firmware", "DownloadAndUpdate"), "job-5", "dm.example"))
        path = ("SCOMO", "Download", "job7", "Operations", "DownloadInstall")
        registry.execute(changing, call(path, "job-7", "dm.example"))


def write_nonces(folder: Path) -> None:
    nonces = named("NonceStore", "agent.dm.nonces") if has("agent.dm.nonces") else named("Link", "agent.dm.link")
    kept = nonces(real_disk(), folder)
    kept.set_nonces(account(), b"client nonce", b"server nonce")
    kept.set_counter(account(), 41)


def account() -> Any:
    made = named("Account", "omadm.bootstrap", "agent.dm.bootstrap", "agent.ssmp.bootstrap")
    url = "https://dm.example:8444/dm"
    return made("dm.example", url, DEVICE, "client secret", "dm.example", "server secret", b"c", b"s")


def store_at(file: Path) -> Any:
    return named("Store", "agent.metering.store.reading_store", "agent.metering.reading_store", "agent.metering.store")(
        file, clock(), records_max=1000, keep_forwarded_max=10
    )


def registry_at(file: Path) -> Any:
    registry = named("Registry", "agent.metering.registry.registry", "agent.metering.registry")
    return registry(real_disk(), file, clock(), leave_after_s=120.0, publish=lambda _meters: None)


def journal_module() -> Any:
    return importlib.import_module("updateagent.engine.journal" if has("updateagent.engine") else "updateagent.journal")


def headend_database() -> Any:
    for module in ("headend.operator.app", "headend.metering.app", "headend.dm.server", "headend.security.service"):
        importlib.import_module(module)
    return importlib.import_module("headend.db")


def write_readings(folder: Path) -> None:
    """Readings that are not delivered, and the first of them as the document that the uplink posts."""
    reading = named("Reading", "omadm.readings", "agent.metering.reading")
    store = store_at(folder / "readings.db")
    for index in range(READINGS // 3):
        run = int(NOW) // 900 * 900 + 900 * index
        store.append(
            [
                reading(
                    task="load",
                    meter="KEP0000001",
                    cls=3,
                    obis=f"1.0.{1 + part}.8.0.255",
                    attr=2,
                    tag="u32",
                    raw=1000 * index + part,
                    scaler=0,
                    unit=30,
                    meter_time=None,
                    received=run + 3.5,
                    trusted=True,
                    error=None,
                    run=run,
                )
                for part in range(3)
            ]
        )
    batch = store.batch(READINGS)
    body = _body(batch)
    store.close()
    (folder / "uplink.json").write_bytes(body)
    with sqlite3.connect(folder / "readings.db") as db:  # one file, no log beside it
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        (folder / f"readings.db{suffix}").unlink(missing_ok=True)


def _body(batch: Any) -> bytes:
    if has("omadm.readings"):
        return bytes(named("emit", "omadm.readings")(DEVICE, batch.store, batch.records))
    uplink = named("Uplink", "agent.metering.uplink")
    made = uplink.__new__(uplink)
    made._device_id = DEVICE
    return bytes(made.body(batch))


def write_registry(folder: Path) -> None:
    registry = registry_at(folder / "meters.json")
    meter = registry.join("plc0", 5, bytes.fromhex("0018ba0000000001"))
    registry.name(meter.key, "KEP0000001")
    registry.join("rs485", 17)
    registry.save()


def write_journal(folder: Path) -> None:
    """An update that is on trial, with floors that must not be lost."""
    module = journal_module()
    slot = getattr(module, "SlotRecord", None) or module.SlotNote
    folder.mkdir(parents=True)
    journal = module.Journal(real_disk(), folder)
    record = journal.load()
    record = module.Record(
        slots={"A": slot("2", 6, "good"), "B": slot("3", 7, "trial")},
        security_floor=SECURITY_FLOOR,
        software_floors=SOFTWARE_FLOORS,
        signed_time=int(NOW) - 86400,
        last_id="fedcba9876543210",
        last=module.Outcome(0, "", 200, 1200, ""),
    )
    journal.store(record)
    update = module.Update(
        UPDATE_ID,
        "package.swu",
        "job-5",
        NOW,
        target="B",
        fallback="A",
        from_version="2",
        to_version="3",
        security_version=7,
    )
    journal.store(record.stage(update))


def write_handover(folder: Path) -> None:
    """What the two programs tell each other by files."""
    hand_over = named("HandOver", "agent.ota.handover", "agent.handover")(real_disk(), folder / "update")
    hand_over.prepare()
    package = folder / "package"
    package.write_bytes(b"")
    if has("updateagent.handover"):
        contracts = importlib.import_module("updateagent.handover")
        request = contracts.InstallRequest(UPDATE_ID, "package.swu", "job-5", int(NOW))
        result = contracts.InstallResult(
            UPDATE_ID, "job-5", "health", 410, "not healthy", "2", "3", "meter_port", ("a line",), 70, 1405, 3, NOW
        ).document()
    else:
        request = named("InstallRequest", "agent.ota.handover", "agent.handover")(UPDATE_ID, "job-5", int(NOW))
        journal = journal_module()
        update = journal.Update(
            UPDATE_ID, "package.swu", "job-5", from_version="2", to_version="3", attempts=3, failed_check="meter_port"
        )
        outcome = journal.Outcome(70, "health", 410, 1405, "not healthy")
        result = named("result_document", "updateagent.engine.mailbox", "updateagent.report")(update, outcome, NOW)
    hand_over.submit(package, request)
    (folder / "update" / "inbox" / "package.swu").unlink()
    (folder / "update" / "outbox" / "result.json").write_text(json.dumps(result), encoding="utf-8")


def write_download(folder: Path) -> None:
    module = importlib.import_module("agent.ota.download_state" if has("agent.ota") else "agent.download_state")
    url = "https://software.example:8446/fw-3.swu"
    state = module.State(url, url, etag='"abc"', total=1000, offset=500)
    (folder / "download.state").write_bytes(state.emit())


def open_headend(database: Any, folder: Path) -> Any:
    """The database's engine; from 0.3.0 on with the key to its secrets, which is made where the release had none."""
    url = f"sqlite:///{folder / 'headend.db'}"
    if not has("headend.sealing"):
        return database.open_engine(url)
    source = key_source(folder)
    if not (folder / "sealing.key").exists():
        source.make()
    return database.open_engine(url, named("KeyRing", "headend.sealing.keyring")(source))


def key_source(folder: Path) -> Any:
    return named("KeyFile", "headend.sealing.sources")(folder / "sealing.key")


def write_headend(folder: Path) -> None:
    """A database with a device, a job that waits, and its readings; and the settings of the head-end."""
    database = headend_database()
    file = folder / "headend.db"
    engine = open_headend(database, folder)
    database.create_tables(engine)
    devices = importlib.import_module("headend.security.devices")
    enqueue = named("enqueue", "headend.dm.jobs.queue", "headend.dm.jobs")
    store = importlib.import_module("headend.metering.readings" if has("omadm") else "headend.metering.store")
    parse = named("parse", "omadm.readings", "headend.metering.records")
    accounts = importlib.import_module("headend.dm.accounts")
    with engine.begin() as connection:
        devices.enrol(connection, DEVICE, bytes(range(32)), NOW)
        accounts.create(connection, DEVICE, server_id="dm.example", url="https://dm.example:8444/dm", now=NOW)
        enqueue(connection, DEVICE, "get", {"paths": ["./DevInfo/Man"]}, now=NOW)
        nodes = [{"path": "./SCHED/Task/load/Setting/Every", "value": 900}]
        enqueue(connection, DEVICE, "provision", {"nodes": nodes}, now=NOW)
    store.store(engine, parse((folder / "uplink.json").read_bytes()), NOW)
    engine.dispose()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def write_settings(folder: Path, source: Path) -> None:
    for name in ("dcu.yaml", "dcu-update.toml"):
        shutil.copy(source / "etc" / name, folder / name)


def parts() -> list[Any]:
    """What releases after 0.2.0 write beside the above."""
    modules = ("device_parts", "package_parts", "headend_parts")
    return [part for module in modules for part in importlib.import_module(module).PARTS]


def written(folder: Path) -> list[str]:
    """The names of the parts in a folder that a release has written."""
    file = folder / PARTS_FILE
    return list(json.loads(file.read_bytes())) if file.exists() else []


def main(source: Path, out: Path) -> None:
    program.only(source)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_tree(out / "dm")
    write_nonces(out / "dm")
    write_readings(out)
    write_registry(out)
    write_journal(out / "update")
    write_handover(out)
    write_download(out)
    write_headend(out)
    write_settings(out, source)
    written = []
    for part in parts():
        if has(part.module):
            part.write(out)
            written.append(part.name)
    (out / PARTS_FILE).write_text(json.dumps(written), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
