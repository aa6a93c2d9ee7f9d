"""The package server: ranges, descriptors, reports, and what it writes down."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.types import Message

from headend import access, passes
from headend.security import devices
from headend.software import app, ranges
from headend.software.ranges import Slice
from headend.software.repository import PackageStore, PackageStoreError
from omadm import descriptor as dd
from tests.headend.asgi import call, pieces

CONTENT = bytes(range(256)) * 1000
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
def store(database: Engine, tmp_path: Path) -> PackageStore:
    made = PackageStore(database, tmp_path / "files")
    asyncio.run(made.add("fw-2.swu", "application/x-swu", pieces(CONTENT), 5.0))
    return made


@pytest.fixture
def server(store: PackageStore) -> Starlette:
    return app.create_app(store, lambda: "https://packages.example:1", wall=lambda: 7.0)


def get(server: Starlette, path: str = "/packages/fw-2.swu", **headers: str) -> httpx.Response:
    return call(server, "GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})


def a_scope() -> dict[str, Any]:
    """A request for the package as a server hands it to the application."""
    return {
        "type": "http", "method": "GET", "path": "/packages/fw-2.swu", "raw_path": b"", "query_string": b"",
        "headers": [], "client": None, "server": None, "scheme": "https", "root_path": "", "http_version": "1.1",
    }  # fmt: skip


# ---- ranges


@pytest.mark.parametrize(
    ("headers", "chosen"),
    [
        ({}, Slice(200, 0, 100)),
        ({"range": "bytes=0-"}, Slice(206, 0, 100)),
        ({"range": "bytes=10-"}, Slice(206, 10, 90)),
        ({"range": "bytes=10-19"}, Slice(206, 10, 10)),
        ({"range": "bytes=10-999"}, Slice(206, 10, 90)),
        ({"range": "Bytes = 99-"}, Slice(206, 99, 1)),
        ({"range": "bytes=-10"}, Slice(206, 90, 10)),
        ({"range": "bytes=-999"}, Slice(206, 0, 100)),
        ({"range": "bytes=100-"}, None),
        ({"range": "bytes=-0"}, None),
        ({"range": "bytes=19-10"}, Slice(200, 0, 100)),
        ({"range": "bytes=-"}, Slice(200, 0, 100)),
        ({"range": "bytes=0-1,5-6"}, Slice(200, 0, 100)),
        ({"range": "lines=1-2"}, Slice(200, 0, 100)),
        ({"range": "bytes=" + "9" * 20 + "-"}, Slice(200, 0, 100)),
        ({"range": "bytes=10-", "if-range": '"e"'}, Slice(206, 10, 90)),
        ({"range": "bytes=10-", "if-range": '"other"'}, Slice(200, 0, 100)),
        ({"range": "bytes=10-", "if-range": 'W/"e"'}, Slice(200, 0, 100)),
        ({"range": "bytes=10-", "if-range": "Sun, 22 Nov 2026 10:00:00 GMT"}, Slice(200, 0, 100)),
    ],
)
def test_a_range_is_chosen_as_the_rfc_has_it(headers: dict[str, str], chosen: Slice | None) -> None:
    assert ranges.choose(headers, 100, '"e"') == chosen


# ---- packages


def test_a_package_comes_whole_with_its_hash_as_etag(server: Starlette) -> None:
    answer = get(server)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["etag"] == ETAG
    assert answer.headers["content-type"] == "application/x-swu"
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_package_comes_from_the_byte_asked_for(server: Starlette) -> None:
    answer = get(server, range="bytes=250000-", if_range=ETAG)
    assert (answer.status_code, answer.content) == (206, CONTENT[250_000:])
    assert answer.headers["content-range"] == f"bytes 250000-255999/{len(CONTENT)}"


def test_a_package_that_changed_comes_whole(server: Starlette) -> None:
    assert get(server, range="bytes=10-", if_range='"old"').status_code == 200


def test_a_range_beyond_the_end_is_416_with_the_size(server: Starlette) -> None:
    answer = get(server, range="bytes=256000-")
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */256000")


def test_head_tells_size_and_etag_without_a_body(server: Starlette) -> None:
    answer = call(server, "HEAD", "/packages/fw-2.swu", headers={"range": "bytes=5-"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["content-length"], answer.headers["etag"]) == ("256000", ETAG)


def test_a_known_package_is_not_sent_again(server: Starlette) -> None:
    assert get(server, if_none_match=f'"x", {ETAG}').status_code == 304


@pytest.mark.parametrize("path", ["/packages/none", "/packages/..%2fheadend.db", "/descriptors/none", "/packages/"])
def test_what_is_not_there_is_404(server: Starlette, path: str) -> None:
    assert get(server, path).status_code == 404


def test_each_answer_is_logged_with_range_and_bytes(server: Starlette, store: PackageStore) -> None:
    get(server, "/packages/fw-2.swu?device=urn:dcu:T-1", range="bytes=100-")
    (row,) = store.downloads("fw-2.swu", 10)
    assert (row["start"], row["wanted"], row["sent"], row["status"]) == (100, 255_900, 255_900, 206)
    assert (row["device"], row["peer"], row["at"]) == ("urn:dcu:T-1", "192.0.2.1", 7.0)
    assert store.downloads("other", 10) == []


def test_a_client_that_goes_away_is_logged_with_what_it_got(server: Starlette, store: PackageStore) -> None:
    """The application is driven by hand: httpx' transport never hangs up."""
    sent: list[Message] = []
    gone = asyncio.Event()

    async def receive() -> Message:
        if not sent:
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 3:
            gone.set()
            for _ in range(3):
                await asyncio.sleep(0)  # the watcher gets its turns

    asyncio.run(server(a_scope(), receive, send))
    (row,) = store.downloads(None, 10)
    assert (row["sent"], row["wanted"]) == (2 * app.CHUNK_BYTES, len(CONTENT))


