"""Messages and TNDS documents through both encodings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omadm.syncml.codec import DM_WBXML, DM_XML, accepts, decode, encode, encode_tnds
from omadm.syncml.document import TNDS_WBXML, TNDS_XML
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Get,
    Item,
    Malformed,
    Meta,
    MgmtTree,
    Replace,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
    TndsNode,
    Unsupported,
)
from tests.omadm.syncml.samples import EVERYTHING, HEADER, TREE, Generator
from tests.omadm.syncml.tnds_documents import decode_tnds

BOTH = [DM_XML, DM_WBXML]


def one(command: str, *, header: str = "") -> str:
    """A message in the shape of somebody else's XML writer."""
    return f"""<?xml version="1.0"?>
    <SyncML xmlns='SYNCML:SYNCML1.2'>
      <SyncHdr>
        <VerDTD>1.2</VerDTD><VerProto>DM/1.2</VerProto><SessionID> 1 </SessionID><MsgID>2</MsgID>
        <Target><LocURI>urn:d</LocURI></Target><Source><LocURI>https://s</LocURI></Source>{header}
      </SyncHdr>
      <SyncBody>{command}<Final/></SyncBody>
    </SyncML>"""


def read(command: str) -> SyncML:
    return decode(one(command).encode(), DM_XML)


def test_every_kind_of_command_survives_wbxml() -> None:
    assert decode(encode(EVERYTHING, DM_WBXML), DM_WBXML) == EVERYTHING


def test_every_kind_of_command_survives_xml_with_the_type_of_its_tnds_rewritten() -> None:
    decoded = decode(encode(EVERYTHING, DM_XML), DM_XML)
    item = next(c for c in decoded.of(Add) if c.cmd_id == "4").items[0]
    assert item.meta == Meta("bin", TNDS_XML)
    assert item.data == TREE
    assert encode(decoded, DM_WBXML) == encode(EVERYTHING, DM_WBXML)


@pytest.mark.parametrize("seed", range(150))
def test_a_message_reads_the_same_from_xml_and_from_wbxml(seed: int) -> None:
    message = Generator(seed).message()
    from_xml, from_wbxml = decode(encode(message, DM_XML), DM_XML), decode(encode(message, DM_WBXML), DM_WBXML)
    assert from_xml == message
    assert from_wbxml == message


@pytest.mark.parametrize("content_type", BOTH)
def test_encoding_what_was_decoded_gives_the_same_bytes(content_type: str) -> None:
    body = encode(EVERYTHING, content_type)
    assert encode(decode(body, content_type), content_type) == body


def test_content_types_of_practice_are_accepted_and_others_refused() -> None:
    body = encode(EVERYTHING, DM_WBXML)
    assert decode(body, "Application/vnd.syncml+wbxml; charset=UTF-8") == EVERYTHING
    assert accepts("application/vnd.syncml+xml")
    assert not accepts("text/xml")
    with pytest.raises(SyncmlError, match="text/xml"):
        decode(body, "text/xml")


@pytest.mark.parametrize("content_type", [TNDS_XML, TNDS_WBXML])
def test_a_tnds_document_survives(content_type: str) -> None:
    assert decode_tnds(encode_tnds(TREE, content_type), content_type) == TREE


@pytest.mark.parametrize("form", ["cdata", "inline", "prolog"])
def test_tnds_in_xml_data_is_read_as_elements_and_as_text(form: str) -> None:
    document = encode_tnds(TREE, TNDS_XML).decode()
    bare = document.partition("?>")[2]
    data = {"cdata": f"<![CDATA[ {bare}]]>", "inline": bare, "prolog": f"<![CDATA[{document}]]>"}[form]
    meta = f"<Meta><Format>xml</Format><Type>{TNDS_XML}</Type></Meta>"
    message = read(f"<Add><CmdID>1</CmdID><Item>{meta}<Data>{data}</Data></Item></Add>")
    assert next(message.of(Add)).items[0].data == TREE


@pytest.mark.parametrize("content_type", BOTH)
def test_a_piece_of_a_tnds_document_stays_as_it_came(content_type: str) -> None:
    kind = TNDS_WBXML if content_type == DM_WBXML else TNDS_XML
    document = encode_tnds(TREE, kind)
    piece: str | bytes = document[:200] if kind == TNDS_WBXML else document[:200].decode()
    item = Item(target="./Inbox", meta=Meta("xml", kind, size=len(document)), data=piece, more_data=True)
    message = SyncML(HEADER, (Add("1", (item,)),))
    assert decode(encode(message, content_type), content_type) == message


@pytest.mark.parametrize("content_type", BOTH)
def test_bytes_are_sent_with_a_binary_format(content_type: str) -> None:
    for meta in (None, Meta("b64"), Meta("bin")):
        message = SyncML(HEADER, (Replace("1", (Item(target="./x", meta=meta, data=b"\x00\xff"),)),))
        item = next(decode(encode(message, content_type), content_type).of(Replace)).items[0]
        assert item.data == b"\x00\xff"
        assert item.meta == (Meta("b64") if meta == Meta("b64") else Meta("bin"))


