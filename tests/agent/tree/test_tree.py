"""The management tree: what commands do to nodes, who may, and what survives."""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.tree.acl import Acl, identifier
from agent.tree.newer import files_set_aside, warnings
from agent.tree.nodes import Content, State, foreign_nodes, state_from_json, state_to_json
from agent.tree.persistence import JsonFile, ManagementTree, TwoGenerations
from agent.tree.schema import (
    AGRD,
    ANY,
    GE,
    Access,
    Format,
    NodeSpec,
    check_value,
    group,
    int_range,
    interior,
    live,
    one_of,
    permanent,
    setting,
)
from agent.tree.tree import DEVICE, NODES_MAX, Transaction
from agent.tree.uri import Address, parse_uri
from omadm.codes import Code, Refusal
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival

FOLDER = Path("/state/dm")
SERVER = "server"

SCHEMA = interior(
    ".",
    interior(
        "A",
        permanent("Text", Format.CHR, default="standard", value_chars_max=20),
        permanent("Number", Format.INT, default="5", check=int_range(1, 9)),
        permanent("Flag", Format.BOOL),
        permanent("Blob", Format.BIN),
        permanent("Secret", Format.CHR, access=Access.REPLACE, secret=True),
        live("Now", Format.INT, lambda _: "42"),
        NodeSpec("Run", Format.NODE, GE, (permanent("Url", Format.CHR),)),
    ),
    interior(
        "B",
        group(
            setting("Name", Format.CHR),
            group(setting("Deep", Format.INT), name="Sub"),
            interior("Auto", live("Name", Format.CHR, lambda path: path[1])),
            access=AGRD,
        ),
    ),
    NodeSpec(
        "L", Format.NODE, Access.GET, (group(live("Id", Format.CHR, lambda p: p[1])),), names=lambda _: ["x", "y"]
    ),
)


def tx(server: str = DEVICE, state: State | None = None, wall: float = 1000.0) -> Transaction:
    return Transaction(SCHEMA, state or State(), server=server, wall=wall)


def full(server: str = SERVER) -> Transaction:
    """A server with every right everywhere."""
    first = tx()
    for root in (("A",), ("B",), ("L",)):
        first.put(root, acl=Acl.everything_for(server))
    return tx(server, first.state)


def refused(code: Code, what: Callable[[], object]) -> None:
    with pytest.raises(Refusal) as found:
        what()
    assert found.value.code == code


def value(changing: Transaction, *path: str) -> str | bytes:
    return changing.value(changing.get(path))


# -- addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [("./A/Text", ("A", "Text")), ("A/Text", ("A", "Text")), (".", ()), ("./", ()), ("./A/", ("A",))],
)
def test_addresses_are_relative_with_or_without_the_dot(text: str, path: tuple[str, ...]) -> None:
    assert parse_uri(text) == Address(path)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, Code.INCOMPLETE),
        ("", Code.INCOMPLETE),
        ("/A", Code.NOT_FOUND),
        ("./A//B", Code.NOT_FOUND),
        ("./../A", Code.NOT_FOUND),
        ("./A/*", Code.NOT_FOUND),
        ("./A\x00", Code.NOT_FOUND),
        ("./" + "n" * 65, Code.URI_TOO_LONG),
        ("./" + "/".join("n" * 17), Code.URI_TOO_LONG),
        ("./" + "n" * 400, Code.URI_TOO_LONG),
        ("./A?prop=Colour", Code.NOT_SUPPORTED),
        ("./A?list=Everything", Code.NOT_SUPPORTED),
        ("./A?list=TNDS+Colour", Code.NOT_SUPPORTED),
        ("./A?list=Struct+ACL", Code.NOT_SUPPORTED),
        ("./A?x", Code.NOT_SUPPORTED),
    ],
)
def test_what_addresses_nothing_is_refused_with_its_code(text: str | None, code: Code) -> None:
    refused(code, lambda: parse_uri(text))


def test_a_tnds_query_names_what_to_include_or_to_leave_out() -> None:
    assert parse_uri("./A?list=TNDS+ACL+Value").parts == {"ACL", "Value"}
    assert "Value" not in parse_uri("./A?list=TNDS-Value").parts


# -- Get -------------------------------------------------------------------------------------------------------


