"""Secrets in the database's file: sealed from the first row on, sealed by the migration, sealed anew by a rotation."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import JSON, Engine, LargeBinary, Text, select, update

import headend.metering.events
import headend.metering.gaps
import headend.metering.resend
import headend.security.certificates
import headend.software.releases  # noqa: F401  (declares its tables, like those above and those of conftest.py)
from headend import access, db, passes
from headend.dm import accounts, tables
from headend.dm.jobs import queue
from headend.dm.jobs.steps import Failed
from headend.sealing import columns, keyring, rotation
from headend.sealing.errors import (
    DataKeyMissingError,
    KeyMissingError,
    SealedValueError,
    SealingError,
    WrongKeyError,
)
from headend.sealing.keyring import KeyRing, data_keys
from headend.security import devices, renewals
from tests.headend.database import KEK_ID, KeyInMemory, back_to_schema_3, open_database

DEVICE = "urn:dcu:KR-000001"
OTHER = "urn:dcu:KR-000002"
KEY = bytes(range(100, 132))
NEW_KEY = bytes(range(150, 182))
TOKEN = "0f3c5d17a1b2c3d4e5f60718293a4b5c"
METER_KEYS = "c0ffee00c0ffee11c0ffee22c0ffee33"
ANSWER = b"<SyncML>an answer that brings 5ec2e75ec2e7</SyncML>"
COLUMNS_OF_SECRETS = {
    "devices.key", "dm_accounts.client_secret", "dm_accounts.server_secret", "dm_accounts.last_answer",
    "dm_jobs.params", "dm_jobs.progress", "dm_desired.content", "secrets.value", "key_renewals.key",
}  # fmt: skip
# Columns of arbitrary content that are not sealed, and why.
NO_SECRETS = {
    "data_keys.wrapped": "wrapped under the key-encryption key",
    "dm_accounts.url": "an address",
    "dm_accounts.push_url": "an address",
    "dm_accounts.client_nonce": "goes over the line in clear, and proves nothing without the secret",
    "dm_accounts.server_nonce": "goes over the line in clear, and proves nothing without the secret",
    "dm_accounts.last_answer_mac": "a MAC",
    "dm_jobs.result": "what the device answered; it tells no secret of its own or of its meters",
    "dm_values.value": "what the device told; it tells no secret of its own or of its meters",
    "dm_values.data": "as value",
    "dm_alerts.type": "what the device told",
    "dm_alerts.source": "what the device told",
    "dm_alerts.data": "what the device told",
    "devices.push_policy": "addresses",
    "device_certificates.given": "a public key",
    "device_certificates.pinned": "a public key",
    "issued_accounts.fingerprint": "a hash of secrets that nobody can guess",
    "audit.detail": "said to a person",
    "security_alarms.text": "said to a person",
    "events.values": "metering data",
    "events.octets": "metering data",
    "later_records.record": "metering data",
    "readings.raw": "metering data",
    "readings.value": "metering data",
    "resend_orders.gone": "ranges of readings",
    "package_releases.compatible": "of a package",
    "package_releases.requires": "of a package",
    "package_releases.sources": "of a package",
}


def fill(engine: Engine) -> list[bytes]:
    """A database with a secret of every kind; returns them as they would lie in the file."""
    with engine.begin() as connection:
        for device_id in (DEVICE, OTHER):
            devices.enrol(connection, device_id, KEY, 1.0)
            account = accounts.create(connection, device_id, server_id="s", url="https://s/dm", now=1.0)
        accounts.change(connection, OTHER, {"last_answer": ANSWER})
        nodes = [{"path": "./AMI/Uplink/Token", "value": TOKEN}, {"path": "./A/Proxy", "value": "https://u:pa55@p"}]
        provision = queue.enqueue(connection, DEVICE, "provision", {"nodes": nodes}, now=1.0)
        parameters = {"wrapped": {"unicast": METER_KEYS}}
        queue.enqueue(
            connection, DEVICE, "order", {"order": "keys", "meters": ["M"], "parameters": parameters}, now=1.0
        )
        url = passes.with_pass(connection, "https://s/p.swu", DEVICE)
        queue.enqueue(connection, DEVICE, "firmware", {"url": url}, now=1.0)
        job = queue.next_for(connection, DEVICE, 2.0)
        assert job is not None
        assert job.id == provision
        queue.checkpoint(connection, job, {"sent": url}, 2.0)
        downloads = passes.download_pass(connection, DEVICE)
    texts = (account.client_secret, account.server_secret, TOKEN, METER_KEYS, downloads)
    return [KEY, ANSWER, b"5ec2e75ec2e7", *(text.encode() for text in texts)]


def fill_later_tables(engine: Engine) -> list[bytes]:
    """Those that no head-end from before the sealing had."""
    with engine.begin() as connection:
        renewals.want(connection, DEVICE, 2.0)
        renewals.stored(connection, DEVICE, NEW_KEY, now=1.0)
    return [NEW_KEY]


def everything(engine: Engine) -> dict[str, object]:
    """Every sealed value of the database, opened."""
    found: dict[str, object] = {}
    with db.reader(engine).begin() as connection:
        for one in columns.all_sealed(db.metadata):
            for row in connection.execute(select(one.table)).all():
                opened = columns.unseal(connection, one.table, row)
                if opened[one.column.name] is not None:
                    found[str(one.binding(opened))] = opened[one.column.name]
    return found


def octets(folder: Path) -> bytes:
    """The database's file and what lies beside it, as a thief copies them."""
    return b"".join(file.read_bytes() for file in sorted(folder.glob("headend.db*")))


