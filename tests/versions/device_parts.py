"""What a device writes since 0.2.0, each kind of document with content of every kind: how it is made, by the code of
the release, and what is found in it.

The parts have folders of their own. A part that is read is what a person would miss, as values that JSON has.
"""

from __future__ import annotations

import datetime as dt
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

program: Any = importlib.import_module("program")
generate: Any = importlib.import_module("generate")
named, real_disk, clock = program.named, program.real_disk, program.clock
NOW, DEVICE = program.NOW, program.DEVICE

RUN = int(NOW) // 900 * 900
METER, OTHER = "KEP0000001", "KEP0000002"
FACTORY = bytes(range(32))


class Part(NamedTuple):
    """`documents`: their names in docs/versions.md. A release that has `module` writes this part, one that has `reader`
    can read it."""

    name: str
    documents: tuple[str, ...]
    module: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    reader: str


def module(name: str) -> Any:
    return importlib.import_module(name)


# --- the tree, with something of each object -------------------------------------------------------------------------

AUTHORITIES = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
CALENDAR = {"Times": "0 6 1 * *", "Codes": "3/1.0.1.8.0.255/2", "Window": "06:00-09:00", "Deadline": "86400"}
LEAVES: Mapping[tuple[str, ...], str] = {
    ("SCHED", "Zone"): "CET-1CEST,M3.5.0,M10.5.0/3",
    ("SCHED", "QuietHours"): "17:00-21:00",
    ("SCHED", "Task", "monthly", "Name"): "Abrechnung für Zähler",
    **{("SCHED", "Task", "monthly", "Setting", leaf): value for leaf, value in CALENDAR.items()},
    ("SCHED", "Task", "monthly", "Select", "Groups"): "suite-1",
    ("AMI", "Access", "Group", "suite-1", "Pattern"): "KEP*",
    ("AMI", "Access", "Group", "suite-1", "Auth"): "gmac",
    ("AMI", "Access", "Group", "suite-1", "EncKey"): "0f" * 16,
    ("AMI", "Access", "Meter", "one", "Id"): METER,
    ("AMI", "Access", "Meter", "one", "Client"): "1",
    ("AMI", "Order", "cut", "Kind"): "disconnect",
    ("AMI", "Order", "cut", "Meters"): f"{METER}\n{OTHER}",
    ("AMI", "Order", "cut", "Parameters"): '{"force":true}',
    ("AMI", "Order", "look", "Kind"): "ping",
    ("AMI", "Order", "look", "Meters"): METER,
    ("ConnMO", "Proposed", "TimeServers"): "ntp.example",
    ("ConnMO", "Proposed", "Within"): "1200",
    ("DiagMon", "Log", "From"): "1700000000",
    ("DiagMon", "Log", "Level"): "warning",
}


def write_objects(folder: Path) -> None:
    """What the older releases have, and with it: a calendar, access rules with keys, an order that waits and one that
    is over, a connection on trial, a lock, a reset that was ordered, components, an activation under way, alerts."""
    generate.write_tree(folder / "objects")
    tree, registry = generate.open_tree(folder / "objects")
    call = named("ExecCall", "agent.tree.schema")
    acl, orders, software = module("agent.tree.acl"), module("agent.jobs.orders"), module("agent.jobs.software")
    device, trial = module("agent.jobs.device"), module("agent.mo.connectivity.trial")
    with tree.transaction() as changing:
        for path, value in LEAVES.items():
            changing.put(path, value)
        changing.put(("AMI", "Access", "Meter", "two", "Id"), OTHER, acl=acl.Acl.parse("Get=*&Replace=dm.example"))
    with tree.transaction("dm.example") as changing:
        for name in ("cut", "look"):
            path = ("AMI", "Order", name, "Operations", "Run")
            registry.execute(changing, call(path, f"order-{name}", "dm.example"))
        (looked,) = (job for job in orders.jobs(changing) if job.name == "look")
        orders.finish(changing, looked, orders.Result.DONE, {"meters": [{"meter": METER, "state": "done"}]})
        trial.begin(
            changing,
            {trial.ANCHORS: AUTHORITIES, trial.TIME_SERVERS: "ntp.example", trial.ACCESS: "apn=meters pin=1234"},
            trial_id="c1",
            correlator="reroute-9",
            within_s=1200.0,
        )
        trial.run_from(changing, 100.0, "boot-1")
        device.save(changing, device.DeviceOrder("d1", device.REBOOT, "reboot-3", "boot-0", 1))
        device.finish(changing, device.load(changing))
        device.save(changing, device.DeviceOrder("d2", device.FACTORY_RESET, "reset-4", "boot-1"))
        device.set_locked(changing, locked=True)
        deployed = [software.DeployedSoftware("gateway", "1.2", active=True, name="Gateway")]
        software.set_deployed(changing, deployed, {"gateway": "gateway-1.2.swu"})
        software.set_trial(changing, software.Trial("j1", "gateway", "1.2", "1.1", 1))