def test_get_of_a_leaf_gives_the_stored_value_or_the_default_and_of_a_live_one_what_is_now() -> None:
    changing = full()
    assert value(changing, "A", "Text") == "standard"
    changing.replace(("A", "Text"), Content("chr", None, "new"))
    assert value(changing, "A", "Text") == "new"
    assert value(changing, "A", "Now") == "42"
    assert value(changing, "A", "Blob") == b""


def test_get_of_an_interior_node_names_its_children() -> None:
    changing = full()
    assert changing.names(changing.get(("A",)))[:2] == ["Text", "Number"]
    assert changing.names(changing.get(("B",))) == []
    assert changing.names(changing.get(("L",))) == ["x", "y"]
    changing.add(("B", "t2"))
    changing.add(("B", "t1"))
    assert changing.names(changing.get(("B",))) == ["t1", "t2"]
    assert changing.names(changing.get(("B", "t1"))) == ["Auto"]


def test_get_without_access_or_right_is_refused() -> None:
    changing = full()
    refused(Code.NOT_ALLOWED, lambda: changing.get(("A", "Secret")))
    refused(Code.NOT_FOUND, lambda: changing.get(("A", "Nothing")))
    refused(Code.NOT_FOUND, lambda: changing.get(("L", "z")))
    stranger = tx("stranger", changing.state)
    refused(Code.PERMISSION_DENIED, lambda: stranger.get(("A", "Text")))


def test_a_walk_leaves_out_what_may_not_be_read() -> None:
    changing = full()
    names = {existing.path[-1] for existing in changing.walk(("A",))}
    assert "Secret" not in names
    assert {"A", "Text", "Run", "Url", "Now"} <= names


# -- Add -------------------------------------------------------------------------------------------------------


def test_add_makes_missing_parents_that_servers_may_make() -> None:
    changing = full()
    changing.add(("B", "t1", "Sub", "Deep"), Content("int", None, "7"))
    assert value(changing, "B", "t1", "Sub", "Deep") == "7"
    assert changing.names(changing.get(("B", "t1"))) == ["Sub", "Auto"]


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        (("A", "Text"), Content("chr", None, "x"), Code.ALREADY_EXISTS),
        ((), Content(), Code.ALREADY_EXISTS),
        (("B", "t", "Auto", "Name"), Content("chr", None, "x"), Code.NOT_ALLOWED),
        (("B", "t", "Unknown"), Content("chr", None, "x"), Code.NOT_ALLOWED),
        (("C",), Content("node"), Code.NOT_ALLOWED),
        (("L", "z"), Content("node"), Code.NOT_ALLOWED),
        (("A", "Text", "Below"), Content("chr", None, "x"), Code.NOT_ALLOWED),
        (("B", "t", "Sub", "Deep"), Content("chr", None, "7"), Code.UNSUPPORTED_FORMAT),
        (("B", "t", "Sub", "Deep"), Content("int", None, "seven"), Code.BAD_REQUEST),
        (("B", "t", "Sub", "Deep"), Content("int", None, str(2**31)), Code.BAD_REQUEST),
        (("B", "t"), Content("chr", None, "x"), Code.UNSUPPORTED_FORMAT),
        (("B", "t", "Name"), Content("chr", None, "x" * 2000), Code.TOO_LARGE),
        (("B", "a" * 65), Content("node"), Code.URI_TOO_LONG),
    ],
)
def test_a_refused_add_changes_nothing(path: tuple[str, ...], content: Content, code: Code) -> None:
    changing = full()
    before = changing.state
    refused(code, lambda: changing.add(path, content))
    assert changing.state is before


def test_the_number_of_nodes_is_bounded() -> None:
    changing = full()
    for number in range(64):
        changing.add(("B", f"t{number}"))
    refused(Code.DEVICE_FULL, lambda: changing.add(("B", "one-more")))
    assert NODES_MAX > 64


