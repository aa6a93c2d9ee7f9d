"""The operator's pages: who may see them, and that they show what is there, as text."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import Engine, insert
from starlette.applications import Starlette

from headend import access, web
from headend.dm import accounts
from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.dm.jobs.types import DEPLOYED
from headend.dm.push import PushForbiddenError
from headend.metering import readings
from headend.operator import app, console
from headend.security import devices, records
from headend.software.repository import PackageStore
from omadm.readings import parse
from tests.headend.asgi import BASE, pieces
from tests.headend.metering.test_events import an_event
from tests.headend.operator.test_api import Push

TOKEN = "operator-token"
DEVICE = "urn:dcu:T-1"
PAGES = (
    *("/", "/meters", "/readings", "/events", "/gaps", "/network"),
    *("/jobs", "/orders", "/alerts", "/packages", "/registrations", "/security"),
)
EVIL = "<script>alert(1)</script>"


class Browser:
    """Keeps cookies; follows no redirection by itself."""

    def __init__(self, server: Starlette) -> None:
        self._server = server
        self._cookies = httpx.Cookies()

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._server, client=("192.0.2.1", 4711))
            async with httpx.AsyncClient(transport=transport, base_url=BASE, cookies=self._cookies) as client:
                answer = await client.request(method, path, **arguments)
                self._cookies = client.cookies
                return answer

        return asyncio.run(run())

    def log_in(self, token: str = TOKEN) -> httpx.Response:
        return self.call("POST", "/login", data={"token": token})

    def page(self, path: str) -> str:
        answer = self.call("GET", path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        return answer.text


@pytest.fixture
def packages(database: Engine, tmp_path: Path) -> PackageStore:
    return PackageStore(database, tmp_path / "files")


@pytest.fixture
def push() -> Push:
    return Push()


@pytest.fixture
def server(database: Engine, packages: PackageStore, push: Push) -> Starlette:
    return app.create_app(
        app.OperatorDeps(database, packages, push, dict, web.token_hash(TOKEN), wall=lambda: 1_770_000_060.0)
    )


@pytest.fixture
def browser(server: Starlette) -> Browser:
    made = Browser(server)
    assert made.log_in().status_code == 303
    return made


def fill(engine: Engine, packages: PackageStore, text: str = "x") -> None:
    """Something of everything, with `text` wherever others choose the words."""
    record = {
        "id": 1, "task": text, "meter": text, "cls": 3, "obis": "1.0.1.8.0.255", "attr": 2, "tag": "u32", "raw": 12345,
        "scaler": -2, "unit": 30, "meter_time": text, "received": 1770000000.0, "trusted": False, "error": None,
        "run": 1770000000,
    }  # fmt: skip
    failed = record | {
        "id": 2,
        "tag": "str",
        "raw": text,
        "scaler": None,
        "unit": None,
        "error": text,
        "obis": "1.0.0.0.0.1",
    }
    missing = {
        "id": 3, "gap": "open", "meter": text, "task": text, "profile": text, "first": 1770000000, "last": 1770001800,
        "every": 900, "reason": text, "how": None, "noted": 1770000000.0,
    }  # fmt: skip
    batch = {"version": 1, "device": DEVICE, "store": "0" * 32, "records": [record, failed, missing]}
    readings.store(engine, parse(json.dumps(batch).encode()), 1_770_000_000.0)
    with engine.begin() as connection:
        devices.enrol(connection, DEVICE, bytes(32), 5.0)
        devices.note(connection, text, text, 401, text, 1e300)
        records.raise_alarm(connection, "two-devices", DEVICE, text, 6.0)
        records.record(connection, records.Entry(7.0, text, "switch off", text, text))
        accounts.create(connection, DEVICE, server_id="headend", url="https://dm.example/dm", push_url=text)
        queue.enqueue(connection, DEVICE, "get", {"paths": ["./DevInfo", "./A", "./B", "./C"]})
        number = queue.enqueue(connection, DEVICE, "firmware", {"url": "https://packages.example/fw"})
        connection.execute(
            dm.jobs.update().where(dm.jobs.c.id == number).values(state="failed", result={"error": text})
        )
        ordered = queue.enqueue(connection, DEVICE, "order", {"order": "firmware", "meters": [f"{text}*"]})
        told = {"meters": [{"meter": text, "state": text, "error": text, "value": text, "progress": {"stage": text}}]}
        connection.execute(dm.jobs.update().where(dm.jobs.c.id == ordered).values(state="done", result=told))
        common = {"device_id": DEVICE, "session_id": "1", "trigger": 1200, "messages": 1, "commands": 0, "started": 5}
        session = connection.execute(insert(dm.sessions).values(**common, state="done", updated=6)).inserted_primary_key
        assert session is not None
        alert = {"device_id": DEVICE, "session": session[0], "identity": "i", "code": 1226, "received": 7}
        connection.execute(insert(dm.alerts).values(**alert, type=text, source=text, data=text, result_code=410))
        values = {"device_id": DEVICE, "format": "chr", "updated": 8}
        connection.execute(insert(dm.values).values(**values, uri="./DevInfo/Man", value=text))
        leaves = {
            f"{DEPLOYED}/watch/{leaf}": text for leaf in ("ID", "Version", "Ext/Service", "Ext/Detail", "Ext/Log")
        }
        for uri, value in {**leaves, "./ConnMO/InUse/TimeServers": text}.items():
            connection.execute(insert(dm.values).values(**values, uri=uri, value=value))
        tried = queue.enqueue(connection, DEVICE, "connectivity", {"server": "https://new.example/dm"})
        connection.execute(
            dm.jobs.update().where(dm.jobs.c.id == tried).values(state="done", result={"error": text, "state": text})
        )
    asyncio.run(packages.add("fw-2", "application/x-swu", pieces(b"content"), 9.0))
    packages.note_report("fw-2", text, 900, text, 10.0)
    row = {"at": 1.0, "ended": 2.0, "package": "fw-2", "device": text, "peer": "p", "status": 200, "start": 0}
    packages.note_download(row | {"wanted": 10, "sent": 4})


# ---- sessions


@pytest.mark.parametrize("path", [*PAGES, f"/device?id={DEVICE}", "/meter?device=a&meter=b", "/service"])
def test_pages_are_for_people_who_logged_in(server: Starlette, path: str) -> None:
    answer = Browser(server).call("GET", path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    with_cookie = Browser(server).call("GET", path, headers={"Cookie": f"{console.COOKIE}=guess"})
    assert with_cookie.status_code == 303


def test_the_operators_token_is_no_cookie(server: Starlette) -> None:
    answer = Browser(server).call("GET", "/", headers={"Cookie": f"{console.COOKIE}={TOKEN}"})
    assert answer.status_code == 303


def test_the_cookie_is_for_this_server_over_tls_only(server: Starlette) -> None:
    answer = Browser(server).log_in()
    cookie = answer.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "secure", "samesite=strict"))
    assert TOKEN not in cookie


@pytest.mark.slow
def test_a_cookie_opens_no_api(browser: Browser) -> None:
    assert browser.call("GET", "/v1/devices").status_code == 401


def test_a_wrong_token_does_not_log_in_and_guessing_is_slow(server: Starlette) -> None:
    browser = Browser(server)
    statuses = [browser.log_in("wrong").status_code for _ in range(12)]
    assert statuses[:10] == [401] * 10
    assert statuses[11] == 429
    assert browser.call("GET", "/").status_code == 303


@pytest.mark.parametrize("content", [b"", b"token", b"\xff\xfe", b"token=" + b"x" * 3000])
def test_what_is_no_login_does_not_log_in(server: Starlette, content: bytes) -> None:
    assert Browser(server).call("POST", "/login", content=content).status_code in (401, 413)


def test_logging_out_ends_the_session(browser: Browser) -> None:
    assert browser.call("GET", "/").status_code == 200
    assert browser.call("POST", "/logout").status_code == 303
    assert browser.call("GET", "/").status_code == 303


def test_sessions_end_by_themselves(database: Engine, packages: PackageStore) -> None:
    now = [1000.0]
    made = console.Console(
        database, packages, web.token_hash(TOKEN), Push(), monotonic=lambda: now[0], wall=lambda: 1_770_000_000.0
    )
    browser = Browser(Starlette(routes=[*made.routes()]))
    browser.log_in()
    now[0] += console.SESSION_S - 1
    assert browser.call("GET", "/").status_code == 200
    now[0] += 1
    assert browser.call("GET", "/").status_code == 303


# ---- content


@pytest.mark.parametrize("path", PAGES)
def test_empty_pages_say_so(browser: Browser, path: str) -> None:
    assert "<main>" in browser.page(path)


def test_pages_show_what_is_there(browser: Browser, database: Engine, packages: PackageStore) -> None:
    fill(database, packages)
    assert "1 minute ago" in browser.page("/meters")
    readings = browser.page("/readings")
    assert "123.45" in readings
    assert "Wh" in readings
    assert "clock not set" in readings
    meter = browser.page(f"/meter?device={DEVICE}&meter=x")
    assert "2026-02-02 02:40:00Z" in meter
    assert "123.45" in meter
    assert "410" in browser.page("/alerts")
    assert "broken off" in browser.page("/packages")
    assert "no update package" in browser.page("/packages")
    assert "./DevInfo, ./A, ./B and 1 more" in browser.page("/jobs")
    device = browser.page(f"/device?id={DEVICE}")
    assert "./DevInfo/Man" in device
    assert "<code>fw</code>" in device
    overview = browser.page("/")
    assert "<b>2</b><span>readings</span>" in overview
    assert "<b>1</b><span>failed jobs</span>" in overview


def test_gaps_are_shown_with_their_reason_on_their_own_page_and_that_of_the_meter(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages, "meter-silent")
    gap = {"gap": "open", "meter": "meter-silent", "task": "t", "profile": None, "every": 900, "reason": "port-lost"}
    rows = [
        gap | {"id": 4, "first": 1770003600, "last": None, "how": None, "noted": 1.0},
        gap | {"id": 5, "gap": "closed", "first": 1770000900, "last": 1770000900, "how": "profile", "noted": 1.0,
               "task": "meter-silent", "profile": "meter-silent"},
    ]  # fmt: skip
    batch = {"version": 1, "device": DEVICE, "store": "0" * 32, "records": rows}
    readings.store(database, parse(json.dumps(batch).encode()), 1_770_000_000.0)
    for path in ("/gaps", f"/meter?device={DEVICE}&meter=meter-silent"):
        page = browser.page(path)
        assert "goes on" in page
        assert "port-lost" in page
        assert "2026-02-02 02:40:00Z" in page
    assert "closed</span> profile" not in browser.page("/gaps")
    assert "closed</span> profile" in browser.page("/gaps?state=all")


def test_tasks_of_a_device_are_shown_with_their_next_run_in_local_time(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    told = {
        "Zone": "CET-1CEST,M3.5.0,M10.5.0/3",
        "Task/billing/Setting/Times": "30 0 1 * *",
        "Task/billing/Setting/ReadingList": "billing",
        "Task/billing/Select/Groups": "block a",
        "Task/billing/Status/State": "closed",
        "Task/billing/Status/Waiting": "m7: its model is not known yet",
        "Task/half/Setting/Times": "30 0 1 * *",
        "Task/half/Status/State": "incomplete",
        "Task/odd/Setting/Every": "often",
    }
    with database.begin() as connection:
        for node, value in told.items():
            row = {"device_id": DEVICE, "uri": f"./SCHED/{node}", "value": value, "updated": 1.77e9, "format": "chr"}
            connection.execute(insert(dm.values).values(**row))
    page = browser.page(f"/device?id={DEVICE}")
    for shown in (
        "<code>30 0 1 * *</code>",
        "2026-03-01 00:30:00",
        "groups block a",
        "m7: its model is not known yet",
        "closed",
    ):
        assert shown in page
    assert page.count("2026-03-01 00:30:00") == 1, "a task that is not complete has no next run"
    answer = browser.call("GET", f"/v1/devices/{DEVICE}/tasks", headers={"Authorization": f"Bearer {TOKEN}"})
    tasks = {row["task"]: row for row in answer.json()["tasks"]}
    assert (len(tasks["billing"]["next"]), tasks["half"]["next"], tasks["odd"]["next"]) == (3, [], [])


def test_services_of_a_device_are_shown_with_a_page_for_what_they_printed(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    told = {
        "grid/ID": "grid-watch", "grid/Version": "1.0", "grid/Ext/Service": "waiting", "grid/Ext/Restarts": "7",
        "grid/Ext/Detail": "ended with exit code 3", "grid/Ext/Log": "up\n<down>", "list/ID": "reading-list",
        "list/Ext/Service": "",
    }  # fmt: skip
    with database.begin() as connection:
        for node, value in told.items():
            row = {"device_id": DEVICE, "uri": f"{DEPLOYED}/{node}", "value": value, "updated": 1.77e9, "format": "chr"}
            connection.execute(insert(dm.values).values(**row))
    page = browser.page(f"/device?id={DEVICE}")
    section = page.partition("<h2>Services</h2>")[2].partition("<h2>")[0]
    for shown in (
        "grid-watch",
        '<span class="state bad">waiting</span>',
        ">7<",
        "ended with exit code 3",
        "1 minute ago",
    ):
        assert shown in section
    assert "reading-list" not in section, "a component without a program"
    (link,) = re.findall(r'href="(/service[^"]*grid-watch)"', section)
    log = browser.page(link.replace("&amp;", "&"))
    assert "<pre>up\n&lt;down&gt;</pre>" in log
    assert browser.call("GET", f"/service?device={DEVICE}&id=reading-list").status_code == 404
    assert browser.call("GET", "/service").status_code == 404


def test_connectivity_of_a_device_is_shown_in_force_on_trial_and_taken_back(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
    with database.begin() as connection:
        for node, value in {
            "ServerURL": "https://dm.example/dm",
            "Anchors": 2 * pem,
            "RegistrationURL": "default",
        }.items():
            row = {
                "device_id": DEVICE,
                "uri": f"./ConnMO/InUse/{node}",
                "value": value,
                "updated": 1.77e9,
                "format": "chr",
            }
            connection.execute(insert(dm.values).values(**row))
        states = {
            "waiting": None,
            "done": {"state": "confirmed"},
            "failed": {"state": "reverted", "error": "the device has taken the change back: no session in 60 s"},
        }
        for state, result in states.items():
            params = {"server": f"https://{state}.example/dm", "access": "apn-secret", "anchors": pem, "within_s": 600}
            number = queue.enqueue(connection, DEVICE, "connectivity", params)
            connection.execute(dm.jobs.update().where(dm.jobs.c.id == number).values(state=state, result=result))
    page = browser.page(f"/device?id={DEVICE}")
    section = page.partition("<h2>Connectivity</h2>")[2].partition("<h2>")[0]
    for shown in ("https://dm.example/dm", "2 certificates", "as configured on the device"):
        assert f"<code>{shown}</code>" in section
    rows = {
        row.partition("https://")[2].partition(".")[0]: row for row in section.split("<tr>") if ".example/dm" in row
    }
    assert "on trial</span>, for 600 s" in rows["waiting"]
    assert "confirmed" in rows["done"]
    assert "taken back" in rows["failed"]
    assert "no session in 60 s" in rows["failed"]
    assert "1 certificate<" in rows["failed"]
    assert "apn-secret" not in page


def test_events_are_shown_on_their_own_page_and_that_of_the_meter(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages, "meter")
    lost = {"meter": "", "sender": "203.0.113.9:4059", "octets": "db08", "error": "no key", "security": "unopened"}
    rows = [an_event(7, meter="meter", grave=True, name="strong DC field"), an_event(8, **lost)]
    batch = {"version": 1, "device": DEVICE, "store": "0" * 32, "records": rows}
    readings.store(database, parse(json.dumps(batch).encode()), 1_770_000_000.0)
    page = browser.page("/events")
    assert "strong DC field" in page
    assert "203.0.113.9:4059" in page
    assert "<code>db08</code>" in page
    assert "203.0.113.9" not in browser.page("/events?state=open")
    assert "strong DC field" in browser.page(f"/meter?device={DEVICE}&meter=meter")
    assert "<b>1</b><span>open alarms of meters</span>" in browser.page("/")


def test_a_value_is_shown_with_what_no_page_shows(browser: Browser, database: Engine, packages: PackageStore) -> None:
    fill(database, packages)
    with database.begin() as connection:
        connection.execute(dm.values.update().where(dm.values.c.uri == "./DevInfo/Man").values(value="\x1b[31m"))
    assert "<code>\\x1b[31m</code>" in browser.page(f"/device?id={DEVICE}")


def test_foreign_words_stay_words(browser: Browser, database: Engine, packages: PackageStore) -> None:
    fill(database, packages, EVIL)
    script = quote(EVIL)
    paths = [*PAGES, f"/device?id={DEVICE}", f"/meter?device={DEVICE}&meter={script}"]
    paths.append(f"/service?device={DEVICE}&id={script}")
    for path in paths:
        assert "<script>" not in browser.page(path)


def test_a_meter_that_is_not_known_has_no_readings(browser: Browser) -> None:
    for query in ("device=a&meter=b", "", "device=a&meter=b&run=x", "device=a&meter=b&run=" + "9" * 30):
        assert "has not been read" in browser.page(f"/meter?{query}")


def test_a_device_that_is_not_known_is_404(browser: Browser) -> None:
    answer = browser.call("GET", "/device?id=nobody")
    assert answer.status_code == 404
    assert "there is no such device" in answer.text


# ---- cancelling a job


def word_on(page: str) -> str:
    return page.partition('name="word" value="')[2].partition('"')[0]


def state_of(database: Engine, number: int) -> str:
    with database.begin() as connection:
        job = queue.show(connection, number)
    assert job is not None
    return str(job["state"])


def test_a_waiting_job_is_cancelled_from_the_page_and_a_finished_one_cannot_be(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    page = browser.page("/jobs")
    assert page.count("Cancel</button>") == 1
    form = {"job": "1", "word": word_on(page)}
    assert browser.call("POST", "/jobs/cancel", data=form).headers["location"] == "/jobs"
    assert state_of(database, 1) == "failed"
    again = browser.call("POST", "/jobs/cancel", data=form)
    assert again.status_code == 409
    assert "cannot be cancelled" in again.text


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"word": "guess"}, 403), ({"word": ""}, 403), ({"job": "x"}, 400), ({"job": "9" * 30}, 400)],
)
def test_a_form_of_another_site_cancels_nothing(
    browser: Browser, database: Engine, packages: PackageStore, changes: dict[str, str], status: int
) -> None:
    fill(database, packages)
    form = {"job": "1", "word": word_on(browser.page("/jobs"))} | changes
    assert browser.call("POST", "/jobs/cancel", data=form).status_code == status
    assert state_of(database, 1) == "queued"


def test_nobody_cancels_without_logging_in(server: Starlette, database: Engine, packages: PackageStore) -> None:
    fill(database, packages)
    word = web.token_hash("form ")  # what the word would be without a session
    answer = Browser(server).call("POST", "/jobs/cancel", data={"job": "1", "word": word})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert state_of(database, 1) == "queued"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "now"), (1, "1 second ago"), (59, "59 seconds ago"), (3600, "1 hour ago"), (200_000, "2 days ago")],
)
def test_times_are_told_in_one_unit(seconds: float, text: str) -> None:
    assert console._ago(seconds) == text


def test_the_network_page_shows_levels_signal_and_counters_as_text(browser: Browser, database: Engine) -> None:
    node = {
        "eui48": EVIL,
        "registered": True,
        "state": "switch",
        "level": 2,
        "snr": 6,
        "meter_id": "KFM1",
        "path": [EVIL],
    }
    told = {
        "./AMI/Network/plc0/Topology": [node, 5],
        "./AMI/Network/plc0/History": [{"at": 1770000000, "kind": "promote", "eui48": EVIL, "sid": 0, "detail": EVIL}],
        "./AMI/Registry/Meters": [{"meter_id": EVIL, "state": "read", "counters": {"timeout": 77}}],
    }
    with database.begin() as connection:
        accounts.create(connection, DEVICE, server_id="headend", url="https://dm.example/dm")
        for uri, value in told.items():
            row = {"device_id": DEVICE, "uri": uri, "format": "chr", "value": json.dumps(value), "updated": 5.0}
            connection.execute(insert(dm.values).values(**row))
    page = browser.page("/network")
    assert EVIL not in page
    for shown in ("plc0", "KFM1", "promote", ">77<", ">2<", ">6<"):
        assert shown in page
    assert "KFM1" in browser.page(f"/network?device={DEVICE}")
    assert "KFM1" not in browser.page("/network?device=another")


def test_an_order_is_shown_with_its_meters_and_how_far_each_is(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    with database.begin() as connection:
        number = queue.enqueue(connection, DEVICE, "order", {"order": "firmware", "meters": ["group:kfm"]})
    assert "The device has not told of its meters yet." in browser.page(f"/order?job={number}")
    progress = {"stage": "blocks", "blocks": 120, "of": 3000}
    told = {"counts": {"partly done": 1}, "meters": [{"meter": "KFM1", "state": "partly done", "progress": progress}]}
    with database.begin() as connection:
        value = {"device_id": DEVICE, "format": "chr", "updated": 1_770_000_000.0, "value": json.dumps(told)}
        connection.execute(insert(dm.values).values(**value, uri=f"./AMI/Order/job{number}/Status/Progress"))
    page = browser.page(f"/order?job={number}")
    assert "blocks, 120 of 3000 blocks" in page
    assert "KFM1" in page
    assert "group:kfm" in browser.page("/orders")
    for wrong in ("", "0", "x", "9" * 30, "1"):
        assert browser.call("GET", f"/order?job={wrong}").status_code == 404


# ---- a device's life


def step(browser: Browser, name: str, **fields: str) -> httpx.Response:
    """Press a button of the device's page."""
    word = re.findall(r'name="word" value="([0-9a-f]{64})"', browser.page(f"/device?id={DEVICE}"))[0]
    return browser.call("POST", "/device/step", data={"word": word, "id": DEVICE, "step": name, **fields})