def read_objects(folder: Path) -> Any:
    tree, _ = generate.open_tree(folder / "objects")
    looking = tree.view()
    provisioned = module("agent.mo.ami").provisioning_from_tree(looking)
    orders, software = module("agent.jobs.orders"), module("agent.jobs.software")
    device, trial = module("agent.jobs.device"), module("agent.mo.connectivity.trial")
    changed = trial.load(looking)
    return {
        "leaves": {"/".join(path): looking.text(path) for path in LEAVES},
        "tasks": sorted(task.task_id for task in provisioned.tasks),
        "rules": sorted(one.name for one in provisioned.access_rules),
        "acl": looking.get(("AMI", "Access", "Meter", "two", "Id")).node.acl.emit(),
        "orders": [
            [job.name for job in orders.jobs(looking)],
            orders.state_of(looking, "look"),
            json.loads(orders.result_of(looking, "look")),
        ],
        "trial": [changed.state, changed.correlator, changed.left_s, changed.boot, dict(changed.new or {})],
        "in use": asdict(trial.in_use(looking))["time_servers"],
        "device": [device.is_locked(looking), device.load(looking).operation, device.load(looking).under_way],
        "software": [asdict(software.trial(looking)), looking.text((*software.DEPLOYED, "gateway", "Version"))],
        "alerts": sorted(one.correlator for one in module("agent.tree.alerts").pending(looking)),
    }  # fmt: skip


def read_base_of_objects(folder: Path) -> Any:
    """What releases of before find in that tree: their own."""
    return module("readback").tree(folder, "objects")


# --- the store of readings -------------------------------------------------------------------------------------------


def reading(number: int, **changes: Any) -> Any:
    made = named("Reading", "omadm.readings")(
        task="load", meter=METER, cls=3, obis="1.0.1.8.0.255", attr=2, tag="u32", raw=number, scaler=0, unit=30,
        meter_time=None, received=RUN + 3.5, trusted=True, error=None, run=RUN,
    )  # fmt: skip
    return replace(made, **changes)


def cells() -> list[Any]:
    """Readings of every form that a value, a doubt or a failure has."""
    return [
        reading(7),
        reading(-3, tag="i64", scaler=-2, unit=27, trusted=False),
        reading(0, tag="f64", raw=0.1),
        reading(0, tag="oct", raw="00ff", scaler=None, unit=None),
        reading(0, tag="bits", raw="0101", scaler=None, unit=None),
        reading(0, tag="bool", raw=True, scaler=None, unit=None),
        reading(0, tag="struct", raw=[["u8", 1], ["oct", "ab"]], scaler=None, unit=None),
        reading(0, tag="dt", raw="07e90b18ff000000ff800000", scaler=None, unit=None, meter_time="2025-11-24T00:00:00Z"),
        reading(0, tag="null", raw=None, error="access-denied"),
        reading(1, cls=7, obis="1.0.99.1.0.255", profile="1.0.99.1.0.255", meter_time="2025-11-24T00:15:00Z"),
        reading(1, cls=7, obis="1.0.99.1.0.255", profile="1.0.99.1.0.255", doubt="clock was set", reread="a1b2c3d4"),
    ]


def gaps() -> list[Any]:
    """A report of each state, of runs, of a calendar and of a profile."""
    report = named("GapReport", "omadm.readings")
    return [
        report("open", METER, "load", None, RUN - 9000, None, 900, "meter-silent", None, NOW),
        report("open", METER, "load", "1.0.99.1.0.255", RUN - 9000, RUN - 8100, 900, "store-lost", None, NOW),
        report("open", OTHER, "monthly", None, 1_761_980_400, 1_761_980_400, 900, "not-reached", None, NOW,
               "0 6 1 * * UTC0"),
        report("closed", METER, "load", None, RUN - 9000, RUN - 8100, 900, "meter-silent", "read", NOW),
        report("doubted", METER, "load", None, RUN - 900, RUN, 900, "clock", None, NOW, None, 1, 5),
        report("confirmed", METER, "load", None, RUN - 900, RUN, 900, "clock", None, NOW, None, 1, 5),
    ]  # fmt: skip