def test_a_server_without_replace_on_the_parent_owns_the_interior_node_it_makes() -> None:
    first = tx()
    first.put(("B",), acl=Acl.parse("Add=*&Get=*"))
    changing = tx("maker", first.state)
    changing.add(("B", "mine"))
    changing.add(("B", "mine", "Name"), Content("chr", None, "x"))
    changing.replace(("B", "mine", "Name"), Content("chr", None, "y"))
    other = tx("other", changing.state)
    refused(Code.PERMISSION_DENIED, lambda: other.replace(("B", "mine", "Name"), Content("chr", None, "z")))
    refused(Code.PERMISSION_DENIED, lambda: other.delete(("B", "mine")))
    changing.delete(("B", "mine"))


# -- Replace, Delete, Copy, Exec ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        (("B", "t"), Content("node"), Code.NOT_FOUND),
        (("A",), Content("node"), Code.NOT_ALLOWED),
        (("A", "Now"), Content("int", None, "1"), Code.NOT_ALLOWED),
        (("A", "Number"), Content("int", None, "10"), Code.BAD_REQUEST),
        (("A", "Flag"), Content("bool", None, "maybe"), Code.BAD_REQUEST),
        (("A", "Text"), Content("chr", None, "x" * 21), Code.TOO_LARGE),
        (("A", "Text"), Content("chr", None, b"\xff"), Code.BAD_REQUEST),
        (("A", "Blob"), Content("b64", None, "!!"), Code.BAD_REQUEST),
    ],
)
def test_a_refused_replace_changes_nothing(path: tuple[str, ...], content: Content, code: Code) -> None:
    changing = full()
    before = changing.state
    refused(code, lambda: changing.replace(path, content))
    assert changing.state is before


def test_values_are_kept_in_canonical_form() -> None:
    changing = full()
    changing.replace(("A", "Number"), Content("int", None, " +07 "))
    changing.replace(("A", "Flag"), Content("bool", None, "TRUE"))
    changing.replace(("A", "Blob"), Content("b64", None, "AAH/"))
    assert [value(changing, "A", name) for name in ("Number", "Flag", "Blob")] == ["7", "true", b"\x00\x01\xff"]


def test_delete_removes_dynamic_nodes_with_everything_below_and_nothing_else() -> None:
    changing = full()
    changing.add(("B", "t", "Sub", "Deep"), Content("int", None, "1"))
    paths: list[tuple[str, ...]] = [(), ("A",), ("A", "Text"), ("B", "t", "Auto"), ("L", "x")]
    for path in paths:
        refused(Code.NOT_ALLOWED, partial(changing.delete, path))
    refused(Code.NOT_FOUND, lambda: changing.delete(("B", "u")))
    changing.delete(("B", "t"))
    assert changing.find(("B", "t", "Sub")) is None


def test_copy_is_leaf_to_leaf() -> None:
    changing = full()
    changing.add(("B", "t", "Name"), Content("chr", None, "from"))
    changing.copy(("B", "t", "Name"), ("B", "u", "Name"))
    changing.copy(("B", "t", "Name"), ("A", "Text"))
    assert value(changing, "B", "u", "Name") == value(changing, "A", "Text") == "from"
    refused(Code.NOT_ALLOWED, lambda: changing.copy(("B", "t"), ("B", "v")))
    refused(Code.NOT_ALLOWED, lambda: changing.copy(("A", "Secret"), ("A", "Text")))
    refused(Code.NOT_FOUND, lambda: changing.copy(("B", "none", "Name"), ("A", "Text")))


def test_exec_needs_a_node_that_takes_it_and_the_right() -> None:
    changing = full()
    changing.exec(("A", "Run"))
    refused(Code.NOT_ALLOWED, lambda: changing.exec(("A",)))
    refused(Code.NOT_FOUND, lambda: changing.exec(("A", "Walk")))
    weak = tx("weak", changing.state)
    refused(Code.PERMISSION_DENIED, lambda: weak.exec(("A", "Run")))


# -- properties --------------------------------------------------------------------------------------------------


def test_properties_are_kept_by_the_device() -> None:
    changing = full()
    changing.add(("B", "t", "Name"), Content("chr", "text/x", "äb"))
    path = ("B", "t", "Name")
    assert {name: changing.property(path, name) for name in ("Format", "Name", "Size", "Type", "VerNo", "TStamp")} == {
        "Format": "chr",
        "Name": "Name",
        "Size": "3",
        "Type": "text/x",
        "VerNo": "0",
        "TStamp": "19700101T001640Z",
    }
    changing.replace(path, Content("chr", None, "c"))
    assert changing.property(path, "VerNo") == "1"
    changing.replace_property(path, "Title", "a title")
    assert changing.property(path, "Title") == "a title"
    refused(Code.NOT_SUPPORTED, lambda: changing.property(("B", "t"), "Size"))
    refused(Code.NOT_ALLOWED, lambda: changing.replace_property(path, "Format", "int"))