def content(folder: Path) -> list[str]:
    """The database as SQL."""
    with contextlib.closing(sqlite3.connect(folder / "headend.db")) as connection:
        return list(connection.iterdump())


@pytest.fixture
def secrets(database: Engine) -> list[bytes]:
    return fill(database) + fill_later_tables(database)


def test_no_secret_lies_in_the_file_or_its_log(database: Engine, secrets: list[bytes], tmp_path: Path) -> None:
    stolen = octets(tmp_path)
    assert [secret for secret in secrets if secret in stolen] == []
    assert b"https://s/dm" in stolen  # it is that database, and its log
    opened = everything(database)
    assert opened[f"devices.key of {DEVICE}"] == KEY
    assert opened[f"dm_accounts.last_answer of {OTHER}"] == ANSWER


def test_every_column_that_can_hold_a_secret_is_sealed_or_says_why_not() -> None:
    broad = {
        f"{table.name}.{column.name}"
        for table in db.metadata.sorted_tables
        for column in table.c
        if isinstance(column.type, (LargeBinary, JSON, Text)) and not table.name.startswith("test")
    }
    sealed = {f"{one.table.name}.{one.column.name}" for one in columns.all_sealed(db.metadata)}
    assert sealed == COLUMNS_OF_SECRETS
    assert broad - sealed - set(NO_SECRETS) == set()
    assert set(NO_SECRETS) - broad == set()


# ---- the migration


def test_the_migration_seals_what_was_clear_and_leaves_nothing_of_it(database: Engine, tmp_path: Path) -> None:
    secrets, before = fill(database), everything(database)
    back_to_schema_3(database)
    clear = octets(tmp_path)
    assert [secret for secret in secrets if secret not in clear] == []
    for _ in range(2):
        db.create_tables(database)
        assert rotation.forget_clear(database)
        assert everything(database) == before
    stolen = octets(tmp_path)
    assert [secret for secret in secrets if secret in stolen] == []


def test_rows_that_were_deleted_before_the_migration_leave_nothing(database: Engine, tmp_path: Path) -> None:
    """They lie in free pages, which a head-end of before did not overwrite."""
    back_to_schema_3(database)
    with database.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA secure_delete=OFF")
        connection.exec_driver_sql("CREATE TABLE gone (secret)")
        connection.exec_driver_sql("INSERT INTO gone VALUES (?)", ("a secret of before " * 1000,))
        connection.exec_driver_sql("DELETE FROM gone")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.dispose()
    assert b"a secret of before" in octets(tmp_path)
    db.create_tables(database)
    assert rotation.forget_clear(database)
    assert b"a secret of before" not in octets(tmp_path)


def test_a_file_in_use_is_cleaned_at_the_next_start(database: Engine) -> None:
    back_to_schema_3(database)
    db.create_tables(database)
    with db.reader(database).begin() as reading:
        reading.execute(select(data_keys)).all()
        assert not rotation.forget_clear(database)
    assert rotation.forget_clear(database)


def test_without_a_key_a_database_of_before_stays_as_it_is(database: Engine, tmp_path: Path) -> None:
    secrets = fill(database)
    back_to_schema_3(database)
    database.dispose()
    source = KeyInMemory()
    source.keys.clear()
    engine = db.open_engine(f"sqlite:///{tmp_path / 'headend.db'}", KeyRing(source))
    before = content(tmp_path)
    with pytest.raises(KeyMissingError, match="there is no key yet"):
        db.create_tables(engine)
    engine.dispose()
    assert content(tmp_path) == before
    assert KEY in secrets


# ---- keys that do not fit


