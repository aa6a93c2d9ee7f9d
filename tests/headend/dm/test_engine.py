"""The session itself, without database and credentials: packages, pieces, refusals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from headend.dm.engine import MESSAGES_MAX, Accepted, AlertSeen, ServerSession, State
from headend.dm.jobs.steps import URI_CHARS_MAX, Done, Failed, Job, Note, Outcome
from headend.dm.jobs.types import JOB_TYPES
from headend.dm.large_objects import Incoming, LargeObject
from omadm.syncml.codec import DM_WBXML, DM_XML, decode, encode
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Chal,
    Command,
    Delete,
    Get,
    Item,
    Meta,
    Replace,
    Results,
    Sequence,
    Status,
    SyncHdr,
    SyncML,
    Unsupported,
)

HDR = SyncHdr("1", 0, target="https://h/dm", source="urn:d", source_name="urn:d")
NO_ID = "none"
CHAL = Chal("syncml:auth-MAC", "b64", b"next")
NODE = Meta(format="node")
OK = Status("", "1", "0", "SyncHdr", 200)


@dataclass
class Port:
    """A `SessionStorage` that remembers."""

    waiting: list[Job] = field(default_factory=list)
    values: dict[str, object] = field(default_factory=dict)
    alerts: list[AlertSeen] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    not_kept: str = ""

    def value_seen(self, uri: str, item: Item) -> str:
        self.values[uri] = item.data
        return self.not_kept

    def alert_seen(self, alert: AlertSeen) -> None:
        self.alerts.append(alert)

    def next_job(self) -> Job | None:
        return self.waiting.pop(0) if self.waiting else None

    def job_noted(self, job: Job, note: Note) -> None:
        self.notes.append(note)

    def job_finished(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.id] = outcome


class Talk:
    """One session and its port; `say` sends commands as the device, the last answer stays in `heard`."""

    def __init__(self, *jobs: Job, meta: Meta | None = None) -> None:
        self.port = Port(list(jobs))
        self.session = ServerSession(
            session_id="1",
            device_uri="urn:d",
            device_name="urn:d",
            server_uri="https://h/dm",
            server_name="h",
            measure=lambda m: len(encode(m, DM_WBXML)),
        )
        self._meta = meta
        self._msg_id = 0

    def say(self, *commands: Command, final: bool = True, hdr: SyncHdr = HDR) -> SyncML:
        self._msg_id += 1
        numbered = tuple(_numbered(command, number) for number, command in enumerate(commands, start=1))
        message = SyncML(replace(hdr, msg_id=self._msg_id, meta=self._meta), numbered, final)
        self.heard = self.session.receive(message, self.port, Accepted(chal=CHAL))
        return self.heard

    def status(self, command: Command, code: int) -> Status:
        return Status("", str(self.heard.hdr.msg_id), command.cmd_id, type(command).__name__, code)

    def result(self, command: Command, item: Item) -> Results:
        return Results("", command.cmd_id, (item,), msg_ref=str(self.heard.hdr.msg_id))


def _numbered(command: Command, number: int) -> Command:
    if command.cmd_id == NO_ID:
        return replace(command, cmd_id="")
    return command if command.cmd_id else replace(command, cmd_id=str(number))


def job(kind: str, number: int = 1, **params: object) -> Job:
    return Job(number, kind, JOB_TYPES[kind].check(params), "corr", {})


def codes(message: SyncML) -> list[tuple[str, int]]:
    return [(s.cmd, s.code) for s in message.of(Status)]


START = Alert("", 1201)


def test_a_value_of_the_device_itself_that_cannot_be_kept_is_not_acknowledged() -> None:
    talk = Talk()
    talk.port.not_kept = "too long"
    leaf = Item(source="./DevInfo/Man", data="x")
    assert codes(talk.say(START, Replace("", (leaf,))))[2:] == [("Replace", 413)]


def test_commands_that_read_say_which_value_was_not_kept() -> None:
    talk = Talk(job("commands", commands=[{"command": "get", "path": "./A"}]))
    talk.port.not_kept = "too long"
    get = next(talk.say(START).of(Get))
    talk.say(talk.status(get, 200), talk.result(get, Item(source="./A", data="1")))
    (reply,) = talk.port.outcomes[1].result["replies"]  # type: ignore[union-attr]
    assert reply["not_kept"] == "too long"


def test_the_first_message_declares_our_sizes_and_the_header_status_brings_the_nonce() -> None:
    answer = Talk().say(START)
    assert answer.hdr.meta == Meta(max_msg_size=65_536, max_obj_size=1 << 20)
    assert (answer.hdr.target, answer.hdr.source, answer.hdr.source_name) == ("urn:d", "https://h/dm", "h")
    assert next(answer.of(Status)).chal == CHAL


def test_a_package_over_several_messages_is_asked_for_until_its_end() -> None:
    talk = Talk(job("get", paths=["./A"]))
    first = talk.say(START, final=False)
    assert not first.final
    assert [a.code for a in first.of(Alert)] == [1222]
    assert list(first.of(Get)) == []
    second = talk.say(Replace("", (Item(source="./DevInfo/Man", data="x"),)))
    assert second.final
    assert len(list(second.of(Get))) == 1


def test_message_ids_rise_above_those_of_the_device() -> None:
    talk = Talk()
    talk._msg_id = 4
    assert talk.say(START).hdr.msg_id == 5


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Alert("", 1200), 200),
        (Alert("", 1224), 200),
        (Alert("", 1100), 406),
        (Alert("", None), 400),
        (Replace("", (Item(source="./DevInfo/Man", data="x"),)), 200),
        (Replace("", (Item(source="./Other", data="x"),)), 405),
        (Get("", (Item(target="./A"),)), 405),
        (Add("", (Item(target="./A"),)), 405),
        (Atomic("", (Get("9", ()),)), 405),
        (Unsupported("7", "Put"), 406),
    ],
)
def test_each_command_of_a_device_gets_the_status_it_deserves(command: Command, code: int) -> None:
    assert codes(Talk().say(command))[1][1] == code


def test_a_command_without_an_id_is_bad_and_one_that_wants_no_response_gets_none() -> None:
    answer = Talk().say(Replace(NO_ID, (Item(source="./DevInfo/Man", data="x"),)), Alert("1", 1201, no_resp=True))
    assert codes(answer) == [("SyncHdr", 200), ("Replace", 400)]
    read = decode(encode(answer, DM_XML), DM_XML)
    assert [status.cmd_ref for status in read.of(Status)] == ["0", ""]


@pytest.mark.parametrize(("hdr", "code"), [(replace(HDR, ver_proto="DM/2.0"), 513), (replace(HDR, ver_dtd="1.1"), 505)])
def test_another_version_ends_the_session(hdr: SyncHdr, code: int) -> None:
    talk = Talk(job("get", paths=["./A"]))
    answer = talk.say(START, hdr=hdr)
    assert codes(answer) == [("SyncHdr", code)]
    assert talk.session.state is State.FAILED


def test_every_status_is_read_and_not_only_the_first() -> None:
    talk = Talk(job("get", paths=["./A", "./B"]))
    a, b = talk.say(START).of(Get)
    talk.say(
        OK,
        talk.status(b, 200),
        talk.result(b, Item(source="./B", data="2")),
        talk.status(a, 404),
    )
    assert talk.port.values == {"./B": "2"}
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Failed)
    assert outcome.result["refused"] == {"./A": 404}


def test_statuses_and_results_for_commands_never_sent_are_ignored() -> None:
    talk = Talk(job("get", paths=["./A"]))
    (get,) = talk.say(START).of(Get)
    talk.say(
        OK,
        Status("", "77", get.cmd_id, "Get", 500),
        Results("", "99", (Item(source="./Z", data="z"),), msg_ref="1"),
        talk.status(get, 200),
        talk.result(get, Item(source="./A", data="1")),
    )
    assert talk.port.outcomes[1] == Done({"values": 1})


def test_results_without_a_message_reference_belong_to_the_latest_command_of_that_id() -> None:
    talk = Talk(job("get", paths=["./A"]))
    (get,) = talk.say(START).of(Get)
    talk.say(OK, talk.status(get, 200), Results("", get.cmd_id, (Item(source="./A", data="1"),)))
    assert talk.port.outcomes[1] == Done({"values": 1})


def test_a_device_that_answers_nothing_fails_the_job_and_not_the_session() -> None:
    talk = Talk(job("get", paths=["./A"]), job("get", 2, paths=["./B"]))
    talk.say(START)
    answer = talk.say(OK)
    assert isinstance(talk.port.outcomes[1], Failed)
    assert [g.items[0].target for g in answer.of(Get)] == ["./B"]


def test_the_type_of_results_holds_for_items_that_name_none() -> None:
    talk = Talk(job("get", paths=["./A"]))
    (get,) = talk.say(START).of(Get)
    nodes = replace(talk.result(get, Item(source="./A", data="B")), meta=Meta(format="node"))
    answer = talk.say(OK, talk.status(get, 200), nodes)
    assert [g.items[0].target for g in answer.of(Get)] == ["./A/B"]


def test_a_large_result_is_put_together_over_messages() -> None:
    talk = Talk(job("get", paths=["./A"]))
    (get,) = talk.say(START).of(Get)
    first = Item(source="./A", meta=Meta("chr", size=6), data="abc", more_data=True)
    answer = talk.say(OK, talk.status(get, 200), talk.result(get, first), final=False)
    assert codes(answer)[-1] == ("Results", 213)
    assert [a.code for a in answer.of(Alert)] == [1222]
    talk.heard = replace(talk.heard, hdr=replace(talk.heard.hdr, msg_id=1))
    answer = talk.say(OK, talk.result(get, Item(source="./A", data="def")))
    assert codes(answer) == [("SyncHdr", 200)]
    assert talk.port.values == {"./A": "abcdef"}
    assert talk.port.outcomes[1] == Done({"values": 1})


@pytest.mark.parametrize(("size", "second", "code"), [(7, "def", 424), (6, "defg", 424), (None, "x" * (1 << 20), 416)])
def test_a_large_result_of_the_wrong_size_is_not_stored(size: int | None, second: str, code: int) -> None:
    talk = Talk(job("get", paths=["./A"]))
    (get,) = talk.say(START).of(Get)
    first = Item(source="./A", meta=Meta("chr", size=size), data="abc", more_data=True)
    talk.say(OK, talk.status(get, 200), talk.result(get, first), final=False)
    talk.heard = replace(talk.heard, hdr=replace(talk.heard.hdr, msg_id=1))
    answer = talk.say(OK, talk.result(get, Item(source="./A", data=second)))
    assert codes(answer)[-1] == ("Results", code)
    assert talk.port.values == {}
    assert isinstance(talk.port.outcomes[1], Failed)


def test_another_result_in_the_middle_of_an_object_ends_the_object() -> None:
    talk = Talk(job("get", paths=["./A", "./B"]))
    a, b = talk.say(START).of(Get)
    first = Item(source="./A", meta=Meta("chr", size=6), data="abc", more_data=True)
    talk.say(OK, talk.status(a, 200), talk.result(a, first), final=False)
    talk.heard = replace(talk.heard, hdr=replace(talk.heard.hdr, msg_id=1))
    talk.say(OK, talk.status(b, 200), talk.result(b, Item(source="./B", data="2")))
    assert talk.port.values == {"./B": "2"}


def big(value: str, **more: object) -> Job:
    return job("provision", nodes=[{"path": "./A/B", "value": value, **more}])


def test_an_object_larger_than_a_message_goes_out_in_pieces_that_fit() -> None:
    value = "<&漢>" * 2000
    talk = Talk(big(value), meta=Meta(max_msg_size=2048))
    answer, got, sizes = talk.say(START), "", []
    while not (answer.final and not list(answer.of(Replace))):
        (command,) = answer.of(Replace)
        item = command.items[0]
        assert isinstance(item.data, str)
        assert len(encode(answer, DM_WBXML)) <= 2048
        got += item.data
        sizes.append(item.meta.size if item.meta else None)
        assert item.more_data is not answer.final
        more = [Alert("", 1222)] if item.more_data else []
        code = 213 if item.more_data else 200
        answer = talk.say(OK, talk.status(command, code), *more, final=not more)
    assert got == value
    assert sizes[0] == len(value.encode())
    assert set(sizes[1:]) == {None}
    assert talk.port.outcomes[1] == Done({"replaced": 1, "added": 0, "deleted": 0})


@pytest.mark.parametrize("refusal", ["status", "alert", "silence"])
def test_an_object_that_the_device_gives_up_on_is_not_sent_to_its_end(refusal: str) -> None:
    talk = Talk(big("x" * 9000), meta=Meta(max_msg_size=2048))
    (command,) = talk.say(START).of(Replace)
    said: dict[str, list[Command]] = {
        "status": [talk.status(command, 420)],
        "alert": [Alert("", 1225, (Item(source="./A/B"),))],
        "silence": [],
    }
    answer = talk.say(OK, *said[refusal])
    assert answer.final
    assert list(answer.of(Replace)) == []
    assert isinstance(talk.port.outcomes[1], Failed)


def test_a_piece_that_was_not_believed_is_sent_again() -> None:
    talk = Talk(big("x" * 3000), meta=Meta(max_msg_size=2048))
    (first,) = talk.say(START).of(Replace)
    (again,) = talk.say(Status("", "1", "0", "SyncHdr", 401)).of(Replace)
    assert again.items[0].meta == first.items[0].meta
    answer = talk.say(OK, talk.status(again, 213), Alert("", 1222), final=False)
    (last,) = answer.of(Replace)
    assert answer.final
    assert f"{again.items[0].data!s}{last.items[0].data!s}" == "x" * 3000
    talk.say(OK, talk.status(last, 200))
    assert isinstance(talk.port.outcomes[1], Done)


def test_an_object_above_the_devices_limit_is_not_sent_at_all() -> None:
    talk = Talk(big("x" * 9000), meta=Meta(max_msg_size=2048, max_obj_size=8000))
    answer = talk.say(START)
    assert list(answer.of(Replace)) == []
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Failed)
    assert outcome.result["refused"] == {"./A/B": 416}


def test_an_atomic_that_does_not_fit_one_message_fails_its_job() -> None:
    commands = [{"command": "replace", "path": f"./A/N{n}", "value": "x" * 100} for n in range(40)]
    talk = Talk(
        job("commands", commands=commands, mode="atomic"), job("get", 2, paths=["./B"]), meta=Meta(max_msg_size=2048)
    )
    answer = talk.say(START)
    assert isinstance(talk.port.outcomes[1], Failed)
    assert len(list(answer.of(Get))) == 1


def test_children_of_an_atomic_without_a_status_share_their_parents() -> None:
    talk = Talk(nested("atomic"))
    (atomic,) = talk.say(START).of(Atomic)
    talk.say(OK, talk.status(atomic, 406))
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Failed)
    assert statuses(outcome) == [406, 406]


def nested(mode: str) -> Job:
    commands = [{"command": "replace", "path": f"./A/N{n}", "value": "x"} for n in range(2)]
    return job("commands", commands=commands, mode=mode)


def statuses(outcome: Outcome) -> list[int | None]:
    return [reply["status"] for reply in outcome.result["replies"]] if isinstance(outcome, Done | Failed) else []


@pytest.mark.parametrize(
    ("mode", "parent", "inside", "done", "told"),
    [
        ("atomic", 200, (200, 200), True, [200, 200]),
        ("atomic", 200, (None, None), True, [200, 200]),
        ("atomic", 500, (215, 215), False, [215, 215]),
        ("atomic", 507, (216, 404), False, [216, 404]),
        ("atomic", 507, (200, 404), False, [507, 404]),
        ("atomic", 516, (200, 404), False, [516, 404]),
        ("atomic", 507, (200, 200), False, [507, 507]),
        ("atomic", None, (200, 200), False, [None, None]),
        ("atomic", None, (None, None), False, [None, None]),
        ("sequence", 200, (200, 200), True, [200, 200]),
        ("sequence", 200, (404, 215), False, [404, 215]),
        ("sequence", 200, (200, None), False, [200, None]),
        ("sequence", 406, (None, None), False, [406, 406]),
        ("sequence", None, (200, 200), True, [200, 200]),
    ],
)
def test_the_status_of_an_atomic_holds_for_what_is_in_it_and_that_of_a_sequence_does_not(
    mode: str, parent: int | None, inside: tuple[int | None, ...], done: bool, told: list[int | None]
) -> None:
    talk = Talk(nested(mode))
    (outer,) = (c for c in talk.say(START).commands if isinstance(c, Atomic | Sequence))
    said = [(outer, parent), *zip(outer.commands, inside, strict=True)]
    talk.say(OK, *(talk.status(command, code) for command, code in said if code is not None))
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Done) is done
    assert statuses(outcome) == told


@pytest.mark.parametrize("kind", ["get", "commands"])
def test_a_get_without_its_value_is_not_done(kind: str) -> None:
    if kind == "get":
        talk = Talk(job(kind, paths=["./A"]))
    else:
        talk = Talk(job(kind, commands=[{"command": "get", "path": "./A"}]))
    (get,) = talk.say(START).of(Get)
    talk.say(OK, talk.status(get, 200))
    assert isinstance(talk.port.outcomes[1], Failed)


@pytest.mark.parametrize("code", [213, 214, 215, 216])
def test_codes_of_success_that_say_nothing_was_done_are_no_success(code: int) -> None:
    talk = Talk(job("commands", commands=[{"command": "delete", "path": "./A"}]))
    (delete,) = talk.say(START).of(Delete)
    talk.say(OK, talk.status(delete, code))
    assert isinstance(talk.port.outcomes[1], Failed)


def test_what_was_not_answered_is_not_told_as_a_refusal() -> None:
    talk = Talk(job("commands", commands=[{"command": "delete", "path": "./A"}]))
    talk.say(START)
    talk.say(OK)
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Failed)
    assert statuses(outcome) == [None]
    assert outcome.result["error"] == "Delete ./A was not answered: what the device did is not known"


def test_a_subtree_of_which_a_part_was_not_answered_is_not_read() -> None:
    talk = Talk(job("get", paths=["./A"]))
    (get,) = talk.say(START).of(Get)
    node = Item(source="./A", meta=Meta(format="node"), data="B/C/D/E")
    answer = talk.say(OK, talk.status(get, 200), talk.result(get, node))
    b, c, d, e = answer.of(Get)
    value = Item(source="./A/B", meta=Meta(format="chr"), data="1")
    said: list[Command] = [talk.status(b, 200), talk.result(b, value)]
    said += [talk.status(c, 405), talk.status(d, 404), talk.status(e, 200)]
    talk.say(OK, *said)
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Failed)
    assert outcome.result["refused"] == {"./A/E": None}
    assert outcome.result["unreadable"] == {"./A/C": 405}


@pytest.mark.parametrize(
    ("names", "asked", "values"),
    [
        ("B?list=TNDS/C", ["./A/C"], 1),
        (f"C/{'x' * 300}", ["./A/C"], 1),
        (f"{'x' * 300}/{'y' * 300}?", [], 0),
        ("//C/", ["./A/C"], 1),
    ],
)
def test_names_that_a_device_lists_are_asked_for_only_where_they_can_be(
    names: str, asked: list[str], values: int
) -> None:
    """One with a `?` was a question about something else, one of any length was asked for."""
    talk = Talk(job("get", paths=["./A"]))
    (get,) = talk.say(START).of(Get)
    answer = talk.say(OK, talk.status(get, 200), talk.result(get, Item(source="./A", meta=NODE, data=names)))
    more = list(answer.of(Get))
    assert [each.items[0].target for each in more] == asked
    said: list[Command] = []
    for each in more:
        value = Item(source=each.items[0].target, meta=Meta(format="chr"), data="1")
        said += [talk.status(each, 200), talk.result(each, value)]
    if more:
        talk.say(OK, *said)
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Done if names == "//C/" else Failed)
    assert outcome.result["values"] == values
    assert all(len(uri) <= URI_CHARS_MAX for uri in outcome.result.get("not_kept", {}))


def test_a_device_that_lists_a_node_below_itself_for_ever_comes_to_an_end() -> None:
    talk = Talk(job("get", paths=["."]))
    answer = talk.say(START)
    while more := list(answer.of(Get)):
        said: list[Command] = []
        for each in more:
            node = Item(source=each.items[0].target, meta=NODE, data="A/B")
            said += [talk.status(each, 200), talk.result(each, node)]
        answer = talk.say(OK, *said)
    outcome = talk.port.outcomes[1]
    assert isinstance(outcome, Failed)
    assert outcome.result["refused"] == {".": 413}


def test_no_session_goes_on_for_ever() -> None:
    talk = Talk()
    for _ in range(MESSAGES_MAX - 1):
        talk.say(START, final=False)
    assert not talk.heard.final
    assert talk.say(START, final=False).final
    assert talk.session.state is State.FAILED


def test_pieces_of_text_are_cut_between_characters() -> None:
    large, pieces = LargeObject("a漢🙂é" * 50), []
    while not large.finished:
        pieces.append(large.chunk(5))
    assert "".join(str(piece) for piece in pieces) == "a漢🙂é" * 50


def test_whole_values_pass_the_assembler_unchanged() -> None:
    item = Item(source="./A", data=b"\x00")
    assert Incoming(10).feed("./A", item).item is item
