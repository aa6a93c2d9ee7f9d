"""Fuzz targets for a whole meter with everything in it, for files and text that people and programs leave behind, and
for the small decoders that other targets reach only through others.

Success or `DlmsError`; the meter bears everything and raises nothing.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dlms import axdr
from dlms.axdr import Data
from dlms.cli.base_node import NodePort
from dlms.cli.change import parse_value
from dlms.cli.keys import read_private, read_public
from dlms.cli.simulate import BUILT_IN_LIST
from dlms.client.knowledge import MeterKnowledge
from dlms.codes import SERVER_CONFORMANCE, SN_CLIENT_CONFORMANCE, Conformance, Context
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.cosem.profile import CaptureObject, by_entry, columns_of
from dlms.cosem.scaler_unit import ScalerUnit
from dlms.cosem.time import CosemDate, CosemDateTime, CosemTime
from dlms.cursor import Cursor
from dlms.errors import DlmsError
from dlms.explain.apdus import Keys
from dlms.explain.streams import explain_bytes, explain_trace
from dlms.link.hdlc.bus import HdlcServerBus
from dlms.link.hdlc.frames import HdlcAddress
from dlms.link.mode_e.opening import Identification
from dlms.link.trace import HEADER, TraceLine, read_trace
from dlms.link.wrapper import WrapperDecoder, WrapperFrame
from dlms.security.counters import FileCounters, _crc
from dlms.security.general_formats import KeyInfo
from dlms.security.general_protection import GeneralProtection
from dlms.security.keys import KeyId, key_transfer, public_key, transferred_keys
from dlms.security.message_keys import key_of
from dlms.security.settings import MemoryCounters, Policy, Security
from dlms.server.objects import objects_from_rows
from dlms.simulator.meter import SimulatedMeter
from dlms.simulator.reading_list import refs_from_csv, rows_from_csv
from dlms.xdlms.acse import Aarq, InitiateRequest, InitiateResponse
from dlms.xdlms.apdu import access, action, get, sn
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.common import Item
from dlms.xdlms.gbt import GeneralBlock
from tests.dlms.hdlc_frames import command, i_command
from tests.fuzz.guided import Target
from tests.fuzz.targets.serial_links import explain_seeds
from tests.fuzz.targets.serial_links import pieces as cut

MASTER = bytes(range(16))
NOW = datetime(2026, 6, 1, 12, 7, tzinfo=UTC)
CLIENTS = (1, 16)


# ------------------------------------------------------------------------------------------------------- the meter


def lengthened(data: bytes) -> Iterator[bytes]:
    """APDUs out of one input, each behind two octets that say how long it is."""
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big") % 2048
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


def joined(apdus: Iterable[bytes]) -> bytes:
    return b"".join(len(apdu).to_bytes(2, "big") + apdu for apdu in apdus)


def run_living(data: bytes) -> None:
    """A simulated meter of the long list, by logical and by short names; time passes between the requests."""
    now = NOW

    def clock() -> datetime:
        return now

    meter = SimulatedMeter(7, rows_from_csv(BUILT_IN_LIST), now=clock)
    connection = meter.connect()
    initiate = InitiateRequest(SERVER_CONFORMANCE | SN_CLIENT_CONFORMANCE, 512).emit()
    for client, context in zip(CLIENTS, (Context.LN, Context.SN), strict=True):
        connection.receive_apdu(client, Aarq(context, initiate).emit(), 0.0)
    for apdu in lengthened(data):
        for client in CLIENTS:
            for answer in connection.receive_apdu(client, apdu, 0.0):
                assert answer
        connection.take_notifications()
        now += timedelta(minutes=7)
    meter.tick()
    for profile in meter.profiles.values():
        assert len(profile.rows) <= 4000


@functools.cache
def living_seeds() -> list[bytes]:
    """Every attribute read, everything writable written, every method called, by all services."""
    meter = SimulatedMeter(7, rows_from_csv(BUILT_IN_LIST), now=lambda: NOW)
    refs: list[AttributeRef] = []
    writes: list[tuple[AttributeRef, Data]] = []
    methods: list[MethodRef] = []
    for item in meter.server.objects():
        refs += [AttributeRef(item.class_id, item.obis, number) for number in item.readers]
        for number in item.writers:
            ref = AttributeRef(item.class_id, item.obis, number)
            value = meter.get(ref)
            writes.append((ref, value if isinstance(value, Data) else axdr.octets(b"secret")))
        methods += [MethodRef(item.class_id, item.obis, number) for number in item.methods]
    groups = [[get.GetRequest(0xC1, Item(ref)).emit() for ref in refs[at : at + 12]] for at in range(0, len(refs), 12)]
    groups.append([set_apdu.SetRequest(0xC1, Item(ref), value).emit() for ref, value in writes])
    groups += [[action.ActionRequest(0xC1, method, one).emit() for method in methods] for one in PARAMETERS]
    groups += _image_and_profile()
    items = (
        access.Access(Item(refs[0])),
        access.Access(Item(writes[0][0]), writes[0][1]),
        access.Access(methods[0], axdr.i8(0)),
    )
    groups.append([access.AccessRequest(0x40000001, items).emit()])
    names = [sn.Variable(0x108), sn.Variable(0xFA08), sn.Variable(0x128, by_entry(1, 2))]
    write = sn.WriteRequest((names[0],), (axdr.u8(1),))
    groups.append(
        [sn.ReadRequest(tuple(names)).emit(), write.emit(), b"\x16" + write.emit()[1:], sn.ReadNext(1).emit()]
    )
    return [joined(group) for group in groups]


PARAMETERS = (
    axdr.i8(0), axdr.u16(1), axdr.i16(-30), axdr.octets(b"new secret"),
    axdr.structure(*[axdr.octets(CosemDateTime.from_datetime(NOW).emit())] * 3),
)  # fmt: skip


def _image_and_profile() -> list[list[bytes]]:
    image = Obis.parse("0.0.44.0.0.255")
    calls = [
        (1, axdr.structure(axdr.octets(b"v2"), axdr.u32(300))),
        *((2, axdr.structure(axdr.u32(at), axdr.octets(bytes(128 if at < 2 else 44)))) for at in range(3)),
        (3, axdr.i8(0)),
        (4, axdr.i8(0)),
    ]
    transfer = [action.ActionRequest(0xC1, MethodRef(18, image, number), value).emit() for number, value in calls]
    buffer = AttributeRef(7, Obis.parse("1.0.99.1.0.255"), 2)
    column = CaptureObject(AttributeRef(8, Obis.parse("0.0.1.0.0.255"), 2))
    times = [axdr.octets(CosemDateTime.from_datetime(NOW - timedelta(hours=at)).emit()) for at in (5, 1)]
    ranged = Selection(1, axdr.structure(column.data(), *times, axdr.array([column.data()])))
    chosen = [get.GetRequest(0xC1, Item(buffer, one)).emit() for one in (ranged, by_entry(1, 40), by_entry(2, 3, 1, 2))]
    return [transfer, [chosen[0], chosen[1], get.GetNext(0xC1, 1).emit(), get.GetNext(0xC1, 2).emit(), chosen[2]]]


def run_bus(data: bytes) -> None:
    """Several clients on one HDLC line: every cut gives the same, and time ends everything."""

    def run(parts: Sequence[bytes]) -> list[object]:
        bus = HdlcServerBus("1/17", inactivity_timeout_s=10.0)
        for part in parts:
            bus.receive(part, 1.0)
        found: list[object] = []
        while (event := bus.next_event()) is not None:
            found.append((bus.client, type(event), getattr(event, "apdu", None)))
        now = 1.0
        for _ in range(100):
            deadline = bus.next_deadline()
            if deadline is None:
                break
            now = max(now, deadline)
            bus.on_deadline(now)
            bus.take_output()
        else:
            raise AssertionError("the bus is still waiting after 100 deadlines")
        return found

    assert run(cut(data)) == run([data[1:]])


def bus_seeds() -> list[bytes]:
    snrms = b"".join(command(0x93, source=HdlcAddress(client)) for client in (1, 2, 16))
    return [
        b"\x05" + snrms + i_command(0, 0, b"apdu"),
        b"\x09" + snrms[:-3] + command(0x03, b"\xe6\xe6\x00all", to=HdlcAddress(0x7F)),
    ]


# -------------------------------------------------------------------------------------------------- files and text


@contextmanager
def _file(data: bytes) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        path = folder / "file"
        path.write_bytes(data)
        yield path
    finally:
        shutil.rmtree(folder)


def run_codes(data: bytes) -> None:
    """A reading list."""
    with _file(data) as path:
        with suppress(DlmsError):
            refs_from_csv(path)
        objects_from_rows(rows_from_csv(path), lambda _class, _obis, _attribute: axdr.null())


def run_knowledge(data: bytes) -> None:
    """What was learned about a meter, as JSON from a disk."""
    try:
        dumped = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(dumped, dict):
        known = MeterKnowledge.load(dumped)
        assert MeterKnowledge.load(known.dump()) == known


def run_counters(data: bytes) -> None:
    """A counters file: what loads goes on above what it says, and is written."""
    with _file(data) as path:
        counters = FileCounters(path)
        with suppress(DlmsError):
            counters.next()


def run_trace_file(data: bytes) -> None:
    with _file(data) as path:
        read_trace(path)


def run_text(data: bytes) -> None:
    """What people type."""
    text = data.decode("utf-8", "replace")
    for parse in (Obis.parse, AttributeRef.parse, MethodRef.parse, HdlcAddress.of, Identification.parse, parse_value):
        with suppress(DlmsError):
            parse(text)


# ---------------------------------------------------------------------------------- traces as trees, and other ports


def run_explain_trace(data: bytes) -> None:
    """A trace whose bursts are whatever they are."""
    keys = Keys(bytes(16), bytes(16), bytes(16), b"CLIENT00", b"SERVER00")
    lines = [TraceLine(float(at), at % 2 == 0, part) for at, part in enumerate(cut(data))]
    for node in explain_trace(lines, keys):
        node.lines()


def run_explain_protected(data: bytes) -> None:
    """What names both ends, with the keys to look inside."""
    client, meter = _ends()
    keys = Keys(bytes(16), bytes(16), bytes(16), b"CLIENT00", b"SERVER00", bytes(16), MASTER)
    known = tuple(key for key in (client.peer_signing_key, meter.peer_signing_key) if key is not None)
    for node in explain_bytes(data, replace(keys, verifying=known)):
        node.lines()


def run_key_file(data: bytes) -> None:
    """Keys of elliptic curves in files that people name."""
    with _file(data) as path:
        for read in (read_private, read_public):
            with suppress(click.UsageError):
                read("key", path)


def key_file_seeds() -> list[bytes]:
    key = ec.derive_private_key(12345, ec.SECP256R1())
    nobody = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    private = [
        key.private_bytes(pem, kind, nobody)
        for kind in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL)
    ]
    return [*private, key.public_key().public_bytes(pem, form)]


class _Below:
    """A port that has one piece after the other, and then ends."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = list(parts)

    def read(self, timeout_s: float | None) -> bytes | None:
        del timeout_s
        return self._parts.pop(0) if self._parts else None

    def write(self, data: bytes) -> None:
        """Nobody listens."""

    def close(self) -> None:
        """Nothing to give back."""


