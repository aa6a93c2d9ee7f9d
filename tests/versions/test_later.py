"""Documents that a later version of this software will write: what cannot be read is refused, kept octet by octet, and
told of; members that are not known are passed over, and written back where docs/versions.md says so."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.versions.releases import HERE, ROOT, environment
from tests.versions.written import LATER, WRITTEN

pytestmark = pytest.mark.process

sys.path.insert(0, str(HERE))  # the scripts are of no package
readback: Any = importlib.import_module("readback")
generate: Any = importlib.import_module("generate")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("today") / "files"
    subprocess.run(
        [sys.executable, HERE / "generate.py", ROOT, folder], check=True, capture_output=True, timeout=300,
        env=environment(),
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "data", symlinks=True)
    return tmp_path / "data"


def read(part: str, folder: Path) -> Any:
    """What is found, or the exception."""
    readers = {one.__name__: one for one in readback.PARTS} | {one.name: one.read for one in generate.parts()}
    try:
        return readers[part](folder)
    except Exception as error:  # it is the result here
        return error


# --- a later version -------------------------------------------------------------------------------------------------


def header(file: Path) -> None:
    """Two generations: `dcu-store 1 …`."""
    content = file.read_bytes()
    assert content.startswith(b"dcu-store 1 ")
    file.write_bytes(b"dcu-store 2 " + content[12:])


def member(file: Path) -> None:
    document = json.loads(file.read_bytes())
    assert document["version"] == 1
    file.write_text(json.dumps({**document, "version": 2}))


def frame(file: Path) -> None:
    """The journal's, whose checksum covers the version."""
    raw = bytearray(file.read_bytes())
    assert raw[:6] == b"DCUJ\x01\x00"
    raw[4] = 2
    raw[16:20] = zlib.crc32(raw[20:], zlib.crc32(raw[:16])).to_bytes(4, "little")
    file.write_bytes(raw)


def format_of_store(file: Path) -> None:
    with sqlite3.connect(file) as db:
        db.execute("UPDATE meta SET value = 99 WHERE key = 'format'")
    db.close()


def schema(file: Path) -> None:
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("UPDATE schema_version SET version = 99")
    db.close()


def key_line(file: Path) -> None:
    file.write_text(file.read_text().replace("dcu-headend-key 1 ", "dcu-headend-key 2 "))


def settings_version(file: Path) -> None:
    file.write_text(file.read_text().replace("version: 1\n", "version: 2\n"))


def state_line(file: Path) -> None:
    """A download's: a line of JSON, and one with its checksum."""
    line = file.read_bytes().splitlines()[0].replace(b'"version": 1', b'"version": 2')
    file.write_bytes(line + b"\n%08x\n" % zlib.crc32(line))


class Case(NamedTuple):
    """What is raised in `files` of a part, and what its reader finds then: what `right` holds for. `events`: what the
    log says of each file, empty where an exception goes to whoever has opened it."""

    part: str
    files: str
    raising: Callable[[Path], None]
    right: Callable[[Any], object]
    events: tuple[str, ...] = ()


def refused(words: str) -> Callable[[Any], bool]:
    return lambda found: isinstance(found, Exception) and words in str(found)