def test_a_title_does_not_disturb_a_default_value() -> None:
    changing = full()
    changing.replace_property(("A", "Text"), "Title", "t")
    assert value(changing, "A", "Text") == "standard"


def test_a_rename_keeps_everything_below_and_the_kind_of_node() -> None:
    changing = full()
    changing.add(("B", "t", "Name"), Content("chr", None, "v"))
    changing.replace_property(("B", "t"), "Name", "u")
    assert value(changing, "B", "u", "Name") == "v"
    assert changing.find(("B", "t")) is None
    changing.add(("B", "w"))
    refused(Code.ALREADY_EXISTS, lambda: changing.replace_property(("B", "u"), "Name", "w"))
    refused(Code.NOT_ALLOWED, lambda: changing.replace_property(("B", "u", "Name"), "Name", "Sub"))
    refused(Code.NOT_ALLOWED, lambda: changing.replace_property(("A", "Text"), "Name", "Other"))


# -- ACL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Add=*&Get=*", "Add=a+b&Delete=a&Exec=b&Get=*&Replace=a"])
def test_an_acl_reads_back_as_written(text: str) -> None:
    acl = Acl.parse(text)
    assert acl is not None
    assert acl.emit() == text


@pytest.mark.parametrize("text", ["Add", "Add=", "Read=a", "Add=a&Add=b", "Add=a++b", "Add=a&", "Add=a=b", "x" * 2000])
def test_a_malformed_acl_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ACL"):
        Acl.parse(text)


def test_an_empty_acl_is_inherited_whole_and_shown_empty() -> None:
    assert Acl.parse("") is None
    changing = full()
    assert changing.property(("A", "Text"), "ACL") == ""
    assert changing.property(("A",), "ACL").startswith("Add=server")
    changing.replace_property(("A", "Text"), "ACL", "Get=other")
    refused(Code.PERMISSION_DENIED, lambda: changing.replace(("A", "Text"), Content("chr", None, "x")))
    refused(Code.PERMISSION_DENIED, lambda: changing.get(("A", "Text")))


def test_a_leafs_acl_is_the_business_of_its_parent() -> None:
    first = full()
    first.replace_property(("A", "Text"), "ACL", "Get=*&Replace=weak")
    weak = tx("weak", first.state)
    weak.replace(("A", "Text"), Content("chr", None, "mine"))
    refused(Code.PERMISSION_DENIED, lambda: weak.replace_property(("A", "Text"), "ACL", "Get=weak"))
    strong = tx(SERVER, weak.state)
    strong.replace_property(("A", "Text"), "ACL", "")
    assert strong.property(("A", "Text"), "ACL") == ""


def test_an_interior_nodes_acl_can_be_changed_by_who_has_replace_on_it() -> None:
    changing = full()
    changing.replace_property(("B",), "ACL", "Get=*&Replace=server")
    changing.replace_property(("B",), "ACL", "Get=*")
    refused(Code.PERMISSION_DENIED, lambda: changing.replace_property(("B",), "ACL", "Get=server"))
    refused(Code.BAD_REQUEST, lambda: full().replace_property(("B",), "ACL", "nonsense"))


def test_the_root_keeps_its_default() -> None:
    changing = full()
    assert changing.property((), "ACL") == "Add=*&Get=*"
    refused(Code.PERMISSION_DENIED, lambda: changing.replace_property((), "ACL", "Get=server"))


def test_identifiers_with_separators_are_escaped() -> None:
    assert Acl.everything_for(identifier("a+b&c")).allows("Get", "a%2Bb%26c")


# -- description -------------------------------------------------------------------------------------------------


