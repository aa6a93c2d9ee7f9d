"""Configuration, certificates and the database file."""

from __future__ import annotations

import contextlib
import sqlite3
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import inspect, text

from headend import config, db, pki
from headend.metering import readings
from tests.headend.database import empty_database, open_database
from tests.omadm.test_addresses import UNUSABLE

PORTS = {name: 1000 + number for number, name in enumerate(config.SERVERS)}
TLS = {"certificate": "server.pem", "key": "server.key", "ca": "/etc/ca.pem"}


def written(folder: Path, **changes: Any) -> Path:
    document = yaml.safe_load(config.template("headend", PORTS, "127.0.0.1", TLS)) | changes
    path = folder / config.CONFIG_NAME
    path.write_text(yaml.safe_dump(document))
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(config.ConfigError) as error:
        config.load(path)
    return error.value.problems


def test_the_template_loads_with_paths_made_absolute(tmp_path: Path) -> None:
    found = config.load(written(tmp_path))
    assert found.database == f"sqlite:///{tmp_path / 'headend.db'}"
    assert found.certificate == tmp_path / "server.pem"
    assert found.ca == Path("/etc/ca.pem")
    assert found.servers["dm"] == config.Listener("127.0.0.1", PORTS["dm"], "")
    assert found.log_level == "INFO"


def test_a_public_url_stands_for_host_and_port() -> None:
    assert config.Listener("127.0.0.1", 5).url(7) == "https://127.0.0.1:7"
    assert config.Listener("127.0.0.1", 5, "https://dcu.example/dm/").url(7) == "https://dcu.example/dm"


def test_ssmp_shows_the_certificate_of_tls_unless_it_has_one_of_its_own(tmp_path: Path) -> None:
    assert config.load(written(tmp_path)).ssmp is None
    found = config.load(written(tmp_path, ssmp={"device_ca": "devices.pem"})).ssmp
    assert found == config.Ssmp(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "devices.pem")
    assert found.issued_days == 730
    found = config.load(written(tmp_path, ssmp={"issued_days": 90})).ssmp
    assert found == config.Ssmp(tmp_path / "server.pem", tmp_path / "server.key", issued_days=90)
    own = {"certificate": "own.pem", "key": "own.key"}
    assert config.load(written(tmp_path, ssmp=own)).ssmp == config.Ssmp(tmp_path / "own.pem", tmp_path / "own.key")
    issuing = {"issuing_certificate": "issuing.pem", "issuing_key": "/keys/issuing.key"}
    found = config.load(written(tmp_path, ssmp={"device_ca": "devices.pem", **issuing})).ssmp
    assert found is not None
    assert (found.issuing_certificate, found.issuing_key) == (tmp_path / "issuing.pem", Path("/keys/issuing.key"))
    for wrong, why in (
        ({"key": "k"}, "together"),
        ({"issuing_key": "k"}, "issuing_certificate and issuing_key are given together"),
        ({"issuing_certificate": "c"}, "issuing_certificate and issuing_key are given together"),
        ({"issuing_certificate": 5, "issuing_key": "k"}, "issuing_certificate"),
        ({"issuing_certificate": "c", "issuing_key": None}, "issuing_key"),
        ({"colour": "red"}, "colour"),
        ({"device_ca": 5}, "device_ca"),
        ({"issued_days": 0}, "issued_days"),
        ({"issued_days": 36_501}, "issued_days"),
        ({"issued_days": "730"}, "issued_days"),
        ({"issued_days": True}, "issued_days"),
    ):
        assert any("ssmp" in line and why in line for line in problems(written(tmp_path, ssmp=wrong)))


def test_a_database_url_is_taken_as_it_is_and_not_shown(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, database="postgresql+psycopg://u:hidden@h/d"))
    assert found.database.startswith("postgresql")
    assert "hidden" not in repr(found)


