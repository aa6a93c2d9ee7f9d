"""Fuzz targets for what the daemon reads: its files, what a technician asks, and what comes to the push listener.

A file of the device's own that is damaged is a typed error, or counts as absent; it never stops the daemon.
"""

from __future__ import annotations

import functools
import json
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.cli import wbxml
from agent.clock_floor import Stored
from agent.clock_keeper import load_floor
from agent.daemon.control import ControlServer
from agent.daemon.device_orders import Marker
from agent.dm.push import BODY_BYTES_MAX, Request, RequestError, parse_head
from agent.dm.session import Session
from agent.dm.session_events import Answer, CommandsReceived, Ended, NoncesChanged, SessionSettings
from agent.metering.ledger.ledger import Verdict
from agent.metering.orders.types import typed_json
from agent.metering.orders.types.typed_json import TypedJsonError
from agent.metering.registry import added
from agent.metering.registry.capabilities import ObjectList, Offered
from agent.metering.registry.counters import Counters
from agent.metering.registry.device_book import Device
from agent.metering.registry.history import NetworkChange
from agent.metering.registry.registry import Registry
from agent.metering.scheduling import epoch_file
from agent.metering.scheduling.epoch_file import EpochFile, KeptEpochs
from agent.metering.scheduling.readinglist import ReadingListError
from agent.metering.scheduling.readinglist import parse as parse_list
from agent.metering.scheduling.slots import Epoch
from agent.metering.store import life_sign
from agent.metering.store.life_sign import LifeSign, LifeSignFile
from agent.ota import download_state
from agent.ota.handover import HandOver
from agent.ota.update_command import ask
from agent.settings.config import ConfigError, PortConfig, ScanConfig, load
from agent.settings.identity import SecretError, read_release, read_secret
from agent.settings.provisioning import AddedMeter
from agent.settings.reading_codes import ReadingCodeError, parse_code, parse_codes
from agent.ssmp.certificate_file import read_certificate, read_private_key
from agent.tls import TlsError
from agent.tls import parse as parse_certificate
from agent.tree.acl import Acl
from agent.tree.nodes import State, state_from_json, state_to_json
from agent.tree.persistence import JsonFile, ManagementTree
from agent.tree.schema import Access, Format, NodeSpec
from agent.tree.tnds import from_tnds
from agent.tree.tree import Transaction
from agent.tree.uri import parse_uri, show
from dlms import axdr
from dlms.errors import DlmsError
from omadm import auth
from omadm.codes import Refusal
from omadm.syncml import codec, document
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import (
    Alert,
    Chal,
    Get,
    Item,
    MgmtTree,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
    TndsNode,
)
from plc.protocols import HDLC
from tests.agent.certificates import authority
from tests.agent.dm import server
from tests.agent.tree.test_tree import SCHEMA as TREE_SCHEMA
from tests.agent.virtual import VirtualClock
from tests.fuzz.guided import Target
from tests.fuzz.targets import dictionaries, events
from tests.omadm.ssmp import certified
from tests.omadm.syncml import samples
from tests.omadm.syncml.tnds_documents import decode_tnds
from tests.sim.faulty_disk import FaultyDisk
from updateagent.handover import InstallRequest

HERE = "/agent/"
REPO = Path(__file__).parents[3]
FOLDER = Path("/data")


@functools.cache
def scratch() -> Path:
    """A file of this process, written again and again."""
    return Path(tempfile.mkdtemp(prefix="fuzz-agent-")) / "input"


def written(data: bytes) -> Path:
    file = scratch()
    file.write_bytes(data)
    file.chmod(0o600)
    return file


def run_config(data: bytes) -> None:
    """A configuration, or an error that names the file in each of its lines."""
    file = written(data)
    try:
        load(file)
    except ConfigError as caught:
        error = caught
    else:
        return
    assert error.problems
    assert all(line.startswith(f"{file}:") for line in str(error).splitlines())