def test_a_description_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="no value"):
        NodeSpec("x", Format.NODE, secret=True)
    with pytest.raises(ValueError, match="no children"):
        NodeSpec("x", Format.CHR, children=(permanent("y", Format.CHR),))
    with pytest.raises(ValueError, match="fixed"):
        NodeSpec(ANY, Format.NODE)
    with pytest.raises(ValueError, match="fixed"):
        NodeSpec("x", Format.CHR, AGRD)


# -- durability --------------------------------------------------------------------------------------------------


def test_a_state_survives_its_stored_form() -> None:
    changing = full()
    changing.add(("B", "t", "Sub", "Deep"), Content("int", "text/x", "7"))
    changing.replace(("A", "Blob"), Content("bin", None, b"\x00\xff"))
    changing.replace_property(("B", "t"), "Title", "Ä")
    changing.set_record("jobs", {"a": [1, {"b": None}]})
    document = json.loads(json.dumps(state_to_json(changing.state)))
    assert state_from_json(document) == changing.state


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"root": {}, "records": {}},
        {"root": {"f": "chr", "s": 0, "r": 0}, "records": []},
        {"root": 1, "records": {}},
        {"root": {"f": "node", "s": float("inf"), "r": 0}, "records": {}},
    ],
)
def test_another_document_is_no_state(document: object) -> None:
    with pytest.raises(ValueError, match="stored tree"):
        state_from_json(document)


def home(disk: FaultyDisk) -> ManagementTree:
    return ManagementTree(SCHEMA, disk, FOLDER, lambda: 1000.0)


def test_a_transaction_that_raises_leaves_no_trace() -> None:
    tree = home(FaultyDisk())
    with pytest.raises(RuntimeError), tree.transaction() as changing:
        changing.put(("A", "Text"), "x")
        raise RuntimeError
    assert tree.view().text(("A", "Text")) == "standard"


def test_hooks_run_after_a_commit_and_only_then() -> None:
    tree = home(FaultyDisk())
    seen: list[str] = []
    tree.on_commit(lambda: seen.append(tree.view().text(("A", "Text"))))
    with tree.transaction() as changing:
        changing.get(("A",))
    assert seen == []
    with tree.transaction() as changing:
        changing.put(("A", "Text"), "x")
    assert seen == ["x"]


