"""dcu-agent: the composition root. Reads the configuration, makes every part, connects them, and hands over to the
supervisor. Nothing is decided here but who knows whom.

Exit codes: 0 ended in order, 2 the configuration (or a key or certificate it names) cannot be used, 70 a worker died,
71 the system would not let us start (storage, an address that is taken): trying again may help, 75 another instance
has the state folder: it is left alone.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent import log
from updateagent import __version__

if TYPE_CHECKING:
    from agent.clock import SystemClock
    from agent.daemon.control import Handler
    from agent.daemon.supervisor import Supervisor, Worker
    from agent.daemon.views.daemon import Views
    from agent.dm.deps import DmConfig
    from agent.https import HttpsClient
    from agent.metering.orders.images import ImageStore
    from agent.metering.uplink.sink import SinkWorker
    from agent.mo.objects import DeviceObjects
    from agent.settings.config import Config
    from agent.settings.device import DeviceInfo
    from agent.settings.provisioning import Provisioning
    from agent.ssmp.registration import Registrar
    from agent.tree.tree import Transaction

LOG = logging.getLogger("agent")

EXIT_SYSTEM = 71  # EX_OSERR of sysexits.h
EXIT_RUNNING = 75  # EX_TEMPFAIL
DEFAULT_CONFIG = Path("/etc/dcu/dcu.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `dcu-agent`; returns the process's exit code."""
    file, to_check = _options(sys.argv[1:] if arguments is None else arguments)
    if to_check is not None:
        from agent.daemon.check import check

        return check(to_check, sys.stdout, sys.stderr)
    from agent.daemon.memory.postponed import postpone

    postpone()
    from agent.daemon.memory import generated

    known = generated.install()  # before the first dataclass, and `dataclasses` imports what is postponed
    from agent.daemon.instance import AlreadyRunningError, InstanceLocks
    from agent.daemon.memory import returned
    from agent.settings.config import EXIT_CONFIG, ConfigError, load

    returned.before_start()
    try:
        config = load(file, strict=False)
        returned.after_configuration()
        # Before the log, which may lie in the folder, is opened or anything else is touched. Held to the very end.
        metering = config.metering
        instance = InstanceLocks(config.state_dir, (metering.store_file, metering.registry_file))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except AlreadyRunningError as error:
        sys.stderr.write(f"dcu-agent: {error}\n")
        return EXIT_RUNNING
    except OSError as error:
        sys.stderr.write(f"dcu-agent: cannot start: {error}\n")
        return EXIT_SYSTEM
    try:
        return _run(config, generated=not known)
    finally:
        instance.release()


def _run(config: Config, *, generated: bool) -> int:
    from agent.daemon.control import refuse_taken
    from agent.daemon.device_orders import erase_if_ordered, erased_by_reset
    from agent.daemon.memory import returned
    from agent.settings.config import EXIT_CONFIG
    from agent.settings.identity import SecretError
    from updateagent.disk import RealDisk

    try:
        refuse_taken(config.control_socket)  # before health.json is touched, which may be another agent's as well
        log.setup(config.log.level, config.log.file, config.log.file_bytes_max)
        for problem in config.unknown:
            LOG.warning("%s: passed over", problem.show(config.file), extra={"event": "config.unknown_key"})
        erase_if_ordered(RealDisk(), config.state_dir, lambda: erased_by_reset(config), lambda: _end_services(config))
        daemon = Daemon(config)
        returned.after_start(generated=generated)
        returned.drop_texts()
    except SecretError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except OSError as error:
        sys.stderr.write(f"dcu-agent: cannot start: {error}\n")
        return EXIT_SYSTEM
    return daemon.run()


def _end_services(config: Config) -> None:
    from agent.services.backends import end_services  # at a factory reset, and never otherwise

    end_services(config)