def test_a_wrong_key_and_a_missing_one_are_said_by_name_and_nothing_is_changed(
    database: Engine, secrets: list[bytes], tmp_path: Path
) -> None:
    database.dispose()
    before = octets(tmp_path)
    for source, error in (
        (KeyInMemory(bytes(32)), WrongKeyError),
        (KeyInMemory(bytes(32), "0b" * 8), KeyMissingError),
    ):
        engine = db.open_engine(f"sqlite:///{tmp_path / 'headend.db'}", KeyRing(source))
        with pytest.raises(error, match=KEK_ID):
            db.create_tables(engine)
        engine.dispose()
        assert octets(tmp_path) == before
    assert secrets


def test_a_database_without_its_data_keys_is_not_given_others(database: Engine, secrets: list[bytes]) -> None:
    with database.begin() as connection:
        connection.execute(data_keys.delete())
    with pytest.raises(DataKeyMissingError):
        db.create_tables(database)
    assert secrets


def test_without_a_ring_nothing_is_opened(database: Engine, secrets: list[bytes], tmp_path: Path) -> None:
    engine = db.open_engine(f"sqlite:///{tmp_path / 'headend.db'}")
    with engine.begin() as connection, pytest.raises(SealingError):
        devices.find(connection, DEVICE)
    engine.dispose()
    assert secrets


# ---- values that were tampered with


def test_a_value_of_another_row_is_not_taken(database: Engine, secrets: list[bytes]) -> None:
    """Whoever can write in the database cannot give a device the key of one that he has."""
    with database.begin() as connection:
        mine = select(access.devices.c.key).where(access.devices.c.id == OTHER).scalar_subquery()
        connection.execute(update(access.devices).where(access.devices.c.id == DEVICE).values(key=mine))
    with database.begin() as connection:
        with pytest.raises(SealedValueError, match=DEVICE):
            devices.find(connection, DEVICE)
        assert devices.find(connection, OTHER) is not None
    assert secrets


def test_a_clear_value_is_not_taken(database: Engine, secrets: list[bytes]) -> None:
    with database.begin() as connection:
        connection.execute(update(access.devices).values(key=bytes(32)))
        connection.execute(update(tables.accounts).values(client_secret="chosen"))
    with database.begin() as connection:
        with pytest.raises(SealedValueError):
            devices.find(connection, DEVICE)
        with pytest.raises(SealedValueError):
            accounts.load(connection, DEVICE)
    assert secrets


def test_a_device_whose_row_is_damaged_gets_another_key_and_account(database: Engine, secrets: list[bytes]) -> None:
    with database.begin() as connection:
        connection.execute(update(access.devices).values(key=b"damaged"))
        connection.execute(update(tables.accounts).values(client_secret="damaged"))
    with database.begin() as connection:
        assert devices.standing(connection, DEVICE) == devices.Standing(enabled=True, leaving=False)
        devices.enrol(connection, DEVICE, KEY[::-1], 3.0, replace=True)
        account = accounts.create(connection, DEVICE, server_id="s", url="https://s/dm", now=3.0)
        accounts.change(connection, DEVICE, {"last_answer": None})
        found, row = devices.find(connection, DEVICE), accounts.load(connection, DEVICE)
    assert found is not None
    assert found.key == KEY[::-1]
    assert row is not None
    assert accounts.from_row(row) == account
    assert secrets


def test_a_damaged_job_costs_itself_and_none_of_the_others(database: Engine, secrets: list[bytes]) -> None:
    with database.begin() as connection:
        queue.requeue_running(connection, DEVICE, 3.0)
        first = queue.listing(connection, DEVICE)[-1]["id"]
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == first).values(params="damaged"))
    with database.begin() as connection:
        job = queue.next_for(connection, DEVICE, 4.0)
        assert job is not None
        assert job.id == first + 1
        assert job.params["parameters"] == {"wrapped": {"unicast": METER_KEYS}}
        shown = queue.show(connection, first)
        listed = queue.listing(connection, DEVICE)
    assert shown is not None
    assert shown["state"] == "failed"
    assert "damaged" in shown["result"]["error"]
    assert "damaged" in shown
    assert len(listed) == 3
    assert secrets


def test_a_job_of_another_device_is_not_carried_out(database: Engine, secrets: list[bytes]) -> None:
    """A job moved to another device would give that one keys and tokens of this."""
    with database.begin() as connection:
        queue.requeue_running(connection, DEVICE, 3.0)
        connection.execute(update(tables.jobs).values(device_id=OTHER))
    with database.begin() as connection:
        assert queue.next_for(connection, OTHER, 4.0) is None
        assert {job["state"] for job in queue.listing(connection, OTHER)} == {"failed"}
    assert secrets


def test_a_job_that_failed_stays_sealed(database: Engine, secrets: list[bytes], tmp_path: Path) -> None:
    with database.begin() as connection:
        for job in queue.listing(connection, DEVICE):
            queue.finish(connection, job["id"], Failed({"error": "it did"}), 5.0)
    assert TOKEN.encode() not in octets(tmp_path)
    assert secrets


