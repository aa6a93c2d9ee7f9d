"""What a device told of its networks and meters: shown as it is, and whatever does not fit is left out."""

from __future__ import annotations

import json
import random

import pytest
from sqlalchemy import Engine, insert

from headend.dm import accounts
from headend.dm import tables as dm
from headend.operator import networks

DEVICE = "urn:dcu:T-1"
NODE = {
    "eui48": "02dc00000001",
    "meter_id": "KFM0001",
    "registered": True,
    "state": "switch",
    "level": 1,
    "lnid": 5,
    "sid": 0,
    "lsid": 3,
    "path": ["02dc00000002"],
    "rx_level": 9,
    "snr": 4,
    "modulation": "DQPSK_C",
    "alive_rx": 1,
    "alive_tx": 1,
    "promotions": 2,
    "registrations": 1,
    "last_heard": 1_770_000_000.5,
}
EVENT = {"seq": 3, "at": 1_770_000_000.0, "kind": "promote", "eui48": "02dc00000001", "sid": 0, "lsid": 3, "detail": ""}
METER = {
    "meter_id": "KFM0001",
    "port": "plc0",
    "address": 5,
    "state": "read",
    "model": None,
    "last_success": 1_770_000_000,
    "counters": {"read": 5, "timeout": 2},
    "offered": {"pdu_size": 512, "get_with_list": True},
    "objects": {"count": 108},
}


def tell(engine: Engine, uri: str, value: str) -> None:
    with engine.begin() as connection:
        if not connection.execute(dm.accounts.select()).first():
            accounts.create(connection, DEVICE, server_id="headend", url="https://dm.example/dm")
        row = {"device_id": DEVICE, "uri": uri, "format": "chr", "value": value, "updated": 7.0}
        connection.execute(insert(dm.values).values(**row))


def test_a_network_is_shown_as_the_device_told_it(database: Engine) -> None:
    tell(database, "./AMI/Network/plc0/Topology", json.dumps([NODE]))
    tell(database, "./AMI/Network/plc0/History", json.dumps([EVENT]))
    tell(database, "./AMI/Network/plc0/Nodes", "1")
    with database.connect() as connection:
        (found,) = networks.networks(connection)
        assert networks.networks(connection, "another") == []
    assert (found["device"], found["port"], found["updated"], found["problem"]) == (DEVICE, "plc0", 7.0, "")
    assert found["history"] == [EVENT]
    assert found["nodes"] == [
        {name: value for name, value in NODE.items() if name not in ("lnid", "alive_rx", "alive_tx")}
    ]


def test_meters_have_their_counters_and_what_they_can(database: Engine) -> None:
    tell(database, "./AMI/Registry/Meters", json.dumps([METER, 5, {}]))
    with database.connect() as connection:
        first, second = networks.meters(connection, DEVICE)
    assert first["counters"] == {"read": 5, "timeout": 2, "refused": 0, "decode": 0, "auth": 0, "other": 0}
    assert (first["pdu_size"], first["get_with_list"], first["selective_access"], first["objects"]) == (
        512, True, False, 108,
    )  # fmt: skip
    assert second["meter_id"] is None


@pytest.mark.parametrize("text", ["", "nonsense", "{}", "5", "[" * 100_000, '[{"level": NaN}]'])
def test_a_leaf_that_makes_no_sense_is_said_to_be_one_and_costs_no_other(database: Engine, text: str) -> None:
    tell(database, "./AMI/Network/plc0/Topology", text)
    tell(database, "./AMI/Network/plc0/History", json.dumps([EVENT]))
    with database.connect() as connection:
        (found,) = networks.networks(connection)
    assert found["history"] == [EVENT]
    assert bool(found["problem"]) == (text not in ("", '[{"level": NaN}]'))


def test_rows_are_bounded_and_what_is_cut_is_said() -> None:
    found, problem = networks.rows(json.dumps([EVENT] * 600), {"kind": str}, 512)
    assert len(found) == 512
    assert problem == "512 of 600 are shown"


def test_whatever_stands_in_a_row_becomes_a_value_of_its_type_or_none() -> None:
    pick = random.Random(9)
    columns: dict[str, type] = {"a": int, "b": str, "c": float, "d": list, "e": dict, "f": bool}
    shapes = [None, True, 0, -1, 2**70, 1.5, 1e300, float("inf"), "x" * 500, [], ["a", 5], {}, {"a": 1}]
    for _ in range(500):
        row = {name: pick.choice(shapes) for name in columns if pick.random() < 0.9}
        ((made,), problem) = networks.rows(json.dumps([row]), columns, 5)
        assert not problem
        assert set(made) == set(columns)
        for name, kind in columns.items():
            assert made[name] is None or isinstance(made[name], kind)
        assert made["b"] is None or len(made["b"]) <= networks.TEXT_CHARS_MAX
