"""What a meter lets each of its clients see and do, what it answers to nobody, and what it says unasked."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.client.association import Association, Notified, Proposal
from dlms.client.meter import Meter
from dlms.client.reading import ItemFailed
from dlms.codes import (
    LN_CLIENT_CONFORMANCE,
    SERVER_CONFORMANCE,
    SN_CLIENT_CONFORMANCE,
    ActionResult,
    Conformance,
    Context,
    Mechanism,
)
from dlms.cosem.associations import ASSOCIATION
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.errors import LocalError, PeerError
from dlms.security.settings import Auth, Lls, NoAuth, Policy, Security, open_auth
from dlms.server.connection import CLIENTS_MAX, ServerConnection
from dlms.server.objects import CosemObject, constant
from dlms.server.rights import MANAGEMENT, PUBLIC, READER, USUAL_RIGHTS, Rights
from dlms.server.server import MeterServer, ServerAssociation
from dlms.server.view import association_object
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest
from dlms.xdlms.apdu import sn
from dlms.xdlms.apdu.common import ActionOutcome, Item
from dlms.xdlms.apdu.notify import DataNotification, EventNotification, InformationReport, Notification
from tests.dlms.client.test_association import ITEM
from tests.dlms.meter_port import MeterPort
from tests.dlms.security.test_security import pair
from tests.dlms.server.test_server import ALL, CODE, Store, ask

NAME = CosemObject(1, Obis.parse("0.0.42.0.0.255"), readers={2: constant(axdr.octets(b"DCU"))})
COUNTER = CosemObject(1, Obis.parse("0.0.43.1.2.255"), readers={2: constant(axdr.u32(7))})


def meter(
    rights: Rights | Mapping[int, Rights] = MANAGEMENT, auth: Auth | Mapping[int, Auth] | None = None
) -> MeterServer:
    server = MeterServer(
        [Store().item, NAME, COUNTER], rights=rights, auth=auth, short_names=True, conformance=SERVER_CONFORMANCE
    )
    server.add(association_object(server))
    return server


def associated(server: MeterServer, client: int, conformance: Conformance = ALL) -> ServerAssociation:
    association = server.new_association(client)
    context = Context.SN if conformance & Conformance.READ and conformance != ALL else Context.LN
    (answer,) = association.receive_apdu(Aarq(context, InitiateRequest(conformance, 1024).emit()).emit(), 0.0)
    assert Aare.parse(answer).accepted
    return association


@pytest.mark.parametrize(
    ("client", "name", "store", "write", "call"),
    [
        (16, "c401c10009034443" + "55", "c401c10104", "c501c104", "c701c10400"),
        (2, "c401c10009034443" + "55", "c401c10000", "c501c103", "c701c10300"),
        (1, "c401c10009034443" + "55", "c401c10000", "c501c100", "c701c100010011" + "05"),
        (3, "c401c10104", "c401c10104", "c501c104", "c701c10400"),
    ],
)
def test_each_client_gets_the_data_access_result_that_its_rights_deserve(
    client: int, name: str, store: str, write: str, call: str
) -> None:
    association = associated(meter(USUAL_RIGHTS), client)
    assert ask(association, "c001c1 0001 00002a0000ff 02 00") == name
    assert ask(association, "c001c1 0001 0000600100ff 02 00") == store
    assert ask(association, "c101c1 0001 0000600100ff 02 00 1105") == write
    assert ask(association, "c301c1 0001 0000600100ff 01 01 1105") == call


def test_lists_and_the_access_service_have_the_same_rights() -> None:
    association = associated(meter(USUAL_RIGHTS), 2)
    item = "0001 0000600100ff 02 00"
    assert ask(association, f"c104c1 02 {item} {item} 02 1105 1105") == "c505c1020303"
    assert ask(association, "d9 40000001 00 01 02 0001 0000600100ff 02 01 1105").endswith("0100010203")


def test_the_public_client_reads_counters_and_its_association_and_nothing_else() -> None:
    seen = {(item.class_id, str(item.obis)) for item in meter().objects() if PUBLIC.sees(item.class_id, item.obis)}
    assert seen == {(1, "0.0.42.0.0.255"), (1, "0.0.43.1.2.255"), (15, "0.0.40.0.0.255")}


def test_an_attribute_alone_can_be_hidden() -> None:
    rights = Rights(READER.sees, lambda _class, _obis, number: number != 2, READER.writes, READER.calls)
    association = associated(meter(rights), 5)
    assert ask(association, "c001c1 0001 0000600100ff 02 00") == "c401c10103"
    assert ask(association, "c001c1 0001 0000600100ff 01 00") == "c401c1000906" + CODE.code.hex()


def test_the_object_list_of_each_client_says_what_it_may() -> None:
    shown: dict[int, dict[str, tuple[dict[int, int], dict[int, int]]]] = {}
    for client in USUAL_RIGHTS:
        port = MeterPort(meter(USUAL_RIGHTS), "wrapper", client=client)
        with Meter("loop://", link="wrapper", client=client, port=port) as one:
            shown[client] = {str(info.obis): (info.attributes, info.methods) for info in one.discover()}
    assert set(shown[16]) == {"0.0.42.0.0.255", "0.0.43.1.2.255", "0.0.40.0.0.255"}
    assert shown[2][str(CODE)] == ({1: 1, 2: 1}, {1: 0})
    assert shown[1][str(CODE)] == ({1: 1, 2: 3}, {1: 1})
    own = str(ASSOCIATION.obis)
    assert shown[16][own] == ({**dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 9), 1), 7: 0}, {2: 0})
    assert shown[1][own] == ({**dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 9), 1), 7: 2}, {2: 1})


def test_short_names_have_rights_too() -> None:
    (answer,) = associated(meter(USUAL_RIGHTS), 16, SN_CLIENT_CONFORMANCE).receive_apdu(
        bytes.fromhex("050102fa08"), 0.0
    )
    assert CODE.code not in answer
    assert NAME.obis.code in answer
    (answer,) = associated(meter(USUAL_RIGHTS), 2, SN_CLIENT_CONFORMANCE).receive_apdu(bytes.fromhex("050102fa08"), 0.0)
    assert CODE.code in answer
    association = associated(meter(USUAL_RIGHTS), 2, SN_CLIENT_CONFORMANCE)
    assert ask(association, "0601 020108 01 1105") == "0d010103"


def test_the_association_object_says_what_was_agreed() -> None:
    server = meter(auth={5: Lls("pw")})
    port = MeterPort(server, "wrapper", client=5)
    with Meter("loop://", link="wrapper", client=5, port=port, auth=Lls("pw"), pdu_size=500) as one:
        values = {number: one.get(AttributeRef(15, ASSOCIATION.obis, number)) for number in (3, 4, 5, 6, 8, 9)}
    assert values[3] == axdr.structure(axdr.i8(5), axdr.u16(1))
    assert values[4] == axdr.octets(bytes.fromhex("60857405080101"))
    assert values[6] == axdr.octets(bytes.fromhex("60857405080201"))
    assert values[8] == axdr.enum(2)
    bits, send, receive, version, _quality, _key = values[5].members()
    assert bits.value == f"{int(LN_CLIENT_CONFORMANCE):024b}"
    assert (send.value, receive.value, version.value) == (1024, 500, 6)


@pytest.mark.parametrize(("name", "right"), [("low", True), ("md5", False), ("sha256", False), ("none", None)])
def test_a_client_changes_its_secret(name: str, right: bool | None) -> None:
    old, new = open_auth(name, b"old"), open_auth(name, b"new")
    server = meter(auth=old)

    def session(auth: Auth) -> Meter:
        return Meter("loop://", link="wrapper", client=5, port=MeterPort(server, "wrapper", client=5), auth=auth)

    password = AttributeRef(15, ASSOCIATION.obis, 7)
    secret = MethodRef(15, ASSOCIATION.obis, 2)
    with session(old) as one:
        with pytest.raises(ItemFailed, match="read-write-denied"):
            if right:
                one.action(secret, axdr.octets(b"new"))
            else:
                one.set(password, axdr.octets(b"new"))
        if right is None:
            return
        for bad in (axdr.octets(b""), axdr.octets(bytes(65)), axdr.u8(1)):
            with pytest.raises(ItemFailed, match="type-unmatched"):
                one.set(password, bad) if right else one.action(secret, bad)
        one.set(password, axdr.octets(b"new")) if right else one.action(secret, axdr.octets(b"new"))
        one.read("0.0.42.0.0.255")
    with session(new) as one:
        one.read("0.0.42.0.0.255")
    with pytest.raises(PeerError):
        session(old).open()
    assert server.auth_of(6) == old


# ----------------------------------------------------------------------------------------------- nobody is answered


def test_what_is_unconfirmed_is_done_and_not_answered() -> None:
    store = Store()
    association = associated(MeterServer([store.item], conformance=SERVER_CONFORMANCE), 1)
    calls: list[int] = []

    def call(_data: Data | None) -> ActionOutcome:
        calls.append(1)
        return ActionOutcome(ActionResult.SUCCESS)

    store.item.methods[1] = call
    for request in (
        "c10181 0001 0000600100ff 02 00 1105", "c30181 0001 0000600100ff 01 00", "c10181 9999", "c101",
        "d9 00000001 00 01 02 0001 0000600100ff 02 01 1107",
    ):  # fmt: skip
        silent = association.receive_apdu(bytes.fromhex(request.replace(" ", "")), 0.0)
        assert silent == [] or request == "c101"
    assert store.value == axdr.u8(7)
    assert calls == [1]


def test_an_unconfirmed_write_is_done_and_not_answered() -> None:
    store = Store()
    server = MeterServer([store.item], conformance=SERVER_CONFORMANCE, short_names=True)
    association = associated(server, 1, SERVER_CONFORMANCE | SN_CLIENT_CONFORMANCE)
    request = sn.WriteRequest((sn.Variable(0x108),), (axdr.u8(7),), confirmed=False)
    assert sn.parse_write_request(request.emit()) == request
    assert association.receive_apdu(request.emit(), 0.0) == []
    assert store.value == axdr.u8(7)
    assert association.receive_apdu(b"\x16\x01\x99", 0.0) == []
    plain = associated(server, 1, SN_CLIENT_CONFORMANCE)
    assert plain.receive_apdu(sn.WriteRequest((sn.Variable(0x108),), (axdr.u8(8),), confirmed=False).emit(), 0.0) == []
    assert store.value == axdr.u8(7)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [("05", "0e050300"), ("0601", "0e060300"), ("050102", "0e050300"), ("c001c1", "d80202"), ("ff", "d80202")],
)
def test_with_short_names_a_refusal_is_a_confirmed_service_error(request_: str, answer: str) -> None:
    association = associated(meter(), 1, SN_CLIENT_CONFORMANCE)
    assert ask(association, request_) == answer
    only_read = associated(meter(), 1, Conformance.READ)
    assert ask(only_read, "0601020108011105") == "0e060302"


# --------------------------------------------------------------------------------------------------------- unasked

NEWS: list[tuple[Notification, Conformance, int]] = [
    (DataNotification(1, None, axdr.u8(5)), Conformance.DATA_NOTIFICATION, 0x0F),
    (EventNotification(None, ITEM.ref, axdr.u8(5)), Conformance.EVENT_NOTIFICATION, 0xC2),
    (InformationReport(None, (0x1234,), (axdr.u8(5),)), Conformance.INFORMATION_REPORT, 0x18),
]


@pytest.mark.parametrize(("message", "wanted", "tag"), NEWS, ids=[type(line[0]).__name__ for line in NEWS])
def test_a_client_hears_what_it_agreed_to_hear(message: Notification, wanted: Conformance, tag: int) -> None:
    server = meter()
    told = associated(server, 1, LN_CLIENT_CONFORMANCE | wanted).notify(message)
    assert told is not None
    assert told[0] == tag
    assert associated(server, 1, LN_CLIENT_CONFORMANCE).notify(message) is None
    assert server.new_association(1).notify(message) is None


def test_news_too_long_for_the_client_are_an_error() -> None:
    association = meter().new_association(1)
    association.receive_apdu(Aarq(Context.LN, InitiateRequest(SERVER_CONFORMANCE, 64).emit()).emit(), 0.0)
    with pytest.raises(LocalError):
        association.notify(DataNotification(1, None, axdr.octets(bytes(100))))


@pytest.mark.parametrize("policy", [Policy.BOTH, Policy.ENCRYPT])
@pytest.mark.parametrize("message", [NEWS[0][0], NEWS[1][0]], ids=["data", "event"])
def test_news_in_a_ciphered_association_are_ciphered(policy: Policy, message: Notification) -> None:
    ours, theirs = pair(policy)
    server = MeterServer([], security=theirs, conformance=SERVER_CONFORMANCE)
    association, client = (
        server.new_association(1),
        Association(Proposal(security=ours, conformance=SERVER_CONFORMANCE)),
    )
    client.associate()
    (aare,) = association.receive_apdu(client.take_output(), 0.0)
    client.receive_apdu(aare)
    client.next_event()
    told = association.notify(message)
    assert told is not None
    assert message.emit() not in told
    client.receive_apdu(told)
    assert client.next_event() == Notified(message)


# ------------------------------------------------------------------------------------------------- many clients


def aarq(client: int) -> bytes:
    secret = f"pw{client}".encode()
    return Aarq(Context.LN, InitiateRequest(ALL, 1024).emit(), Mechanism.LLS, secret).emit()


def test_clients_of_one_connection_do_not_disturb_each_other() -> None:
    server = meter(auth={client: Lls(f"pw{client}") for client in range(100)})
    one, other = ServerConnection(server), ServerConnection(server)
    get = bytes.fromhex("c001c1000100002a0000ff0200")
    for connection in (one, other):
        for client in (1, 2):
            assert Aare.parse(connection.receive_apdu(client, aarq(client), 0.0)[0]).accepted
    assert not Aare.parse(one.receive_apdu(1, aarq(2), 0.0)[0]).accepted
    assert one.receive_apdu(1, get, 0.0)[0].hex() == "d80101"
    assert one.receive_apdu(2, get, 0.0)[0][0] == 0xC4
    one.forget(2)
    assert one.receive_apdu(2, get, 0.0)[0].hex() == "d80101"
    assert [other.receive_apdu(client, get, 0.0)[0][0] for client in (1, 2)] == [0xC4, 0xC4]
    other.forget()
    assert [other.receive_apdu(client, get, 0.0)[0][0] for client in (1, 2)] == [0xD8, 0xD8]


def test_a_connection_keeps_few_clients_and_drops_those_first_that_are_not_in() -> None:
    server = meter(auth={client: Lls(f"pw{client}") for client in range(100)})
    connection = ServerConnection(server)
    get = bytes.fromhex("c001c1000100002a0000ff0200")
    connection.receive_apdu(0, aarq(0), 0.0)
    for client in range(1, 3 * CLIENTS_MAX):
        connection.receive_apdu(client, get, 0.0)
    assert connection.receive_apdu(0, get, 0.0)[0][0] == 0xC4
    assert len(connection._associations) == CLIENTS_MAX
    for client in range(1, 2 * CLIENTS_MAX):
        connection.receive_apdu(client, aarq(client), 0.0)
    assert len(connection._associations) == CLIENTS_MAX
    assert connection.receive_apdu(2 * CLIENTS_MAX - 1, get, 0.0)[0][0] == 0xC4


def test_a_client_may_be_public_while_another_must_prove_itself() -> None:
    security: Security = pair()[1]
    server = MeterServer([NAME], auth={16: NoAuth(), 1: open_auth("gmac")}, security={1: security}, rights=USUAL_RIGHTS)
    assert ask(associated(server, 16), "c001c1000100002a0000ff0200").startswith("c401c100")
    answer = server.new_association(1).receive_apdu(Aarq(Context.LN, InitiateRequest(ALL, 0).emit()).emit(), 0.0)
    assert not Aare.parse(answer[0]).accepted
    assert server.get(Item(AttributeRef(1, NAME.obis, 2))) == axdr.octets(b"DCU")