def events() -> list[Any]:
    """One of each kind, one that could not be opened among them."""
    event = named("EventReport", "omadm.readings")

    def made(kind: str, key: str, **changes: Any) -> Any:
        plain = event(
            event=kind, meter=METER, sender="plc0/5", code=3, name="power down", grave=False, obis="0.0.99.98.0.255",
            meter_time="2025-11-24T00:00:00Z", received=NOW, trusted=True, invoke=None, security="encrypted",
            values=[{"tag": "u8", "raw": 3, "obis": "0.0.96.11.0.255"}], octets=None, error=None, count=1, key=key,
            task="load",
        )  # fmt: skip
        return replace(plain, **changes)

    return [
        made("push", "k1", invoke=9, task=""),
        made("log", "k2"),
        made("alarm", "k3", grave=True, obis="0.0.97.98.0.255"),
        made("notice", "k4", meter="", security="unopened", values=[], octets="db08", error="no key", count=2),
    ]


def write_collection(folder: Path) -> None:
    """A store with content in each of its tables, a ledger, a sign of life; and what the uplink posts of it."""
    progress = named("Progress", "agent.metering.store.reading_store")
    resend = named("ResendOrder", "omadm.readings")
    keeper, schedule = module("agent.metering.ledger.keeper"), module("omadm.schedule")
    (folder / "collection").mkdir()
    _spoilt(folder / "collection" / "readings.db")
    store = generate.store_at(folder / "collection" / "readings.db")
    while store.file.recovering:  # the quarantined file
        store.batch(1)
    store.add_sink("mqtt")
    store.append(
        cells(), [progress(METER, "load", RUN)], {METER: {"firmware": "1.7", "invocations": 3}}, urgent=events()
    )
    ledger = keeper.LedgerKeeper(store)
    ledger.load(store.progress())
    ledger.expect(METER, "load", schedule.schedule_of(900, 0), RUN - 9000)
    ledger.expect(OTHER, "monthly", schedule.schedule_of(schedule.GRID_S, 0, "0 6 1 * * UTC0"), 1_761_980_400)
    ledger.settle(METER, "load", RUN - 900, module("agent.metering.ledger.ledger").Reason.SILENT)
    ledger.flush(NOW, alive=True)
    store.append(gaps(), [progress(OTHER, "monthly", 1_761_980_400)])
    store.append([], [progress(OTHER, "load", RUN)])
    store.append([reading(8), reading(9)])  # the first is refused, the last is delivered before all others
    last = store.next_id() - 1
    middle = store.batch(1000, first=last - 1, last=last - 1)
    store.refuse(middle, "unknown cls")
    store.release(store.file.uuid, last, first=last)
    store.order_resend([resend(4, store.file.uuid, 1, 2), resend(5, since=NOW - 900.0, until=NOW)])
    batch = store.batch(1000, first=1)
    urgent = store.urgent_batch(1000)
    report = named("ResendReport", "omadm.readings")(3, 5, 1, ((2, 4),), NOW)
    emit = named("emit", "omadm.readings")
    records = {entry["id"]: entry for found in (batch, urgent) for entry in found.records}
    body = emit(DEVICE, store.file.uuid, [records[number] for number in sorted(records)], [report])
    (folder / "collection" / "uplink.json").write_bytes(body)
    # What it posts to a head-end that knows readings only.
    plain = [entry for entry in batch.records if named("kind_of", "omadm.readings")(entry) == "reading"]
    (folder / "collection" / "readings.json").write_bytes(emit(DEVICE, store.file.uuid, plain))
    store.close()


