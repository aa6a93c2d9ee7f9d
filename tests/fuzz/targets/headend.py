"""Fuzz targets for what the head-end is sent: by concentrators, by operators, by whoever writes its configuration.

Each parser gives its value or its own typed error; each request gets a status that says whose fault it is.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml
from sqlalchemy import Connection, Engine, delete, select

from headend import config, db, web
from headend.access import devices as device_table
from headend.config import ConfigError
from headend.dm.engine import Accepted, ServerSession, State
from headend.dm.jobs.order import told_by_device
from headend.dm.jobs.params import sendable
from headend.dm.jobs.run import _command
from headend.dm.jobs.steps import Job, Note
from headend.dm.jobs.types import JOB_TYPES, JobError
from headend.operator import lifecycle
from headend.operator.commands import read_key
from headend.operator.lifecycle import Actor
from headend.sealing import envelope
from headend.sealing.envelope import Binding
from headend.sealing.errors import SealingError, WrongKeyError
from headend.sealing.sources import KeyFile, Sources
from headend.security import devices
from headend.software import ranges, releases
from omadm.syncml import codec
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import (
    Alert,
    Item,
    Meta,
    Replace,
    Results,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
)
from tests.fuzz.guided import Target
from tests.fuzz.targets import dictionaries
from tests.fuzz.targets.updateagent import packages
from tests.headend.database import open_database
from tests.headend.dm import test_engine

HERE = "/headend/"
ACTOR = Actor("fuzz", 1000.0)
ENROLLED = "urn:dcu:1"


def run_json_body(data: bytes) -> None:
    assert isinstance(web.parse_json(data), dict)


def run_job(data: bytes) -> None:
    """`{"kind": …, "params": …}` as the operator's interface takes it; what was checked is checked again as it is, and
    what the job says first can be written in both encodings."""
    document = web.parse_json(data)
    kind, params = document.get("kind"), document.get("params", {})
    if not isinstance(kind, str) or kind not in JOB_TYPES or not isinstance(params, dict):
        return
    sendable(params)
    checked = JOB_TYPES[kind].check(params)
    if kind != "tasks":  # its canonical form is that of the nodes
        assert JOB_TYPES[kind].check(checked) == checked
    json.dumps(checked).encode()
    steps = JOB_TYPES[kind].steps(Job(1, kind, checked, "c", {}, device_id="urn:d"))
    said = next(steps)
    while isinstance(said, Note):
        said = steps.send([])
    header = SyncHdr("1", 1, target="urn:d", source="https://h/dm")
    for content_type in (codec.DM_XML, codec.DM_WBXML):
        codec.encode(SyncML(header, tuple(_command(one, "1") for one in said.requests)), content_type)


JOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("get", {"paths": ["./DevDetail", "./DevInfo/DevId"]}),
    ("provision", {"nodes": [{"path": "./A/B", "value": 5, "format": "int"}, {"path": "./C", "delete": True}]}),
    ("firmware", {"url": "https://h/p", "version": "2"}),
    ("firmware", {"version": "2", "packages_url": "https://h", "delta": True, "full_after_delta": False}),
    ("software", {"id": "configs", "url": "https://h/p", "name": "n", "version": "1"}),
    ("commands", {"commands": [{"command": "replace", "path": "./A?prop=ACL", "value": "Get=*"}], "mode": "sequence"}),
    (
        "commands",
        {"commands": [{"command": "copy", "path": "./A/B", "source": "./A/C"}, {"command": "get", "path": "./A"}]},
    ),
)


JOBS += (
    ("order", {"order": "read", "meters": ["K"], "parameters": {"codes": ["3/1.0.1.8.0.255/2"]}, "priority": 5}),
    ("tasks", {"tasks": {"a": {"every": 900, "reading_list": "r", "meters": ["K"]}, "b": None}, "zone": "UTC0"}),
    ("connectivity", {"server": "https://h/dm", "access": "apn", "within_s": 900}),
    ("device", {"operation": "lock"}),
    ("log", {"since": 1, "until": 2, "level": "info"}),
)


def run_order_told(data: bytes) -> None:
    """What a device says of an order: what is kept can be stored, told and shown."""
    kept, problem = told_by_device(data.decode("utf-8", "surrogatepass"))
    json.dumps(kept, allow_nan=False, ensure_ascii=False).encode()
    assert all(isinstance(meter.get("state"), str | None) for meter in kept.get("meters", []))
    assert isinstance(problem, str)


def orders_told() -> list[bytes]:
    meters = [{"meter": "K", "state": "done", "value": [1.5], "error": None, "progress": {"stage": "x"}}]
    return [json.dumps(one).encode() for one in ({"counts": {"done": 1}, "meters": meters}, {"error": "none"})]


def jobs() -> list[bytes]:
    return [json.dumps({"kind": kind, "params": params}).encode() for kind, params in JOBS]


def run_range(data: bytes) -> None:
    """Lines `name: value` of a request for 1000 bytes: what is sent lies within them."""
    lines = [line.partition(": ") for line in data.decode("latin-1").split("\n")]
    headers = {name.lower(): value for name, _, value in lines}
    ranges.unchanged(headers, '"e"')
    chosen = ranges.choose(headers, 1000, '"e"')
    if chosen is not None:
        assert 0 <= chosen.start < 1000
        assert 0 < chosen.size <= 1000 - chosen.start
        assert (chosen.status == 200) == ((chosen.start, chosen.size) == (0, 1000)) or chosen.status == 206


@functools.cache
def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-headend-")) / "input"


def run_config(data: bytes) -> None:
    file = scratch()
    file.write_bytes(data)
    try:
        config.load(file)
    except ConfigError as caught:
        error = caught
    else:
        return
    assert error.problems
    assert all(str(problem).startswith(str(file)) for problem in error.problems)


def configs() -> list[bytes]:
    ports = {name: 8441 + at for at, name in enumerate(config.SERVERS)}
    tls = {"certificate": "server.pem", "key": "server.key", "ca": "ca.pem"}
    whole = config.template("headend", ports, "127.0.0.1", tls).encode()
    document = yaml.safe_load(whole)
    del document["jobs"], document["log"], document["retention"]
    return [whole, yaml.safe_dump(document).encode()]


def run_sealed(data: bytes) -> None:
    """A value of the database, as octets and as text: what opens is what was sealed."""
    binding = Binding("devices", "key", ("urn:dcu:1",))
    sealed = data if data[:1] == bytes([envelope.LAYOUT_VERSION]) else envelope.from_text(data.decode("latin-1"))
    assert envelope.unseal(bytes(32), sealed, binding) == b"secret"
    assert envelope.key_id_of(sealed) == bytes(8)


def sealed_values() -> list[bytes]:
    sealed = envelope.seal(bytes(32), bytes(8), bytes(24), b"secret", Binding("devices", "key", ("urn:dcu:1",)))
    return [sealed, envelope.to_text(sealed).encode()]


def run_sealing_key(data: bytes) -> None:
    """A file with key-encryption keys: what it wraps, it unwraps, and the first half of the input is nothing that it
    wrapped."""
    file = scratch()
    file.write_bytes(data)
    file.chmod(0o600)
    source = Sources(KeyFile(file))
    newest = source.ids()[-1]
    assert source.unwrap(newest, source.wrap(newest, bytes(32), "one"), "one") == bytes(32)
    with contextlib.suppress(WrongKeyError):
        raise AssertionError(source.unwrap(newest, data[: len(data) // 2], "one"))


def sealing_keys() -> list[bytes]:
    return [b"# keys\ndcu-headend-key 1 %s\n" % (b"0a" * 32), b"dcu-headend-key 1 %s\n" % (b"0b" * 32) * 3]


def run_release(data: bytes) -> None:
    """An uploaded file describes itself, or is no package."""
    file = scratch()
    file.write_bytes(data)
    release = releases.describe("fuzz", file, len(data))
    if release is not None:
        for running in ("1", "2"):
            release.fits(running)
            with suppress(releases.NoPackageError):
                releases.choose([release], running, None)


def run_session(data: bytes) -> None:
    """Messages of a device that is believed, while two jobs wait: every answer can be sent, and none takes for ever."""
    port = test_engine.Port([test_engine.job("get", paths=["./A"]), test_engine.job("commands", 2, commands=COMMANDS)])
    session = ServerSession(
        session_id="1",
        device_uri="urn:d",
        device_name=None,
        server_uri="https://h/dm",
        server_name="h",
        measure=lambda message: len(codec.encode(message, codec.DM_WBXML)),
    )
    for body in data.split(b"\0"):
        message = codec.decode(body, codec.DM_XML)
        with suppress(SyncmlValueError):  # the peer's own text has to be repeated and has no form
            codec.encode(session.receive(message, port, Accepted(chal=test_engine.CHAL)), codec.DM_WBXML)
        if session.state is not State.OPEN:
            return


COMMANDS = [{"command": "get", "path": "./B"}, {"command": "replace", "path": "./C", "value": "x" * 2000}]


def sessions() -> list[bytes]:
    """The device's side of both jobs."""
    header = SyncHdr("1", 1, target="https://h/dm", source="urn:d", meta=Meta(max_msg_size=2048, max_obj_size=9000))
    result = Results("2", "2", (Item(source="./A", data="1"),), msg_ref="1")
    first = (
        Alert("1", 1201),
        Replace("2", (Item(source="./DevInfo/DevId", data="urn:d"),)),
        Alert("3", 1226, (Item(),)),
    )
    second = (Status("1", "1", "2", "Get", 200), result)
    piece = Results("2", "2", (Item(source="./B", meta=Meta(size=9), data="1234", more_data=True),), msg_ref="2")
    third = (Status("1", "2", "2", "Get", 200), piece)
    bodies = [
        codec.encode(SyncML(replace(header, msg_id=at), commands, final=True), codec.DM_XML)
        for at, commands in enumerate((first, second, third), start=1)
    ]
    return [b"\0".join(bodies), bodies[0]]