def test_a_connection_that_breaks_while_sending_is_logged(server: Starlette, store: PackageStore) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("broken pipe")

    asyncio.run(server(a_scope(), receive, send))
    (row,) = store.downloads(None, 10)
    assert row["sent"] == 0


def test_a_download_that_the_servers_end_interrupts_is_logged(server: Starlette, store: PackageStore) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> None:
        begun = asyncio.Event()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(server(a_scope(), receive, send))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    (row,) = store.downloads(None, 10)
    assert (row["sent"], row["wanted"]) == (0, len(CONTENT))


# ---- the store


def test_the_same_bytes_under_two_names_are_one_file(store: PackageStore, tmp_path: Path) -> None:
    asyncio.run(store.add("again", "application/x-swu", pieces(CONTENT), 6.0))
    assert len(list((tmp_path / "files").iterdir())) == 1
    assert store.remove("fw-2.swu")
    again = store.find("again")
    assert again is not None
    assert again.path.read_bytes() == CONTENT
    assert store.remove("again")
    assert list((tmp_path / "files").iterdir()) == []
    assert not store.remove("again")


def test_a_package_of_the_same_name_replaces_the_former(store: PackageStore) -> None:
    asyncio.run(store.add("fw-2.swu", "application/octet-stream", pieces(b"new"), 6.0))
    (row,) = store.listing()
    assert (row["size"], row["content_type"], row["uploaded"]) == (3, "application/octet-stream", 6.0)


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("../x", "a/b", b"x"),
        (".hidden", "a/b", b"x"),
        ("", "a/b", b"x"),
        ("a" * 129, "a/b", b"x"),
        ("ok", "nonsense", b"x"),
        ("ok", "a/b", b""),
    ],
)
def test_what_cannot_be_a_package_leaves_nothing(
    store: PackageStore, tmp_path: Path, name: str, kind: str, content: bytes
) -> None:
    with pytest.raises(PackageStoreError):
        asyncio.run(store.add(name, kind, pieces(content), 6.0))
    assert len(list((tmp_path / "files").iterdir())) == 1


def test_files_of_packages_are_for_the_owner_alone(store: PackageStore, tmp_path: Path) -> None:
    assert (tmp_path / "files").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "files").iterdir())


# ---- descriptors and reports


DEVICE, OTHER = "urn:dcu:T-1", "urn:dcu:T-2"