def _options(arguments: Sequence[str]) -> tuple[Path, Path | None]:
    """Return the configuration to run with, and the one to check instead."""
    if len(arguments) == 2 and arguments[0] == "--config":  # how init starts us: argparse would stay in memory, 0.8 MB
        return Path(arguments[1]), None
    import argparse

    parser = argparse.ArgumentParser(prog="dcu-agent", description="Agent of a smart-metering data concentrator.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
    parser.add_argument("--check", type=Path, metavar="CONFIG", help="check a configuration and what it names; exit")
    parser.add_argument("--version", action="version", version=f"dcu-agent {__version__}")
    options = parser.parse_args(arguments)
    return options.config, options.check


class Daemon:
    """All parts of one running daemon."""

    def __init__(self, config: Config) -> None:
        """Read the secrets, open the files and sockets, and put the parts together; nothing runs yet.

        Raises `SecretError`, or `OSError` for a file or address that cannot be used.
        """
        from agent.clock import FlagFile, KernelClock, SystemClock, TimeSource
        from agent.clock_floor import ClockFloor
        from agent.clock_keeper import FLOOR_FILE, ClockKeeper, load_floor
        from agent.daemon.health import Health
        from agent.daemon.reboot import Rebooter
        from agent.settings.identity import device_info
        from agent.ssmp.security_module import open_module
        from agent.status import Status, StatusBoard
        from updateagent.disk import RealDisk

        self.config = config
        sources: list[TimeSource] = [KernelClock()]
        if config.clock.synchronized_file is not None:
            sources.append(FlagFile(config.clock.synchronized_file))
        self.disk = RealDisk()
        floor_file = config.state_dir / FLOOR_FILE
        self.clock = SystemClock(sources, floor=ClockFloor(_built(config), load_floor(self.disk, floor_file)))
        self.clock_keeper = ClockKeeper(self.clock, self.disk, floor_file, may_set=config.clock.set)
        self.rng = random.SystemRandom()
        self.module = open_module(
            config,
            self.clock.certificate_time,
            self.disk,
            anchors=self._anchors,
            moved=self._registration_url,
        )
        self.not_renewed = ""
        self.device: DeviceInfo = device_info(config.device, __version__)
        self.board = StatusBoard(
            Status(
                device_id=self.device.device_id,
                fw_version=self.device.fw_version,
                sw_version=self.device.sw_version,
                started=self.clock.wall(),
                up=self.clock.monotonic(),
            )
        )
        self.health = Health(config.update.run_dir, config.update.boot_id_file, self.clock)
        self.rebooter = Rebooter(config.reboot_command, self.clock)
        self.https = _https(config, self.clock)
        self.https.on_answer = self.clock.server_date
        self.soon: Callable[[], None] = lambda: None  # the supervisor's, once there is one: parts are told of it before
        self._make_metering()
        self._make_services()
        self._make_dm()
        self._make_ota()
        self._make_workers()

    def run(self) -> int:
        """Run until the end; returns the exit code."""
        LOG.info(
            "%s, firmware %s, software %s", self.device.device_id, self.device.fw_version, __version__,
            extra={"event": "agent.begin"},
        )  # fmt: skip
        code = self.supervisor.run()
        self.clock_keeper.close()
        self.collector.close()
        self.uplink_connection.close()
        self.store.close()
        return code

    # --- readings ---

    def _make_metering(self) -> None:
        from agent.metering.collector import Collector
        from agent.metering.orders.targets import Targets
        from agent.metering.ports.opening import bridge_to
        from agent.metering.registry.registry import Registry
        from agent.metering.scheduling.readinglist import ReadingLists
        from agent.metering.store.reading_store import Store

        metering = self.config.metering
        self.store = Store(
            metering.store_file,
            self.clock,
            records_max=metering.store_records_max,
            keep_forwarded_max=metering.store_keep_forwarded_max,
        )
        self.store.on_health = lambda problem: self.health.set("storage", not problem, problem)
        self.registry = Registry(
            self.disk,
            metering.registry_file,
            self.clock,
            leave_after_s=metering.leave_after_s,
            publish=lambda meters: self.board.publish(meters=meters),
        )
        self._make_orders()
        self.lists = ReadingLists(metering.reading_lists_dir, self.config.update.software_dir)
        self.collector = Collector(
            self.config.ports,
            metering,
            store=self.store,
            registry=self.registry,
            orders=self.orders,
            lists=self.lists,
            clock=self.clock,
            rng=self.rng,
            open_bridge=bridge_to,
            health=lambda ok, detail: self.health.set("meter_port", ok, detail),
            meters_health=lambda ok, detail: self.health.set("meters", ok, detail),
            keys_health=lambda ok, detail: self.health.set("key_store", ok, detail),
            device=self.device.device_id,
            boot=self.health.boot,
            events=self.config.events,
            busy=self._soon,
        )
        self.targets = Targets(self.registry, self.collector.access)
        self._make_uplink()

    def _make_orders(self) -> None:
        from agent.metering.orders.journal import Journal
        from agent.metering.orders.order import Permission
        from agent.metering.orders.order_book import OrderBook

        orders = self.config.orders
        allowed = {
            Permission.CHANGE: orders.change,
            Permission.SUPPLY: orders.supply,
            Permission.FIRMWARE: orders.firmware,
        }
        self.images: ImageStore | None = None
        if orders.firmware:
            from agent.metering.orders.images import ImageStore

            folder = self.config.state_dir / "meter-images"
            self.images = ImageStore(self.disk, folder, self._fetch_image, self.clock)
        self.orders = OrderBook(
            Journal(self.disk, self.config.state_dir / "orders"),
            self.clock,
            allowed=[permission for permission, given in allowed.items() if given],
            known=self.registry.names,
            images=self.images,
            expand=self._meters_of,
            own_name=self.registry.own_name,
            standing=self.registry.standing,
            boot=self.health.boot,
        )

    def _make_uplink(self) -> None:
        from agent.https import KeptConnection
        from agent.metering.scheduling.schedule import Backoff
        from agent.metering.uplink.replay import ReplayLimits
        from agent.metering.uplink.worker import Uplink

        metering = self.config.metering
        self.uplink_connection = KeptConnection(self.https)
        self.uplink = Uplink(
            self.store,
            self.uplink_connection,
            self.clock,
            device_id=self.device.device_id,
            backoff=Backoff(metering.uplink_backoff_min_s, metering.uplink_backoff_max_s),
            rng=self.rng,
            replay=ReplayLimits(metering.uplink_replay_records_per_min, metering.uplink_replay_spread_s),
            publish=lambda queue: self.board.publish(queue=queue),
        )
        self.sink = self._make_sink()
        self.store.on_append = self._stored

    def _soon(self) -> None:
        self.soon()

    def _meters_of(self, target: str) -> list[str]:
        """The meters that a group stands for. Raises `OrderRefusedError`."""
        return self.targets.meters(target)  # which the collector is needed for, that has the orders

    def _stored(self) -> None:
        self.uplink.notify()
        if self.sink is not None:
            self.sink.notify()

    def _make_sink(self) -> SinkWorker | None:
        """Make the sink beside the head-end, where one is configured. Raises `SecretError`."""
        mqtt = self.config.mqtt
        if mqtt is None:
            return None
        from importlib.util import find_spec

        from agent.metering.scheduling.schedule import Backoff
        from agent.metering.uplink.mqtt import MqttSink
        from agent.metering.uplink.sink import SinkWorker
        from agent.settings.identity import SecretError, read_password

        if find_spec("paho") is None:
            raise SecretError("mqtt: paho-mqtt is not installed (dcu-agent[mqtt])")
        password = read_password(mqtt.password_file) if mqtt.password_file else ""
        log.hide(password)
        try:
            context = mqtt.context(self.clock.certificate_time)
        except OSError as error:
            raise SecretError(f"mqtt: the files for TLS cannot be used: {error}") from error
        metering = self.config.metering
        return SinkWorker(
            self.store,
            MqttSink(mqtt, self.device.device_id, password, context),
            self.clock,
            backoff=Backoff(metering.uplink_backoff_min_s, metering.uplink_backoff_max_s),
            rng=self.rng,
        )

    # --- programs of software packages ---

    def _make_services(self) -> None:
        from agent.services.active import Components
        from agent.services.worker import Backend, ServiceWorker

        config = self.config
        self.components = Components(config.update.software_dir, self.clock.certificate_time)

        def make() -> Backend:
            from agent.services.backends import make_backend

            return make_backend(
                config.services, self.clock, config.state_dir, config.update.run_dir, self._service_stopped
            )

        self.services = ServiceWorker(
            self.components,
            make,
            self.board,
            self.clock,
            left_behind=(config.update.run_dir / "services").exists(),
            on_anchors=self.https.trust_also,
        )
        self.services.look_at_anchors()

    def _service_stopped(self, service_id: str, version: str, why: str) -> None:
        """Have the head-end told, in front of the readings, of a program that kept too much."""
        from agent.metering.store.reading_store import StoreError
        from agent.services.room import alarm

        try:
            self.store.append([], urgent=(alarm(service_id, version, why, self.clock.wall()),))
        except StoreError as error:
            LOG.error("the head-end is not told: %s", error, extra={"event": "service.alarm"})  # noqa: TRY400

    def _service_log(self, service_id: str) -> str:
        return "\n".join(self.services.log(service_id, 10))

    # --- management ---

    def _make_dm(self) -> None:
        from agent.daemon.network import SystemNetwork
        from agent.dm.deps import DmDeps
        from agent.dm.service import DmService
        from agent.mo.connectivity import trial
        from agent.tree.persistence import ManagementTree

        config = self.config
        objects = self._make_objects()
        self.tree = ManagementTree(objects.registry.schema, self.disk, config.state_dir / "dm", self.clock.wall)
        self.network = SystemNetwork(
            config.connectivity, self.https, self.disk, config.state_dir, config.security_server.ca_file
        )
        self.network.prepare(trial.in_use(self.tree.view()))
        deps = DmDeps(
            tree=self.tree,
            objects=objects,
            https=self.https,
            disk=self.disk,
            clock=self.clock,
            board=self.board,
            register=self._register,
            renewal_due=self._renewal_due,
            time_told=self.clock.session_time,
            time_doubted=self.clock.doubted,
            ask_time=None if self.config.dm.account is not None else self._ask_time,
            health=self.health.set,
            on_provisioning=self._provisioned,
            on_commands=self._hand_over,
            request_reboot=lambda: self.rebooter.request("a firmware package waits for the Update Agent"),
            push_url=self._push_url,
            network=self.network,
            rng=self.rng,
        )
        self.dm = DmService(self._dm_config(), deps)
        self.orders.locked = self._locked
        self._make_push()

    def _make_objects(self) -> DeviceObjects:
        from agent.daemon.diagnostics import pictures_of
        from agent.daemon.views.networks import (
            forget_meter,
            meter_document,
            meter_documents,
            network_documents,
            order_network,
        )
        from agent.jobs.firmware import RunningDownload
        from agent.mo.connectivity import trial
        from agent.mo.connectivity.connmo import Means
        from agent.mo.objects import DeviceObjects, MoDeps

        config = self.config
        hooked = bool(config.connectivity.hook)
        self.download = RunningDownload()
        return DeviceObjects(
            MoDeps(
                device=self.device,
                view=self._view,
                new_id=lambda: secrets.token_hex(16),
                task_status=self.collector.task_status,
                meters=self.collector.meters,
                system_title=self.collector.access.system_title,
                meter_detail=lambda meter: meter_document(self.collector, meter),
                meter_details=lambda: meter_documents(self.collector),
                meters_not_added=lambda: self.collector.added.problems,
                networks=lambda: network_documents(self.collector),
                order_network=lambda port, wanted: order_network(
                    self.collector, port, wanted, may_change=config.orders.change and not self._locked()
                ),
                forget_meter=lambda meter: forget_meter(self.collector, meter),
                order_progress=self._order_progress,
                push_url=self._push_url,
                services=lambda: self.board.current.services,
                service_log=self._service_log,
                compatible=config.update.compatible,
                download=self.download,
                means=Means(time_servers=hooked or config.connectivity.timesyncd_file is not None, access=hooked),
                configured=trial.Values(registration=config.security_server.url),
                boot=self.health.boot,
                pictures=pictures_of(self),
                trial_left_s=lambda: self.dm.trial.left_s(),  # noqa: PLW0108 - there is no service yet
            )
        )

    def _dm_config(self) -> DmConfig:
        from agent.dm.deps import DmConfig

        config = self.config
        return DmConfig(
            device_id=self.device.device_id,
            state_dir=config.state_dir,
            poll_every_s=config.dm.poll_every_s,
            backoff_min_s=config.dm.backoff_min_s,
            backoff_max_s=config.dm.backoff_max_s,
            content_type=config.dm.content_type,
            mac_algorithms=config.dm.mac_algorithms,
            auth_types=config.dm.auth_types,
            standard_notifications=config.dm.push_listen is not None and config.dm.push_listen.standard,
            boot_id=self.health.boot,
        )

    def _make_push(self) -> None:
        from agent.dm.push import PushListener

        self.push: PushListener | None = None
        listen = self.config.dm.push_listen
        if listen is not None:
            self.push = PushListener(
                self.dm.on_notification,
                host=listen.host,
                port=listen.port,
                report=lambda ok, detail: self.health.set("push", ok, detail),
            )
        else:
            self.health.set("push", ok=True, detail="not configured")

    def _locked(self) -> bool:
        from agent.jobs import device

        return device.is_locked(self.tree.view())

    def _tell_lock(self) -> None:
        locked = self._locked()
        self.health.set("unlocked", not locked, "the head-end has locked the device" if locked else "")

    def _order_progress(self, order_id: str) -> str:
        from agent.jobs.orders import progress_text

        found = self.orders.describe(order_id)
        return "" if found is None else progress_text(found)

    def _view(self) -> Transaction:
        return self.tree.view()  # the objects need the tree, the tree needs the objects

    def _make_ota(self) -> None:
        from agent.ota.deltas import FullPolicy
        from agent.ota.deps import OtaConfig, OtaDeps
        from agent.ota.download import Downloader
        from agent.ota.update_command import SoftwareCommand, SourceCheck
        from agent.ota.verification import verifier
        from agent.ota.worker import PackageWorker

        self.downloader = Downloader(self.https, self.disk, self.clock, jitter=self.rng.random)
        update = self.config.update
        settings = OtaConfig(
            update_dir=update.dir,
            boot_id=self.health.boot,
            fw_version=self.device.known_fw_version,
            full=FullPolicy(update.full_instead_of_delta == "always", update.full_bytes_max),
        )
        deps = OtaDeps(
            tree=self.tree,
            disk=self.disk,
            clock=self.clock,
            board=self.board,
            fetcher=self.downloader,
            software=SoftwareCommand(update.command),
            verify_package=verifier(
                update,
                self.disk,
                self.clock.certificate_time,
                self.device.known_fw_version,
                on_signed=self.clock.signed,
            ),
            on_alert=self.dm.report_alerts,
            on_reboot=self.dm.reboot,
            check_sources=SourceCheck(update.command),
            software_changed=self._software_changed,
            software_problem=lambda id_, version: (
                self.lists.problem_of(id_, version) or self.components.problem_of(id_, version)
            ),
            software_mark=self.lists.mark,
            settle=self.services.settle,
            download=self.download,
        )
        self.packages = PackageWorker(settings, deps)
        self._show_lists()

    def _software_changed(self) -> None:
        self.collector.software_changed()
        self.services.reload()
        self._show_lists()

    def _show_lists(self) -> None:
        problems = self.lists.problems()
        for problem in problems:
            LOG.error("%s", problem, extra={"event": "lists.broken"})
        self.health.set("reading_lists", not problems, problems[0] if problems else "")

    def _fetch_image(
        self, url: str, into: Path, *, bytes_max: int, stop: threading.Event, beat: Callable[[], None]
    ) -> tuple[int, str]:
        """Fetch an image of meter firmware. Raises `agent.metering.orders.images.FetchError`."""
        from agent.daemon.order_jobs import fetch_image

        return fetch_image(self.downloader, url, into, bytes_max=bytes_max, stop=stop, beat=beat)

    def _register(self, held: bytes) -> bytes:
        from agent.dm.account_file import account_document

        if self.config.dm.account is not None:
            return account_document(self.config.dm.account)
        return self._registrar().register(self.module, self._push_url(), held)

    def _ask_time(self) -> None:
        self._registrar().ask_time(self.module)

    def _registrar(self) -> Registrar:
        from agent.ssmp.registration import Registrar

        return Registrar(
            self.https,
            self._registration_url(),
            self.device,
            self.clock.session_time,
            self.clock.monotonic,
            self._renewal_told,
        )

    def _renewal_told(self, why: str) -> None:
        self.not_renewed = why

    def _renewal_warnings(self) -> list[str]:
        """Why the device's key was not renewed when the head-end wanted that, until it is."""
        return [f"the secret of this device was not renewed: {self.not_renewed}"] if self.not_renewed else []

    def _anchors(self) -> Path | None:
        """The file of the authorities that were set in the place of the configured ones."""
        return self.network.anchors()

    def _renewal_due(self) -> bool:
        from agent.ssmp.security_module import renewal_due

        return self.config.dm.account is None and renewal_due(self.module, self.clock.monotonic())

    def _registration_url(self) -> str:
        return self.network.registration or self.config.security_server.url

    def _state_folders(self) -> set[Path]:
        """Where there are files that a later version may have written."""
        state, metering = self.config.state_dir, self.config.metering
        meters = metering.registry_file.parent
        own = {state, *(state / name for name in ("dm", "orders", "ssmp"))}
        return own | {meters, meters / "keys", metering.store_file.parent}

    def _push_url(self) -> str:
        """Where notifications reach this device now."""
        from agent.dm.push import own_url

        listen = self.config.dm.push_listen
        if listen is None or self.push is None or not self.push.port:
            return ""
        return listen.advertise or own_url(listen.host, self.push.port, self._registration_url())

    def _provisioned(self, provisioning: Provisioning) -> None:
        log.hide(provisioning.uplink.token)
        log.hide(*provisioning.secrets())
        self.collector.configure(provisioning)
        self._show_lists()
        self._drop_secrets(provisioning)
        self.uplink.configure(provisioning.uplink)

    def _hand_over(self) -> None:
        self.order_jobs.hand_over()

    def _drop_secrets(self, provisioning: Provisioning) -> None:
        """What the key store has, the management tree need not keep."""
        from agent.mo.ami import drop_secrets
        from omadm.codes import Refusal

        if not provisioning.secrets() or not self.collector.access.stored(provisioning):
            return
        try:
            with self.tree.transaction() as changing:
                drop_secrets(changing, provisioning)
        except Refusal as error:  # the tree keeps them, and the next change of it tries again
            LOG.warning("keys stay in the management tree: %s", error, extra={"event": "dm.secrets.kept"})

    # --- threads ---

    def _make_workers(self) -> None:
        from agent.daemon import watchdog
        from agent.daemon.control import ControlServer
        from agent.daemon.device_orders import DeviceOrders, report_reset
        from agent.daemon.memory.returned import Trim
        from agent.daemon.order_jobs import OrderJobs
        from agent.daemon.supervisor import Supervisor

        config = self.config
        self._provisioned(self.dm.provisioning)
        self.order_jobs = OrderJobs(self.tree, self.orders, self.dm.report_alerts)
        self.order_jobs.hand_over()
        report_reset(self.disk, config.state_dir, self.tree)
        device_orders = DeviceOrders(
            self.tree, self.disk, self.clock, config.state_dir, self.health.boot,
            reboot=self.dm.reboot, report=self.dm.report_alerts, waiting=lambda: self.store.stats().pending,
        )  # fmt: skip
        control = ControlServer(config.control_socket, self._handlers(), group=config.control_group)
        control.bind()
        workers = [*self._workers(), control]
        self.board.publish(workers=tuple(worker.name for worker in workers))
        self.supervisor: Supervisor = Supervisor(
            workers,
            self.clock,
            watchdog.find(os.environ, config.watchdog.device, config.watchdog.timeout_s),
            ticks=[
                self.health.tick,
                self.rebooter.tick,
                self.clock_keeper.tick,
                self.collector.tick,
                Trim(self.board, self.clock).tick,
                self.order_jobs.tick,
                device_orders.tick,
                self._tell_lock,
            ],
        )
        self.rebooter.wake = self.supervisor.wake
        self.soon = self.supervisor.soon
        self.tree.on_commit(self.supervisor.soon)

    def _handlers(self) -> dict[str, Handler]:
        """What `dcuctl` may ask for."""
        from agent.daemon.control import unless_locked
        from agent.daemon.views.networks import NetworkViews
        from agent.daemon.views.orders import OrderViews
        from agent.daemon.views.services import ServiceViews

        self.views = self._views()
        networks = NetworkViews(self.collector, may_change=self.config.orders.change)
        return unless_locked(
            {
                **self.views.handlers(),
                **OrderViews(self.orders).handlers(),
                **networks.handlers(),
                **ServiceViews(self.board, self.services.log).handlers(),
            },
            self._locked,
        )

    def _views(self) -> Views:
        from agent.daemon.views.daemon import Views
        from agent.jobs.waiting import damaged_warnings
        from agent.ota.handover import HandOver
        from agent.tree import newer

        return Views(
            board=self.board,
            store=self.store,
            collector=self.collector,
            health=self.health,
            handover=HandOver(self.disk, self.config.update.dir),
            clock=self.clock,
            session_now=self.dm.session_now,
            ages=self._ages,
            judge=self.clock.judge,
            warnings=[
                self.clock_keeper.warnings,
                self.store.warnings,
                self.dm.warnings,
                lambda: ["the device is locked: it reads no meters and takes no orders"] if self._locked() else [],
                self.services.warnings,
                *([self.push.warnings] if self.push is not None else []),
                self._renewal_warnings,
                lambda: newer.warnings(self.disk, self._state_folders()),
                lambda: damaged_warnings(self.tree.view(), self.clock.wall()),
            ],
            sinks=[self.uplink.sink_status, *([self.sink.sink_status] if self.sink else [])],
        )

    def _workers(self) -> list[Worker]:
        """All of them but the one that answers `dcuctl`."""
        config = self.config
        workers: list[Worker] = [*self.collector.workers, self.uplink, self.dm, self.packages, self.services]
        if self.push is not None:
            workers.append(self.push)
        if config.events.listen is not None:
            from agent.metering.events.listener import CallIn, meters_by_host

            meter_at = meters_by_host(config.ports, self.registry.at)
            workers.append(CallIn(config.events.listen, self.collector.events, self.clock, meter_at))
        if self.sink is not None:
            workers.append(self.sink)
        if self.images is not None:
            workers.append(self.images)
        return workers

    def _ages(self) -> dict[str, float]:
        return self.supervisor.ages()


def _built(config: Config) -> float:
    """When the image was built; 0 where its release file does not say so."""
    from agent.settings.identity import read_release
    from updateagent.release import BUILT, built_at

    try:
        return built_at(read_release(config.device.release_file))
    except (OSError, ValueError) as error:
        LOG.warning("%s: no %s: %s", config.device.release_file, BUILT, error, extra={"event": "clock.built.unknown"})
        return 0.0


def _https(config: Config, clock: SystemClock) -> HttpsClient:
    from agent.https import HttpsClient
    from agent.settings.identity import SecretError
    from agent.tls import Fault

    def judged(fault: Fault | None) -> None:
        if fault in (None, Fault.EXPIRED, Fault.NOT_YET_VALID):
            clock.certificate_judged(expired=fault is Fault.EXPIRED, early=fault is Fault.NOT_YET_VALID)

    ca_file = config.security_server.ca_file
    try:
        return HttpsClient(ca_file, certificate_time=clock.certificate_time, on_verdict=judged)
    except ssl.SSLError as error:
        raise SecretError(f"{ca_file}: holds no certificate: {error.reason}") from error
    except OSError as error:
        raise SecretError(f"{ca_file}: cannot be read: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
