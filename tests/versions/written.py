"""What the scripts of this folder find in the files that they have written: the same, whatever release wrote them and
whatever release reads them, but for what is listed here.
"""

from __future__ import annotations

from typing import Any

# What every release writes.
WRITTEN: dict[str, Any] = {
    "tree": {
        "tasks": {"billing": "86400", "load": "900"},
        "secret": "client secret",
        "firmware": [30, "job-5"],
        "software": ["job-7"],
    },
    "nonces": ["client nonce", "server nonce", 41],
    "readings": 12,
    "registry": ["KEP0000001", "rs485-17"],
    "journal": {
        "floors": [7, {"reading-lists": 3}, 1763913600],
        "update": ["staged", "0123456789abcdef", "A"],
        "lost": False,
    },
    "result": ["0123456789abcdef", "job-5", 410, "meter_port", "3"],
    "request": ["0123456789abcdef", "package.swu", "job-5"],
    "download": [500, 1000],
    "uplink": ["urn:dcu:KR-000042", 12, "0"],
    "headend": {"devices": True, "jobs": ["get", "provision"], "readings": 12},
    "settings": "urn:dcu:KR-000042",
    "packages": {
        "lists": ["reading-lists", "4", ["a.csv", "b.csv"]],
        "firmware": ["3", ["kernel", "rootfs"]],
        "roots": [1, ["abababababababababababababababababababababababababababababababab"], 1],
        "active": ["4", "4", 16200],
    },
    "rows": {
        "key": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "last answer": "02616e20616e737765722077697468206120746f6b656e",
        "jobs": [
            ["get", "failed"],
            ["commands", "done"],
            ["provision", "running"],
            ["commands", "queued"],
            ["software", "queued"],
            ["firmware", "queued"],
        ],
        "orders": ["delete", "get"],
        "reply": ["get", {"./DevInfo/Mod": "DCU-1"}],
        "failed": {"error": "refused", "refused": {"./DevInfo/Man": 404}},
        "taken": ["provision", "not for the log", {"sent": 1}],
        "registered": "DCU-1",
        "log": 1,
        "values": ["00ff", "Example"],
        "alerts": ["c-9"],
        "sessions": ["1F"],
        "packages": ["firmware.swu", "lists.swu"],
        "downloads": [7],
        "reports": [1200],
    },
    "headend_settings": [
        "dm.example",
        {"security": 8440, "dm": 8441, "software": 8442, "metering": 8443, "operator": 8444},
        "sqlite:///",
    ],
}