def query(store: PackageStore, device: str = DEVICE, named: str = "") -> str:
    """The query of a URL of a job of `device`, with another name where one is given. Both devices are enrolled."""
    with store.engine.begin() as connection:
        for one in (DEVICE, OTHER):
            if not access.knows(connection, one):
                devices.enrol(connection, one, bytes(32), 1.0)
        shown = passes.download_pass(connection, device)
    return f"?device={quote(named or device)}&pass={shown}"


def refused(store: PackageStore) -> dict[str, dict[str, int]]:
    with store.engine.begin() as connection:
        found = access.all_refused(connection)
    return {device: {door: row["count"] for door, row in doors.items()} for device, doors in found.items()}


def test_a_descriptor_names_package_size_and_where_to_report(server: Starlette, store: PackageStore) -> None:
    shown = query(store)
    answer = get(server, f"/descriptors/fw-2.swu{shown}")
    assert answer.headers["content-type"] == dd.CONTENT_TYPE
    found = dd.parse(answer.content)
    assert (found.size, found.types) == (len(CONTENT), ("application/x-swu",))
    assert found.object_uri == f"https://packages.example:1/packages/fw-2.swu{shown}"
    assert found.install_notify_uri == f"https://packages.example:1/install-notify/fw-2.swu{shown}"


def test_who_cannot_report_is_given_no_address_for_it(server: Starlette) -> None:
    found = dd.parse(get(server, "/descriptors/fw-2.swu?device=urn:dcu:T-1").content)
    assert found.object_uri == "https://packages.example:1/packages/fw-2.swu?device=urn%3Adcu%3AT-1"
    assert found.install_notify_uri is None


@pytest.mark.parametrize("is_open", [True, False])
def test_a_report_without_the_devices_own_pass_is_refused_and_written_down(store: PackageStore, is_open: bool) -> None:
    server = app.create_app(store, lambda: "https://packages.example:1", open_to_all=is_open, wall=lambda: 7.0)
    own = query(store)
    for bad, named in (
        ("", ""),
        ("?device=", ""),
        ("?device=urn:dcu:T-1", DEVICE),
        ("?device=urn:dcu:T-1&pass=", DEVICE),
        (own[:-1], DEVICE),
        (query(store, OTHER, named=DEVICE), DEVICE),
        (query(store, DEVICE, named=OTHER), OTHER),
        ("?device=urn:dcu:nobody&pass=" + own[-32:], ""),
    ):
        with store.engine.begin() as connection:
            access.forget_refusals(connection, named)
        server = app.create_app(store, lambda: "https://packages.example:1", open_to_all=is_open, wall=lambda: 7.0)
        path = f"/install-notify/fw-2.swu{bad}"
        assert call(server, "POST", path, content=b"900 Success").status_code == 403, bad
        assert refused(store).get(named, {}) == ({"report": 1} if named else {}), bad
    assert store.reports(10) == []
    assert set(refused(store)) == {DEVICE, OTHER}
    assert call(server, "POST", f"/install-notify/fw-2.swu{own}", content=b"900 Success").status_code == 200
    assert [row["device"] for row in store.reports(10)] == [DEVICE]


def test_reports_are_kept(server: Starlette, store: PackageStore) -> None:
    path = f"/install-notify/fw-2.swu{query(store)}"
    assert call(server, "POST", path, content=b"900 Success\r\n").status_code == 200
    assert call(server, "POST", path, content=b"953").status_code == 200
    found = [(row["device"], row["code"], row["text"]) for row in store.reports(10)]
    assert found == [("urn:dcu:T-1", 953, ""), ("urn:dcu:T-1", 900, "Success")]


@pytest.mark.parametrize("body", [b"", b"ok", b"90 x", b"9000 x", b"900 \xff", b"900 x\ny", b"9" * 300])
def test_what_is_no_report_is_refused(server: Starlette, store: PackageStore, body: bytes) -> None:
    path = f"/install-notify/fw-2.swu{query(store)}"
    assert call(server, "POST", path, content=body).status_code in (400, 413)
    assert store.reports(10) == []
