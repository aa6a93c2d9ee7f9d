"""Our meter read by clients that are not ours, and our client reading a meter that is not ours.

The peers (gurux-dlms and dlms-cosem from PyPI) run as programs of their own, in an environment of their own, whose
Python is named by DLMS_PEERS_PYTHON or found at `.venv-peers/bin/python`. Without it these tests are skipped:

    python3 -m venv .venv-peers && .venv-peers/bin/pip install gurux-dlms dlms-cosem
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.axdr import Data
from dlms.client.meter import Meter
from dlms.client.reading import Failed, Reading
from dlms.codes import SERVER_CONFORMANCE, Conformance, DataAccessResult, Mechanism
from dlms.cosem.classes import interface_class
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.time import CosemDateTime
from dlms.cosem.units import SYMBOLS
from dlms.errors import DecodeError, DlmsError, LinkError, PeerError
from dlms.security.hls import aes_ecb
from dlms.security.keys import public_octets
from dlms.security.settings import Auth, Hls, Lls, MemoryCounters, Policy, Security, open_auth
from dlms.server.objects import CosemObject
from dlms.server.server import MeterServer
from dlms.server.view import association_object
from tests.dlms.cli.test_tool import simulated
from tests.dlms.client.test_meter import PROFILE, START, World
from tests.dlms.meter_port import MeterPort
from tests.dlms.security.test_security import AK, CLIENT, EK, METER

HERE = Path(__file__).parent
PEERS = Path(os.environ.get("DLMS_PEERS_PYTHON", HERE.parents[1] / ".venv-peers" / "bin" / "python"))
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not PEERS.exists(), reason="no environment with the peers: see the module"),
]
STORE = Obis.parse("0.0.96.1.0.255")
LONG = "aabb" * 400


def clock_octets(minutes: int) -> str:
    return CosemDateTime.from_datetime(START + timedelta(minutes=minutes)).emit().hex()


class Store:
    """A data object that can be written."""

    def __init__(self) -> None:
        self.value = axdr.octets(b"")
        self.item = CosemObject(1, STORE, readers={2: lambda _selection: self.value}, writers={2: self.write})

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
    return run_peer(script, options, 1)


def run_peer(script: str, options: dict[str, object], tries: int) -> dict[str, Any]:
    command = [str(PEERS), str(HERE / "peers" / script), json.dumps(options)]
    for _ in range(tries):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def meter(auth: Auth, security: Security | None = None, conformance: Conformance = SERVER_CONFORMANCE) -> MeterServer:
    world = World()
    objects = [*world.server.objects(), Store().item]
    server = MeterServer(objects, auth=auth, security=security, conformance=conformance)
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


IMAGE = b"I" + bytes(range(256)) * 2
ROWS_FROM_1 = [[f"2026-03-01T01:{minute:02}:00+00:00", 1004 + at, 2304 + at] for at, minute in enumerate((0, 15, 30))]
HOUR = ("2026-03-01T01:00:00+00:00", "2026-03-01T01:30:00+00:00")
# What gurux does in one session, and what comes of it.
GURUX_STEPS: list[tuple[list[object], object]] = [
    (["read", 3, "1.0.1.8.0.255", 2], 123456),
    (["read", 1, "0.0.9.9.9.255", 2], {"failed": "RuntimeError: error 4"}),
    (["write", str(STORE), LONG], LONG),
    (["get_list", "1.0.1.8.0.255", "1.0.32.7.0.255"], [123456, 2301]),
    (["set_list", [str(STORE), "0102"], [str(STORE), "0304"]], ["0304", "0304"]),
    (["rows_by_entry", str(PROFILE), 5, 3], ROWS_FROM_1),
    (["rows_by_range", str(PROFILE), *HOUR], ROWS_FROM_1),
    (["rows_by_range", str(PROFILE), *HOUR, 1], [[1004], [1005], [1006]]),
    (["rows_by_entry", str(PROFILE), 5, 3, 0], [[clock_octets(15 * at)] for at in range(4, 7)]),
    # gurux gives a count where the number of the last column is due: "from the second to the first".
    (["rows_by_entry", str(PROFILE), 5, 3, 1], [[], [], []]),
    (
        ["clock", "2026-03-05T10:00:00+00:00", 30],
        ["2026-03-11T00:00:00+00:00", "2026-03-05T10:00:00+00:00", "2026-03-05T10:00:30+00:00"],
    ),
    (["contactor", "0.0.96.3.10.255"], [[False, 0, 4], [True, 1, 4]]),
    (["image", IMAGE.hex(), "v2"], ["11111", [[len(IMAGE), hashlib.sha256(IMAGE).hexdigest()]], 6]),
    (["access", "1.0.1.8.0.255", "1.0.99.8.0.255"], [[123456, 0], [None, 4]]),
]


@pytest.mark.parametrize(
    ("link", "name", "policy", "pdu_size"),
    [
        ("hdlc", "none", Policy.NONE, 128),
        ("hdlc", "low", Policy.NONE, 512),
        ("hdlc", "md5", Policy.ENCRYPT, 300),
        ("hdlc", "gmac", Policy.BOTH, 512),
        ("wrapper", "low", Policy.NONE, 1024),
        ("wrapper", "sha1", Policy.NONE, 512),
        ("wrapper", "sha256", Policy.AUTHENTICATE, 200),
        ("wrapper", "gmac", Policy.BOTH, 1024),
    ],
)
def test_gurux_uses_everything_our_meter_has(link: str, name: str, policy: Policy, pdu_size: int) -> None:
    ciphering = {"ek": EK.hex(), "ak": AK.hex(), "title": CLIENT.hex(), "policy": int(policy)} if policy else {}
    steps = [*(step for step, _outcome in GURUX_STEPS), ["association"]]
    with served(meter(open_auth(name, b"secret"), keys(policy) if policy else None), link) as port:
        got = peer(
            "gurux_client.py", port=port, link=link, auth=name, secret="secret", pdu_size=pdu_size, steps=steps,
            **ciphering,
        )["steps"]  # fmt: skip
    for (step, expected), outcome in zip(GURUX_STEPS, got, strict=False):
        assert outcome == expected, step
    view = got[-1]
    assert view["objects"][str(STORE)] == 1
    assert view["sizes"] == [1024, pdu_size]
    assert (view["context"], view["status"]) == (3 if policy else 1, 2)
    assert view["mechanism"] == {"none": 0, "low": 1, "md5": 3, "sha1": 4, "gmac": 5, "sha256": 6}[name]


def test_gurux_hears_a_push_before_its_answer() -> None:
    """Over the wrapper: with HDLC gurux does not give the meter the turn for the answer that follows the news."""
    with simulated("--listen", "tcp://127.0.0.1:0", "--link", "wrapper") as url:
        ((told,),) = peer(
            "gurux_client.py", port=int(url.rpartition(":")[2]), link="wrapper", auth="none",
            steps=[["push", "1.0.1.8.0.255"]], also=["DATA_NOTIFICATION"],
        )["steps"]  # fmt: skip
    _clock, energy, _event = told
    assert energy > 0


def test_gurux_has_general_block_transfer_that_fails_in_its_own_code() -> None:
    with served(meter(open_auth("none")), "wrapper") as port:
        got = peer(
            "gurux_client.py", port=port, link="wrapper", auth="none", pdu_size=128,
            steps=[["rows_by_entry", str(PROFILE), 1, 40]], also=["GENERAL_BLOCK_TRANSFER"],
        )["steps"]  # fmt: skip
    assert got == [{"failed": "AttributeError: 'GXDLMSSettings' object has no attribute 'blockNumber'"}]


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
        # Over HDLC dlms-cosem waits for ever for a frame whose checksum ends in 7E: one in 256, and a session with a
        # proof has other octets each time.
        options = {"port": port, "link": link, "auth": name, "secret": "pw", "read": READ[:2], **ciphering}
        got = run_peer("cosem_client.py", options, 3 if (link, name) == ("hdlc", "gmac") else 1)
    assert got["values"] == {"3/1.0.1.8.0.255/2": "060001e240", "3/1.0.1.8.0.255/3": "02020f01161e"}


COSEM_STEPS: list[tuple[list[object], object]] = [
    (["get", 3, "1.0.1.8.0.255", 2], "060001e240"),
    (["set_value", 1, str(STORE), 2, "09020102"], "SUCCESS"),
    (["get", 1, str(STORE), 2], "09020102"),
    (["set_value", 3, "1.0.1.8.0.255", 2, "1105"], "READ_WRITE_DENIED"),
    (["act", 70, "0.0.96.3.10.255", 1, "0f00"], None),
    (["get", 70, "0.0.96.3.10.255", 2], "0300"),
    (
        ["act", 3, "1.0.1.8.0.255", 1, "0f00"],
        {"failed": "ActionError: Unsuccessful ActionRequest: READ_WRITE_DENIED"},
    ),
    (
        ["by_range", str(PROFILE), *HOUR],
        "0103"
        + "".join(f"0203090c{clock_octets(15 * at)}06{1000 + at:08x}12{2300 + at % 10:04x}" for at in range(4, 7)),
    ),
    (
        ["get_list", [3, "1.0.1.8.0.255", 2], [3, "1.0.32.7.0.255", 2]],
        ["DoubleLongUnsignedData(value=123456)", "UnsignedLongData(value=2301)"],
    ),
    # Selection by entry is not written in dlms-cosem.
    (["by_entry", str(PROFILE), 3, 4, 2, 3], {"failed": "NotImplementedError: "}),
]
WHOLE = ["get", 7, str(PROFILE), 2]


@pytest.mark.parametrize(("link", "name"), [("hdlc", "low"), ("wrapper", "none"), ("wrapper", "gmac")])
def test_dlms_cosem_uses_what_it_can_of_our_meter(link: str, name: str) -> None:
    ciphering = {"ek": EK.hex(), "ak": AK.hex(), "title": CLIENT.hex()} if name == "gmac" else {}
    security = keys(Policy.BOTH) if name == "gmac" else None
    server = meter(open_auth(name, b"pw"), security, SERVER_CONFORMANCE & ~Conformance.GENERAL_BLOCK_TRANSFER)
    steps = [*(step for step, _outcome in COSEM_STEPS), WHOLE]
    with served(server, link) as port:
        got = peer("cosem_client.py", port=port, link=link, auth=name, secret="pw", read=[], steps=steps, **ciphering)
    for (step, expected), outcome in zip(COSEM_STEPS, got["steps"], strict=False):
        assert outcome == expected, step
    buffer = axdr.decode(bytes.fromhex(got["steps"][-1]))
    assert len(buffer.members()) == 500


def test_dlms_cosem_proposes_general_block_transfer_and_cannot_do_it() -> None:
    with served(meter(open_auth("none")), "wrapper") as port:
        got = peer("cosem_client.py", port=port, link="wrapper", auth="none", read=[], steps=[WHOLE])
    assert got["steps"] == [{"failed": "KeyError: 'Tag 224 is not available in DLMS APDU Factory'"}]


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


def test_our_client_uses_what_works_of_a_gurux_meter() -> None:
    with gurux_meter(auth="low", secret="pw") as port:
        reader = Meter(f"socket://127.0.0.1:{port}", link="wrapper", auth=Lls("pw"))
        with reader:
            found = {info.obis: info.class_id for info in reader.discover()}
            assert found[PROFILE] == 7
            assert reader.read("1.0.7.8.0.255").unit == "Wh"
            assert reader.clock.get().value == START + timedelta(hours=12)
            reader.clock.set(START)
            assert reader.clock.get().value == START
            store = AttributeRef(1, STORE, 2)
            reader.set(store, axdr.octets(b"written"))
            assert reader.get(store) == axdr.octets(b"written")
            rows = list(reader.profile(PROFILE))
    assert [row.raw for row in rows] == [(START + timedelta(minutes=15 * at), 1000 + at) for at in range(40)]


def by_entry_of(reader: Meter) -> object:
    return list(reader.profile(PROFILE, entries=(3, 4)))


# What gurux's meter fails at in its own code, and how our client takes it: an error in time, and the next call works.
GURUX_FAILS: dict[str, tuple[Callable[[Meter], object], type[DlmsError]]] = {
    "an array without its rows": (by_entry_of, DecodeError),
    "compares a time with a number": (lambda reader: list(reader.profile(PROFILE, since=START)), LinkError),
    "methods": (lambda reader: reader.disconnect(), LinkError),
    "a number as an object": (lambda reader: reader.image.transfer(IMAGE, b"v2"), LinkError),
}


@pytest.mark.parametrize("what", sorted(GURUX_FAILS))
def test_our_client_survives_what_a_gurux_meter_fails_at(what: str) -> None:
    act, error = GURUX_FAILS[what]
    with gurux_meter(auth="none", secret="") as port, Meter(f"socket://127.0.0.1:{port}", link="wrapper") as reader:
        with pytest.raises(error):
            act(reader)
        assert reader.read("0.0.42.0.0.255").value == "GRX0000000123456"


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_a_gurux_meter_cannot_answer_a_proof(name: str) -> None:
    """Its association takes the proof for a number: `int(bytes)`."""
    with gurux_meter(auth=name, secret="secret") as port, pytest.raises(LinkError):
        Meter(f"socket://127.0.0.1:{port}", link="wrapper", auth=open_auth(name, b"secret")).open()


def test_a_gurux_meter_fails_at_blocks() -> None:
    with gurux_meter(auth="none", secret="") as port, pytest.raises(LinkError):
        Meter(f"socket://127.0.0.1:{port}", link="wrapper", pdu_size=128).discover()


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
    assert units - {0} == set(SYMBOLS)