def test_every_problem_is_named_with_file_and_key(tmp_path: Path) -> None:
    path = written(tmp_path, server_id=5, colour="red", version=2, log={"level": "loud"})
    document = yaml.safe_load(path.read_text())
    document["servers"]["dm"] = {"host": "h", "port": 70000, "public_url": "http://plain"}
    document["servers"]["extra"] = {}
    document["servers"]["metering"] = {"host": "h", "port": True}
    del document["servers"]["software"]
    document["tls"]["key"] = None
    path.write_text(yaml.safe_dump(document))
    found = problems(path)
    assert all(line.startswith(f"{path}: ") for line in found)
    keys = {line.removeprefix(f"{path}: ").split(":")[0] for line in found}
    assert keys == {
        "server_id",
        "colour",
        "version",
        "log.level",
        "tls.key",
        "servers.extra",
        "servers.software",
        "servers.dm.port",
        "servers.dm.public_url",
        "servers.metering.port",
    }


@pytest.mark.parametrize("content", ["", "[]", "a: [", "\x00", "5", "a: 2026-13-01", "[" * 900])
def test_what_is_no_configuration_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "headend.yaml"
    path.write_text(content)
    assert problems(path)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://[", "is no URL with a host and a port that exist"),
        ("https://", "is no URL with a host and a port that exist"),
        ("http://h", "is no https URL"),
        *UNUSABLE.values(),
    ],
)
def test_what_is_no_https_url_is_named(tmp_path: Path, url: str, why: str) -> None:
    path = written(tmp_path)
    document = yaml.safe_load(path.read_text())
    document["servers"]["dm"]["public_url"] = url
    path.write_text(yaml.safe_dump(document))
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: servers.dm.public_url: an https URL is expected: it {why}")


def test_a_head_end_on_loopback_may_call_devices_there_and_no_other_is_given_a_network(tmp_path: Path) -> None:
    assert config.load(written(tmp_path)).push == config.Push(("127.0.0.1/32",))
    for host in ("0.0.0.0", "192.0.2.1", "headend.example"):
        assert yaml.safe_load(config.template("headend", PORTS, host, TLS))["push"] == {"networks": [], "ports": []}


@pytest.mark.parametrize(
    ("push", "key"),
    [
        ({"networks": ["10.20.0.1/16"]}, "push.networks"),
        ({"networks": ["everywhere"]}, "push.networks"),
        ({"networks": [5]}, "push.networks"),
        ({"networks": "10.0.0.0/8"}, "push.networks"),
        ({"ports": [0]}, "push.ports"),
        ({"ports": [True]}, "push.ports"),
        ({"ports": ["http"]}, "push.ports"),
        ({"hosts": []}, "push.hosts"),
    ],
)
def test_a_policy_for_notifications_that_is_none_is_named(tmp_path: Path, push: dict[str, Any], key: str) -> None:
    assert [line.split(": ")[1] for line in problems(written(tmp_path, push=push))] == [key]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in problems(tmp_path / "none.yaml")[0]


# ---- certificates


def _verify_issued_by(issued: x509.Certificate, issuer: x509.Certificate) -> None:
    """What `verify_directly_issued_by` does from cryptography 40 on."""
    key = issuer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert issued.issuer == issuer.subject
    assert issued.signature_hash_algorithm is not None
    key.verify(issued.signature, issued.tbs_certificate_bytes, ec.ECDSA(issued.signature_hash_algorithm))