def test_text_that_claims_to_be_base64_and_is_not_stays_text() -> None:
    message = read("<Add><CmdID>1</CmdID><Item><Meta><Format>b64</Format></Meta><Data>no!</Data></Item></Add>")
    assert next(message.of(Add)).items[0].data == "no!"


def test_white_space_around_structure_is_dropped_and_inside_data_kept() -> None:
    message = read(
        "<Add><CmdID> 7 </CmdID><Item><Target><LocURI>\n./a\n</LocURI></Target><Data> x </Data></Item></Add>"
    )
    add = next(message.of(Add))
    assert (add.cmd_id, add.items[0].target, add.items[0].data) == ("7", "./a", " x ")
    assert message.hdr.session_id == "1"


def test_elements_are_read_in_any_order_and_unknown_ones_inside_a_command_skipped() -> None:
    message = read(
        "<Status><Data>200</Data><TargetRef>./a</TargetRef><Vendor>v</Vendor><Cmd>Get</Cmd>"
        "<CmdRef>3</CmdRef><MsgRef>1</MsgRef><CmdID>9</CmdID></Status>"
    )
    assert next(message.of(Status)) == Status("9", "1", "3", "Get", 200, ("./a",))


def test_the_meta_of_the_command_says_how_its_items_are_read() -> None:
    message = read(
        "<Add><CmdID>1</CmdID><Item><Target><LocURI>./x</LocURI></Target><Data>AAE=</Data></Item>"
        "<Meta><MetInf><Format>b64</Format></MetInf></Meta></Add>"
    )
    assert next(message.of(Add)).items[0].data == b"\x00\x01"


@pytest.mark.parametrize("name", ["Put", "Map", "Sync", "Search", "Vendor"])
def test_a_command_that_dm_does_not_know_becomes_unsupported(name: str) -> None:
    message = read(f"<{name}><CmdID>4</CmdID><Item/></{name}><Get><CmdID>5</CmdID></Get>")
    assert message.commands == (Unsupported("4", name), Get("5", ()))


BAD = {
    "an element in Data": ("<Add><CmdID>1</CmdID><Item><Data><Other/></Data></Item></Add>", "Other"),
    "a size that is no number": (
        "<Replace><CmdID>1</CmdID><Item><Meta><Size>big</Size></Meta><Data>x</Data></Item></Replace>",
        "not a number",
    ),
    "a status without its code": ("<Status><CmdID>1</CmdID><MsgRef>1</MsgRef><CmdRef>7</CmdRef></Status>", "Data"),
    "a status that is no number": (
        "<Status><CmdID>1</CmdID><MsgRef>1</MsgRef><CmdRef>7</CmdRef><Data>OK</Data></Status>",
        "not a number",
    ),
    "a status of no three digits": (
        "<Status><CmdID>1</CmdID><MsgRef>1</MsgRef><CmdRef>7</CmdRef><Data>0</Data></Status>",
        "no status code",
    ),
    "TNDS without a node": ("<Add><CmdID>1</CmdID><Item><Data><MgmtTree/></Data></Item></Add>", "no Node"),
    "an unknown format": (
        "<Add><CmdID>1</CmdID><Item><Data><MgmtTree><Node><NodeName>x</NodeName><RTProperties><Format><odd/></Format>"
        "</RTProperties></Node></MgmtTree></Data></Item></Add>",
        "does not exist",
    ),
    "an id of 65 octets": (f"<Get><CmdID>{'x' * 65}</CmdID></Get>", "64 octets"),
}


@pytest.mark.parametrize(("command", "why"), BAD.values(), ids=BAD)
def test_a_bad_command_costs_itself_and_no_other(command: str, why: str) -> None:
    before, bad, after = read(f"<Get><CmdID>0</CmdID></Get>{command}<Get><CmdID>9</CmdID></Get>").commands
    assert isinstance(bad, Malformed)
    assert why in bad.why
    assert (before, after) == (Get("0", ()), Get("9", ()))


def test_a_bad_command_inside_an_atomic_is_bad_there() -> None:
    (atomic,) = read(f"<Atomic><CmdID>1</CmdID>{BAD['an element in Data'][0]}</Atomic>").of(Atomic)
    assert isinstance(atomic.commands[0], Malformed)


def test_a_bad_answer_says_what_it_was_to_answer() -> None:
    (bad,) = read(BAD["a status that is no number"][0]).of(Malformed)
    assert (bad.is_answer, bad.msg_ref, bad.cmd_ref) == (True, "1", "7")


@pytest.mark.parametrize("content_type", BOTH)
@pytest.mark.parametrize("cmd_id", ["{0f8fad5b-d9cb-469f-a165-70867728950e}", "x" * 64, "a b", ""])
def test_ids_are_opaque_and_come_back_whole(cmd_id: str, content_type: str) -> None:
    status = Status("1", "1", cmd_id, "Get", 400)
    assert decode(encode(SyncML(HEADER, (status,)), content_type), content_type).commands == (status,)


def test_a_status_without_a_reference_refers_to_nothing() -> None:
    (status,) = read("<Status><CmdID>1</CmdID><MsgRef>1</MsgRef><Cmd>Get</Cmd><Data>400</Data></Status>").of(Status)
    assert status.cmd_ref == ""