def run_node_port(data: bytes) -> None:
    """Behind a base node: APDUs, an error, or the end."""
    port = NodePort(_Below([part for part in cut(data) if part]), 1, 16)
    while port.read(None):
        pass


# ------------------------------------------------------------------------------------ protection that names both ends


@functools.cache
def _ends() -> tuple[Security, Security]:
    """A client and a meter that sign and cipher."""
    ours, theirs = (ec.derive_private_key(number, ec.SECP256R1()) for number in (12345, 67890))
    titles = b"CLIENT00", b"SERVER00"
    client = Security(titles[0], bytes(16), bytes(16), 1, signing_key=ours, peer_signing_key=theirs.public_key())
    meter = Security(titles[1], bytes(16), bytes(16), 1, signing_key=theirs, peer_signing_key=ours.public_key())
    return client, meter


def run_layers(data: bytes) -> None:
    """The meter's side, signing and ciphering, ciphering alone, and nothing at all."""
    _client, meter = _ends()
    plain = replace(meter, signing_key=None, peer_signing_key=None, counters=MemoryCounters())
    for security in (replace(meter, counters=MemoryCounters()), plain, replace(plain, policy=Policy.NONE)):
        with suppress(DlmsError):
            GeneralProtection(security, is_server=True).open(data, b"CLIENT00")