def test_the_server_certificate_chains_to_the_authority_and_has_the_names(tmp_path: Path) -> None:
    files = pki.make(tmp_path, ["127.0.0.1", "::1", "headend.example"])
    ca = x509.load_pem_x509_certificate((tmp_path / files["ca"]).read_bytes())
    server = x509.load_pem_x509_certificate((tmp_path / files["certificate"]).read_bytes())
    _verify_issued_by(server, ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["headend.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / files["certificate"], tmp_path / files["key"])
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("mine")
    with pytest.raises(FileExistsError):
        pki.make(tmp_path, ["127.0.0.1"])
    assert (tmp_path / "ca.key").read_text() == "mine"


# ---- the database


def test_the_database_file_is_for_the_owner_alone_and_commits_are_synced(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch(mode=0o644)
    engine = db.open_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        settings = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    engine.dispose()
    assert settings == ["wal", 2, 1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    engine = db.open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        connection.execute(text("create table t (a)"))
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        connection.execute(text("insert into t values (1)"))
        raise ZeroDivisionError
    with db.reader(engine).begin() as connection:
        assert connection.execute(text("select count(*) from t")).scalar() == 0
    engine.dispose()


def test_a_reader_waits_for_no_writer(tmp_path: Path) -> None:
    engine = db.open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        connection.execute(text("create table t (a)"))
    with engine.begin() as writer:
        writer.execute(text("insert into t values (1)"))
        with db.reader(engine).begin() as connection:
            assert connection.execute(text("select count(*) from t")).scalar() == 0
    engine.dispose()


def test_a_database_of_another_version_is_left_alone(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "x.db")
    db.create_tables(engine)
    db.create_tables(engine)
    with engine.begin() as connection:
        connection.execute(text("update schema_version set version = 99"))
    with pytest.raises(db.SchemaError, match="schema 99"):
        db.create_tables(engine)
    engine.dispose()


def test_not_a_byte_or_permission_of_a_later_database_is_changed(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("create table schema_version (version integer not null)")
        connection.execute("insert into schema_version values (99)")
        connection.commit()
    file.chmod(0o640)
    before = file.read_bytes()
    with pytest.raises(db.SchemaError, match="schema 99"):
        db.open_engine(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


READINGS_1 = (
    "create table schema_version (version integer not null)",
    "insert into schema_version values (1)",
    """create table readings (device varchar(128) not null, store varchar(32) not null, id bigint not null,
    task varchar(128) not null, meter varchar(128) not null, cls integer not null, obis varchar(24) not null,
    attr integer not null, tag varchar(8) not null, raw text not null, value text, scaler integer, unit integer,
    unit_symbol varchar(20) not null, meter_time varchar(128), received float not null, trusted boolean not null,
    error varchar(128), run bigint not null, stored float not null, primary key (device, store, id))""",
    "create index ix_readings_meter on readings (meter)",
    "create index ix_readings_run on readings (run)",
    """insert into readings values ('d', 'ab', 1, 't', 'm', 3, '1.0.1.8.0.255', 2, 'u32', '5', '5', 0, 30, 'Wh', null,
    1.0, true, null, 900, 2.0)""",
)


def test_a_database_of_the_first_version_is_brought_forward_with_what_is_in_it(tmp_path: Path) -> None:
    """Afterwards it has the tables, columns and indexes of a new one."""
    engine = open_database(tmp_path / "old.db")
    with engine.begin() as connection:
        for statement in READINGS_1:
            connection.execute(text(statement))
    for _ in range(2):
        db.create_tables(engine)
    fresh = open_database(tmp_path / "new.db")
    db.create_tables(fresh)
    shapes = [
        {
            table: ({column["name"] for column in inspector.get_columns(table)},
                    {index["name"] for index in inspector.get_indexes(table)})
            for table in inspector.get_table_names()
        }
        for inspector in (inspect(engine), inspect(fresh))
    ]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert [(row["id"], row["value"], row["repeated"]) for row in readings.list_readings(engine)] == [(1, "5", False)]
    for each in (engine, fresh):
        each.dispose()


@pytest.mark.parametrize("version", ["four", "", 4.5, b"4", -1, 0, 2**40])
def test_a_schema_that_is_no_number_of_ours_is_refused_and_nothing_is_changed(tmp_path: Path, version: object) -> None:
    file = tmp_path / "headend.db"
    empty_database(file).dispose()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE schema_version SET version = ?", (version,))
        connection.commit()
    with pytest.raises(db.SchemaError, match="the database has schema "):
        open_database(file)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchone() == (version,)