NEWER = ("state.newer",)
SCHEMA = refused("the database has schema 99, this head-end knows 4")
LATER_BODY = refused("version: 2 is not known here, 1 is")
CASES = (
    Case("tree", "dm/tree.*", header, lambda found: isinstance(found, KeyError), NEWER),  # an empty tree
    Case("nonces", "dm/link.*", header, lambda found: found == ["c", "s", None], NEWER),
    Case("registry", "meters.json", member, lambda found: found == [], NEWER),
    Case("journal", "update/journal.*", frame, lambda found: found["floors"] == [0, {}, 0]),
    Case("request", "update/inbox/request.json", member, refused("version 2, this program knows 1")),
    Case("result", "update/outbox/result.json", member, lambda found: found == WRITTEN["result"]),
    Case("download", "download.state", state_line, lambda found: found is None),
    Case("uplink", "uplink.json", member, LATER_BODY),
    Case("posted", "collection/uplink.json", member, LATER_BODY),
    Case("headend", "headend.db", schema, SCHEMA),
    Case("rows", "rows/headend.db", schema, SCHEMA),
    Case("operator", "operator/headend.db", schema, SCHEMA),
    Case("operator", "operator/sealing.key", key_line, refused("a key of a later version")),
    Case("headend_settings", "headend-settings/headend.yaml", settings_version, refused("version: 1 is expected")),
    Case("keys", "keys/*", header, lambda found: found["provisioned"] == {}, (*NEWER, "meter.keystore.lost")),
    Case("keys", "keys/keys.0", header, lambda found: found["never used twice"], (*NEWER, "meter.keystore.damaged")),
    Case("identity", "ssmp/device-*.[01]", header, lambda found: found["factory's"] == [True], NEWER),
    Case("meters", "orders/o*.json", member, lambda found: found["orders"] == [], NEWER),
    Case("meters", "orders/s3.0.json", member, lambda found: found["states"][3] == "unknown", ("orders.damaged",)),
    Case("meters", "added/added-meters.json", member, lambda found: found["added"] == [], NEWER),
    Case("small", "clock-floor.json", member, lambda found: found == LATER["small"]),
    Case("small", "factory-reset.json", member, lambda found: found == LATER["small"]),
    Case("small", "dlms-counters.json", member, refused("of a later version")),
    Case("readings", "readings.db", format_of_store, lambda found: found == 0, ("store.newer",)),
)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.part} {case.files}" for case in CASES])
def test_a_document_of_a_later_version_is_refused_and_kept_as_it_is(
    folder: Path, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(folder.glob(case.files))
    for file in files:
        case.raising(file)
    before = {file: file.read_bytes() for file in files}
    assert before
    with caplog.at_level(logging.WARNING):
        found = read(case.part, folder)
    assert case.right(found), found
    assert {getattr(one, "event", one.message) for one in caplog.records} >= set(case.events)
    for file, content in before.items():
        kept = [one for one in file.parent.iterdir() if one.name.startswith(file.name) and one.is_file()]
        assert content in [one.read_bytes() for one in kept], file


def test_a_journal_of_a_later_version_lets_nothing_be_installed_and_nothing_be_written(folder: Path) -> None:
    journal = importlib.import_module("updateagent.engine.journal")
    files = sorted((folder / "update").glob("journal.*"))
    for file in files:
        frame(file)
    before = [file.read_bytes() for file in files]
    opened = journal.Journal(generate.real_disk(), folder / "update")
    record = opened.load()
    with pytest.raises(Exception, match="version"):
        record.check_known()
    with pytest.raises(Exception, match="version"):
        opened.store(record)
    assert [file.read_bytes() for file in files] == before


def test_the_generation_before_counts_where_only_the_newest_is_of_a_later_version(folder: Path) -> None:
    """An update that was on trial wrote once, and the old program is back."""
    newest = max((folder / "objects").glob("tree.*"), key=lambda file: int(file.read_bytes().split(b" ")[3]))
    header(newest)
    assert read("base_of_objects", folder) == LATER["base_of_objects"]
    assert newest.with_name(f"{newest.name}.newer-2").exists()


# --- members of a later version --------------------------------------------------------------------------------------

ADDED = {"x": [1, None], "y": {"z": "ä"}}


def extended(content: Any) -> Any:
    """The same with a member more in each object."""
    if isinstance(content, dict):
        return {**{name: extended(value) for name, value in content.items()}, "later": ADDED}
    return [extended(one) for one in content] if isinstance(content, list) else content


def without(found: Any) -> Any:
    """Maps of names that are free show what was added to them."""
    if isinstance(found, dict):
        return {name: without(value) for name, value in found.items() if name != "later"}
    return [without(one) for one in found] if isinstance(found, list) else found


def generation(file: Path, *below: str) -> None:
    """Extend the objects at `below`, and the document itself."""
    line, payload = file.read_bytes().split(b"\n", 1)
    document = json.loads(payload)
    for name in below:
        document[name] = extended(document[name])
    payload = json.dumps({**document, "later": ADDED}).encode()
    fields = b" ".join([*line.split(b" ")[:4], str(len(payload)).encode()])
    file.write_bytes(fields + b" %08x\n" % zlib.crc32(payload, zlib.crc32(fields)) + payload)


def rows(file: Path) -> None:
    """Extend a document with a checksum over its meters."""
    document = extended(json.loads(file.read_bytes()))
    canonical = json.dumps(document["meters"], sort_keys=True, separators=(",", ":")).encode()
    file.write_text(json.dumps({**document, "crc32": zlib.crc32(canonical)}))


def body(file: Path) -> None:
    document = json.loads(file.read_bytes())
    content = {**document["body"], "later": ADDED}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    file.write_text(json.dumps({**document, "body": content, "crc32": zlib.crc32(canonical), "later": ADDED}))


def journal_members(file: Path) -> None:
    sealed = importlib.import_module("updateagent.engine.sealed")
    _, sequence, payload = sealed.unseal(file.read_bytes())
    document = json.loads(payload)
    if document.get("update"):
        document["update"]["later"] = ADDED
    file.write_bytes(sealed.seal(json.dumps({**document, "later": ADDED}).encode(), sequence))


def plain(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "later": ADDED}))