def test_a_command_without_an_id_is_kept_for_the_session_to_refuse() -> None:
    assert next(read("<Get><Item/></Get>").of(Get)).cmd_id == ""


def test_an_alert_whose_code_is_no_number_has_none() -> None:
    assert next(read("<Alert><CmdID>1</CmdID><Data>hello</Data></Alert>").of(Alert)).code is None


def test_the_same_command_id_twice_is_read_as_two_commands() -> None:
    assert len(read("<Get><CmdID>1</CmdID></Get><Get><CmdID>1</CmdID></Get>").commands) == 2


def test_prefixes_and_foreign_namespaces_do_not_matter() -> None:
    body = one("<m:Get xmlns:m='urn:other'><m:CmdID>1</m:CmdID></m:Get>").replace("SYNCML1.2'", "SYNCML1.1'")
    assert next(decode(body.encode(), DM_XML).of(Get)).cmd_id == "1"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("<SyncML/>", "SyncHdr"),
        ("<Other/>", "not SyncML"),
        (one("").replace("<MsgID>2</MsgID>", ""), "MsgID"),
        (one("").replace("<MsgID>2</MsgID>", f"<MsgID>{'9' * 65}</MsgID>"), "MsgID"),
        (one("").replace("<SessionID> 1 </SessionID>", ""), "SessionID"),
        (one("").replace("<SessionID> 1 </SessionID>", f"<SessionID>{'1' * 65}</SessionID>"), "SessionID"),
        (one("").replace("https://s", ""), "SyncHdr"),
    ],
)
def test_a_message_without_what_it_needs_is_refused_by_name(body: str, why: str) -> None:
    with pytest.raises(SyncmlError, match=why):
        decode(body.encode(), DM_XML)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("<Meta><MaxMsgSize>big</MaxMsgSize><MaxObjSize>9</MaxObjSize></Meta>", "MaxMsgSize"),
        ("<Meta><MaxMsgSize>-1</MaxMsgSize><MaxObjSize>9</MaxObjSize></Meta>", "MaxMsgSize"),
        ("<Meta><NextNonce>%%%</NextNonce><MaxObjSize>9</MaxObjSize></Meta>", "NextNonce"),
        ("<Cred><Meta><Size>x</Size></Meta><Data>a</Data></Cred><Meta><MaxObjSize>9</MaxObjSize></Meta>", "Cred"),
    ],
)
def test_a_bad_value_in_the_header_counts_as_not_said_and_the_rest_stands(header: str, why: str) -> None:
    message = read_one(header)
    assert message.hdr.meta == Meta(max_obj_size=9)
    assert message.hdr.cred is None
    (said,) = message.hdr.unread
    assert why in said
    assert len(message.commands) == 1


def read_one(header: str) -> SyncML:
    return decode(one("<Alert><CmdID>1</CmdID><Data>1201</Data></Alert>", header=header).encode(), DM_XML)


@pytest.mark.parametrize(("written", "number"), [("two", 0), ("007", 7), ("9" * 40, 0)])
def test_a_msg_id_of_any_form_is_kept_for_the_references_to_it(written: str, number: int) -> None:
    hdr = decode(one("").replace("<MsgID>2</MsgID>", f"<MsgID> {written}</MsgID>").encode(), DM_XML).hdr
    assert (hdr.msg_id, hdr.msg_ref, hdr.numbered) == (number, written, number > 0)
    again = SyncML(hdr)
    assert decode(encode(again, DM_WBXML), DM_WBXML) == again


@pytest.mark.parametrize(
    "message",
    [
        SyncML(HEADER, (Replace("", (Item(target="./x", data="1"),)),)),
        SyncML(HEADER, (Unsupported("1", "Put"),)),
        SyncML(HEADER, (Replace("1", (Item(target="./x", data="a\0b"),)),)),
        SyncML(HEADER, (Replace("1", (Item(target="./x", data="\ud800"),)),)),
        SyncML(HEADER, (Add("1", (Item(data=MgmtTree((TndsNode("x", format="dog"),))),)),)),
        SyncML(HEADER, (Add("1", (Item(data=MgmtTree((TndsNode("x", format="bin", value="text"),))),)),)),
        SyncML(HEADER, (Add("1", (Item(data=MgmtTree((TndsNode("x", format="chr", value=b"raw"),))),)),)),
    ],
)
@pytest.mark.parametrize("content_type", BOTH)
def test_what_no_document_can_hold_is_our_mistake(message: SyncML, content_type: str) -> None:
    with pytest.raises(SyncmlValueError):
        encode(message, content_type)


@pytest.mark.parametrize("session_id", ["", "1" * 65])
def test_a_header_checks_its_session_id(session_id: str) -> None:
    with pytest.raises(SyncmlValueError):
        SyncHdr(session_id, 1, "t", "s")


def test_session_zero_is_legal() -> None:
    message = SyncML(replace(HEADER, session_id="0", msg_id=0))
    assert decode(encode(message, DM_WBXML), DM_WBXML) == message