def _spoilt(file: Path) -> None:
    """A store of before that was cut short: the one that follows recovers it."""
    store = generate.store_at(file)
    for number in range(12):
        store.append([reading(1000 * number + index, meter=OTHER, run=RUN - 900 * number) for index in range(60)])
    store.close()
    octets = bytearray(file.read_bytes())
    octets[len(octets) // 2 : len(octets) // 2 + 8192] = bytes(8192)
    file.write_bytes(bytes(octets))


def read_collection(folder: Path) -> Any:
    store = generate.store_at(folder / "collection" / "readings.db")
    while store.file.recovering:
        store.batch(1)
    gap_table, kind_of = module("agent.metering.ledger.gap_table"), named("kind_of", "omadm.readings")
    names = [
        name
        for (name,) in store.ask(
            lambda db: db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            ).fetchall()
        )
    ]
    rows = store.ask(lambda db: {name: db.execute(f"SELECT 1 FROM {name}").fetchone() for name in names})
    empty = [name for name, row in rows.items() if row is None]
    recovered = 0
    while (batch := store.batch(1000)) is not None and batch.store != store.file.uuid:
        recovered += len(batch.records)
        store.release(batch.store, batch.last)
    kinds = {kind: sum(kind_of(entry) == kind for entry in batch.records) for kind in ("reading", "gap", "event")}
    found = {
        "empty tables": sorted(empty),
        "recovered": recovered > 0,
        "waiting": kinds,
        "forms": [entry.get("raw") for entry in batch.records if kind_of(entry) == "reading"],
        "events": [key for key, _ in store.event_keys()],
        "progress": {"/".join(key): run for key, run in sorted(store.progress().items())},
        "knowledge": store.knowledge(METER),
        "refused": [one.reason for one in store.refused(10)],
        "losses": len(store.losses()) > 0,
        "sinks": sorted(store.sink_states()),
        "resends": store.resend_batch(10) is not None,
        "alive": list(store.last_alive()),
        "gaps": [[gap.meter, gap.task, gap.profile, gap.first, gap.reason] for gap in store.ask(gap_table.open_gaps)],
        "accounts": sorted(one.task for one in store.ask(gap_table.load).balances),
    }  # fmt: skip
    store.close()
    return found


def read_posted(folder: Path) -> Any:
    batch = named("parse", "omadm.readings")((folder / "collection" / "uplink.json").read_bytes())
    return {
        "readings": [str(one.value) for one in batch.records],
        "gaps": [one.report.gap for one in batch.gaps],
        "events": [one.report.event for one in batch.events],
        "resends": [one.request for one in batch.reports],
    }


def read_posted_readings(folder: Path) -> Any:
    parse = named("parse", "omadm.readings", "headend.metering.records")
    batch = parse((folder / "collection" / "readings.json").read_bytes())
    return [[one.id, str(one.value), one.error] for one in batch.records]


# --- meters ----------------------------------------------------------------------------------------------------------


def write_meters(folder: Path) -> None:
    """Meters that were added by hand, on a bus and behind a base node; orders of meters in every state."""
    _added(folder)[0].add(_meter(port="rs485", address=17, parity="even", baudrate=2400))
    _added(folder)[0].add(_meter(port="plc0", eui48="0018ba000009"))
    order = module("agent.metering.orders.order")
    journal = module("agent.metering.orders.journal").Journal(real_disk(), folder / "orders")
    for number, kind in enumerate(order.OrderType):
        made = order.Order(
            f"o{number}", kind, (METER, OTHER), {"n": number}, "dcuctl, uid 0", NOW, 300.0, number % 10, number,
            ("group",),
        )  # fmt: skip
        journal.accept(made)
    states = list(order.State)
    for number, state in enumerate(states):
        done = replace(made, id=f"s{number}", number=100 + number)
        journal.accept(done)
        result = order.MeterResult(state, {"read": [1, None]}, "why", NOW, 2, 1, {"blocks": 7})
        journal.note(done, 0, result)


def _meter(**given: Any) -> Any:
    return named("AddedMeter", "agent.settings.provisioning")(**given)


def _added(folder: Path) -> tuple[Any, Any]:
    config, protocols = module("agent.settings.config"), module("plc.protocols")
    ports = (
        config.PortConfig("plc0", protocols.PRIME_USI, "/dev/plc", 115_200),
        config.PortConfig("rs485", protocols.HDLC, "/dev/bus", 9600, scan=config.ScanConfig(16, 20)),
    )
    registry = generate.registry_at(folder / "added" / "meters.json")
    file = folder / "added" / "added-meters.json"
    return module("agent.metering.registry.added").AddedMeters(real_disk(), file, ports, registry), registry


def read_meters(folder: Path) -> Any:
    added, _ = _added(folder)
    journal = module("agent.metering.orders.journal").Journal(real_disk(), folder / "orders")
    records = journal.load()
    return {
        "added": sorted(added.keys),
        "orders": [record.order.kind.value for record in records if record.order.id.startswith("o")],
        "asked": sorted({(*record.order.targets, record.order.asked_by) for record in records}),
        "states": [record.results[0].state.value for record in records if record.order.id.startswith("s")],
        "results": sorted({json.dumps([one.value, one.attempts, one.sent, one.progress]) for record in records
                           if record.order.id.startswith("s") for one in record.results[:1]}),
    }  # fmt: skip