class FullDisk(FaultyDisk):
    """No room for anything new."""

    full = False

    def write_durable(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        if self.full:
            raise OSError(28, "no space left")
        super().write_durable(path, data, mode)


def test_a_full_disk_is_420_and_the_tree_is_as_before() -> None:
    disk = FullDisk()
    tree = home(disk)
    disk.full = True

    def change() -> None:
        with tree.transaction() as changing:
            changing.put(("A", "Text"), "x")

    refused(Code.DEVICE_FULL, change)
    assert tree.view().text(("A", "Text")) == "standard"


def write(tree: ManagementTree, text: str) -> None:
    with tree.transaction() as changing:
        changing.put(("A", "Text"), text)
        changing.set_record("copy", {"text": text})


@pytest.mark.parametrize("survival", list(Survival))
def test_after_a_power_cut_at_any_operation_the_tree_is_the_old_or_the_new_one(survival: Survival) -> None:
    for number in itertools.count(1):
        disk = FaultyDisk()
        tree = home(disk)
        write(tree, "1")
        last = disk.operations + number
        disk.on_operation = lambda operation, last=last: 0.5 if operation.number == last else None
        finished = "1"
        try:
            for text in ("2", "3"):
                write(tree, text)
                finished = text
        except PowerCut:
            after = home(disk.after_power_cut(survival, Random(number))).view()
            found = after.text(("A", "Text"))
            assert int(finished) <= int(found) <= int(finished) + 1, (number, survival)
            assert after.record("copy") == {"text": found}
        else:
            return


def test_the_newer_generation_counts_and_a_damaged_one_costs_one_change() -> None:
    disk = FaultyDisk()
    tree = home(disk)
    write(tree, "one")
    write(tree, "two")
    assert home(disk).view().text(("A", "Text")) == "two"
    newest = FOLDER / "tree.0"
    content = disk.read_bytes(newest)
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1
        disk.write_durable(newest, bytes(damaged))
        assert home(disk).view().text(("A", "Text")) in {"one", "two"}
    for size in range(len(content)):
        disk.write_durable(newest, content[:size])
        assert home(disk).view().text(("A", "Text")) == "one"


def document_on(disk: FaultyDisk, file: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(disk.read_bytes(FOLDER / file).partition(b"\n")[2])
    return document


def test_what_a_later_version_added_is_kept_and_written_back_and_costs_nothing_else() -> None:
    disk = FaultyDisk()
    tree = home(disk)
    with tree.transaction() as changing:
        changing.put(("A", "Text"), "x")
        changing.put(("B", "t", "Sub", "Deep"), "7")
    document = document_on(disk, "tree.1")
    document["seal"] = {"of": "later"}
    document["root"]["c"]["A"]["hue"] = [1]
    later = {"f": "colour", "s": 1, "r": 0, "v": "red", "c": {"Shade": {"f": "chr", "s": 1, "r": 0}}}
    document["root"]["c"]["A"]["c"]["Paint"] = later
    document["root"]["c"]["Z"] = {"f": "node"}
    JsonFile(disk, FOLDER, "tree").save(document)
    again = home(disk)
    assert again.view().text(("A", "Text")) == "x"
    assert again.view().text(("B", "t", "Sub", "Deep")) == "7"
    assert foreign_nodes(again.state.root) == 3
    write(again, "y")
    written = document_on(
        disk, max(("tree.0", "tree.1"), key=lambda name: int(disk.read_bytes(FOLDER / name).split()[3]))
    )
    assert written["seal"] == {"of": "later"}
    assert written["root"]["c"]["Z"] == {"f": "node"}
    assert written["root"]["c"]["A"]["hue"] == [1]
    assert written["root"]["c"]["A"]["c"]["Paint"] == later
    assert written["root"]["c"]["A"]["c"]["Text"]["v"] == "y"


class BadSectors(FaultyDisk):
    """Gives some files no more, as a worn flash does: what is written in their place is read well."""

    def __init__(self, errors: int = errno.EIO) -> None:
        super().__init__()
        self.bad: set[Path] = set()
        self.errors = errors

    def read_bytes(self, path: Path) -> bytes:
        if path in self.bad and self.exists(path):
            raise OSError(self.errors, "input/output error", str(path))
        return super().read_bytes(path)

    def rename(self, src: Path, dst: Path) -> None:
        super().rename(src, dst)
        self.bad.discard(src)
        self.bad.discard(dst)


def test_a_generation_that_the_storage_does_not_give_costs_one_change_and_not_the_start() -> None:
    disk = BadSectors()
    tree = home(disk)
    write(tree, "1")
    write(tree, "2")
    disk.bad.add(FOLDER / "tree.0")  # the second change
    after = home(disk)
    assert after.view().text(("A", "Text")) == "1"
    assert after.behind
    assert disk.exists(FOLDER / "tree.0.unreadable")
    assert warnings(disk, [FOLDER]) == [f"{FOLDER}/tree.0.unreadable could not be read, and is not in use"]
    write(after, "3")
    disk.bad.clear()  # a drive that was loose: what was set aside is not the newest again
    assert home(disk).view().text(("A", "Text")) == "3"


def test_with_no_generation_to_be_read_the_tree_is_empty_and_goes_on_from_there() -> None:
    disk = BadSectors()
    tree = home(disk)
    for text in "123":
        write(tree, text)
    disk.bad |= {FOLDER / "tree.0", FOLDER / "tree.1"}
    after = home(disk)
    assert after.view().text(("A", "Text")) == "standard"
    write(after, "4")
    disk.bad.clear()
    assert home(disk).view().text(("A", "Text")) == "4"


def test_a_file_that_this_process_may_not_read_is_an_error_that_names_it() -> None:
    disk = BadSectors(errors=errno.EACCES)
    write(home(disk), "1")
    disk.bad.add(FOLDER / "tree.1")
    with pytest.raises(OSError, match=r"tree\.1"):
        home(disk)


def test_a_generation_of_a_later_version_is_kept_for_it_and_the_one_before_counts() -> None:
    disk = FaultyDisk()
    tree = home(disk)
    write(tree, "one")
    newer = b"dcu-store 2 tree 2 3 whatever follows\nabc"
    disk.write_durable(FOLDER / "tree.0", newer)
    again = home(disk)
    assert again.view().text(("A", "Text")) == "one"
    write(again, "two")
    assert home(disk).view().text(("A", "Text")) == "two"
    assert disk.read_bytes(FOLDER / "tree.0.newer-2") == newer
    aside = FOLDER / "tree.0.newer-2"
    assert files_set_aside(disk, [FOLDER]) == (str(aside),)
    assert warnings(disk, [FOLDER, Path("/nowhere")]) == [
        f"{aside} is of a later version of this software, and not in use"
    ]


def test_a_document_of_another_name_or_version_is_none() -> None:
    disk = FaultyDisk()
    TwoGenerations(disk, FOLDER, "one").save(b"content")
    disk.write_durable(FOLDER / "two.1", disk.read_bytes(FOLDER / "one.1"))
    assert TwoGenerations(disk, FOLDER, "two").load() is None
    disk.write_durable(FOLDER / "one.1", disk.read_bytes(FOLDER / "one.1").replace(b"store 1", b"store 2"))
    assert TwoGenerations(disk, FOLDER, "one").load() is None


def test_random_commands_never_break_the_tree() -> None:
    random = Random(7)
    names = ["A", "B", "L", "Text", "Number", "t", "u", "Sub", "Deep", "Name", "Auto", "x", "Run", "Blob", "ö"]
    values: list[str | bytes | None] = ["", "5", "x", None, b"\xff", "true", "9" * 12]
    changing = full()
    for _ in range(4000):
        path = tuple(random.choice(names) for _ in range(random.randint(0, 4)))
        other = tuple(random.choice(names) for _ in range(random.randint(0, 4)))
        content = Content(random.choice([None, "int", "chr", "node", "bin", "b64"]), None, random.choice(values))
        before = changing.state
        try:
            match random.randrange(7):
                case 0 | 1:
                    changing.add(path, content)
                case 2:
                    changing.replace(path, content)
                case 3:
                    changing.delete(path)
                case 4:
                    changing.copy(path, other)
                case 5:
                    changing.replace_property(path, random.choice(["ACL", "Name", "Title"]), random.choice(names))
                case 6:
                    changing.exec(path)
        except Refusal:
            assert changing.state is before
        else:
            assert state_from_json(state_to_json(changing.state)) == changing.state
    assert len(list(changing.walk(("B",)))) > 1


# -- limits ----------------------------------------------------------------------------------------------------


def test_a_title_has_at_most_255_characters() -> None:
    changing = tx()
    changing.replace_property(("A", "Text"), "Title", "t" * 255)
    refused(Code.TOO_LARGE, lambda: changing.replace_property(("A", "Text"), "Title", "t" * 256))
    assert changing.property(("A", "Text"), "Title") == "t" * 255


def test_the_root_lets_everybody_add() -> None:
    changing = tx()
    refused(Code.NOT_ALLOWED, lambda: changing.replace_property((), "ACL", "Add=server&Get=*"))
    refused(Code.NOT_ALLOWED, lambda: changing.replace_property((), "ACL", ""))


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        (permanent("X", Format.CHR, value_chars_max=3), "four"),
        (permanent("X", Format.BIN), "text"),
        (permanent("X", Format.CHR), b"\xff"),
        (permanent("X", Format.BOOL), "yes"),
        (permanent("X", Format.FLOAT), "1,5"),
        (permanent("X", Format.INT), "1.5"),
        (permanent("X", Format.INT), "2147483648"),
        (permanent("X", Format.INT, check=int_range(1, 9)), "0"),
        (permanent("X", Format.CHR, check=one_of("a", "b")), "c"),
    ],
)
def test_a_value_that_its_node_cannot_hold_is_an_error(spec: NodeSpec, wrong: str | bytes) -> None:
    with pytest.raises(ValueError):
        check_value(spec, wrong)


def test_a_value_is_kept_in_its_canonical_form() -> None:
    assert check_value(permanent("X", Format.INT), " +07 ") == "7"
    assert check_value(permanent("X", Format.BOOL), " True") == "true"
    assert check_value(permanent("X", Format.FLOAT), "1.5") == "1.5"
    assert check_value(permanent("X", Format.BIN), b"\xff") == b"\xff"
    assert check_value(permanent("X", Format.CHR, check=one_of("a", "b")), b"b") == "b"