def layers_seeds() -> list[bytes]:
    client, _meter = _ends()
    apdu = bytes.fromhex("c001c100030100010800ff0200")
    plain = replace(client, signing_key=None, peer_signing_key=None, counters=MemoryCounters(5))
    variants = [client, plain, replace(client, policy=Policy.NONE), replace(plain, policy=Policy.AUTHENTICATE)]
    return [GeneralProtection(one, is_server=False).seal(apdu, b"SERVER00") for one in variants]


# --------------------------------------------------------------------------------------------------- small decoders


def run_wrapper_stream(data: bytes) -> None:
    """Frames, need more, or an error for ever; every cut gives the same."""

    def run(parts: Sequence[bytes]) -> list[object]:
        decoder, found = WrapperDecoder(), list[object]()
        for part in parts:
            decoder.feed(part)
            try:
                found += iter(decoder.next, None)
            except DlmsError as error:
                return [*found, str(error)]
        return found

    assert run(cut(data)) == run([data[1:]])


SMALL: tuple[Callable[[bytes], object], ...] = (
    InitiateRequest.parse, InitiateResponse.parse, get.parse_block, CosemDateTime.parse, GeneralBlock.parse,
    CosemDate.parse, CosemTime.parse,
    HdlcAddress.parse, lambda data: key_of(KeyInfo.read(Cursor(data, "key-info")), MASTER),
    lambda data: public_key(1, data),
)  # fmt: skip


