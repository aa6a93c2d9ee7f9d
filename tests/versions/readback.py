"""Reads the files of `generate.py` with the code of one release, and prints what it found as JSON.

    python tests/versions/readback.py SOURCE FOLDER [work]

`FOLDER` is changed as the programs change it: give it a copy. A part that cannot be read is the text of its error. With
`work` the program then goes on as in service, and writes each document again that it writes again and again.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

generate: Any = importlib.import_module("generate")  # beside this file; of no package, in any release

WORKED = "1800"  # the period of a task, as a server has changed it at this program


def tree(folder: Path, name: str = "dm") -> Any:
    found, _ = generate.open_tree(folder / name)
    looking = found.view()
    task = ("SCHED", "Task")
    names = looking.names((getattr(looking, "existing", None) and looking.existing(task)) or looking.place(task))
    records = found.state.records
    return {
        "tasks": {name: looking.text((*task, name, "Setting", "Every")) for name in names},
        "secret": found.state.root.children["DMAcc"].children["operator"].children["AppAuth"].children["1"]
        .children["AAuthSecret"].value,
        "firmware": [records["fumo"]["state"], records["fumo"]["correlator"]],
        "software": [job["correlator"] for job in records["scomo"]["jobs"]],
    }  # fmt: skip


def nonces(folder: Path) -> Any:
    store = generate.named("NonceStore", "agent.dm.nonces") if generate.has("agent.dm.nonces") else generate.named(
        "Link", "agent.dm.link"
    )  # fmt: skip
    kept = store(generate.real_disk(), folder / "dm")
    account = generate.account()
    return [*(each.decode() for each in kept.nonces(account)), kept.counter(account)]


def readings(folder: Path) -> Any:
    store = generate.store_at(folder / "readings.db")
    batch = store.batch(100)
    while getattr(store.file, "recovering", False):
        batch = store.batch(100)
    store.close()
    return 0 if batch is None else len([entry for entry in batch.records if "raw" in entry])


def registry(folder: Path) -> Any:
    meters = generate.registry_at(folder / "meters.json").meters()
    return sorted(meter.meter_id for meter in meters)


def journal(folder: Path) -> Any:
    record = generate.journal_module().Journal(generate.real_disk(), folder / "update").load()
    update = record.update
    return {
        "floors": [record.security_floor, dict(record.software_floors), record.signed_time],
        "update": [record.state.value, update and update.id, update and update.fallback],
        "lost": record.lost,
    }


def result(folder: Path) -> Any:
    handover = generate.named("HandOver", "agent.ota.handover", "agent.handover")
    found = handover(generate.real_disk(), folder / "update").result()
    return None if found is None else [found.id, found.correlator, found.fumo, found.failed_check, found.to_version]


def request(folder: Path) -> Any:
    raw = (folder / "update" / "inbox" / "request.json").read_bytes()
    parse = generate.named("InstallRequest", "updateagent.handover", "updateagent.engine.mailbox", "updateagent.report")
    found = parse.parse(raw)
    return [found.id, found.package, found.correlator]


def download(folder: Path) -> Any:
    module = importlib.import_module(
        "agent.ota.download_state" if generate.has("agent.ota") else "agent.download_state"
    )
    state = module.parse((folder / "download.state").read_bytes())
    return None if state is None else [state.offset, state.total]


def uplink(folder: Path) -> Any:
    parse = generate.named("parse", "omadm.readings", "headend.metering.records")
    batch = parse((folder / "uplink.json").read_bytes())
    return [batch.device, len(batch.records), str(batch.records[0].value)]


def headend(folder: Path) -> Any:
    database = generate.headend_database()
    engine = generate.open_headend(database, folder)
    try:
        database.create_tables(engine)
        jobs = generate.named("listing", "headend.dm.jobs.queue", "headend.dm.jobs")
        store = importlib.import_module(
            "headend.metering.readings" if generate.has("omadm") else "headend.metering.store"
        )
        devices = importlib.import_module("headend.security.devices")
        with engine.begin() as connection:
            return {
                "devices": devices.find(connection, generate.DEVICE) is not None,
                "jobs": sorted(job["kind"] for job in jobs(connection)),
                "readings": len(store.list_readings(engine)),
            }
    finally:
        engine.dispose()


def settings(folder: Path) -> Any:
    load = generate.named("load", "agent.settings.config", "agent.config")
    strict = {"strict": False} if "strict" in (load.__kwdefaults__ or ()) else {}
    return load(folder / "dcu.yaml", **strict).device.id


def update_settings(folder: Path) -> Any:
    load = generate.named("load", "updateagent.config")
    strict = {"strict": False} if "strict" in (load.__kwdefaults__ or ()) else {}
    return load(folder / "dcu-update.toml", **strict).compatible


PARTS: tuple[Callable[[Path], Any], ...] = (
    tree,
    nonces,
    readings,
    registry,
    journal,
    result,
    request,
    download,
    uplink,
    headend,
    settings,
    update_settings,
)


def work(folder: Path) -> None:
    """A day of this program: the server changes a task, sessions are held, a meter joins, an update goes on."""
    for name in ("dm", "objects"):
        if (folder / name).exists():
            found, _ = generate.open_tree(folder / name)
            with found.transaction() as changing:
                changing.put(("SCHED", "Task", "load", "Setting", "Every"), WORKED)
    generate.write_nonces(folder / "dm")
    meters = generate.registry_at(folder / "meters.json")
    meters.join("rs485", 18)
    meters.save()
    module = generate.journal_module()
    kept = module.Journal(generate.real_disk(), folder / "update")
    kept.store(kept.load())


def main(source: Path, folder: Path, *, working: bool = False) -> None:
    generate.program.only(source)
    readers = {part.__name__: part for part in PARTS}
    written = generate.written(folder)
    for part in generate.parts():
        if part.name in written and generate.has(part.reader):
            readers[part.name] = part.read
    found: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            found[name] = read(folder)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    if working:
        work(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]), working=sys.argv[3:] == ["work"])