# ---- rotation


def opened_again(path: Path, source: KeyInMemory) -> Engine:
    engine = db.open_engine(f"sqlite:///{path}", KeyRing(source))
    db.create_tables(engine)
    return engine


@pytest.fixture
def source() -> KeyInMemory:
    return KeyInMemory()


@pytest.fixture
def rotating(database: Engine, tmp_path: Path, source: KeyInMemory) -> Iterator[Engine]:
    database.dispose()
    engine = opened_again(tmp_path / "headend.db", source)
    yield engine
    engine.dispose()


def keys_named(engine: Engine) -> set[bytes]:
    """The ids of the data keys under which something is sealed."""
    with db.reader(engine).begin() as connection:
        return {
            columns.sealed_octets(one, value)[1:9]
            for one in columns.all_sealed(db.metadata)
            for value in connection.scalars(select(one.column).where(one.column.is_not(None)))
            if value is not None
        }


def test_a_rotation_seals_everything_anew_and_the_old_keys_go(rotating: Engine, source: KeyInMemory) -> None:
    fill(rotating)
    before, (old,) = everything(rotating), keys_named(rotating)
    steps = list(rotation.rotate(rotating, db.metadata))
    assert sum(step.rows for step in steps) == len(before)
    assert everything(rotating) == before
    (new,) = keys_named(rotating)
    assert new != old
    with rotating.begin() as connection:
        (row,) = connection.execute(select(data_keys)).all()
    assert row.id == new.hex()
    assert row.wrapped_by != KEK_ID
    assert source.ids() == [row.wrapped_by]


@pytest.mark.slow
def test_a_rotation_can_be_broken_off_at_any_step_and_begun_again(
    rotating: Engine, source: KeyInMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step everything opens, in a new process too, and the next rotation finishes this one."""
    monkeypatch.setattr(rotation, "ROWS_PER_STEP", 1)
    fill(rotating)
    before = everything(rotating)
    steps = 0
    while True:
        running = rotation.rotate(rotating, db.metadata)
        done = sum(1 for _, _ in zip(range(steps), running, strict=False))
        running.close()
        if done < steps:
            break
        again = opened_again(tmp_path / "headend.db", source)
        assert everything(again) == before
        list(rotation.rotate(again, db.metadata))
        assert everything(again) == before
        assert len(source.ids()) == 1
        again.dispose()
        steps += 1
    assert steps > len(before)


def test_a_server_goes_on_through_a_rotation(rotating: Engine, source: KeyInMemory, tmp_path: Path) -> None:
    """It has the old key in memory when the new one comes, and what it writes afterwards is under the new one."""
    fill(rotating)
    server = opened_again(tmp_path / "headend.db", source)
    with server.begin() as connection:
        assert devices.find(connection, DEVICE) is not None
    for number, _ in enumerate(rotation.rotate(rotating, db.metadata)):
        with server.begin() as connection:
            devices.enrol(connection, DEVICE, bytes([number]) * 32, 3.0, replace=True)
        with server.begin() as connection:
            found = devices.find(connection, DEVICE)
            assert found is not None
            assert found.key == bytes([number]) * 32
    server.dispose()
    fresh = opened_again(tmp_path / "headend.db", source)
    assert len(keys_named(fresh)) == 1
    assert everything(fresh)[f"devices.key of {DEVICE}"] == bytes([number]) * 32
    fresh.dispose()


def test_values_that_do_not_open_keep_the_old_key(rotating: Engine, source: KeyInMemory) -> None:
    fill(rotating)
    with rotating.begin() as connection:
        connection.execute(update(access.devices).where(access.devices.c.id == OTHER).values(key=b"damaged"))
    with pytest.raises(SealedValueError, match=OTHER):
        list(rotation.rotate(rotating, db.metadata))
    with rotating.begin() as connection:
        assert len(connection.execute(select(data_keys)).all()) == 2
        assert devices.find(connection, DEVICE) is not None
        devices.enrol(connection, OTHER, KEY, 3.0, replace=True)
    list(rotation.rotate(rotating, db.metadata))
    assert len(source.ids()) == 1


def test_the_ring_asks_which_key_is_active(database: Engine) -> None:
    other = open_database(Path(str(database.url.database)))
    with database.begin() as connection:
        keyring.of(connection).make(connection, clear_gone=True)
        made = keyring.active(connection)
    with other.begin() as connection:
        devices.enrol(connection, DEVICE, KEY, 1.0)
    assert keys_named(other) == {bytes.fromhex(made)}
    other.dispose()