# What releases after 0.2.0 write beside it.
LATER: dict[str, Any] = {
    "objects": {
        "leaves": {
            "SCHED/Zone": "CET-1CEST,M3.5.0,M10.5.0/3",
            "SCHED/QuietHours": "17:00-21:00",
            "SCHED/Task/monthly/Name": "Abrechnung für Zähler",
            "SCHED/Task/monthly/Setting/Times": "0 6 1 * *",
            "SCHED/Task/monthly/Setting/Codes": "3/1.0.1.8.0.255/2",
            "SCHED/Task/monthly/Setting/Window": "06:00-09:00",
            "SCHED/Task/monthly/Setting/Deadline": "86400",
            "SCHED/Task/monthly/Select/Groups": "suite-1",
            "AMI/Access/Group/suite-1/Pattern": "KEP*",
            "AMI/Access/Group/suite-1/Auth": "gmac",
            "AMI/Access/Group/suite-1/EncKey": "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
            "AMI/Access/Meter/one/Id": "KEP0000001",
            "AMI/Access/Meter/one/Client": "1",
            "AMI/Order/cut/Kind": "disconnect",
            "AMI/Order/cut/Meters": "KEP0000001\nKEP0000002",
            "AMI/Order/cut/Parameters": '{"force":true}',
            "AMI/Order/look/Kind": "ping",
            "AMI/Order/look/Meters": "KEP0000001",
            "ConnMO/Proposed/TimeServers": "ntp.example",
            "ConnMO/Proposed/Within": "1200",
            "DiagMon/Log/From": "1700000000",
            "DiagMon/Log/Level": "warning",
        },
        "tasks": ["billing", "load", "monthly"],
        "rules": ["group/suite-1", "meter/one", "meter/two"],
        "acl": "Get=*&Replace=dm.example",
        "orders": [["cut"], "over", {"meters": [{"meter": "KEP0000001", "state": "done"}]}],
        "trial": [
            "trial",
            "reroute-9",
            1200.0,
            "boot-1",
            {
                "access": "apn=meters pin=1234",
                "anchors": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
                "time_servers": "ntp.example",
            },
        ],
        "in use": "ntp.example",
        "device": [True, "FactoryReset", True],
        "software": [
            {"job": "j1", "software_id": "gateway", "version": "1.2", "before": "1.1", "starts": 1, "failed": ""},
            "1.2",
        ],
        "alerts": ["order-look", "reboot-3"],
    },
    "base_of_objects": {
        "tasks": {"billing": "86400", "load": "900", "monthly": ""},
        "secret": "client secret",
        "firmware": [30, "job-5"],
        "software": ["job-7"],
    },
    "collection": {
        "empty tables": [],
        "recovered": True,
        "waiting": {"reading": 11, "gap": 7, "event": 4},
        "forms": [7, -3, 0.1, "00ff", "0101", True, [["u8", 1], ["oct", "ab"]], "07e90b18ff000000ff800000", None, 1, 1],
        "events": ["k1", "k2", "k3", "k4"],
        "progress": {"KEP0000001/load": 1764000000, "KEP0000002/load": 1764000000, "KEP0000002/monthly": 1761980400},
        "knowledge": {"firmware": "1.7", "invocations": 3},
        "refused": ["unknown cls"],
        "losses": True,
        "sinks": ["mqtt"],
        "resends": True,
        "alive": [1764000000.0, 0.0],
        "gaps": [["KEP0000001", "load", "", 1763991000, "meter-silent"]],
        "accounts": ["load", "monthly"],
    },
    "posted": {
        "readings": ["7", "-0.03", "0.1", "00ff", "0101", "true", "None", "07e90b18ff000000ff800000", "None", "1", "1"],
        "gaps": ["open", "open", "open", "open", "closed", "doubted", "confirmed"],
        "events": ["push", "log", "alarm", "notice"],
        "resends": [3],
    },
    "posted_readings": [
        [5, "7", None],
        [6, "-0.03", None],
        [7, "0.1", None],
        [8, "00ff", None],
        [9, "0101", None],
        [10, "true", None],
        [11, "None", None],
        [12, "07e90b18ff000000ff800000", None],
        [13, "None", "access-denied"],
        [14, "1", None],
        [15, "1", None],
    ],
    "meters": {
        "added": ["plc0/0018ba000009", "rs485/17"],
        "orders": [
            "ping",
            "read",
            "set",
            "action",
            "clock",
            "disconnect",
            "reconnect",
            "demand-reset",
            "limiter",
            "clock-parameters",
            "display",
            "tariff",
            "special-days",
            "keys",
            "firmware",
        ],
        "asked": [["group", "dcuctl, uid 0"]],
        "states": [
            "queued",
            "partly done",
            "partly done",
            "partly done",
            "done",
            "refused",
            "not reached",
            "cancelled",
            "unknown",
            "incomplete",
        ],
        "results": ['[{"read": [1, null]}, 2, 1, {"blocks": 7}]'],
    },
    "keys": {
        "title": "4443554242424242",
        "provisioned": {"default": ["secret"], "meter/one": ["encryption_key"]},
        "proven": ["gmac", 1, "000102030405060708090a0b0c0d0e0f"],
        "meter": "KEP0000001",
        "never used twice": True,
        "seen": [77, 78],
    },
    "identity": {"keys": [True, True], "certificates": 2, "signs": True, "factory's": [False, False]},
    "epochs": ["boot", "ab" * 16, 2, [[1, 5.0, 1, 40, True, True], [2, 1_763_999_095.0, 41, None, True, False]]],
    "small": {"floor": [10.0, 5.0, 20.0], "marker": ["d2", "reset-4", False], "counters": [8, 9]},
    "programs": {
        "package": [["component.json", False], ["run", True]],
        "active": "1.2",
        "component": ["service", "run"],
        "terms": [3, ["2"]],
        "runs": True,
    },
    "operator": {
        "empty tables": [],
        "key": "0101010101010101010101010101010101010101010101010101010101010101",
        "new key": "0707070707070707070707070707070707070707070707070707070707070707",
        "account": "02616e73776572",
        "certified": [["urn:dcu:KR-000043", False, 1764000000.0]],
        "leaving": True,
        "jobs": [
            ["commands", "failed"],
            ["commands", "queued"],
            ["commands", "queued"],
            ["commands", "queued"],
            ["connectivity", "queued"],
            ["device", "queued"],
            ["firmware", "queued"],
            ["get", "done"],
            ["log", "queued"],
            ["order", "queued"],
            ["provision", "running"],
            ["software", "queued"],
            ["tasks", "queued"],
        ],
        "job taken up": ["commands", {"commands": [{"command": "delete", "path": "./DMAcc/main"}], "mode": "sequence"}],
        "alarms": ["two-devices"],
        "audit": ["alarm two-devices", "decommission", "enrol", "renew certificate", "renew key"],
        "packages": [["firmware.swu", "firmware"], ["lists.swu", "software"]],
        "gaps": [
            ["KEP0000001", "closed", "read"],
            ["KEP0000001", "open", "None"],
            ["KEP0000001", "open", "None"],
            ["KEP0000002", "open", "None"],
        ],
        "events": ["k1", "k2", "k3", "k4"],
        "readings": 5,
    },
}

