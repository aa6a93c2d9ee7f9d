"""`component.json`: what a package says it is for, within bounds, and nothing that is not there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from updateagent.errors import DESCRIPTION, LIMIT, PackageError
from updateagent.software import component
from updateagent.software.component import Component, ComponentKind, Limits, Ready, Restart, ServiceSpec, parse


def service(**more: Any) -> bytes:
    return json.dumps({"format": 1, "kind": "service", "service": {"program": "bin/watch", **more}}).encode()


def said(**more: Any) -> ServiceSpec:
    found = parse(service(**more)).service
    assert found is not None
    return found


def test_a_program_alone_has_the_usual_limits() -> None:
    assert said() == ServiceSpec("bin/watch")
    usual = said()
    assert (usual.user, usual.restart, usual.limits) == ("dynamic", Restart.ALWAYS, Limits(65536, 50, 64, 16))
    assert usual.ready == Ready(after_s=5)


def test_everything_that_can_be_said_is_read() -> None:
    found = said(
        arguments=["--every", "5"],
        libraries=["lib"],
        python=["lib/python"],
        environment={"LEVEL": "info"},
        user="watch",
        limits={"memory_kib": 8192, "cpu_percent": 20, "files": 16, "processes": 2},
        restart={"when": "on-failure", "min_s": 2, "max_s": 60},
        ready={"command": ["bin/ready", "-q"], "deadline_s": 30},
        configuration="watch-settings",
    )
    assert found == ServiceSpec(
        "bin/watch",
        ("--every", "5"),
        ("lib",),
        ("lib/python",),
        (("LEVEL", "info"),),
        "watch",
        Limits(8192, 20, 16, 2),
        Restart.ON_FAILURE,
        2,
        60,
        Ready(0, ("bin/ready", "-q"), 30),
        "watch-settings",
    )


def test_the_other_kinds_are_read() -> None:
    anchor = json.dumps({"format": 1, "kind": "trust-anchor", "certificates": ["ca.pem"]}).encode()
    assert parse(anchor) == Component(ComponentKind.TRUST_ANCHOR, certificates=("ca.pem",))
    assert parse(b'{"format": 1, "kind": "configuration"}') == Component(ComponentKind.CONFIGURATION)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format": 2, "kind": "configuration"}',
        b'{"format": 1, "kind": "hook"}',
        b'{"format": 1, "kind": "configuration", "service": {}}',
        b'{"format": 1, "kind": "configuration", "kind": "configuration"}',
        b'{"format": 1, "kind": "trust-anchor"}',
        b'{"format": 1, "kind": "trust-anchor", "certificates": []}',
        b'{"format": 1, "kind": "trust-anchor", "certificates": ["../ca.pem"]}',
        b'{"format": 1, "kind": "service"}',
        service(program="/bin/sh"),
        service(program="../sh"),
        service(program="a//b"),
        service(arguments=["a\0b"]),
        service(arguments=["x"] * 33),
        service(libraries=["/usr/lib"]),
        service(environment={"LD_PRELOAD": "x"}),
        service(environment={"PATH": "/tmp"}),
        service(environment={"DCU_SERVICE": "x"}),
        service(environment={"lower": "x"}),
        service(environment={"LEVEL": 1}),
        service(user="root"),
        service(user="0"),
        service(user=""),
        service(limits={"memory_kib": 4095}),
        service(limits={"cpu_percent": 0}),
        service(limits={"files": 7}),
        service(limits={"processes": 257}),
        service(limits={"swap": 1}),
        service(restart={"when": "sometimes"}),
        service(restart={"min_s": 60, "max_s": 59}),
        service(ready={"after_s": 121}),
        service(ready={"after_s": 1, "command": ["a"]}),
        service(ready={"deadline_s": 5}),
        service(ready={"command": []}),
        service(ready={"command": ["/bin/true"]}),
        service(configuration="a/b"),
        service(nice=-20),
    ],
)
def test_what_is_outside_the_schema_is_refused(data: bytes) -> None:
    with pytest.raises(PackageError) as caught:
        parse(data)
    assert caught.value.code is DESCRIPTION


def test_a_file_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(PackageError) as caught:
        parse(b" " * (component.COMPONENT_BYTES_MAX + 1))
    assert caught.value.code is LIMIT


FILES = {"bin/watch": True, "bin/ready": True, "lib/libgrid.so": False, "ca.pem": False, "component.json": False}


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (service(), ""),
        (service(libraries=["lib"], ready={"command": ["bin/ready"]}), ""),
        (service(program="bin/other"), "bin/other"),
        (service(program="ca.pem"), "ca.pem"),
        (service(libraries=["lib/libgrid.so"]), "lib/libgrid.so"),
        (service(python=["python"]), "python"),
        (service(ready={"command": ["lib/libgrid.so"]}), "lib/libgrid.so"),
        (b'{"format": 1, "kind": "trust-anchor", "certificates": ["ca.pem"]}', ""),
        (b'{"format": 1, "kind": "trust-anchor", "certificates": ["other.pem"]}', "other.pem"),
    ],
)
def test_what_a_component_names_is_in_its_package(data: bytes, missing: str) -> None:
    if not missing:
        component.check_files(parse(data), FILES)
        return
    with pytest.raises(PackageError) as caught:
        component.check_files(parse(data), FILES)
    assert caught.value.code is DESCRIPTION
    assert missing in caught.value.message
