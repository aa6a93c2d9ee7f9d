"""The stages of the demo. Each does one thing to the system and waits until the *other* side shows that it happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.demo import boardwatch, factory
from tests.demo.boardwatch import BoardWatch
from tests.demo.display import Row, Stage
from tests.demo.factory import DEVICE_ID, Board, Ports
from tests.demo.headend import HeadEnd
from tests.demo.image import REPO
from tests.demo.meters import Comparison, Network, compare
from tests.demo.processes import DemoError, Processes

METERS_PLC = 10
ADDRESSES_RS485 = (17, 18)
METERS = METERS_PLC + len(ADDRESSES_RS485)
READ_EVERY_S = 15
PROFILE_EVERY_S = 900
PROFILE_LIST = "load-profile-15min"
CUTS_BYTES = (5 << 20, 9 << 20)
ADVANCE_WH = 1234
COMMAND_S = 60
LIST = REPO / "etc" / "reading-lists" / "residential-108.csv"
OPERATIONS_LIST = "grid-operations"
OPERATIONS_CODES = 6
TRIAL_S = 60  # the shortest that a device takes
SERVICE = "grid-watch"
SERVICE_NODE = f"./SCOMO/Inventory/Deployed/{SERVICE}"


class Story:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("logs", "keys", "build", "meters"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o711)  # services of packages run as users of their own, who have to pass
        self.processes = Processes(folder / "logs", REPO)
        self.headend = HeadEnd(folder / "headend")
        self.board = Board(folder / "board")
        self.watch = BoardWatch(self.processes)
        self.networks = [Network(folder / "meters" / "plc.sock"), Network(folder / "meters" / "rs485.sock")]
        self.ports = Ports(folder / "meters" / "plc", folder / "meters" / "rs485")
        self.codes = _codes(LIST)
        self.rows: list[Row] = []
        self.device_key = factory.device_key()

    def stages(self) -> list[tuple[str, Callable[[Stage], None]]]:
        return [
            ("Factory: keys, images, a board", self.make),
            ("Head-end with its four servers", self.start_headend),
            (f"Meters: {METERS_PLC} on PRIME, {len(ADDRESSES_RS485)} on RS-485", self.start_meters),
            ("Power on: registration (SSMP)", self.bootstrap),
            ("Provisioning over a DM session", self.provision),
            ("The head-end's address, on trial (ConnMO)", self.move),
            (f"Meters are read: {METERS} x {len(self.codes)} values", self.read),
            ("Head-end goes away and returns", self.outage),
            ("An address that leads nowhere", self.taken_back),
            ("Software package (SCOMO)", self.software),
            ("A program as a service (SCOMO)", self.service),
            ("Firmware 2, line cut twice (FUMO)", self.firmware_2),
            ("A tampered package is refused", self.tampered),
            ("Firmware 3 is unhealthy, rolled back", self.firmware_3),
        ]

    # ---- 1 to 3: the world

    def make(self, stage: Stage) -> None:
        stage.step(0, 3, "signing keys")
        self.signing = factory.make_keys(self.folder / "keys" / "signing")
        self.images: dict[str, Path] = {}
        self.packages: dict[str, Path] = {}
        stage.step(1, 3, "image and package of firmware 1")
        self.make_firmware("1")
        stage.step(2, 3, "software packages")
        reading_list = self.folder / "build" / f"{OPERATIONS_LIST}.csv"
        lines = LIST.read_text().splitlines()
        wanted = [line for line in lines[1:] if ".7.0.255,3,2," in line and line.startswith(("9", "10"))]
        reading_list.write_text("\n".join([lines[0], *wanted[:OPERATIONS_CODES]]) + "\n")
        build = self.folder / "build"
        settings = build / "component.json"
        settings.write_text('{"format": 1, "kind": "configuration"}')
        files = {settings.name: settings, reading_list.name: reading_list}
        self.packages["software"] = factory.make_software(OPERATIONS_LIST, "1.0", files, self.signing, build)
        self.packages["service"] = factory.make_service(SERVICE, "1.0", self.signing, build)
        self.packages["service-broken"] = factory.make_service(SERVICE, "2.0", self.signing, build, broken=True)
        image = self.images["1"].stat().st_size
        stage.say(f"images of {image / 1e6:.1f} MB, signed")

    def make_firmware(self, version: str) -> None:
        self.images[version], self.packages[version] = factory.make_firmware(
            version, self.signing, self.folder / "build"
        )

    def start_headend(self, stage: Stage) -> None:
        stage.say("certificates and configuration")
        self.headend.init()
        cutter = ["--listen", "127.0.0.1:0", "--target", f"127.0.0.1:{self.headend.port('software')}"]
        for size in CUTS_BYTES:
            cutter += ["--cut-after", str(size)]
        self.processes.start("breaking-line", [sys.executable, "-m", "tests.sim.cutter", *cutter])
        port = self.processes.ready("breaking-line")["port"]
        self.headend.publish("software", f"https://127.0.0.1:{port}")
        self.serve()
        self.headend.enrol(DEVICE_ID, self.device_key)
        stage.say(f"listening on loopback with TLS; device {DEVICE_ID} is enrolled")

    def serve(self) -> None:
        command = [str(factory.tool("dcu-headend")), "serve", "--config", str(self.headend.folder / "headend.yaml")]
        self.processes.start("head-end", command)
        self.processes.ready("head-end")

    def start_meters(self, stage: Stage) -> None:
        common = ["--list", str(LIST), "--phases", "3", "--password-file", str(self.meter_password())]
        self.processes.start(
            "plc-network",
            [
                *(sys.executable, "-m", "tests.sim.plc_network"),
                *("--link", str(self.ports.plc), "--control", str(self.networks[0].control)),
                *("--meters", str(METERS_PLC), "--first-serial", "1", *common),
            ],
        )
        self.processes.start(
            "rs485-bus",
            [
                *(sys.executable, "-m", "tests.sim.rs485_bus"),
                *("--link", str(self.ports.rs485), "--control", str(self.networks[1].control)),
                *("--addresses", ",".join(map(str, ADDRESSES_RS485)), *common),
            ],
        )
        self.processes.ready("plc-network")
        self.processes.ready("rs485-bus")
        stage.say("two pseudo-terminals")

    def meter_password(self) -> Path:
        path = self.folder / "keys" / "meter.password"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text("pole42-lls")
        return path

    # ---- 4: SSMP

    def bootstrap(self, stage: Stage) -> None:
        self.board.assemble(
            self.images["1"],
            self.device_key,
            f"{self.headend.url('security')}/ssmp",
            self.headend.ca,
            self.signing.root,
            self.ports,
        )
        self.processes.start("board", [sys.executable, "-m", "tests.sim.board", str(self.board.folder)])
        stage.say("boot loader, slot A, agent")
        self.processes.until(self.watch.running, 30, "the agent to start")
        stage.say("SSMP: mutual authentication and registration")
        self.processes.until(lambda: self.registrations() > 0, 30, "the registration at the security server")
        stage.say("first session with the DM account from the bootstrap data")
        self.processes.until(lambda: self.sessions() > 0, 30, "the first DM session")
        registrations = self.registrations()
        self.row("the device registered itself", "security server", f"{registrations} registration", registrations == 1)
        sessions = self.sessions()
        self.row("its DM account works", "DM server", f"{sessions} session(s) completed", sessions >= 1)

    def registrations(self) -> int:
        return int(
            self.headend.one("SELECT count(*) FROM registrations WHERE device = :d AND code = 200", d=DEVICE_ID) or 0
        )

    def sessions(self) -> int:
        return int(
            self.headend.one("SELECT count(*) FROM dm_sessions WHERE device_id = :d AND state = 'done'", d=DEVICE_ID)
            or 0
        )

    # ---- 5: provisioning

    def provision(self, stage: Stage) -> None:
        url, token = self.headend.metering_token(DEVICE_ID)
        task = "./SCHED/Task/billing"
        nodes = [
            {"path": "./AMI/Uplink/URL", "value": url},
            {"path": "./AMI/Uplink/Token", "value": token},
            {"path": "./AMI/Access/Client", "value": 16},
            {"path": "./AMI/Access/Auth", "value": "low"},
            {"path": "./AMI/Access/Secret", "value": self.meter_password().read_text()},
            *self.task_nodes(task, "billing values", READ_EVERY_S, LIST.stem),
            *self.task_nodes("./SCHED/Task/profile", "load profile", PROFILE_EVERY_S, PROFILE_LIST),
        ]
        before = self.boot_count()
        job = self.finish(stage, self.headend.job(DEVICE_ID, "provision", {"nodes": nodes}), 30, "provisioning")
        self.must(job["state"] == "done", f"provisioning: {job['result']}")
        read_back = self.finish(stage, self.headend.job(DEVICE_ID, "get", {"paths": [task]}), 30, "reading back")
        self.must(read_back["state"] == "done", f"reading the schedule back: {read_back['result']}")
        every = self.value(f"{task}/Setting/Every")
        self.row(
            "the schedule is in the device's tree, without a restart",
            "device, by a DM Get",
            f"{task}/Setting/Every = {every}",
            every == str(READ_EVERY_S) and self.boot_count() == before,
        )

    @staticmethod
    def task_nodes(task: str, name: str, every_s: int, reading_list: str) -> list[dict[str, object]]:
        return [
            {"path": f"{task}/Name", "value": name},
            {"path": f"{task}/Setting/Every", "value": every_s},
            {"path": f"{task}/Setting/Offset", "value": 0},
            {"path": f"{task}/Setting/ReadingList", "value": reading_list},
            {"path": f"{task}/Setting/Priority", "value": 1},
            {"path": f"{task}/Enabled", "value": True},
        ]

    def value(self, uri: str) -> str | None:
        return cast(
            "str | None",
            self.headend.one("SELECT value FROM dm_values WHERE device_id = :d AND uri = :u", d=DEVICE_ID, u=uri),
        )

    # ---- 6 and 9: how the head-end is reached

    def move(self, stage: Stage) -> None:
        """One change that is confirmed, then one that is not: meters are read and delivered while its time runs."""
        self.moved = f"https://localhost:{self.headend.port('dm')}/dm"
        stage.say(f"a trial of {self.moved}")
        job = self.finish(stage, self.try_server(self.moved, 120), 40, "the change of the address")
        self.row_of_job("a new address of the head-end is confirmed by a session", job, 1200)
        self.nowhere = f"https://127.0.0.1:{factory.free_ports(1)[0]}/dm"
        self.trial = self.try_server(self.nowhere, TRIAL_S)
        self.processes.until(
            lambda: self.headend.job_row(self.trial)["state"] == "waiting",
            30,
            "the trial of an address without a server",
        )
        stage.say(f"confirmed; then {self.nowhere}, where nobody is, for {TRIAL_S} s")

    def try_server(self, url: str, within_s: int) -> int:
        return self.headend.job(DEVICE_ID, "connectivity", {"server": url, "within_s": within_s})

    def taken_back(self, stage: Stage) -> None:
        for version in "23":
            stage.say(f"meanwhile: image and package of firmware {version}")
            self.make_firmware(version)
        job = self.finish(stage, self.trial, TRIAL_S + 30, "the device to come back")
        self.row_of_job("an address that leads to no session is taken back", job, 1450)
        in_use = self.value("./ConnMO/InUse/ServerURL")
        self.row("... and the one before is in force", "device, by a DM Get", f"ServerURL = {in_use}",
                 in_use == self.moved and job["state"] == "failed")  # fmt: skip
        stage.say(str(json.loads(job["result"])["error"]))

    # ---- 7 and 8: readings

    def read(self, stage: Stage) -> None:
        total = METERS * len(self.codes)

        def whole_run() -> int | None:
            runs = self.runs("billing")
            best = max(runs.values(), default=0)
            stage.step(best, total, f"{best} of {total} values of a run at the head-end")
            return next((run for run, count in sorted(runs.items()) if count >= total), None)

        run = self.processes.until(whole_run, 60, f"a whole run of {total} values")
        held = self.compare(run)
        meters = len(self.headend.ask("SELECT DISTINCT meter FROM readings WHERE run = :r", r=run))
        self.row("meters registered without a person", "head-end's database", f"{meters} meters", meters == METERS)
        self.row_of_comparison(f"{METERS} x {len(self.codes)} values with unit and scaler", held, total)
        stage.say(f"{held.equal} values equal to what the meters hold")

    def runs(self, task: str) -> dict[int, int]:
        """Run → how many different values the head-end holds of it."""
        rows = self.headend.ask(
            "SELECT run, count(DISTINCT meter || cls || '/' || obis || '/' || attr) AS n FROM readings"
            " WHERE device = :d AND task = :t AND error IS NULL GROUP BY run",
            d=DEVICE_ID,
            t=task,
        )
        return {int(row["run"]): int(row["n"]) for row in rows}

    def compare(self, run: int, codes: set[str] | None = None, task: str = "billing") -> Comparison:
        rows = self.headend.ask("SELECT * FROM readings WHERE run = :r AND task = :t", r=run, t=task)
        return compare(self.networks, cast("Any", rows), codes or self.codes)

    def row_of_comparison(self, claim: str, held: Comparison, total: int) -> None:
        first = (*held.different, *held.missing, "")[0]
        answer = f"{held.equal} of {total} equal" + (f"; {first}" if first else "")
        self.row(claim, "head-end's database, meters", answer, held.whole and held.equal == total)

    def outage(self, stage: Stage) -> None:
        total = METERS * len(self.codes)
        self.headend.close()
        self.processes.stop("head-end")
        for network in self.networks:
            network.advance(ADVANCE_WH)
        first = int(time.time() // READ_EVERY_S + 1) * READ_EVERY_S  # the first run that nobody is there to hear of

        def waiting() -> int | None:
            records = int(self.dcuctl("status")["queue"]["records"])
            task = self.dcuctl("tasks")["billing"]
            stage.step(records, total, f"head-end is away; {records} records wait in the concentrator")
            return int(task["last_run"]) if task["last_run"] >= first and task["state"] == "idle" else None

        last = self.processes.until(waiting, 60, "a whole run in the store of the concentrator", each_s=0.5)
        self.serve()
        during = list(range(first, last + 1, READ_EVERY_S))

        def arrived() -> bool:
            runs = self.runs("billing")
            done = sum(runs.get(run, 0) for run in during)
            stage.step(done, total * len(during), f"head-end is back; {done} of {total * len(during)} arrived")
            return done >= total * len(during)

        self.processes.until(arrived, 60, "the readings of the outage")
        self.rows_of_outage(during, total)

    def rows_of_outage(self, during: list[int], total: int) -> None:
        count, different = 0, 0
        for run in during:
            row = self.headend.ask(
                "SELECT count(*) AS n, count(DISTINCT meter || cls || '/' || obis || '/' || attr) AS d FROM readings"
                " WHERE run = :r AND task = 'billing'",
                r=run,
            )[0]
            count, different = count + int(row["n"]), different + int(row["d"])
        wanted = total * len(during)
        self.row(
            f"outage: {len(during)} run(s), none missing, none twice",
            "head-end's database",
            f"{count} rows, {different} different, {wanted} scheduled",
            count == different == wanted > 0,
        )
        self.row_of_comparison(
            f"the values of the outage (+{ADVANCE_WH} Wh) are the meters'", self.compare(during[-1]), total
        )

    # ---- 10: SCOMO

    def software(self, stage: Stage) -> None:
        stage.say("uploading, Exec on SCOMO")
        url = self.headend.upload(self.packages["software"].name, self.packages["software"])
        number = self.headend.job(DEVICE_ID, "software", {"id": OPERATIONS_LIST, "name": OPERATIONS_LIST, "url": url})
        job = self.finish(stage, number, 40, "the software package")
        self.row_of_job("software package installed (SCOMO)", job, 1200)
        task = "./SCHED/Task/operations"
        nodes = self.task_nodes(task, "grid operations", 5, OPERATIONS_LIST)
        self.finish(stage, self.headend.job(DEVICE_ID, "provision", {"nodes": nodes}), 30, "a task that uses it")
        total = METERS * OPERATIONS_CODES
        run = self.processes.until(
            lambda: next((run for run, count in self.runs("operations").items() if count >= total), None),
            40,
            "readings by the new list",
        )
        held = self.compare(run, _codes(self.folder / "build" / f"{OPERATIONS_LIST}.csv"), "operations")
        self.row_of_comparison("the reading list it carries is active", held, total)

    # ---- 11: a program of a software package

    def service(self, stage: Stage) -> None:
        stage.say("a program with its library, run as a service")
        self.row_of_job("a package with a program is installed and runs", self.install("service", "1.0", stage), 1200)
        line = (self.value(f"{SERVICE_NODE}/Ext/Log") or "").splitlines()[-1:]
        state = self.value(f"{SERVICE_NODE}/Ext/Service")
        shown = f"{state}; {line[0].partition(' ')[2] if line else 'nothing printed'}"
        working = state == "running" and "with the grid library 1.0" in shown
        self.row("... with its own library; its log says so", "device, by a DM Get", shown, working)
        before = self.running()
        stage.say("version 2.0 ends at once")
        job = self.install("service-broken", "2.0", stage)
        self.row_of_job("a version that does not stay up is taken back", job, 1450)
        after = self.running()
        shown = f"version {after.get('version')}, {after.get('state')}, process {after.get('pid')}"
        good = (after["version"], after["state"]) == ("1.0", "running") and after["pid"] != before["pid"]
        self.row("... and the version before runs again", "dcuctl services", shown, good)
        self.deactivate_service(stage, after)

    def install(self, package: str, version: str, stage: Stage) -> dict[str, Any]:
        url = self.headend.upload(self.packages[package].name, self.packages[package])
        wanted = {"id": SERVICE, "name": SERVICE, "version": version, "url": url}
        return self.finish(stage, self.headend.job(DEVICE_ID, "software", wanted), 40, f"{SERVICE} {version}")

    def running(self) -> dict[str, Any]:
        found = cast("list[dict[str, Any]]", self.dcuctl("services"))
        return next((one for one in found if one["id"] == SERVICE), {})

    def deactivate_service(self, stage: Stage, service: dict[str, Any]) -> None:
        stage.say("Exec of Deactivate")
        process = Path(f"/proc/{service['pid']}")
        owner = process.stat().st_uid
        command = {"command": "exec", "path": f"{SERVICE_NODE}/Operations/Deactivate"}
        job = self.finish(stage, self.headend.job(DEVICE_ID, "commands", {"commands": [command]}), 30, "Deactivate")
        asked = "SELECT count(*) FROM dm_alerts WHERE correlator = :c"
        self.processes.until(
            lambda: int(self.headend.one(asked, c=job["correlator"]) or 0) > 0, 30, "the report of Deactivate"
        )
        self.row_of_job("deactivated over DM", job, 1200)
        shown = f"its process, of user {owner}, {'is there' if process.exists() else 'is gone'}"
        good = not process.exists() and not self.running() and (owner != 0 or os.geteuid() != 0)
        self.row("... and nothing of it runs any more", "the machine, dcuctl services", shown, good)

    # ---- 12 to 14: firmware

    def firmware_2(self, stage: Stage) -> None:
        self.watch.expect(boardwatch.REBOOT, boardwatch.INSTALLED)
        number = self.update("2")
        job = self.finish(stage, number, 90, "firmware 2", self.download_note("2"))
        self.row_of_job("firmware 2 runs and is confirmed (FUMO)", job, 200)
        version = self.value("./DevDetail/FwV")
        self.row("the device says so itself", "device, by a DM Get", f"DevDetail/FwV = {version}", version == "2")
        self.row_of_download("2")
        self.row_of_slot("B", "2")
        self.row_of_environment("B")

    def update(self, version: str) -> int:
        package = self.packages[version]
        url = self.headend.upload(package.name, package)
        return self.headend.job(DEVICE_ID, "firmware", {"url": url, "version": version})

    def download_note(self, version: str) -> Callable[[], str]:
        size = self.packages[version].stat().st_size

        def note() -> str:
            boots = self.watch.boots()
            slot = f"slot {boots[-1]['slot']}, boot {boots[-1]['boot']}" if boots else ""
            requests = self.requests(version)
            sent = max((int(row["start"]) + int(row["sent"]) for row in requests), default=0)
            return f"{len(requests)} request(s), {min(sent, size) * 100 // size} % fetched; {slot}"

        return note

    def requests(self, version: str) -> list[dict[str, Any]]:
        rows = self.headend.ask(
            "SELECT * FROM downloads WHERE package = :p AND status IN (200, 206) ORDER BY seq",
            p=self.packages[version].name,
        )
        return [dict(row) for row in rows]

    def row_of_download(self, version: str) -> None:
        size = self.packages[version].stat().st_size
        starts = [int(row["start"]) for row in self.requests(version)]
        fetched, resumes = self.value("./FUMO/Firmware/Ext/BytesFetched"), self.value("./FUMO/Firmware/Ext/Resumes")
        self.row(
            "the download was cut twice and resumed, no byte fetched again",
            "software server, device",
            f"ranges from {starts}; {fetched} fetched of {size}, {resumes} resumes",
            fetched == str(size) and resumes == "2" and len(starts) == 3 and starts == sorted(set(starts)),
        )

    def row_of_slot(self, slot: str, version: str) -> None:
        image = self.images[version].read_bytes()
        with self.board.slot(slot).open("rb") as file:
            same = file.read(len(image)) == image
        self.row(
            f"slot {slot} holds firmware {version}",
            "the slot's bytes",
            f"{len(image)} bytes {'identical' if same else 'DIFFERENT'}",
            same,
        )

    def row_of_environment(self, slot: str) -> None:
        variables = self.board.environment.load()[2]
        shown = " ".join(f"{name}={value}" for name, value in sorted(variables.items()) if name.startswith("BOOT_"))
        order = variables.get("BOOT_ORDER", "").split()
        self.row(
            f"the boot loader starts slot {slot}",
            "U-Boot environment",
            shown,
            order[:1] == [slot] and int(variables[f"BOOT_{slot}_LEFT"]) > 0,
        )

    def tampered(self, stage: Stage) -> None:
        self.watch.expect()
        package = self.folder / "build" / "firmware-tampered.swu"
        raw = bytearray(self.packages["3"].read_bytes())
        raw[len(raw) // 2] ^= 0x01
        package.write_bytes(raw)
        self.packages["tampered"] = package
        before = self.board.slot("A").read_bytes(), self.board.slot("B").read_bytes(), self.boot_count()
        job = self.finish(stage, self.update("tampered"), 60, "the tampered package", self.download_note("tampered"))
        after = self.board.slot("A").read_bytes(), self.board.slot("B").read_bytes(), self.boot_count()
        self.row_of_job("a package with one bit flipped is refused", job, 404)
        self.row("... before anything was written", "both slots' bytes", "unchanged" if before == after else "CHANGED",
                 before == after)  # fmt: skip

    def firmware_3(self, stage: Stage) -> None:
        self.watch.expect(boardwatch.REBOOT, boardwatch.INSTALLED, boardwatch.UNHEALTHY)
        first = len(self.watch.boots())
        job = self.finish(stage, self.update("3"), 240, "firmware 3", self.download_note("3"))
        self.row_of_job("firmware 3 failed and was rolled back (FUMO)", job, 410)
        tried = [boot["slot"] for boot in self.watch.boots()[first:]]
        wanted = ["B", *["A"] * factory.TRIES, "B"]
        self.row(
            "attempts ran out, the old system came back by itself", "boot loader", " ".join(tried), tried == wanted
        )
        self.processes.until(self.watch.running, 30, "the old system to run")
        status = self.dcuctl("status")
        booted = [slot for slot in status["slots"] if slot["booted"]]
        shown = ", ".join(f"{slot['name']}: {slot['version']} {slot['state']}" for slot in status["slots"])
        good = [(slot["name"], slot["version"]) for slot in booted] == [("B", "2")]
        self.row("the technician sees it too", "dcuctl status", shown, good and status["fw_version"] == "2")
        self.row_of_slot("B", "2")
        self.row_of_environment("B")

    # ---- shared

    def row(self, claim: str, asked: str, answer: str, ok: bool) -> None:
        """One line of the closing table. A claim that the other side denies ends the demo in its stage."""
        self.rows.append(Row(claim, asked, answer, ok))
        if not ok:
            raise DemoError(f"it is not so: {claim} ({asked}: {answer})")

    def row_of_job(self, claim: str, job: dict[str, Any], code: int) -> None:
        """The result that the device reported must carry the Correlator of the Exec that caused it."""
        alerts = self.headend.ask("SELECT * FROM dm_alerts WHERE correlator = :c", c=job["correlator"])
        results = [int(alert["result_code"]) for alert in alerts]
        self.row(
            claim,
            "DM server: alert by correlator",
            f"result {', '.join(map(str, results)) or 'none'}, correlator {job['correlator'][:8]}",
            results == [code],
        )

    def finish(
        self, stage: Stage, number: int, within_s: float, what: str, note: Callable[[], str] | None = None
    ) -> dict[str, Any]:
        """Wait until the DM server has ended the job."""

        def ended() -> dict[str, Any] | None:
            row = dict(self.headend.job_row(number))
            stage.say(f"{what}: {note() if note else row['state']}")
            return row if row["state"] in ("done", "failed") else None

        return self.processes.until(ended, within_s, f"{what} (job {number})")

    def boot_count(self) -> int:
        self.watch.pump()
        return len(self.watch.boots())

    def dcuctl(self, *command: str) -> dict[str, Any]:
        """What the field technician's tool says, by the program of the image that runs."""
        program = self.board.folder / "ram" / "rootfs" / "usr" / "bin" / "dcuctl"
        done = subprocess.run(
            [sys.executable, "-I", "-S", program, "--socket", self.board.control, *command, "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        if done.returncode != 0:
            raise DemoError(f"dcuctl {' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return cast("dict[str, Any]", json.loads(done.stdout))

    @staticmethod
    def must(holds: bool, otherwise: str) -> None:
        if not holds:
            raise DemoError(otherwise)

    def end(self) -> None:
        self.headend.close()
        self.processes.end()


def _codes(file: Path) -> set[str]:
    """`class/obis/attribute` of every line of a reading list."""
    lines = [line.split(",") for line in file.read_text().splitlines()[1:] if line]
    return {f"{cls}/{obis}/{attr}" for _, _, obis, cls, attr, *_ in lines}
