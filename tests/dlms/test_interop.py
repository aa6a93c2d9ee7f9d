"""Our meter read by clients that are not ours, and our client reading a meter that is not ours.

The peers (gurux-dlms and dlms-cosem from PyPI) run as programs of their own, in an environment of their own, whose
Python is named by DLMS_PEERS_PYTHON or found at `.venv-peers/bin/python`. Without it these tests are skipped:

    python3 -m venv .venv-peers && .venv-peers/bin/pip install gurux-dlms dlms-cosem
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.axdr import Data
from dlms.client import Meter
from dlms.codes import UNITS, DataAccessResult, Mechanism
from dlms.cosem.classes import interface_class
from dlms.cosem.obis import Obis
from dlms.errors import PeerError
from dlms.hls import aes_ecb
from dlms.keys import public_octets
from dlms.objects import ServerObject
from dlms.reading import Failed, Reading
from dlms.security import Auth, Hls, Lls, MemoryCounters, Policy, Security, open_auth
from dlms.server import MeterServer
from dlms.server_objects import association_object
from tests.dlms.meter_port import MeterPort
from tests.dlms.test_client import PROFILE, World
from tests.dlms.test_security import AK, CLIENT, EK, METER

HERE = Path(__file__).parent
PEERS = Path(os.environ.get("DLMS_PEERS_PYTHON", HERE.parents[1] / ".venv-peers" / "bin" / "python"))
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not PEERS.exists(), reason="no environment with the peers: see the module"),
]
STORE = Obis.parse("0.0.96.1.0.255")
LONG = "aabb" * 400


class Store:
    """A data object that can be written."""

    def __init__(self) -> None:
        self.value = axdr.octets(b"")
        self.item = ServerObject(1, STORE, readers={2: lambda _selection: self.value}, writers={2: self.write})

    def write(self, value: Data) -> DataAccessResult:
        self.value = value
        return DataAccessResult.SUCCESS


@contextlib.contextmanager
def served(meter: MeterServer, link: str) -> Iterator[int]:
    """The meter on a TCP port of its own."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = listener.accept()
                with connection:
                    port = MeterPort(meter, link)
                    while data := connection.recv(4096):
                        port.write(data)
                        connection.sendall(port.read(None) or b"")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def peer(script: str, **options: object) -> dict[str, Any]:
    """What a peer's program printed last, decoded."""
    command = [str(PEERS), str(HERE / "peers" / script), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def meter(auth: Auth, security: Security | None = None) -> MeterServer:
    world = World()
    server = MeterServer([*world.server.objects(), Store().item], auth=auth, security=security)
    server.add(association_object(server))
    return server


def keys(policy: Policy) -> Security:
    return Security(METER, EK, AK, policy=policy, counters=MemoryCounters(1))


READ = [[3, "1.0.1.8.0.255", 2], [3, "1.0.1.8.0.255", 3], [1, "0.0.9.9.9.255", 2]]


@pytest.mark.parametrize("link", ["hdlc", "wrapper"])
def test_gurux_reads_our_meter(link: str) -> None:
    with served(meter(Lls("pw")), link) as port:
        got = peer(
            "gurux_client.py", port=port, link=link, auth="low", secret="pw", read=READ, objects=True,
            profile=str(PROFILE), entries=[3, 2], write=[str(STORE), LONG], pdu_size=256,
        )  # fmt: skip
    assert got["values"] == {
        "3/1.0.1.8.0.255/2": 123456,
        "3/1.0.1.8.0.255/3": [10.0, 30],
        "1/0.0.9.9.9.255/2": "error 4",
    }
    assert str(STORE) in got["objects"]
    assert [row[1:] for row in got["rows"]] == [[1002, 2302], [1003, 2303]]
    assert got["written"] == LONG


@pytest.mark.parametrize(
    ("name", "policy", "dedicated"),
    [
        ("md5", Policy.NONE, False),
        ("sha1", Policy.BOTH, False),
        ("sha256", Policy.AUTHENTICATE, True),
        ("gmac", Policy.ENCRYPT, False),
        ("gmac", Policy.BOTH, True),
    ],
)
def test_gurux_reads_our_meter_with_high_level_security_and_ciphering(
    name: str, policy: Policy, dedicated: bool
) -> None:
    security = keys(policy) if policy else None
    ciphering = {"ek": EK.hex(), "ak": AK.hex(), "title": CLIENT.hex(), "policy": int(policy), "dedicated": dedicated}
    with served(meter(open_auth(name, b"secret"), security), "wrapper") as port:
        got = peer(
            "gurux_client.py", port=port, link="wrapper", auth=name, secret="secret", read=READ[:1],
            profile=str(PROFILE), entries=[1, 40], write=[str(STORE), LONG], pdu_size=512,
            **(ciphering if policy else {}),
        )  # fmt: skip
    assert got["values"] == {"3/1.0.1.8.0.255/2": 123456}
    assert len(got["rows"]) == 40
    assert got["written"] == LONG


def test_gurux_and_our_meter_prove_themselves_with_ecdsa() -> None:
    curve = ec.SECP256R1()  # with P-384 gurux fails in its own code
    ours, theirs = ec.generate_private_key(curve), ec.generate_private_key(curve)
    auth = Hls(Mechanism.HLS_ECDSA, private_key=ours, peer_key=theirs.public_key(), system_title=METER)
    number = theirs.private_numbers().private_value.to_bytes(curve.key_size // 8, "big")
    with served(meter(auth), "wrapper") as port:
        got = peer(
            "gurux_client.py", port=port, link="wrapper", auth="ecdsa", read=READ[:1], title=CLIENT.hex(),
            private_key=number.hex(), peer_key=(b"\x04" + public_octets(ours.public_key())).hex(),
        )  # fmt: skip
    assert got["values"] == {"3/1.0.1.8.0.255/2": 123456}


def test_gurux_proves_itself_with_hls_2_as_most_makers_have_it() -> None:
    with served(meter(Hls(Mechanism.HLS, transform=aes_ecb(b"sixteen octets!!"))), "wrapper") as port:
        got = peer(
            "gurux_client.py", port=port, link="wrapper", auth="high", secret="sixteen octets!!", read=READ[:1]
        )  # fmt: skip
    assert got["values"] == {"3/1.0.1.8.0.255/2": 123456}


@pytest.mark.parametrize("link", ["hdlc", "wrapper"])
def test_gurux_reads_our_meter_by_short_names(link: str) -> None:
    objects = [item for item in World().server.objects() if item.class_id != 15]
    with served(MeterServer(objects, auth=Lls("pw"), short_names=True), link) as port:
        got = peer(
            "gurux_client.py", port=port, link=link, auth="low", secret="pw", ln=False, registers=["1.0.1.8.0.255"],
            profile=str(PROFILE), entries=[3, 8],
        )  # fmt: skip
    assert got["values"] == {"1.0.1.8.0.255": 123456}
    assert [row[1] for row in got["rows"]] == list(range(1002, 1010))
    assert got["names"]["0.0.40.0.0.255"] == 0xFA00


@pytest.mark.parametrize("link", ["hdlc", "wrapper"])
@pytest.mark.parametrize("name", ["none", "low", "gmac"])
def test_dlms_cosem_reads_our_meter(link: str, name: str) -> None:
    ciphering = {"ek": EK.hex(), "ak": AK.hex(), "title": CLIENT.hex()} if name == "gmac" else {}
    auth = open_auth(name, b"pw")
    with served(meter(auth, keys(Policy.BOTH) if name == "gmac" else None), link) as port:
        got = peer("cosem_client.py", port=port, link=link, auth=name, secret="pw", read=READ[:2], **ciphering)
    assert got["values"] == {"3/1.0.1.8.0.255/2": "060001e240", "3/1.0.1.8.0.255/3": "02020f01161e"}


@contextlib.contextmanager
def gurux_meter(**options: object) -> Iterator[int]:
    command = [str(PEERS), str(HERE / "peers" / "gurux_server.py"), json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("name", ["none", "low"])
def test_our_client_reads_a_gurux_meter_although_its_lists_are_broken(name: str) -> None:
    with gurux_meter(auth=name, secret="pw") as port:
        client = Meter(f"socket://127.0.0.1:{port}", link="wrapper", auth=open_auth(name, b"pw"))
        with client as reader:
            assert reader.read("0.0.42.0.0.255").value == "GRX0000000123456"
            results = reader.read_many([f"1.0.{at}.8.0.255" for at in range(1, 33)])
            again = reader.read_many([f"1.0.{at}.8.0.255" for at in range(1, 31)])
    assert [type(result) for result in results] == [Reading] * 30 + [Failed] * 2
    assert isinstance(results[5], Reading)
    assert (results[5].value, results[5].unit) == (Decimal("100.5"), "Wh")
    assert results[-1] == Failed(results[-1].ref, "object-undefined")
    assert [result for result in again if isinstance(result, Reading)] == again


def test_a_gurux_meter_refuses_a_wrong_password() -> None:
    with gurux_meter(auth="low", secret="pw") as port, pytest.raises(PeerError, match="authentication-failure"):
        Meter(f"socket://127.0.0.1:{port}", link="wrapper", auth=Lls("wrong")).open()


GURUX_DIFFERS = {
    # An array where the Blue Book has a structure of named members.
    (4, 3), (5, 4), (7, 6), (21, 3), (22, 2), (28, 6), (45, 4),
    (21, 2),  # thresholds: gurux gives no type
    (23, 3), (23, 4), (23, 5),  # version 0 of class 23 is its twisted pair setup, which is class 24
    (65, 3),  # an octet-string, which the Blue Book calls date-time; we take either
}  # fmt: skip


def test_the_table_of_classes_and_units_is_that_of_gurux() -> None:
    """Numbers and types of attributes, numbers of methods, codes of units."""
    told = subprocess.run(
        [str(PEERS), str(HERE / "peers" / "gurux_classes.py")], capture_output=True, text=True, check=True, timeout=60
    )
    compared: set[int] = set()
    differs: set[tuple[int, int]] = set()
    units: set[int] = set()
    for line in told.stdout.splitlines():
        kind, *words = line.split()
        if kind == "unit":
            units.add(int(words[0]))
            continue
        class_id, version, *rest = [int(word) for word in words]
        known = interface_class(class_id, version)
        if known is None:
            continue
        compared.add(class_id)
        if kind == "methods":
            assert max(known.methods, default=0) == rest[0] or class_id == 4, f"methods of {known}"  # 4 has a reset
        else:
            tag = known.attributes[rest[0]].tag
            if tag is not None and tag != rest[1]:
                differs.add((class_id, rest[0]))
    assert differs == GURUX_DIFFERS
    assert len(compared) >= 40
    assert units - {0} == set(UNITS)