# What the programs of before this policy do with later files, and cannot be taught any more.
SETTINGS_LIE_IN_THE_SLOT = "ConfigError: "  # an image has its own
REFUSED_WHOLE = "SchemaError: the database has schema 4, this head-end needs 1"
A_PERSON_IS_THERE = "ConfigError: "
ONE_AT_A_TIME = "BatchError: records[0]"  # the device then sends readings only (test_wire.py)
SET_ASIDE = 0  # until today's program is back: `test_what_an_older_program_leaves…`
NOT_INSTALLED = {
    "package": "description (22): sw-description.software.files[0].dcu.executable: an unknown key",
    "active": "1.2",  # what is installed stays
}
_OF_TODAY = {
    "settings": SETTINGS_LIE_IN_THE_SLOT,
    "headend": REFUSED_WHOLE,
    "rows": REFUSED_WHOLE,
    "operator": REFUSED_WHOLE,
    "headend_settings": A_PERSON_IS_THERE,
    "readings": SET_ASIDE,
    "posted": ONE_AT_A_TIME,
    "programs": NOT_INSTALLED,
}
OLDER: dict[tuple[str, str], dict[str, Any]] = {
    ("0.1.0", "0.2.0"): {"settings": SETTINGS_LIE_IN_THE_SLOT},
    ("0.1.0", "today"): _OF_TODAY,
    ("0.2.0", "today"): _OF_TODAY,
}

# What differs after a program has worked with the files (`readback.py … work`).
WORKED: dict[str, Any] = {
    "tree": {**WRITTEN["tree"], "tasks": {**WRITTEN["tree"]["tasks"], "load": "1800"}},
    "registry": [*WRITTEN["registry"], "rs485-18"],
    "base_of_objects": {
        **LATER["base_of_objects"],
        "tasks": {**LATER["base_of_objects"]["tasks"], "load": "1800"},
    },
}
