"""The meter's side: what it answers to right and to wrong requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import LN_CLIENT_CONFORMANCE, ActionResult, Conformance, Context, DataAccessResult, Mechanism
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.errors import LocalError
from dlms.security.settings import Lls
from dlms.server.objects import CosemObject, constant, objects_from_rows
from dlms.server.server import MeterServer, ServerAssociation
from dlms.simulator.reading_list import rows_from_csv
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest
from dlms.xdlms.apdu import get
from dlms.xdlms.apdu.common import ActionOutcome, Item
from dlms.xdlms.exchange import GetExchange
from dlms.xdlms.exchange_write import ActionExchange, SetExchange

CODE = Obis.parse("0.0.96.1.0.255")
ITEM = Item(AttributeRef(1, CODE, 2))
ALL = Conformance(0xFFFFFF)


def aarq(pdu_size: int = 1024, secret: bytes = b"pw", conformance: Conformance = ALL, version: int = 6) -> bytes:
    initiate = InitiateRequest(conformance, pdu_size, version=version).emit()
    return Aarq(Context.LN, initiate, Mechanism.LLS, secret).emit()


class Store:
    """One data object that takes anything and remembers it."""

    def __init__(self) -> None:
        self.value = axdr.null()
        self.item = CosemObject(
            1, CODE, readers={2: lambda _selection: self.value}, writers={2: self.write}, methods={1: self.echo}
        )

    def write(self, value: Data) -> DataAccessResult:
        self.value = value
        return DataAccessResult.SUCCESS

    def echo(self, value: Data | None) -> ActionOutcome:
        return ActionOutcome(ActionResult.SUCCESS, value)


def associated(store: Store | None = None, pdu_size: int = 1024) -> ServerAssociation:
    server = MeterServer([(store or Store()).item], auth={1: Lls("pw")}, pdu_size=pdu_size)
    association = server.new_association(1)
    (answer,) = association.receive_apdu(aarq(pdu_size), 0.0)
    assert Aare.parse(answer).accepted
    return association


def ask(association: ServerAssociation, request: str) -> str:
    (answer,) = association.receive_apdu(bytes.fromhex(request.replace(" ", "")), 0.0)
    return answer.hex()


def test_nothing_is_served_before_the_association() -> None:
    association = MeterServer([]).new_association(1)
    assert ask(association, "c001c100010000600100ff0200") == "d80101"
    assert ask(association, "") == "d80202"
    assert ask(association, "ff00") == "d80202"


@pytest.mark.parametrize(
    ("request_apdu", "client", "reason"),
    [
        (aarq(secret=b"px"), 1, "authentication-failure"),
        (aarq(), 2, "calling-ap-title-not-recognized"),
        (Aarq(Context.LN, InitiateRequest(ALL, 0).emit()).emit(), 1, "authentication-required"),
        (
            Aarq(Context.LN, InitiateRequest(ALL, 0).emit(), Mechanism.HLS_MD5, bytes(16)).emit(),
            1,
            "authentication-mechanism-name-not-recognised",
        ),
        (aarq(version=5), 1, "no-reason-given"),
        (aarq(pdu_size=5), 1, "no-reason-given"),
        (aarq(conformance=Conformance(0)), 1, "no-reason-given"),
        (Aarq(Context.LN, None, Mechanism.LLS, b"pw").emit(), 1, "no-reason-given"),
    ],
)
def test_an_association_is_refused_with_a_reason(request_apdu: bytes, client: int, reason: str) -> None:
    association = MeterServer([], auth={1: Lls("pw")}).new_association(client)
    (answer,) = association.receive_apdu(request_apdu, 0.0)
    aare = Aare.parse(answer)
    assert not aare.accepted
    assert aare.reason == reason
    assert ask(association, "c001c100010000600100ff0200") == "d80101"


def test_a_failed_attempt_ends_the_association_before() -> None:
    association = associated()
    association.receive_apdu(aarq(secret=b"px"), 0.0)
    assert ask(association, "c001c100010000600100ff0200") == "d80101"


def test_an_absent_object_another_class_and_a_denied_attribute_are_told_apart() -> None:
    association = associated()
    assert ask(association, "c001c1 0001 0000600200ff 02 00") == "c401c10104"
    assert ask(association, "c001c1 0003 0000600100ff 02 00") == "c401c10109"
    assert ask(association, "c001c1 0001 0000600100ff 03 00") == "c401c10103"
    assert ask(association, "c001c1 0001 0000600100ff 01 00") == "c401c1000906" + CODE.code.hex()
    assert ask(association, "c101c1 0001 0000600100ff 01 00 1105") == "c501c103"
    assert ask(association, "c301c1 0001 0000600100ff 09 00") == "c701c10300"


def test_a_list_answers_each_item_by_itself() -> None:
    store = Store()
    store.value = axdr.u8(7)
    association = associated(store)
    item = "00010000600100ff0200"
    absent = "00010000600200ff0200"
    assert ask(association, f"c003c1 02 {item} {absent}") == "c403c1020011070104"


@pytest.mark.parametrize("size", [0, 1, 40, 47, 48, 49, 200, 5000])
def test_values_of_every_length_go_both_ways_within_the_pdu_size(size: int) -> None:
    store = Store()
    association = associated(store, pdu_size=64)
    value = axdr.octets(bytes(at % 251 for at in range(size)))
    for exchange in (
        SetExchange((ITEM,), (value,), 64),
        GetExchange((ITEM,)),
        SetExchange((ITEM, ITEM), (value, value), 64),
        GetExchange((ITEM, ITEM)),
        ActionExchange((MethodRef(1, CODE, 1),), (value,), 64),
        ActionExchange((MethodRef(1, CODE, 1),) * 2, (value, value), 64),
    ):
        request: object = exchange.start(0xC1)
        while isinstance(request, bytes):
            assert len(request) <= 64
            (answer,) = association.receive_apdu(request, 0.0)
            assert len(answer) <= 64
            request = exchange.advance(answer)
        if isinstance(exchange, GetExchange):
            assert set(request.results()) == {value}  # type: ignore[attr-defined]
        elif isinstance(exchange, ActionExchange):
            assert {outcome.returned for outcome in request.outcomes} == {value}  # type: ignore[attr-defined]
        else:
            assert store.value == value
            store.value = value


def test_blocks_out_of_order_are_refused_and_end_the_transfer() -> None:
    store = Store()
    store.value = axdr.octets(bytes(500))
    association = associated(store, pdu_size=64)
    assert ask(association, "c002c100000001").endswith("0110")  # no long get in progress
    assert ask(association, "c001c100010000600100ff0200").startswith("c402c10000000001")
    assert ask(association, "c002c100000005").endswith("0113")  # block number invalid
    assert ask(association, "c002c100000001").endswith("0110")
    assert ask(association, "c103c1 01 00000001 00") == "d80101"
    assert ask(association, "c102c1 0001 0000600100ff 02 00 00 00000001 01 09") == "c502c100000001"
    assert ask(association, "c103c1 01 00000003 01 00") == "d80101"
    assert ask(association, "c103c1 01 00000002 01 00") == "d80101"
    assert ask(association, "c302c100000001") == "d80101"


def test_what_was_not_negotiated_is_not_supported() -> None:
    server = MeterServer([Store().item], conformance=Conformance.GET)
    association = server.new_association(1)
    association.receive_apdu(Aarq(Context.LN, InitiateRequest(LN_CLIENT_CONFORMANCE, 0).emit()).emit(), 0.0)
    assert ask(association, "c001c100010000600100ff0200") == "c401c10000"
    assert ask(association, "c003c10100010000600100ff0200") == "d80202"
    assert ask(association, "c101c100010000600100ff02001105") == "d80202"
    assert ask(association, "c301c100010000600100ff0100") == "d80202"


def test_a_client_without_blocks_gets_an_error_for_a_long_answer() -> None:
    store = Store()
    store.value = axdr.octets(bytes(500))
    association = MeterServer([store.item]).new_association(1)
    association.receive_apdu(Aarq(Context.LN, InitiateRequest(Conformance.GET, 64).emit()).emit(), 0.0)
    assert ask(association, "c001c100010000600100ff0200") == "c401c101fa"


def test_damaged_requests_are_refused_and_the_association_stands() -> None:
    association = associated()
    assert ask(association, "c001c1") == "d80103"
    assert ask(association, "c0") == "d80103"
    assert ask(association, "c101c100010000600100ff020099") == "d80103"
    assert ask(association, "c001c100010000600100ff0200") == "c401c10000"


def test_a_release_is_answered_and_ends_the_association() -> None:
    association = associated()
    assert ask(association, "6203800100") == "6303800100"
    assert ask(association, "6200") == "d80101"


def test_a_reading_list_becomes_objects(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    head = "n,name,obis,cls,attr,type,scaler,unit,ph,note\n"
    path.write_text(head + "1,a,1.0.1.8.0.255,3,2,u32,-1,30,1,\n2,b,1.0.52.7.0.255,3,2,u16,-1,35,3,\n")
    asked = []

    def source(class_id: int, obis: Obis, attribute: int) -> Data:
        asked.append((class_id, str(obis), attribute))
        return axdr.u32(5)

    server = MeterServer(objects_from_rows(rows_from_csv(path), source))
    energy = AttributeRef.parse("3/1.0.1.8.0.255/2")
    assert server.get(Item(energy)) == axdr.u32(5)
    assert asked == [(3, "1.0.1.8.0.255", 2)]
    assert server.get(Item(AttributeRef(3, energy.obis, 3))) == axdr.structure(axdr.i8(-1), axdr.enum(30))
    assert getattr(server.get(Item(AttributeRef.parse("3/1.0.52.7.0.255/2"))), "text", "") == "object-undefined"
    assert len(objects_from_rows(rows_from_csv(path), source, phases=3)) == 2
    assert rows_from_csv(path)[0].tag is axdr.Tag.DOUBLE_LONG_UNSIGNED
    path.write_text(head + "1,a,1.0.1.8.0.255,3,2,u99,-1,30,1,\n")
    with pytest.raises(LocalError, match="line 2"):
        rows_from_csv(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(LocalError, match="line 2"):
        rows_from_csv(path)


def test_objects_can_be_replaced_and_listed() -> None:
    server = MeterServer([Store().item])
    server.add(CosemObject(1, CODE, readers={2: constant(axdr.u8(1))}))
    assert len(server.objects()) == 1
    assert server.get(ITEM) == axdr.u8(1)
    with pytest.raises(LocalError):
        MeterServer([], pdu_size=3)
    assert get.parse_response(bytes.fromhex("c401c1001101")) == get.GetResponse(0xC1, axdr.u8(1))