def run_enrolment(data: bytes) -> None:
    """A CSV file: all of its devices, each with its key, or `CsvError` and none. A key is replaced like one of it."""
    text = data.decode("utf-8", "replace")
    try:
        count = lifecycle.enrol_csv(engine(), ACTOR, text)
    except lifecycle.CsvError:
        count = 0
    with engine().begin() as connection:
        after = enrolled(connection)
        assert len(after) == 1 + count
        for device_id, key in after.items():
            assert devices.valid_id(device_id)
            assert len(key) == 32
        one, key = next(reversed(after.items()))
        lifecycle.replace_key(connection, ACTOR, one, key[::-1], end_account=True)
        assert enrolled(connection)[one] == key[::-1]
        lifecycle.enrol(connection, ACTOR, one, key, replace=True)
        assert enrolled(connection)[one] == key
        connection.execute(delete(device_table).where(device_table.c.id != ENROLLED))


def enrolled(connection: Connection) -> dict[str, bytes]:
    found = (devices.find(connection, device_id) for device_id in connection.scalars(select(device_table.c.id)))
    return {device.device_id: device.key for device in found if device is not None}


@functools.cache
def engine() -> Engine:
    made = open_database(":memory:")
    db.create_tables(made)
    with made.begin() as connection:
        lifecycle.enrol(connection, ACTOR, ENROLLED, bytes(32))
    return made