def actions(engine: Engine) -> list[tuple[str, str]]:
    with engine.begin() as connection:
        return [(row["who"], row["action"]) for row in records.audit_listing(connection, DEVICE, 100)]


def test_the_steps_of_a_devices_life_are_buttons_and_each_is_audited(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    page = f"/device?id={DEVICE}"
    assert 'value="decommission"' in browser.page(page)
    assert 'value="delete"' not in browser.page(page)
    assert step(browser, "decommission").status_code == 303
    assert "leaving" in browser.page(page)
    assert step(browser, "off").status_code == 303
    assert "It has not been refused anywhere since." in browser.page(page)
    access.RefusalLog(database).note(DEVICE, access.Door.DM, "192.0.2.77", 1_770_000_000.0)
    shown = browser.page(page)
    assert "192.0.2.77" in shown
    assert "<td>dm</td>" in shown
    assert "switched off" in browser.page("/")
    assert step(browser, "key", key="ab" * 32, end_account="yes").status_code == 303
    assert step(browser, "on").status_code == 303
    assert "192.0.2.77" not in browser.page(page)
    who = "operator, console, 192.0.2.1"
    assert actions(database)[:-1] == [
        (who, each) for each in ("switch on", "replace key", "switch off", "decommission")
    ]
    assert who in browser.page("/security")


def test_where_a_device_may_be_called_is_a_form_of_its_page(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    page = f"/device?id={DEVICE}"
    assert "the networks of the configuration" in browser.page(page)
    assert step(browser, "push", networks="10.20.0.0/16, 2001:db8::/48", ports="8030").status_code == 303
    assert "10.20.0.0/16, 2001:db8::/48, port 8030" in browser.page(page)
    assert step(browser, "push", networks="10.20.0.0/16", ports="http").status_code == 409
    assert step(browser, "push").status_code == 303
    assert "no network" in browser.page(page)
    assert step(browser, "push default").status_code == 303
    assert "the networks of the configuration" in browser.page(page)
    assert [action for _, action in actions(database)].count("push policy") == 3


def test_a_device_is_called_from_its_page_and_what_came_of_it_is_audited(
    browser: Browser, database: Engine, packages: PackageStore, push: Push
) -> None:
    fill(database, packages)
    page = f"/device?id={DEVICE}"
    assert step(browser, "call").headers["location"] == f"/device?id={quote(DEVICE)}"
    assert push.sent == [DEVICE]
    assert "session 1234" in browser.page(page)
    push.error = PushForbiddenError("not allowed by its policy")
    answer = step(browser, "call")
    assert (answer.status_code, "Not called: not allowed by its policy." in answer.text) == (409, True)
    push.error = accounts.UnknownDevice(DEVICE)
    assert step(browser, "call").status_code == 404  # nobody was called
    with database.begin() as connection:
        told = [(row["who"], row["action"], row["detail"]) for row in records.audit_listing(connection, DEVICE, 2)]
    who = "operator, console, 192.0.2.1"
    assert told == [(who, "call", "not called: not allowed by its policy"), (who, "call", "session 1234")]
    assert step(browser, "off").status_code == 303
    assert 'value="call"' not in browser.page(page)


def test_a_device_is_deleted_when_its_id_is_typed_again(
    browser: Browser, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    step(browser, "off")
    assert step(browser, "delete", again="urn:dcu:T-2").status_code == 409
    assert step(browser, "delete", again=DEVICE).headers["location"] == "/"
    assert browser.call("GET", f"/device?id={DEVICE}").status_code == 404


@pytest.mark.parametrize(
    ("name", "fields"), [("delete", {"again": DEVICE}), ("key", {"key": "secret-abab"}), ("fly", {}), ("", {})]
)
def test_a_step_that_cannot_be_taken_says_why_and_repeats_no_secret(
    browser: Browser, database: Engine, packages: PackageStore, name: str, fields: dict[str, str]
) -> None:
    fill(database, packages)
    answer = step(browser, name, **fields)
    assert answer.status_code == 409
    assert "abab" not in answer.text
    assert len(actions(database)) == 1


def test_a_step_needs_the_forms_word_and_a_session(
    browser: Browser, server: Starlette, database: Engine, packages: PackageStore
) -> None:
    fill(database, packages)
    form = {"word": "0" * 64, "id": DEVICE, "step": "off"}
    for path in ("/device/step", "/security/acknowledge"):
        assert browser.call("POST", path, data=form).status_code == 403
        assert Browser(server).call("POST", path, data=form).headers["location"] == "/login"
    with database.begin() as connection:
        assert access.admits(connection, DEVICE)


def test_a_security_alarm_is_acknowledged_once(browser: Browser, database: Engine, packages: PackageStore) -> None:
    fill(database, packages)
    assert "two-devices" in browser.page(f"/device?id={DEVICE}")
    word = re.findall(r'name="word" value="([0-9a-f]{64})"', browser.page("/security"))[0]
    assert browser.call("POST", "/security/acknowledge", data={"word": word, "alarm": "1"}).status_code == 303
    assert "acknowledged" in browser.page("/security")
    for number in ("1", "x", "9" * 20, ""):
        answer = browser.call("POST", "/security/acknowledge", data={"word": word, "alarm": number})
        assert answer.status_code == 409
