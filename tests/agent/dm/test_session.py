"""Whole sessions of a device: packages over several messages, large objects, Atomic and Sequence, and nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from agent.dm.session import MESSAGES_MAX
from agent.https import Response
from agent.tree.nodes import state_from_json, state_to_json
from omadm.codes import AlertCode
from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.document import TNDS_WBXML, TNDS_XML
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Chal,
    Command,
    Copy,
    Delete,
    Exec,
    Get,
    Item,
    Malformed,
    Meta,
    MgmtTree,
    Replace,
    Results,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
    TndsNode,
    Unsupported,
)
from omadm.syncml.messages import Sequence as SequenceCommand
from tests.agent.dm.server import (
    ACCOUNT,
    SERVER_ID,
    FakeDmServer,
    add,
    copy,
    delete,
    execute,
    get,
    item,
    leaf,
    number,
    put,
    task,
)
from tests.agent.dm_device import UPDATE, Device
from tests.omadm.syncml.tnds_documents import decode_tnds

ENTROPY = Random(3)
URL = "./AMI/Uplink/URL"
GOOD = "https://good.example/"


def device(**server: object) -> Device:
    one = Device(FakeDmServer()).registered()
    for name, value in server.items():
        setattr(one.server, name, value)
    return one


def url(one: Device) -> str:
    return one.service.provisioning.uplink.url


class Stubborn(FakeDmServer):
    """Answers with what `change` makes of a proper message, properly signed."""

    def change(self, message: SyncML) -> SyncML:
        return message

    def _encode(self, message: SyncML) -> bytes:
        return super()._encode(self.change(message))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"session_id": "FFFF1"}, "an answer for session"),
        ({"msg_id": 0}, ""),
        ({"ver_proto": "SyncML/1.2"}, "not DM 1.x"),
        ({"resp_uri": "http://plain.example/"}, "no https URL"),
    ],
)
def test_a_header_that_does_not_fit_ends_the_session(changes: dict[str, object], says: str) -> None:
    class Server(Stubborn):
        def change(self, message: SyncML) -> SyncML:
            return replace(message, hdr=replace(message.hdr, **changes))  # type: ignore[arg-type]

    one = Device(Server())
    one.turn()
    one.turn()
    assert says in one.last_result


def test_a_message_number_that_does_not_grow_ends_the_session() -> None:
    class Server(Stubborn):
        def change(self, message: SyncML) -> SyncML:
            return replace(message, hdr=replace(message.hdr, msg_id=5))

    one = Device(Server([[get("./DevInfo/Man")]]))
    one.turn()
    one.turn()
    assert one.last_result == "message 5 after message 5"


@pytest.mark.parametrize("lacks", ["status", "chal"])
def test_a_server_that_leaves_the_header_status_or_the_nonce_out_is_not_talked_to(lacks: str) -> None:
    class Server(Stubborn):
        def change(self, message: SyncML) -> SyncML:
            first, *others = message.commands
            assert isinstance(first, Status)
            kept = [replace(first, chal=None)] if lacks == "chal" else []
            return replace(message, commands=(*kept, *others))

    one = Device(Server([[put(URL, GOOD)]]))
    one.turn()
    one.turn()
    assert one.last_result != "ok"
    assert url(one) == ""


def test_another_kind_of_challenge_is_not_answered() -> None:
    class Server(Stubborn):
        def change(self, message: SyncML) -> SyncML:
            first, *_ = message.commands
            assert isinstance(first, Status)
            return replace(message, commands=(replace(first, code=401, chal=Chal("syncml:auth-basic")),))

    one = Device(Server())
    one.turn()
    one.turn()
    assert "another kind of credentials" in one.last_result


def test_a_second_challenge_ends_the_session() -> None:
    class Server(FakeDmServer):
        def _answer(self, body: bytes, headers: object) -> Response:
            self.client_nonce = b"never right"
            return super()._answer(body, headers)  # type: ignore[arg-type]

    one = Device(Server())
    one.turn()
    one.turn()
    assert one.last_result == "the server refused our credentials"
    assert one.server.exchanges == 2


def test_an_abort_by_the_server_is_not_answered() -> None:
    one = device()
    one.session([put(URL, GOOD), Alert("", 1223)])
    assert one.last_result == "the server aborted the session"
    assert one.server.exchanges == 2
    assert url(one) == ""


def test_a_response_uri_is_used_for_the_rest_of_the_session() -> None:
    class Server(Stubborn):
        def request(self, method: str, url: str, **rest: object) -> Response:
            urls.append(url)
            return super().request(method, self.account.url, **rest)  # type: ignore[arg-type]

        def change(self, message: SyncML) -> SyncML:
            return replace(message, hdr=replace(message.hdr, resp_uri="https://other.example/s"))

    urls: list[str] = []
    one = Device(Server([[get("./DevInfo/Man")]]))
    one.turn()
    one.turn()
    one.session()
    assert urls == [ACCOUNT.url, "https://other.example/s", ACCOUNT.url]


# -- packages over several messages --------------------------------------------------------------------------------


def test_answers_that_do_not_fit_one_message_go_out_in_several_and_only_the_last_is_final() -> None:
    one = device(max_msg_size=900)
    one.session([get("./DevInfo/Man", "./DevInfo/Mod", "./DevDetail/FwV", "./DevDetail/HwV", "./DevInfo/DevId")] * 4)
    finals = [message.final for message in one.server.received[1:]]
    assert len(finals) > 2
    assert finals == [*[False] * (len(finals) - 1), True]
    assert one.server.codes == [200] * 20
    assert one.last_result == "ok"


def test_while_the_server_has_not_closed_its_package_the_client_asks_for_more_without_final() -> None:
    one = device(partial_next=True)
    one.server.new_session([put(URL, GOOD)], [get("./DevInfo/Man")])
    one.service.session_now()
    one.turn()
    second = one.server.received[1]
    assert not second.final
    assert [alert.code for alert in second.of(Alert)] == [AlertCode.NEXT_MESSAGE]
    assert one.server.received[-1].final
    assert one.last_result == "ok"


@pytest.mark.parametrize("content_type", [DM_WBXML, DM_XML])
def test_a_result_larger_than_a_message_goes_out_in_chunks_with_its_size_first(content_type: str) -> None:
    one = Device(FakeDmServer(content_type=content_type), content_type=content_type).registered()
    text = "<&é" * 333
    one.session([add("./SCOMO/Download/x/Description", text, "chr")])
    one.server.max_msg_size = 1400
    one.session([get("./SCOMO/Download/x/Description", "./DevInfo/Man")])
    chunks = [r.items[0] for r in one.server.replies if isinstance(r, Results)][:-1]
    assert len(chunks) > 1
    assert "".join(str(chunk.data) for chunk in chunks) == text
    assert [chunk.more_data for chunk in chunks] == [*[True] * (len(chunks) - 1), False]
    sizes = [chunk.meta.size if chunk.meta else None for chunk in chunks]
    assert sizes == [len(text.encode()), *[None] * (len(chunks) - 1)]
    assert one.server.values["./DevInfo/Man"] == "Maker"
    for message in one.server.received:
        assert len(encode(message, content_type)) <= 1400 or message.hdr.msg_id == 1


def test_a_result_above_the_servers_object_limit_is_413() -> None:
    one = device(max_obj_size=10)
    one.session([get("./DevInfo/DevId", "./DevInfo/Lang")])
    assert one.server.codes == [413, 200]
    assert one.server.values == {"./DevInfo/Lang": "en"}


def chunked(uri: str, pieces: Sequence[str | bytes], size: int | None) -> list[list[Command]]:
    """A large Replace, one package a piece."""
    packages: list[list[Command]] = []
    for index, piece in enumerate(pieces):
        meta = Meta(format="bin" if isinstance(piece, bytes) else "chr", size=size if index == 0 else None)
        more = index < len(pieces) - 1
        packages.append([Replace("", (Item(target=uri, meta=meta, data=piece, more_data=more),))])
    return packages


class Chunking(FakeDmServer):
    """Closes its package only with the last piece."""

    def _next(self, message: SyncML) -> tuple[list[Command], bool]:
        commands, final = super()._next(message)
        more = any(one.more_data for c in commands if isinstance(c, Add | Replace) for one in c.items)
        return commands, final and not more


def test_a_large_object_is_applied_when_its_last_piece_has_come() -> None:
    one = Device(Chunking()).registered()
    value = "https://good.example/" + "x" * 300
    one.session(*chunked(URL, [value[:100], value[100:200], value[200:]], len(value)))
    assert one.server.codes == [213, 213, 200]
    assert url(one) == value


def test_a_large_binary_object_is_a_firmware_package_in_the_tree() -> None:
    one = Device(Chunking()).registered()
    pieces = [bytes([n]) * 30_000 for n in range(5)]
    one.session(*chunked("./FUMO/Firmware/Update/PkgData", pieces, 150_000))
    assert one.server.codes == [213, 213, 213, 213, 200]
    one.session([get("./FUMO/Firmware/State"), execute("./FUMO/Firmware/Update", "u")])
    assert one.server.values == {"./FUMO/Firmware/State": "50"}
    assert one.server.codes == [200, 202]
    one.work()
    assert one.disk.read_bytes(UPDATE / "inbox/package.swu") == b"".join(pieces)
    one.turn()
    one.session(chunked("./FUMO/Firmware/Update/PkgData", [b"x"], None)[0])
    assert one.server.codes == [500]


@pytest.mark.parametrize(
    ("pieces", "size", "codes"),
    [
        (["aaaa", "bbbb"], 9, [213, 424]),
        (["aaaa", "bbbb"], 7, [213, 424]),
        (["aaaa", "bbbb"], 3, [424, 200]),
        (["aaaa", b"bbbb"], 8, [213, 424]),
        (["aaaa", "bbbb"], None, [412, 200]),
        (["aaaa", "bbbb"], 10**9, [413, 200]),
    ],
)
def test_a_large_object_of_the_wrong_size_is_not_applied(
    pieces: list[str | bytes], size: int | None, codes: list[int]
) -> None:
    one = Device(Chunking()).registered()
    one.session(*chunked("./FUMO/Firmware/PkgName", pieces, size))
    assert one.server.codes == codes
    assert one.last_result == "ok"


@pytest.mark.parametrize("between", [get("./DevInfo/Man"), put(URL, GOOD), delete("./SCHED/Task/x")])
def test_a_command_in_the_middle_of_a_large_object_drops_it_with_alert_1225(between: Command) -> None:
    one = Device(Chunking()).registered()
    first, _ = chunked("./FUMO/Firmware/PkgName", ["aaaa", "bbbb"], 8)
    one.session(first, [between], [get("./FUMO/Firmware/PkgName")])
    lost = [alert for alert in one.server.alerts if alert.code == AlertCode.NO_END_OF_DATA]
    assert [alert.items[0].target for alert in lost] == ["./FUMO/Firmware/PkgName"]
    assert one.server.values["./FUMO/Firmware/PkgName"] == ""


# -- Sequence and Atomic -------------------------------------------------------------------------------------------

BAD = put("./AMI/Uplink/BatchMax", "many", "int")
BEGUN = Replace("", (Item(target=URL, meta=Meta(format="chr", size=40), data="https://", more_data=True),))


def seq(*commands: Command) -> SequenceCommand:
    return SequenceCommand("", commands)


def atomic(*commands: Command) -> Atomic:
    return Atomic("", commands)


@pytest.mark.parametrize(
    ("command", "codes", "applied"),
    [
        (seq(put(URL, GOOD), get(URL)), [200, 200, 200], True),
        (seq(BAD, put(URL, GOOD), get(URL)), [200, 400, 215, 215], False),
        (seq(put(URL, GOOD), BAD, get(URL)), [200, 200, 400, 215], True),
        (atomic(put(URL, GOOD), *task()[:1]), [200, 200, 200], True),
        (atomic(put(URL, GOOD), BAD, delete("./SCHED/Task/x")), [507, 216, 400, 215], False),
        (atomic(put(URL, GOOD), get(URL)), [500, 215, 215], False),
        (atomic(put(URL, GOOD), atomic(BAD)), [500, 215, 215, 215], False),
        (atomic(put(URL, GOOD), BEGUN), [500, 215, 215], False),
        (atomic(seq(put(URL, GOOD), BEGUN)), [500, 215, 215, 215], False),
        (atomic(seq(put(URL, GOOD), BAD)), [507, 216, 216, 400], False),
        (seq(atomic(put(URL, GOOD), BAD), get(URL)), [200, 507, 216, 400, 215], False),
        (seq(put(URL, GOOD), atomic(BAD)), [200, 200, 507, 400], True),
        (seq(seq(seq(seq(seq(put(URL, GOOD)))))), [200, 200, 200, 200, 200, 413], False),
    ],
)
def test_sequence_goes_on_until_an_error_and_atomic_is_all_or_nothing(
    command: Command, codes: list[int], applied: bool
) -> None:
    one = device()
    one.session([command])
    assert one.server.codes == codes
    assert url(one) == (GOOD if applied else "")


def test_an_exec_in_an_atomic_that_fails_has_not_happened() -> None:
    one = device()
    base = "./FUMO/Firmware/DownloadAndUpdate"
    one.session([atomic(put(f"{base}/PkgURL", GOOD), execute(base, "c"), BAD)], [get("./FUMO/Firmware/State")])
    assert one.server.codes[:4] == [507, 216, 216, 400]
    assert one.server.values == {"./FUMO/Firmware/State": "10"}


def test_an_atomic_of_many_commands_is_rolled_back_whatever_fails_in_it() -> None:
    one = device()
    before = one.service.tree.state
    good: list[Command] = [*task(), put(URL, GOOD), copy("./DevInfo/Man", "./FUMO/Firmware/PkgName")]
    for existing in range(len(good) + 1):
        one.session([atomic(*good[:existing], BAD, *good[existing:])])
        assert one.server.codes == [507, *[216] * existing, 400, *[215] * (len(good) - existing)]
        assert one.service.tree.state == before


def test_when_storing_fails_no_answer_claims_success() -> None:
    one = device()
    whole = one.disk.write_durable

    def failing(path: object, data: bytes, mode: int = 0o600) -> None:
        if "tree" in str(path):
            raise OSError(5, "input/output error")
        whole(path, data, mode)  # type: ignore[arg-type]

    one.disk.write_durable = failing  # type: ignore[method-assign]
    one.session([put(URL, GOOD), get("./DevInfo/Man"), atomic(put(URL, GOOD))])
    assert one.server.codes == [500, 200, 500, 500]
    assert url(one) == ""


# -- single commands -----------------------------------------------------------------------------------------------


def test_each_item_of_a_command_is_answered() -> None:
    one = device()
    one.session([Replace("", (item(URL, GOOD), item("./DevInfo/Man", "x"), item("./None", "y")))])
    assert one.server.codes == [200, 405, 404]
    assert [reply.target_refs for reply in one.server.replies if isinstance(reply, Status)] == [
        (URL,),
        ("./DevInfo/Man",),
        ("./None",),
    ]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Get("", ()), 412),
        (Get("", (Item(),)), 412),
        (Alert("", 1101), 406),
        (Alert("", None), 406),
        (get("./Inbox"), 405),
        (get("./AMI/Uplink/Token"), 405),
        (put(f"{URL}?prop=Name", "x"), 405),
        (put(f"{URL}?list=Struct", "x"), 405),
        (Add("", (item(f"{URL}?prop=Title", "x"),)), 405),
        (delete(f"{URL}?prop=Title"), 405),
        (put(f"{URL}?prop=Title", "x"), 200),
        (get(f"{URL}?prop=Type"), 200),
        (get("./SCHED?prop=Size"), 406),
        (put(URL, "http://plain.example"), 400),
        (execute("./SCHED"), 405),
        (add("./SCHED/Task/x", MgmtTree((TndsNode("x", format="node"),))), 200),
        (put("./SCHED", MgmtTree((TndsNode("SCHED", format="node"),))), 405),
        (put("./SCHED/Task/x", MgmtTree((TndsNode("x", format="node"),))), 404),
        (put("./SCHED/Task/x", MgmtTree((TndsNode("y", format="node"),))), 400),
    ],
)
def test_what_cannot_be_done_has_its_status(command: Command, code: int) -> None:
    one = device()
    one.session([command])
    assert one.server.codes == [code]
    assert one.last_result == "ok"


@pytest.mark.parametrize("code", range(1100, 1105))
def test_a_device_without_a_user_refuses_interaction_and_does_nothing_that_hangs_on_it(code: int) -> None:
    """OMA-TS-DM_Protocol 1.2, section 10: optional feature not supported; what was to follow a consent does not."""
    question = Alert("", code, (Item(data="MINDT=10"), Item(data="Update the firmware?")))
    wish = put(URL, "https://a.example/")
    for commands, codes in (
        ([question, wish], [406, 200]),
        ([seq(question, wish)], [200, 406, 215]),
        ([atomic(question, wish)], [507, 406, 215]),
        ([atomic(wish, question)], [507, 216, 406]),
    ):
        one = device()
        one.session(commands)
        assert one.server.codes == codes
        assert (one.service.provisioning.uplink.url != "") == (codes == [406, 200])
        assert one.last_result == "ok"


def random_message(random: Random) -> SyncML:
    commands = number([random_command(random) for _ in range(random.randint(0, 5))])
    return SyncML(SyncHdr("1", 1, "t", "s"), tuple(commands))


@pytest.mark.parametrize("seed", range(30))
def test_every_command_that_can_be_decoded_is_answered_and_the_tree_stays_whole(seed: int) -> None:
    random = Random(seed)
    one = device()
    executor = one.service.executor(SERVER_ID)
    for _ in range(30):
        message = random_message(random)
        answered = {r.cmd_ref for r in executor.run(message) if isinstance(r, Status)}
        wanted = {c.cmd_id for c in message.commands if not isinstance(c, Status | Results)}
        assert wanted <= answered
        assert state_from_json(state_to_json(one.service.tree.state)) == one.service.tree.state
        list(one.service.tree.view().walk(()))


def test_a_command_that_dm_does_not_use_is_406() -> None:
    message = SyncML(SyncHdr("1", 1, "t", "s"), (Unsupported("7", "Put"),))
    (reply,) = device().service.executor(SERVER_ID).run(message)
    assert isinstance(reply, Status)
    assert (reply.code, reply.cmd, reply.cmd_ref) == (406, "Put", "7")


def test_a_bad_command_is_400_and_the_others_are_carried_out() -> None:
    bad = Malformed("2", "Replace", "element a in Data")
    commands = (replace(get("./DevInfo/Man"), cmd_id="1"), bad, replace(get("./DevInfo/Mod"), cmd_id="3"))
    replies = device().service.executor(SERVER_ID).run(SyncML(SyncHdr("1", 1, "t", "s"), commands))
    assert [(r.cmd, r.code) for r in replies if isinstance(r, Status)] == [("Get", 200), ("Replace", 400), ("Get", 200)]


def test_a_bad_command_in_an_atomic_undoes_it() -> None:
    one = device()
    inside = (Add("2", (item("./SCHED/Task/t1", fmt="node"),)), Malformed("3", "Add", "element a in Data"))
    message = SyncML(SyncHdr("1", 1, "t", "s"), (Atomic("1", inside),))
    replies = one.service.executor(SERVER_ID).run(message)
    assert [r.code for r in replies if isinstance(r, Status)] == [507, 216, 400]
    view = one.service.tree.view()
    assert view.names(view.existing(("SCHED", "Task"))) == []


def test_a_command_without_an_id_is_not_carried_out_and_answered_as_bad() -> None:
    one = device()
    message = SyncML(SyncHdr("1", 1, "t", "s"), (Add("", (item("./SCHED/Task/t1", fmt="node"),)),))
    (reply,) = one.service.executor(SERVER_ID).run(message)
    assert isinstance(reply, Status)
    assert (reply.code, reply.cmd, reply.cmd_ref) == (400, "Add", "")
    view = one.service.tree.view()
    assert view.names(view.existing(("SCHED", "Task"))) == []
    assert decode(encode(SyncML(message.hdr, (replace(reply, cmd_id="1"),)), DM_XML), DM_XML)


def test_results_follow_the_status_of_their_get() -> None:
    one = device()
    one.session([get("./DevInfo/Man"), get("./None"), get("./DevInfo/Mod")])
    shown = [
        (type(reply).__name__, reply.cmd_ref, getattr(reply, "code", None))
        for reply in one.server.replies
        if isinstance(reply, Status | Results)
    ]
    refs = [ref for _, ref, _ in shown]
    assert [(name, code) for name, _, code in shown] == [
        ("Status", 200),
        ("Results", None),
        ("Status", 404),
        ("Status", 200),
        ("Results", None),
    ]
    assert refs[0] == refs[1]
    assert refs[3] == refs[4]


def test_a_tree_comes_back_as_a_tnds_document_and_can_be_added_as_one() -> None:
    one = device()
    one.session(task())
    one.session([get("./SCHED/Task/t1?list=TNDS")])
    tree = one.server.values["./SCHED/Task/t1"]
    assert isinstance(tree, MgmtTree)
    (node,) = tree.nodes
    assert (node.name, node.path, node.format) == ("t1", "./SCHED/Task", "node")
    setting = next(child for child in node.children if child.name == "Setting")
    assert {child.name: child.value for child in setting.children} == {"Every": "60", "ReadingList": "residential-108"}
    new = TndsNode("Setting", format="node", children=(leaf("Every", "30", "int"), leaf("ReadingList", "other")))
    one.session([Add("", (item("./SCHED/Task", MgmtTree((TndsNode("t2", format="node", children=(new,)),))),))])
    assert one.server.codes == [200]
    assert [(t.task_id, t.every_s) for t in one.service.provisioning.tasks] == [("t1", 60), ("t2", 30)]


def test_a_subtree_is_replaced_whole_or_not_at_all() -> None:
    def tree(*settings: TndsNode) -> MgmtTree:
        group = TndsNode("Setting", format="node", children=settings)
        return MgmtTree((TndsNode("t1", format="node", children=(group,)),))

    one = device()
    one.session(task())
    bad = tree(leaf("Every", "never", "int"))
    good = tree(leaf("Every", "15", "int"), leaf("ReadingList", "other"))
    one.session([put("./SCHED/Task/t1", bad)])
    assert one.server.codes == [400]
    assert [t.name for t in one.service.provisioning.tasks] == ["billing"]
    one.session([put("./SCHED/Task/t1", good)])
    assert one.server.codes == [200]
    assert [(t.name, t.every_s) for t in one.service.provisioning.tasks] == [("", 15)]


@pytest.mark.parametrize("content_type", [DM_WBXML, DM_XML])
def test_the_whole_tree_as_a_document_travels_in_chunks(content_type: str) -> None:
    one = Device(FakeDmServer(content_type=content_type), content_type=content_type).registered()
    one.server.max_msg_size = 1500
    one.session([get(".?list=TNDS")])
    chunks = [r.items[0] for r in one.server.replies if isinstance(r, Results)]
    assert len(chunks) > 2
    first = chunks[0].meta
    assert first is not None
    if content_type == DM_WBXML:
        document = b"".join(chunk.data for chunk in chunks if isinstance(chunk.data, bytes))
        tree = decode_tnds(document, TNDS_WBXML)
    else:
        document = "".join(chunk.data for chunk in chunks if isinstance(chunk.data, str)).encode()
        tree = decode_tnds(document, TNDS_XML)
    assert first.size == len(document)
    assert [child.name for child in tree.nodes[0].children] == [
        "DevInfo",
        "DevDetail",
        "DMAcc",
        "SCHED",
        "AMI",
        "FUMO",
        "SCOMO",
        "ConnMO",
        "LAWMO",
        "DiagMon",
    ]


def test_a_tnds_document_is_added_whole_or_not_at_all() -> None:
    one = device()
    good, bad = leaf("Every", "30", "int"), leaf("Unknown", "x")
    tree = MgmtTree(
        (TndsNode("t3", format="node", children=(TndsNode("Setting", format="node", children=(good, bad)),)),)
    )
    one.session([Add("", (item("./SCHED/Task", tree),))], [get("./SCHED/Task")])
    assert one.server.codes == [405, 200]
    assert one.server.values == {"./SCHED/Task": ""}


def test_package_data_may_come_inside_a_document() -> None:
    one = device()
    data = TndsNode("PkgData", format="bin", value=b"package")
    one.session([Add("", (item("./FUMO/Firmware/Update", MgmtTree((data,))),))], [get("./FUMO/Firmware/State")])
    assert one.server.codes == [200, 200]
    assert one.server.values == {"./FUMO/Firmware/State": "50"}


def test_struct_lists_name_every_node_below() -> None:
    one = device()
    one.session([get("./DevDetail/URI?list=StructData", "./DevDetail/URI?list=Struct")])
    with_data, without = (reply.items for reply in one.server.replies if isinstance(reply, Results))
    names = ["./DevDetail/URI", *(f"./DevDetail/URI/Max{name}" for name in ("Depth", "TotLen", "SegLen"))]
    assert [one.source for one in with_data] == names
    assert [one.data for one in with_data] == [None, "16", "255", "64"]
    assert [one.data for one in without] == [None] * 4


def test_a_secret_is_in_no_listing() -> None:
    one = device()
    one.session([put("./AMI/Uplink/Token", "hush"), put("./AMI/Access/Secret", "hush")])
    one.session([get("./AMI?list=StructData"), get("./AMI?list=TNDS"), get("./DMAcc?list=TNDS")])
    assert "hush" not in repr(one.server.replies)
    assert "secret" not in repr(one.server.replies)


# -- nonsense ------------------------------------------------------------------------------------------------------

WORDS = ["./DevInfo/Man", URL, "./SCHED/Task/t", "./SCHED/Task/t/Setting/Every", ".", "", "/", "./FUMO/Firmware/Update"]
TEXTS: list[str | bytes | None] = ["", "5", "x" * 300, None, b"\x00\xff", GOOD]


def random_item(random: Random) -> Item:
    meta = None
    if random.random() < 0.5:
        meta = Meta(format=random.choice([None, "chr", "int", "node", "bin"]), size=random.choice([None, 1, 600]))
    target = random.choice(WORDS) + random.choice(["", "", "?list=TNDS", "?prop=ACL", "?x"])
    data = random.choice(TEXTS)
    return Item(target or None, random.choice([None, *WORDS[:3]]), None, None, meta, data, random.random() < 0.2)


def random_command(random: Random, depth: int = 0) -> Command:
    items = tuple(random_item(random) for _ in range(random.randint(0, 3)))
    kind = random.randrange(14)
    simple: list[type[Add | Replace | Delete | Copy | Get]] = [Add, Replace, Delete, Copy, Get]
    if kind < 8:
        return random.choice(simple)("", items)
    if kind == 8:
        return Exec("", items, correlator=random.choice([None, "c"]))
    if kind == 9:
        return Alert("", random.choice([1100, 1200, 1222, 1226, 9, None]), items)
    if kind == 10:
        code = random.choice([200, 213, 401, 500])
        return Status("", str(random.randint(0, 3)), str(random.randint(0, 3)), "Alert", code)
    if kind == 11:
        return Results("", "1", items)
    if kind == 12 or depth > 5:
        return Unsupported("", "Search")
    nested = tuple(random_command(random, depth + 1) for _ in range(random.randint(0, 3)))
    return Atomic("", nested) if random.random() < 0.5 else SequenceCommand("", nested)


@pytest.mark.parametrize("seed", range(40))
def test_random_commands_of_an_authenticated_server_get_answers_and_a_session_that_ends(seed: int) -> None:
    random = Random(seed)
    one = device(max_msg_size=random.choice([None, 400, 2000]), max_obj_size=random.choice([None, 50]))
    packages: list[list[Command]] = []
    for _ in range(random.randint(1, 6)):
        package = [random_command(random) for _ in range(random.randint(0, 4))]
        try:
            encode(SyncML(SyncHdr("1", 1, "t", "s"), tuple(number(package))), DM_WBXML)
        except SyncmlValueError:
            continue
        packages.append(package)
    one.server.partial_next = random.random() < 0.3
    one.session(*packages)
    assert one.last_result
    assert one.server.exchanges <= MESSAGES_MAX + 2
    one.service.tree.view().walk(())


@pytest.mark.parametrize("seed", range(20))
def test_damaged_answers_end_the_session_without_an_effect(seed: int) -> None:
    random = Random(seed)

    class Server(FakeDmServer):
        def _answer(self, body: bytes, headers: object) -> Response:
            good = super()._answer(body, headers)  # type: ignore[arg-type]
            damaged = bytearray(good.body)
            for _ in range(random.randint(1, 4)):
                damaged[random.randrange(len(damaged))] = random.randrange(256)
            cut = bytes(damaged[: random.randrange(len(damaged))]) if random.random() < 0.3 else bytes(damaged)
            return Response(200, good.headers, cut)

    one = Device(Server([[put(URL, GOOD)]]))
    one.turn()
    one.turn()
    assert url(one) == ""
