"""One end of a release, which talks over this process's input and output: the device or the head-end.

    python tests/versions/talk.py SOURCE device|headend FOLDER

A line is a JSON object, octets in it are hexadecimal. The head-end answers each line. The device does what a line says
(`register`, `session`, `notified`), asks with `{"post": …}` whenever it sends something, goes on with the answer that
comes as the next line, and says `{"done": …}` when it is over.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import random
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

program: Any = importlib.import_module("program")
generate: Any = importlib.import_module("generate")
headend_parts: Any = importlib.import_module("headend_parts")
named, has, DEVICE, NOW = program.named, program.has, program.DEVICE, program.NOW
module, of = importlib.import_module, headend_parts.of

KEY = bytes(range(32))
SSMP, DM = "https://security.example:8443/ssmp", "https://dm.example:8444/dm"
PUSH_URL = "https://dcu.example:8450/push"


def said() -> Any:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(0)
    return json.loads(line)


def say(content: Any) -> None:
    print(json.dumps(content), flush=True)


class HeadEnd:
    """The servers of a release over one database."""

    def __init__(self, folder: Path) -> None:
        database = generate.headend_database()
        self.engine = generate.open_headend(database, folder)
        database.create_tables(self.engine)
        with self.engine.begin() as connection:
            devices = of("security.devices")
            if devices.find(connection, DEVICE) is None:
                devices.enrol(connection, DEVICE, KEY, NOW)
        self.token = of("metering.readings", "metering.store").issue_token(self.engine, DEVICE, NOW)
        accounts = of("security.app").dm_accounts("dm.example", DM)
        self.security = of("security.service").SecurityService(self.engine, accounts)
        server = of("dm.server")
        self.dm, self._request = server.DmServer(self.engine, server.ServerConfig("dm.example", DM)), server.Request
        self.metering = of("metering.app").create_app(self.engine)
        self._queue = of("dm.jobs.queue", "dm.jobs")

    def ssmp(self, body: str, **_: Any) -> Any:
        status, answer = self.security.handle(bytes.fromhex(body), "192.0.2.1")
        kind = named("CONTENT_TYPE", "omadm.ssmp.wire", "agent.ssmp.wire")
        return {"status": status, "body": answer.hex(), "headers": {"content-type": kind}}

    def dm_post(self, body: str, headers: dict[str, str]) -> Any:
        mac = named("HMAC_HEADER", "omadm.auth", "agent.dm.auth")
        answer = self.dm.handle(self._request(bytes.fromhex(body), headers["Content-Type"], headers.get(mac)))
        got = {"content-type": answer.content_type} | ({mac: answer.mac} if answer.mac else {})
        return {"status": answer.status, "body": answer.body.hex(), "headers": got}

    def readings(self, body: str) -> Any:
        return asyncio.run(self._readings(bytes.fromhex(body)))

    async def _readings(self, body: bytes) -> Any:
        import httpx

        transport = httpx.ASGITransport(app=self.metering)
        async with httpx.AsyncClient(transport=transport, base_url="https://readings.example") as client:
            answer = await client.post("/v1/readings", content=body, headers={"Authorization": f"Bearer {self.token}"})
        return {"status": answer.status_code, "body": answer.content.hex(), "headers": dict(answer.headers)}

    def kept(self) -> Any:
        """What is stored of readings, gaps and events."""
        store = of("metering.readings", "metering.store")
        found: dict[str, Any] = {"readings": sorted(row["id"] for row in store.list_readings(self.engine, limit=5000))}
        if has("headend.metering.gaps"):
            found["gaps"] = sorted(row["state"] for row in of("metering.gaps").listing(self.engine))
            found["events"] = sorted(row["key"] for row in of("metering.events").listing(self.engine))
        return found

    def job(self, kind: str, params: Any) -> Any:
        with self.engine.begin() as connection:
            return self._queue.enqueue(connection, DEVICE, kind, params)

    def show(self, job: int) -> Any:
        with self.engine.begin() as connection:
            shown = self._queue.show(connection, job)
        return {"state": shown["state"], "result": shown["result"]}

    def values(self) -> Any:
        tables = of("dm.tables")
        with self.engine.begin() as connection:
            return {row.uri: row.value for row in connection.execute(tables.values.select())}

    def notification(self) -> Any:
        """The body of a Package #0, as `headend.dm.push` makes it."""
        emit = named("emit", "omadm.notification", "agent.dm.notification")
        package = named("Notification", "omadm.notification", "agent.dm.notification")
        with self.engine.begin() as connection:
            account, url, counter = of("dm.accounts").next_push(connection, DEVICE)
        note = package(0x1F, account.server_id)
        body = emit(note, account.server_secret, account.server_nonce, counter=counter)
        return {"url": url, "body": body.hex()}

    def registered(self) -> Any:
        with self.engine.begin() as connection:
            (row,) = of("security.devices").listing(connection)
        return [row["registrations"], row["mod"], row["push_url"]]