def config_seeds() -> list[bytes]:
    whole = (REPO / "etc" / "dcu.yaml").read_bytes()
    lines = [line for line in whole.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    return [whole, b"\n".join(lines) + b"\n"]


def run_floor(data: bytes) -> None:
    """A file that is no floor counts as none; what is one is kept as it was."""
    disk = FaultyDisk()
    disk.mkdir_durable(FOLDER)
    disk.write_durable(FOLDER / "floor", data)
    found = load_floor(disk, FOLDER / "floor")
    assert Stored.parse(found.emit()) == found


def run_certificate(data: bytes) -> None:
    found = parse_certificate(data)
    assert found.identity[0][:1] == found.identity[1][:1] == b"\x30"


def certificates() -> list[bytes]:
    return [authority((0, 2e9)).certificate.public_bytes(Encoding.DER)]


def run_reading_list(data: bytes) -> None:
    found = parse_list("fuzz", data.decode("utf-8", "replace"), "fuzz.csv")
    assert found.items


def list_seeds() -> list[bytes]:
    whole = (REPO / "etc" / "reading-lists" / "residential-108.csv").read_bytes().splitlines(keepends=True)
    return [b"".join(whole[:12]), b"cls,attr,obis\n3,2,1.0.1.8.0.255\n# no\n8,2,0.0.1.0.0.255\n"]


def run_reading_codes(data: bytes) -> None:
    for item in parse_codes(data.decode("utf-8", "replace")):
        assert parse_code(str(item.ref)).ref == item.ref


def code_seeds() -> list[bytes]:
    return [
        b"8/0.0.1.0.0.255/2, 3/1.0.1.8.0.255/2,3/1.0.1.8.0.VZ/2,  3/1.0.1.8.0.VZ-12/2",
        b"7/1.0.99.1.0.255/2 from 2026-11-01 to 2026-11-15 last 12 columns 1.0.1.8.0.255",
    ]


def run_generation(data: bytes) -> None:
    """A file of two generations as it is found."""
    disk = FaultyDisk()
    disk.mkdir_durable(FOLDER)
    disk.write_durable(FOLDER / "tree.0", data)
    JsonFile(disk, FOLDER, "tree").load()


def generation_of(payload: bytes) -> bytes:
    fields = f"dcu-store 1 tree 7 {len(payload)}"
    crc = zlib.crc32(payload, zlib.crc32(fields.encode()))
    return f"{fields} {crc:08x}\n".encode() + payload


def run_tree(data: bytes) -> None:
    """A stored tree whose checksum is right, whatever it says: it is used or dropped, and can be stored again."""
    disk = FaultyDisk()
    disk.mkdir_durable(FOLDER)
    disk.write_durable(FOLDER / "tree.0", generation_of(data))
    tree = ManagementTree(SCHEMA, disk, FOLDER, lambda: 1_800_000_000.0)
    state = tree.state
    with tree.transaction() as changing:
        changing.put(("Note",), "x")
    assert ManagementTree(SCHEMA, disk, FOLDER, lambda: 0.0).state != state or state == tree.state


SCHEMA = NodeSpec(
    "", children=(NodeSpec("Note", Format.CHR, Access.GET | Access.REPLACE), NodeSpec("Octets", Format.BIN))
)


def tree_seeds() -> list[bytes]:
    node = {"f": "node", "s": 5, "r": 1, "c": {"Note": {"f": "chr", "s": 6, "r": 2, "v": "x", "a": "Get=*", "n": "t"}}}
    octets = {"f": "bin", "s": 0, "r": 0, "b": "AAH/", "t": "text/plain"}
    return [
        json.dumps({"root": node, "records": {"job": {"state": 1}}}).encode(),
        json.dumps({"root": {**node, "c": {"Note": octets}}, "records": {}}).encode(),
    ]


def run_registry(data: bytes) -> None:
    """A registry file: read or set aside, and the registry works on. The first byte chooses whether the checksum is
    made to fit."""
    if data[:1] == b"!":
        data = with_checksum(data[1:])
    disk, file = FaultyDisk(), FOLDER / "meters.json"
    disk.mkdir_durable(FOLDER)
    disk.write_durable(file, data)
    clock = VirtualClock()
    registry = Registry(disk, file, clock, leave_after_s=60)
    registry.meters()
    registry.join("plc", 5, b"\2\0\0\0\0\5")
    registry.save()
    assert Registry(disk, file, clock, leave_after_s=60).names() == registry.names()


def with_checksum(data: bytes) -> bytes:
    try:
        document = json.loads(data)
        canonical = json.dumps(document["meters"], sort_keys=True, separators=(",", ":")).encode()
        return json.dumps(document | {"crc32": zlib.crc32(canonical)}).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return data


def registry_seeds() -> list[bytes]:
    disk, file = FaultyDisk(), FOLDER / "meters.json"
    registry = Registry(disk, file, VirtualClock(), leave_after_s=60)
    meter = registry.join("plc", 5, bytes.fromhex("02dc00000001"))
    registry.name(meter.key, "KR0000000000001")
    registry.save()
    content = disk.read_bytes(file)
    return [content, b"!" + content]


def run_added(data: bytes) -> None:
    """A file of meters that were added by hand, with a checksum that fits: its meters, or `ValueError`."""
    for meter in added.parse(with_checksum(data))[0]:
        assert added.key_of(meter)


def added_seeds() -> list[bytes]:
    disk, file = FaultyDisk(), FOLDER / "added.json"
    registry = Registry(disk, FOLDER / "meters.json", VirtualClock(), leave_after_s=60)
    port = PortConfig("bus", HDLC, "/dev/bus", 9600, scan=ScanConfig(1, 2))
    added.AddedMeters(disk, file, [port], registry).add(AddedMeter("bus", 17, parity="even", mode_e="1"))
    return [disk.read_bytes(file)]


def run_meter_rows(data: bytes) -> None:
    """Rows of the store about a meter and its network: whatever they say, they are used or count as absent."""
    row = json.loads(data)
    if not isinstance(row, dict):
        return
    device = Device.load(row)
    assert Device.load(device.dump()) == device
    Counters.load(row.get("counters"))
    ObjectList.load("digest", row)
    events = row.get("events")
    for stored in events if isinstance(events, list) else ():
        NetworkChange.load(stored)


def meter_rows() -> list[bytes]:
    device = Device("KFM1", "T", "V1", Offered(7, 1024, None), "ab", "V1", "", 2, 1.5, "", Counters(1, 2))
    change = NetworkChange(3, 1.5, "promote", "02dc00000001", 0, 3)
    rows = {**device.dump(), **ObjectList("ab", 1, ("3/1.0.1.8.0.255/0",)).dump(), "events": [change.row()]}
    return [json.dumps(rows).encode()]


def run_object_list(data: bytes) -> None:
    """The object list of a meter, as A-XDR."""
    found = ObjectList.parse(axdr.decode(data))
    assert found.count >= len(found.objects)


def object_lists() -> list[bytes]:
    entry = axdr.structure(axdr.u16(3), axdr.u8(0), axdr.octets(bytes((1, 0, 1, 8, 0, 255))), axdr.structure())
    return [axdr.array([entry, entry]).emit()]


def run_download_state(data: bytes) -> None:
    found = download_state.parse(data)
    if found is not None:
        assert download_state.parse(found.emit()) == found


def run_download_record(data: bytes) -> None:
    """The same with a checksum that fits."""
    run_download_state(record(data))


def state_seeds() -> list[bytes]:
    state = download_state.State("https://h/p", "https://h/o", "<media/>", '"e"', 100, 50, 60, 1, "a/b")
    return [state.emit()]


def run_partial(data: bytes) -> None:
    """The first byte says how much of the file is there, the rest is the record beside it: with them, a download goes
    on, and never claims more than was there."""
    path = FOLDER / "package"
    disk = FaultyDisk()
    disk.mkdir_durable(FOLDER)
    size = data[0] if data else 0
    disk.write_durable(path, bytes(size))
    disk.write_durable(download_state.path_for(path), record(data[1:]))
    partial = download_state.PartialFile(disk, VirtualClock(), path, 1 << 20, lambda: None)
    partial.load("https://h/p")
    assert partial.state.offset == partial.have <= size
    partial.close()


def record(text: bytes) -> bytes:
    return text + b"\n" + f"{zlib.crc32(text):08x}\n".encode()


def run_handover(data: bytes) -> None:
    """The three files that the Update Agent leaves, with the same content."""
    disk = FaultyDisk()
    handover = HandOver(disk, FOLDER)
    handover.prepare()
    for name in ("inbox/request.json", "outbox/result.json", "status.json"):
        disk.write_durable(FOLDER / name, data)
    result = handover.result()
    if result is not None:
        json.dumps([result.error, result.log, result.fumo])
        handover.forget_result(result.id)
        assert handover.result() is None
    handover.status()
    disk.write_durable(FOLDER / "download" / "p", b"package")
    handover.submit(FOLDER / "download" / "p", InstallRequest("fuzz-request", "package.swu", "c", 1))


def handover_seeds() -> list[bytes]:
    result = {"version": 1, "id": "r", "correlator": "c", "name": "ok", "fumo": 200, "code": 0, "log": ["a", "b"]}
    slots = [{"name": "A", "version": "1", "state": "good"}, {"name": "B"}]
    status = {"state": "trial", "booted": "A", "progress": 5, "slots": slots, "update": {"attempts": 1}, "last": {}}
    return [json.dumps(document).encode() for document in (result, status, {"version": 1, "id": "fuzz-request"})]


def run_answer(data: bytes) -> None:
    """What `dcu-update` prints, and exits with 0."""
    status, answer = ask(["/bin/cat", str(written(data))], lambda: None, 60.0)
    assert status == 0
    assert isinstance(answer, dict)


def run_control(data: bytes) -> None:
    """Any line gets one line of JSON back, and none of them is a defect of ours."""

    def status(request: Mapping[str, object]) -> object:
        return {"command": request["command"]}

    control = ControlServer(Path("/nowhere"), {"status": status, "queue": status})
    line = control.answer(data)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    document = json.loads(line)
    assert document["ok"] or "internal error" not in document["error"]


def run_push(data: bytes) -> None:
    assert 0 <= parse_head(data) <= 1024


def run_push_request(data: bytes) -> None:
    """A request in pieces, as long as the first octet says: the same body as at once, or a refusal."""
    size, octets = data[:1], data[1:]
    step = max(1, size[0]) if size else 1
    taken, body = Request(), None
    while octets and body is None:
        body = taken.receive(octets[:step])
        octets = octets[step:]
    assert not data[1:] or body == Request().receive(data[1:])
    if body is None:
        taken.receive(b"")  # the sender ends: refused
    assert body is not None
    assert len(body) <= BODY_BYTES_MAX


def push_requests() -> list[bytes]:
    request = PUSH + b"\r\n\r\n" + b"n" * 100
    return [bytes([step]) + request for step in (7, 255)]


def run_life_sign(data: bytes) -> None:
    """A file with that in both places, with a checksum that is right or as it came: a sound sign or none."""
    for octets in (data, b"%08x %s\n" % (zlib.crc32(data), data)):
        found = LifeSign.parse(octets)
        assert found is None or LifeSign.parse(found.emit()) == found
        disk = FaultyDisk()
        disk.mkdir_durable(FOLDER)
        line = octets[: life_sign.GENERATION_BYTES]
        disk.write_durable(FOLDER / "alive", line.ljust(life_sign.GENERATION_BYTES, b"\0") + line)
        file = LifeSignFile(FOLDER / "alive", disk)
        assert file.read() == LifeSign.parse(line[: life_sign.LINE_BYTES_MAX])
        file.close()


def life_signs() -> list[bytes]:
    sign = LifeSign(5, "ab" * 16, 900, 880, 1_800_000_000.25, 1_800_000_300.5).emit()
    return [sign, sign[9:].rstrip()]


def run_epochs(data: bytes) -> None:
    """A file with that, with a checksum that is right or as it came: epochs that can be kept again, or none."""
    whole = b'{"version": 1, "crc32": %d, "kept": %s}' % (_crc_of(data), data)
    for octets in (data, whole):
        disk = FaultyDisk()
        disk.mkdir_durable(FOLDER)
        disk.write_durable(FOLDER / "clock", octets)
        found = EpochFile(FOLDER / "clock", disk).read()
        if found is not None:
            assert epoch_file.parse(epoch_file.emit(found)) == found


def _crc_of(data: bytes) -> int:
    try:
        return zlib.crc32(json.dumps(json.loads(data), separators=(",", ":")).encode())
    except (ValueError, RecursionError):
        return 0


def epoch_files() -> list[bytes]:
    epoch = Epoch(3, 1_800_000_000.5, 1_800_000_300.0, "ab" * 16, 7, 9, 1_800_000_900.0, trusted=True, inherited=True)
    said = Verdict("", "t1", 900, 1800, 1, 9, trusted=False, store="cd" * 16)
    kept = KeptEpochs("boot", "ab" * 16, 2, (epoch, replace(epoch, offset=None, last=None)), (said,))
    return [epoch_file.emit(kept), json.dumps(kept.members(), separators=(",", ":")).encode()]


def run_wbxml(data: bytes) -> None:
    """`dcuctl wbxml decode`, and `encode` of what it shows: what that makes is shown as the same again."""
    shown = wbxml.decode(wbxml.read_input(str(written(data))))
    again = wbxml.encode(shown.encode())
    assert wbxml.encode(wbxml.decode(again).encode()) == again


def run_wbxml_encode(data: bytes) -> None:
    """`dcuctl wbxml encode`: what it makes can be shown."""
    wbxml.decode(wbxml.encode(data))


def wbxml_documents() -> list[bytes]:
    return [codec.encode(samples.EVERYTHING, codec.DM_WBXML), codec.encode_tnds(samples.TREE, document.TNDS_WBXML)]


def xml_documents() -> list[bytes]:
    return [wbxml.decode(each).encode() for each in wbxml_documents()]


def run_uri(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    address = parse_uri(text)
    assert parse_uri(show(address.path)).path == address.path


def run_subtree(data: bytes) -> None:
    """A subtree that a server adds: it is in the tree, or refused and nothing is."""
    state = State()
    changing = Transaction(TREE_SCHEMA, state, server="server", wall=1000.0)
    for path in from_tnds(changing, ("B", "x"), decode_tnds(data, document.TNDS_XML)):
        assert changing.find(path) is not None
    assert state_from_json(json.loads(json.dumps(state_to_json(changing.state)))) == changing.state


def subtrees() -> list[bytes]:
    name = TndsNode("Name", format="chr", type="text/plain", value="one")
    deep = TndsNode("Sub", format="node", children=(TndsNode("Deep", format="int", value="5"),))
    trees = MgmtTree((TndsNode("x", format="node", children=(name, deep)),)), MgmtTree((name,))
    return [codec.encode_tnds(tree, document.TNDS_XML) for tree in trees]


def run_session(data: bytes) -> None:
    """Messages of a server, each proven, as a session hears them: it answers, ends, or fails, and says so once. The
    first byte chooses whether the last message is proven."""
    account = server.ACCOUNT
    settings = SessionSettings(
        account, account.client_nonce, account.server_nonce, "1", "urn:dcu:TEST-1", (("Lang", "en"),), codec.DM_XML
    )
    session = Session(settings, bytes)
    session.start(0.0)
    ends: list[Ended] = []
    nonce = account.server_nonce
    parts = data[1:].split(b"\0")
    for at, body in enumerate(parts):
        if ends or session.take_output() is None:
            break
        proven = at < len(parts) - 1 or data[:1] != b"-"
        mac = auth.hmac_header(body, account.server_name, account.server_secret, nonce) if proven else None
        session.receive(Answer(200, codec.DM_XML, body, mac), 1.0)
        while (event := session.next_event()) is not None:
            match event:
                case Ended():
                    ends.append(event)
                case NoncesChanged():
                    nonce = event.server_nonce
                case CommandsReceived():
                    assert proven
                    session.answer([], 1.0)
    if not ends:
        session.receive_failure("the line is down", 2.0)
        ends += [event for event in iter(session.next_event, None) if isinstance(event, Ended)]
    assert len(ends) == 1


def sessions() -> list[bytes]:
    header = SyncHdr("1", 1, target="urn:dcu:TEST-1", source="https://dm.example/dm")
    ok = Status("1", "1", "0", "SyncHdr", 212, chal=Chal("syncml:auth-MAC", "b64", b"next"))
    first = SyncML(header, (ok, Get("2", (Item(target="./DevInfo/DevId"),)), Alert("3", 1226)), final=True)
    last = SyncML(replace(header, msg_id=2), (replace(ok, msg_ref="2"),), final=True)
    bodies = [codec.encode(message, codec.DM_XML) for message in (first, last)]
    return [b"+" + b"\0".join(bodies), b"-" + bodies[1]]


def run_typed_json(data: bytes) -> None:
    """A parameter of an order, as an operator gives it: what is taken is said again in the same words."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return
    typed_json.decode(given)


def typed_values() -> list[bytes]:
    return [b'["u16",5]', b'["struct",[["i8",-1],["oct","01ff"],["f32","NaN"],["bits","0101"]]]', b'["null",null]']


def run_acl(data: bytes) -> None:
    found = Acl.parse(data.decode("utf-8", "replace"))
    assert found is None or Acl.parse(found.emit()) == found


def run_secret(data: bytes) -> None:
    assert len(read_secret(written(data))) == 32


def run_device_certificate(data: bytes) -> None:
    assert "urn:dcu:1" in read_certificate(written(data), "urn:dcu:1").names


def run_private_key(data: bytes) -> None:
    assert read_private_key(written(data)).key_size == 256


def certificate_and_key() -> tuple[bytes, bytes]:
    both = certified.issue(certified.authority(), "urn:dcu:1")
    return both.pem(), both.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def run_release(data: bytes) -> None:
    read_release(written(data))


PUSH = b"POST /push HTTP/1.1\r\nHost: dcu\r\nContent-Type: application/vnd.syncml.notification\r\nContent-Length: 100"


def target(
    run: Callable[[bytes], object],
    seeds: Callable[[], list[bytes]],
    *expected: type[Exception],
    tokens: tuple[bytes, ...] = dictionaries.JSON,
    mutations: int = 1000,
) -> Target:
    return Target(run, seeds, expected, HERE, tokens, mutations)


TARGETS = {
    "notification": target(events.run_notice, events.notices, tokens=()),
    "pushed": target(events.run_pushed, events.pushed, tokens=()),
    "push-on-bus": target(events.run_bus, events.buses, tokens=(b"\x7e", b"\xe6\xe7\x00", b"\xe0"), mutations=500),
    "push-on-connection": target(events.run_connection, events.connections, tokens=(b"\x00\x01",)),
    "factory-reset": target(Marker.parse, lambda: [Marker("1", "c", erased=True).emit()], tokens=(b"{", b'"id"')),
    "clock-floor": target(
        run_floor, lambda: [Stored(1.8e9, 1.7e9, 0.0).emit()], tokens=dictionaries.JSON, mutations=500
    ),
    "certificate": target(run_certificate, certificates, TlsError, tokens=(b"\x30\x82", b"\xa0\x03", b"\x17\x0d")),
    "config": target(run_config, config_seeds, tokens=dictionaries.YAML, mutations=150),
    "reading-list": target(run_reading_list, list_seeds, ReadingListError, tokens=dictionaries.CSV),
    "reading-codes": target(
        run_reading_codes, code_seeds, ReadingCodeError, tokens=(b"VZ-1", b" last 1", b" from 2026-11-01T00:00", b",")
    ),
    "generation": target(
        run_generation, lambda: [generation_of(b'{"a":1}')], tokens=(b"dcu-store 1 tree ", b" ", b"\n", b"9" * 19)
    ),
    "tree": target(run_tree, tree_seeds, mutations=500),
    "registry": target(run_registry, registry_seeds, mutations=500),
    "added-meters": target(run_added, added_seeds, ValueError, tokens=dictionaries.JSON, mutations=500),
    "meter-rows": target(run_meter_rows, meter_rows, ValueError, tokens=dictionaries.JSON, mutations=500),
    "object-list": target(run_object_list, object_lists, ValueError, DlmsError, mutations=500),
    "download-state": target(run_download_state, state_seeds),
    "download-record": target(run_download_record, lambda: [seed.partition(b"\n")[0] for seed in state_seeds()]),
    "partial-file": target(run_partial, lambda: [b"\x32" + seed.partition(b"\n")[0] for seed in state_seeds()]),
    "typed-json": target(run_typed_json, typed_values, TypedJsonError, tokens=dictionaries.JSON, mutations=500),
    "handover": target(run_handover, handover_seeds, mutations=500),
    "update-command": target(run_answer, handover_seeds, mutations=40),
    "control": target(run_control, lambda: [b'{"command": "status"}', b'{"command": "queue", "x": [1]}']),
    "push": target(run_push, lambda: [PUSH], RequestError, tokens=dictionaries.HTTP),
    "push-request": target(run_push_request, push_requests, RequestError, tokens=(*dictionaries.HTTP, b"\r\n\r\n")),
    "life-sign": target(run_life_sign, life_signs, tokens=(*dictionaries.JSON, b"9" * 400, b"1e400"), mutations=500),
    "epochs": target(run_epochs, epoch_files, tokens=(*dictionaries.JSON, b"9" * 400, b"1e400", b"NaN"), mutations=500),
    "wbxml": target(run_wbxml, wbxml_documents, SyncmlError, SyncmlValueError, tokens=dictionaries.WBXML),
    "wbxml-encode": target(
        run_wbxml_encode,
        xml_documents,
        SyncmlError,
        SyncmlValueError,
        tokens=dictionaries.XML + dictionaries.SYNCML,
        mutations=500,
    ),
    "uri": target(
        run_uri,
        lambda: [b"./A/B?list=TNDS+ACL-Value", b"./DevInfo/DevId?prop=Format", b"A/B/", b"."],
        Refusal,
        tokens=dictionaries.URI,
    ),
    "subtree": target(run_subtree, subtrees, SyncmlError, Refusal, tokens=dictionaries.XML + dictionaries.SYNCML),
    "session": target(
        run_session, sessions, tokens=(*dictionaries.XML, *dictionaries.SYNCML, b"\0", b"+"), mutations=400
    ),
    "acl": target(
        run_acl, lambda: [b"Get=*&Replace=a+b&Exec=x"], ValueError, tokens=(b"&", b"=", b"+", b"*", b"Add", b"Get")
    ),
    "device-certificate": target(run_device_certificate, lambda: [certificate_and_key()[0]], SecretError, tokens=()),
    "device-private-key": target(run_private_key, lambda: [certificate_and_key()[1]], SecretError, tokens=()),
    "secret": target(run_secret, lambda: [b"00" * 32 + b"\n"], SecretError, tokens=(b"\n", b" ", b"0x")),
    "release": target(run_release, lambda: [b'NAME="DCU"\nVERSION=1.0\n# no\n'], tokens=(b"=", b'"', b"'", b"\n")),
}
