"""The head-end: readings ingested and DM sessions served per second, beside what the disk and the codec alone allow.

Readings: beside sqlite3 inserting the same rows, decoded before, with the same durability. Sessions: beside reading and
writing the same messages without accounts, nonces, jobs or a database.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from sqlalchemy import Engine

from agent.metering.uplink.gap_lists import PAGE_GAPS
from headend.db import create_tables
from headend.dm import accounts
from headend.dm.server import DmServer, ServerConfig
from headend.metering import readings as store
from omadm.readings import Batch, GapList, GapReport, gap_digest, parse
from omadm.syncml.codec import DM_WBXML, decode, encode
from tests.bench.figure import Figure, at_most, plain
from tests.headend.database import open_database
from tests.headend.dm_device import Device

BATCHES = 40
BATCH = 500
GAPS = (2_000, 20_000)
SESSIONS = 100
ROUNDS = 3
DEVICE = "urn:dcu:BENCH"


def run() -> list[Figure]:
    """Readings, lists of gaps, then sessions."""
    return [*_readings(), *_gap_lists(), *_sessions()]


@contextmanager
def _database() -> Iterator[tuple[Path, Engine]]:
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        engine = open_database(f"{name}/headend.db")
        create_tables(engine)
        try:
            yield Path(name), engine
        finally:
            engine.dispose()


def _bodies() -> list[bytes]:
    return [
        json.dumps(
            {
                "version": 1,
                "device": DEVICE,
                "store": "ab" * 16,
                "records": [_record(number) for number in range(first, first + BATCH)],
            }
        ).encode()
        for first in range(1, BATCHES * BATCH, BATCH)
    ]


def _record(number: int) -> dict[str, object]:
    named: dict[str, object] = {"id": number, "task": "hourly", "meter": f"KR{number // 108:013}", "cls": 3}
    value: dict[str, object] = {
        "obis": "1.0.1.8.0.255",
        "attr": 2,
        "tag": "u32",
        "raw": number,
        "scaler": -3,
        "unit": 30,
    }
    when: dict[str, object] = {
        "meter_time": None,
        "received": 1.8e9,
        "trusted": True,
        "error": None,
        "run": 1_800_000_000,
    }
    return named | value | when


def _readings() -> list[Figure]:
    bodies = _bodies()
    ours = min(_ingest(bodies) for _ in range(ROUNDS))
    floor = min(_inserted(bodies) for _ in range(ROUNDS))
    count = BATCHES * BATCH
    return [
        plain(f"readings parsed and stored, batches of {BATCH}, per second of CPU", f"{count / ours:,.0f}"),
        plain("the same rows by sqlite3 alone, decoded before", f"{count / floor:,.0f}"),
        at_most("readings ingested : sqlite3 alone, CPU", ours / floor, 8, "x"),
    ]


def _ingest(bodies: list[bytes]) -> float:
    with _database() as (_folder, engine):
        begin = time.process_time()
        for body in bodies:
            store.store(engine, parse(body), 1.0)
        return time.process_time() - begin


def _inserted(bodies: list[bytes]) -> float:
    """The columns of a record and its device, with the same key, commits and journal."""
    batches = [[(DEVICE, "ab" * 16, *astuple(one)) for one in parse(body).records] for body in bodies]
    width = len(batches[0][0])
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        database = sqlite3.connect(f"{name}/plain.db", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        columns = ", ".join(f"c{at}" for at in range(width))
        database.execute(f"CREATE TABLE readings ({columns}, PRIMARY KEY (c0, c1, c2))")
        begin = time.process_time()
        for batch in batches:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(f"INSERT INTO readings VALUES ({', '.join('?' * width)})", batch)
            database.execute("COMMIT")
        used = time.process_time() - begin
        database.close()
    return used


def _gap_lists() -> list[Figure]:
    """The digest and all pages of the gaps of one meter, at a head-end that lists every other one of them."""
    few, many = (min(_listed(count) for _ in range(ROUNDS)) for count in GAPS)
    slope = (many / few) / (GAPS[1] / GAPS[0])
    return [
        plain(f"list of {GAPS[0]:,} gaps of one meter, half of them new there, CPU", f"{few:.2f} s"),
        plain(f"list of {GAPS[1]:,}", f"{many:.2f} s"),
        at_most("per gap, the larger : the smaller", slope, 1.5, "x"),
    ]


def _listed(count: int) -> float:
    first = [1_600_000_200 + 1800 * at for at in range(count)]
    gaps = [GapReport("open", "KR1", "hourly", None, at, at, 900, "meter-silent", None, 0.0) for at in first]
    pages = [GapList(1, gap_digest(gaps)), *_pages(gaps)]
    with _database() as (_folder, engine):
        for page in _pages(gaps[::2]):
            store.store(engine, Batch(DEVICE, "ab" * 16, (), (), None, listed=page), 1.8e9)
        begin = time.process_time()
        answers = {store.store(engine, Batch(DEVICE, "ab" * 16, (), (), None, listed=page), 1.8e9) for page in pages}
        used = time.process_time() - begin
    if answers != {"differs", "taken"}:
        raise RuntimeError(f"the head-end answered {answers}")
    return used


def _pages(gaps: list[GapReport]) -> Iterator[GapList]:
    begin = None
    for at in range(0, len(gaps), PAGE_GAPS):
        before = gaps[at + PAGE_GAPS].key if at + PAGE_GAPS < len(gaps) else None
        yield GapList(1, "", begin, before, tuple(gaps[at : at + PAGE_GAPS]))
        begin = before


def _sessions() -> list[Figure]:
    ours, codec, messages = min(_served() for _ in range(ROUNDS))
    return [
        plain(
            "DM sessions without a job, device and server in one process, per second of CPU", f"{SESSIONS / ours:,.0f}"
        ),
        plain("messages of the server in a session", f"{messages / SESSIONS:.0f}"),
        at_most("DM sessions : their messages written and read alone, CPU", ours / codec, 8, "x"),
    ]


def _served() -> tuple[float, float, int]:
    """CPU seconds of all sessions; of their messages through the codec, both ends'; how many the server sent."""
    config = ServerConfig("headend", "https://headend/dm")
    with _database() as (_folder, engine):
        with engine.begin() as connection:
            account = accounts.create(connection, DEVICE, server_id=config.server_id, url=config.url)
        device = Device(DmServer(engine, config), account)
        device.session()  # the first asks for what the server does not know yet
        begin = time.process_time()
        answers = [answer for _ in range(SESSIONS) for answer in device.session()]
        used = time.process_time() - begin
    begin = time.process_time()
    for answer in answers:
        decode(encode(answer, DM_WBXML), DM_WBXML)
    # The device's own messages are as many, and about as long.
    return used, 2 * (time.process_time() - begin), len(answers)