class Line:
    """The HTTPS port of a device, ending in this process's output."""

    def request(self, _method: str, url: str, *, body: bytes | None = None, headers: Any = None) -> Any:
        say({"post": {"url": url, "body": (body or b"").hex(), "headers": dict(headers or {})}})
        answer = said()
        return named("Response", "agent.https")(answer["status"], answer["headers"], bytes.fromhex(answer["body"]))


class Concentrator:
    """The DM service of a release, with its registration."""

    def __init__(self, folder: Path) -> None:
        self.line, self.folder = Line(), folder
        self.now = 1000.0
        self.clock = SimpleNamespace(
            wall=lambda: NOW, monotonic=lambda: self.now, is_trusted=lambda: True, trusted=lambda: True
        )
        self.info = named("DeviceInfo", "agent.settings.device", "agent.device")(
            DEVICE, "Example Metering", "DCU-1", "A", "1", "2"
        )
        status = module("agent.status")
        self._common = {
            "https": self.line,
            "disk": program.real_disk(),
            "clock": self.clock,
            "board": status.StatusBoard(status.Status()),
            "register": self.register,
            "health": lambda *_: None,
            "on_provisioning": lambda _: None,
            "request_reboot": lambda: None,
            "push_url": lambda: PUSH_URL,
            "rng": random.Random(1),
        }
        self.service = self._service() if has("agent.dm.deps") else self._first_service()
        self.orders = iter(itertools.count())

    def _service(self) -> Any:
        deps, objects = module("agent.dm.deps"), module("agent.mo.objects")
        holder: list[Any] = []
        device_objects = objects.DeviceObjects(
            objects.MoDeps(
                device=self.info,
                view=lambda: holder[0].view(),  # noqa: PLW0108 - there is none yet
                new_id=lambda: "0" * 32,
                task_status=lambda _: module("agent.settings.provisioning").TaskStatus(),
                meters=lambda: (),
                push_url=lambda: PUSH_URL,
            )
        )
        tree = module("agent.tree.persistence").ManagementTree(
            device_objects.registry.schema, self._common["disk"], self.folder / "dm", self.clock.wall
        )
        holder.append(tree)
        made = deps.DmDeps(tree=tree, objects=device_objects, **self._common)
        return module("agent.dm.service").DmService(deps.DmConfig(DEVICE, self.folder), made)

    def _first_service(self) -> Any:
        """As 0.1.0 has it: with the packages in it."""
        ports = module("agent.dm.ports")
        made = ports.DmPorts(
            fetcher=None, software=SimpleNamespace(deployed=lambda: ()), verify_package=None,
            task_status=lambda _: module("agent.provisioning").TaskStatus(), meters=lambda: (), **self._common,
        )  # fmt: skip
        config = ports.DmConfig(self.info, self.folder, self.folder / "update", "boot")
        return module("agent.dm.service").DmService(config, made)

    def register(self, held: bytes = b"") -> bytes:
        if has("agent.ssmp.registration"):
            registration = module("agent.ssmp.registration").Registrar(self.line, SSMP, self.info)
            return bytes(registration.register(module("omadm.ssmp.identity").SharedKey(KEY), PUSH_URL, held))
        register = named("register", "agent.dm.registration", "agent.ssmp.client")
        return bytes(register(self.line, SSMP, self.info, KEY, PUSH_URL))

    def step(self) -> Any:
        self.now += 4000.0
        self.service.step(threading.Event(), lambda: None)
        return self.state()

    def session(self) -> Any:
        self.service.session_now("user")
        return self.step()

    def notified(self, body: str) -> Any:
        return self.service.on_notification(bytes.fromhex(body))

    def state(self) -> Any:
        last = self.service._status.last_session
        tree = self.service.tree
        looking = tree.view()
        tasks = looking.names(looking.existing(("SCHED", "Task"))) if hasattr(looking, "existing") else looking.names(
            looking.place(("SCHED", "Task"))
        )  # fmt: skip
        return {"result": last.result if last else "", "tasks": sorted(tasks)}


def main(source: Path, role: str, folder: Path) -> None:
    program.only(source)
    end = Concentrator(folder) if role == "device" else HeadEnd(folder)
    while True:
        asked = said()
        answer = getattr(end, asked.pop("do"))(**asked)
        say({"done": answer} if role == "device" else answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2], Path(sys.argv[3]))