def records(file: Path) -> None:
    """Extend a posted document and each record in it."""
    document = json.loads(file.read_bytes())
    extended_records = [{**record, "later": ADDED} for record in document["records"]]
    file.write_text(json.dumps({**document, "records": extended_records, "later": ADDED}))


def life_sign(file: Path) -> None:
    """Extend the lines that there are, in their places."""
    octets = bytearray(file.read_bytes())
    for at in range(0, len(octets), 2048):
        line = bytes(octets[at : at + 512]).partition(b"\n")[0]
        if line[9:10] == b"{":
            text = json.dumps({**json.loads(line[9:]), "later": ADDED}, separators=(",", ":")).encode()
            fresh = b"%08x %s\n" % (zlib.crc32(text), text)
            octets[at : at + len(fresh)] = fresh
    file.write_bytes(octets)


EXTENDED: tuple[tuple[str, str, Callable[[Path], None], int], ...] = (
    ("tree", "dm/tree.*", lambda file: generation(file, "records"), 2),
    ("objects", "objects/tree.*", lambda file: generation(file, "records"), 2),
    ("nonces", "dm/link.*", generation, 0),
    ("registry", "meters.json", rows, 2),
    ("journal", "update/journal.*", journal_members, 2),
    ("result", "update/outbox/result.json", plain, 0),
    ("request", "update/inbox/request.json", plain, 0),
    ("uplink", "uplink.json", records, 0),
    ("posted", "collection/uplink.json", records, 0),
    ("keys", "keys/keys.*", generation, 1),
    ("identity", "ssmp/device-*.[01]", generation, 0),
    ("meters", "orders/*.json", body, 0),
    ("meters", "added/added-meters.json", rows, 0),
    ("small", "clock-floor.json", plain, 0),
    ("small", "factory-reset.json", plain, 0),
    ("collection", "collection/readings.db-alive", life_sign, 0),
)  # the last: in how many places they are written back at least


@pytest.mark.parametrize(("part", "files", "extend", "kept"), EXTENDED, ids=[f"{one[0]} {one[1]}" for one in EXTENDED])
def test_members_of_a_later_version_are_passed_over_and_kept_where_the_document_is_written_again(
    folder: Path, part: str, files: str, extend: Callable[[Path], None], kept: int
) -> None:
    for file in sorted(folder.glob(files)):
        extend(file)
    found = read(part, folder)
    assert without(json.loads(json.dumps(found))) == {**WRITTEN, **LATER}[part]
    if kept:
        readback.work(folder)
        newest = max(folder.glob(files), key=lambda file: file.stat().st_mtime_ns)
        assert newest.read_bytes().count(b"later") >= kept, newest