def enrolments() -> list[bytes]:
    rows = b"".join(b"urn:dcu:%d,%064x\r\n" % (number, number) for number in range(2, 5))
    return [b"id,key\r\n" + rows, b"\xef\xbb\xbfkey, id\n\n" + b"Ab" * 32 + b',"urn:dcu:7"\n']


def run_key_file(data: bytes) -> None:
    """What a key file of the operator's tool has is a key that the head-end takes, or one sentence."""
    file = scratch()
    file.write_bytes(data)
    assert len(devices.key_from(read_key(file))) == 32


TARGETS = {
    "json-body": Target(run_json_body, jobs, (web.HttpProblem,), HERE, dictionaries.JSON),
    "job": Target(run_job, jobs, (web.HttpProblem, JobError), HERE, dictionaries.JSON, 2000),
    "order-told": Target(run_order_told, orders_told, (UnicodeDecodeError,), HERE, dictionaries.JSON, 2000),
    "range": Target(
        run_range,
        lambda: [b'range: bytes=0-99\nif-range: "e"', b'range: bytes=-5\nif-none-match: W/"e", *'],
        (),
        HERE,
        dictionaries.RANGE,
    ),
    "session": Target(run_session, sessions, (SyncmlError,), HERE, dictionaries.XML + dictionaries.SYNCML, 400),
    "enrolment": Target(
        run_enrolment, enrolments, (), HERE, (*dictionaries.CSV, b"id", b"key", b"urn:dcu:1", b" "), 400
    ),
    "key-file": Target(
        run_key_file,
        lambda: [b"0a" * 32 + b"\n", b" " + b"F0" * 32],
        (click.ClickException, devices.DeviceError),
        HERE,
        (b"\n", b" ", b"0x", b"00" * 32),
    ),
    "config": Target(run_config, configs, (), HERE, dictionaries.YAML, 150),
    "sealed": Target(run_sealed, sealed_values, (SealingError,), HERE),
    "sealing-key": Target(run_sealing_key, sealing_keys, (SealingError,), HERE, (b"dcu-headend-key 1 ", b"#", b"\n")),
    "release": Target(run_release, lambda: list(packages()), (), HERE, dictionaries.JSON, 300),
}