def write_keys(folder: Path) -> None:
    """The meters' keys: provisioned secrets, what works, titles, counters of both directions."""
    store = _keys(folder)
    access = named("MeterAccess", "agent.settings.provisioning")
    given = access(1, "gmac", b"", 1, "both", bytes(16), bytes(range(16)), bytes(16), b"der", b"xy")
    store.set_provisioned({"default": {"secret": b"12345678"}, "meter/one": {"encryption_key": bytes(range(16))}})
    store.prove(METER, given, durable=True)
    store.note_title(METER, b"KEP12345")
    counters = store.counters(bytes(range(16)), METER)
    for _ in range(3):
        counters.next()
    counters.note(77)
    store.pushed(bytes(range(16)), METER).note(78)
    store.flush()


def _keys(folder: Path) -> Any:
    return module("agent.metering.access.keystore").KeyStore(
        real_disk(), folder / "keys", lambda count: b"\x42" * count
    )


def read_keys(folder: Path) -> Any:
    store = _keys(folder)
    key = bytes(range(16))
    proven = store.proven(METER)
    return {
        "title": store.system_title().hex(),
        "provisioned": {rule: sorted(given) for rule, given in store.provisioned().items()},
        "proven": None if proven is None else [proven.auth, proven.suite, proven.encryption_key.hex()],
        "meter": store.meter_of_title(b"KEP12345"),
        "never used twice": store.counters(key, METER).next() >= 3,
        "seen": [store.counters(key, METER).seen(), store.pushed(key, METER).seen()],
    }


# --- identity, clock, orders to the device ---------------------------------------------------------------------------


def write_identity(folder: Path) -> None:
    """A key that was renewed and one that was given; a certificate that was renewed and one that was asked for."""
    keys = _device_keys(folder)
    keys.offer(bytes([1]) * 32)
    keys.worked(keys.candidates()[0])
    keys.offer(bytes([2]) * 32)
    (folder / "ssmp").mkdir(exist_ok=True)
    _factory_certificate(folder / "ssmp")
    store = _certificates(folder)
    store.install(_issued(store.request()))
    store.worked(store.candidates()[0])
    store.install(_issued(store.request()))


def _device_keys(folder: Path) -> Any:
    return module("agent.ssmp.key_store").KeyStore(real_disk(), folder / "ssmp", FACTORY)


def _certificates(folder: Path) -> Any:
    files = module("agent.ssmp.certificate_file")
    certificate = files.read_certificate(folder / "ssmp" / "device.pem", DEVICE)
    floor = named("CertificateTime", "agent.clock_floor")

    def now() -> Any:
        return floor(NOW, NOW)

    trust = files.ServerTrust(folder / "ssmp" / "ca.pem", "https://security.example:8443/ssmp", now, lambda: None)
    factory = files.CertificateFile(folder / "ssmp" / "device.key", certificate, trust)
    store = module("agent.ssmp.certificate_store").CertificateStore
    return store(real_disk(), folder / "ssmp", factory, DEVICE, now)