def run_small(data: bytes) -> None:
    for parser in SMALL:
        with suppress(DlmsError):
            parser(data)


def _members(value: Data, depth: int = 0) -> None:
    assert depth <= 200
    try:
        members = value.members()
    except DlmsError:
        return
    for member in members:
        _members(member, depth + 1)


def run_values(data: bytes) -> None:
    """What is made of a value: elements of compact arrays, columns, keys."""
    value = axdr.decode(data)
    _members(value)
    for reader in (columns_of, functools.partial(transferred_keys, MASTER)):
        with suppress(DlmsError):
            reader(value)


def value_seeds() -> list[bytes]:
    columns = [CaptureObject(AttributeRef(3, Obis.parse("1.0.1.8.0.255"), 2)).data()]
    description = axdr.TypeDescription(axdr.Tag.STRUCTURE, 0, (axdr.TypeDescription(6), axdr.TypeDescription(9)))
    rows = [axdr.structure(axdr.u32(at), axdr.octets(b"abc")) for at in range(3)]
    return [
        axdr.array(columns).emit(),
        axdr.compact(description, rows).emit(),
        key_transfer(MASTER, {KeyId.AUTHENTICATION: bytes(16)}).emit(),
    ]


def small_seeds() -> list[bytes]:
    return [
        InitiateRequest(Conformance.GET, 512, bytes(16)).emit(),
        InitiateResponse(Conformance.GET, 512).emit(),
        CosemDateTime.from_datetime(NOW).emit(),
        GeneralBlock(last=True, streaming=False, window=1, number=1, acknowledged=0, data=b"abc").emit(),
        HdlcAddress(1, 17).emit(),
        b"\x01\x00\x18" + bytes(24),
        bytes(64),
    ]


def knowledge_seeds() -> list[bytes]:
    ref = AttributeRef.parse("3/1.0.1.8.0.255/2")
    known = MeterKnowledge({ref: ScalerUnit(-1, 30), AttributeRef.parse("4/1.0.1.6.0.255/2"): None}, {ref}, {ref: 5}, 8)
    known.short_names = {(3, ref.obis): 0x100}
    return [json.dumps(known.dump()).encode()]


def counters_seeds() -> list[bytes]:
    held = [
        {"version": 1, "next": following, "seen": seen, "crc": _crc(following, seen)}
        for following, seen in ((9, None), (70, 3))
    ]
    return [json.dumps(one).encode() + b"\n" for one in held]


def code_list_seeds() -> list[bytes]:
    lines = BUILT_IN_LIST.read_bytes().splitlines(keepends=True)
    return [b"".join(lines[:9]), lines[0] + lines[22] + lines[3]]


TEXT = [b"1.0.1.8.0.255", b"1-0:1.8.0*255", b"3/1.0.1.8.0.255/2", b"1/17", rb"/ABC5\2METER", b"u16=900", b"oct=00ff",
        b"dt=2026-03-01T00:00:00Z", b"f32=1.5", b"axdr=0201120001"]  # fmt: skip
DLMS = (DlmsError,)

TARGETS = {
    "living": Target(run_living, living_seeds, (), "/dlms/", mutations=250),
    "bus": Target(run_bus, bus_seeds, (), "/dlms/"),
    "codes": Target(
        run_codes,
        code_list_seeds,
        DLMS,
        "/dlms/",
        mutations=500,
    ),
    "knowledge": Target(run_knowledge, knowledge_seeds, DLMS, "/dlms/"),
    "counters": Target(run_counters, counters_seeds, DLMS, "/dlms/", mutations=300),
    "trace-file": Target(run_trace_file, lambda: [f"{HEADER}\n0.5 > 7e\n1 < 7e".encode()], DLMS, "/dlms/"),
    "text": Target(run_text, lambda: TEXT, (), "/dlms/"),
    "wrapper-stream": Target(
        run_wrapper_stream, lambda: [b"\x04" + WrapperFrame(1, 16, b"abc").emit() * 3], (), "/dlms/"
    ),
    "explain-trace": Target(run_explain_trace, explain_seeds, (), "/dlms/"),
    "explain-protected": Target(run_explain_protected, layers_seeds, (), "/dlms/"),
    "key-file": Target(run_key_file, key_file_seeds, (), "/dlms/", mutations=400),
    "node-port": Target(run_node_port, lambda: [b"\x05" + WrapperFrame(16, 1, b"abc").emit() * 2], DLMS, "/dlms/"),
    "layers": Target(run_layers, layers_seeds, (), "/dlms/"),
    "small": Target(run_small, small_seeds, (), "/dlms/"),
    "values": Target(run_values, value_seeds, DLMS, "/dlms/"),
}