def _factory_certificate(folder: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    file = folder / "device.key"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    (folder / "device.pem").write_bytes(certificate(key.public_key()).public_bytes(Encoding.PEM))


def _issued(request: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate(x509.load_der_x509_csr(request).public_key()).public_bytes(Encoding.DER))


def certificate(key: Any) -> Any:
    """A certificate of this device for a key, by an authority that is made up."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    begin = dt.datetime.fromtimestamp(NOW - 86_400, dt.UTC)
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(named("DEVICE", "omadm.ssmp.certificates").dotted_string)])
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Authority")]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=700))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE)]), critical=True)
        .add_extension(usage, critical=False)
        .sign(ec.derive_private_key(7, ec.SECP256R1()), hashes.SHA256())
    )


def read_identity(folder: Path) -> Any:
    keys = _device_keys(folder).candidates()
    shown = _certificates(folder).candidates()
    factory = (folder / "ssmp" / "device.pem").read_text(encoding="ascii")
    same = module("omadm.ssmp.identity").SharedKey
    return {
        "keys": [key.same(bytes([number]) * 32) if hasattr(key, "same") else key == same for number, key in
                 zip((2, 1), keys, strict=False)],
        "certificates": len(shown),
        "signs": all(_signs(one) for one in shown),
        "factory's": [one.certificate == module("omadm.ssmp.certificates").read_all(factory.encode())[0].der
                      for one in shown],
    }  # fmt: skip


def _signs(held: Any) -> bool:
    certificates = module("omadm.ssmp.certificates")
    certificates.check_signature(certificates.read(held.certificate), held.sign(b"data"), b"data")
    return True


def write_small(folder: Path) -> None:
    """The clock's floor, the order of a factory reset, the counters of the `dlms` tool."""
    stored = named("Stored", "agent.clock_floor")
    real_disk().write_durable(folder / "clock-floor.json", stored(NOW - 10, NOW - 5, NOW - 20).emit())
    marker = module("agent.daemon.device_orders").Marker("d2", "reset-4")
    real_disk().write_durable(folder / "factory-reset.json", marker.emit())
    counters = module("dlms.security.counters").FileCounters(folder / "dlms-counters.json", 5)
    for _ in range(3):
        counters.next()
    counters.note(9)
    counters.close()


def read_small(folder: Path) -> Any:
    floor = named("Stored", "agent.clock_floor").parse((folder / "clock-floor.json").read_bytes())
    marker = module("agent.daemon.device_orders").Marker.parse((folder / "factory-reset.json").read_bytes())
    counters = module("dlms.security.counters").FileCounters(folder / "dlms-counters.json")
    return {
        "floor": [NOW - floor.proven, NOW - floor.signed, NOW - floor.refuted],
        "marker": [marker.id, marker.correlator, marker.erased],
        "counters": [counters.next(), counters.seen()],
    }


def write_epochs(folder: Path) -> None:
    """The epochs of a boot whose clock was wrong before it was right, and what was said of it."""
    file, slots = module("agent.metering.scheduling.epoch_file"), module("agent.metering.scheduling.slots")
    wrong = slots.Epoch(1, 5.0, 5.0, "ab" * 16, 1, 40, 905.0, trusted=True, doubted=True)
    right = slots.Epoch(2, 1_763_999_095.0, NOW, "ab" * 16, 41, trusted=True)
    file.EpochFile(folder / f"readings.db{file.SUFFIX}", real_disk()).write(
        file.KeptEpochs("boot", "ab" * 16, 2, (wrong, right), ())
    )


def read_epochs(folder: Path) -> Any:
    file = module("agent.metering.scheduling.epoch_file")
    kept = file.EpochFile(folder / f"readings.db{file.SUFFIX}", real_disk()).read()
    epochs = [(one.number, one.offset, one.first, one.last, one.trusted, one.doubted) for one in kept.epochs]
    return [kept.boot, kept.store, kept.generation, epochs]


def _nothing(_: Path) -> None:
    """What the part before has written."""


_SINCE_SERVICES, _SINCE_LIFE_SIGN = "agent.mo.connectivity.trial", "agent.metering.store.life_sign"
_ORDERS, _KEYS = "agent.metering.orders.journal", "agent.metering.access.keystore"
_EPOCHS = "agent.metering.scheduling.epoch_file"
_CERTIFICATES, _RESET = "agent.ssmp.certificate_store", "agent.daemon.device_orders"
PARTS = (
    Part("objects", ("management tree",), _SINCE_SERVICES, write_objects, read_objects, _SINCE_SERVICES),
    Part("base_of_objects", (), _SINCE_SERVICES, _nothing, read_base_of_objects, "agent"),
    Part(
        "collection",
        ("readings", "ledger of gaps", "sign of life"),
        _SINCE_LIFE_SIGN,
        write_collection,
        read_collection,
        _SINCE_LIFE_SIGN,
    ),
    Part("posted", ("readings, gaps, events",), _SINCE_LIFE_SIGN, _nothing, read_posted, "omadm.readings"),
    Part("posted_readings", (), _SINCE_LIFE_SIGN, _nothing, read_posted_readings, "agent"),
    Part("meters", ("added meters", "orders"), _ORDERS, write_meters, read_meters, _ORDERS),
    Part("keys", ("keys of meters",), _KEYS, write_keys, read_keys, _KEYS),
    Part(
        "identity",
        ("device keys after the factory's", "certificates after the factory's"),
        _CERTIFICATES,
        write_identity,
        read_identity,
        _CERTIFICATES,
    ),
    Part("epochs", ("epochs of the clock",), _EPOCHS, write_epochs, read_epochs, _EPOCHS),
    Part(
        "small",
        ("floor of the clock", "factory reset under way", "counters of the `dlms` tool"),
        _RESET,
        write_small,
        read_small,
        _RESET,
    ),
)
