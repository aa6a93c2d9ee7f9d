"""`dcu-agent --check CONFIG`: everything that can be found wrong without starting, all of it at once.

Beyond the configuration itself: the files it names, their modes, the authorities, the reading lists, the programs of
its commands. Serial ports are looked for, not opened: the running agent may hold them.
"""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from agent.clock_floor import CertificateTime
from agent.dm.account_file import account_document
from agent.mo import dmacc
from agent.settings.config import EXIT_CONFIG, Config, ConfigError, load
from agent.settings.identity import SecretError, read_password, read_release
from agent.ssmp.security_module import open_module
from agent.tls import client_context
from omadm.bootstrap import BootstrapError
from omadm.client_provisioning import bootstrap_tree
from updateagent.release import BUILT, built_at

EXIT_OK = 0


def check(file: Path, out: TextIO, err: TextIO) -> int:
    """Report on `file`; returns the exit code: 0 when nothing is wrong, 2 otherwise."""
    try:
        config = load(file)
    except ConfigError as error:
        err.write(f"{error}\n")
        return EXIT_CONFIG
    wrong = list(problems(config))
    for problem in wrong:
        err.write(f"{file}: {problem}\n")
    if wrong:
        return EXIT_CONFIG
    out.write(f"{file}: good; device {config.device.id}, {len(config.ports)} ports\n")
    return EXIT_OK


def problems(config: Config) -> Iterator[str]:
    """What is wrong with the things that the configuration names, each with its key."""
    try:
        open_module(config, lambda: CertificateTime(0.0, None), trial=True)
    except SecretError as error:
        yield f"{config.security_module.named_by}: {error}"
    yield from _release(config)
    yield from _authorities(config)
    yield from _roots(config)
    yield from _reading_lists(config)
    yield from _ports(config)
    yield from _mqtt(config)
    yield from _account(config)
    commands = [("reboot_command", config.reboot_command), ("update.command", config.update.command)]
    if config.connectivity.hook:
        commands.append(("connectivity.hook", config.connectivity.hook))
    if config.connectivity.timesyncd_file is not None:
        commands.append(("connectivity.time_command", config.connectivity.time_command))
    for key, command in commands:
        if shutil.which(command[0]) is None:
            yield f"{key}: no program {command[0]}"
    if config.watchdog.device and not Path(config.watchdog.device).exists():
        yield f"watchdog.device: no {config.watchdog.device}"


def _mqtt(config: Config) -> Iterator[str]:
    if config.mqtt is None:
        return
    if find_spec("paho") is None:
        yield "mqtt: paho-mqtt is not installed (dcu-agent[mqtt])"
    try:
        config.mqtt.context()
    except OSError as error:
        yield f"mqtt.ca_file or mqtt.certificate_file: {error.strerror or error}"
    if config.mqtt.password_file is not None:
        try:
            read_password(config.mqtt.password_file)
        except SecretError as error:
            yield f"mqtt.password_file: {error}"


def _account(config: Config) -> Iterator[str]:
    if config.dm.account is None:
        return
    try:
        dmacc.checked(bootstrap_tree(account_document(config.dm.account)), config.dm.auth_types)
    except BootstrapError as error:
        yield f"dm.account: {error}"


def _release(config: Config) -> Iterator[str]:
    file = config.device.release_file
    try:
        release = read_release(file)
    except OSError as error:
        yield f"device.release_file: {file}: {error.strerror}"
        return
    if not release.get("VERSION"):
        yield f"device.release_file: {file} has no VERSION="
    try:
        built_at(release)
    except ValueError as error:
        yield f"device.release_file: {file}: {BUILT}: {error}"


def _authorities(config: Config) -> Iterator[str]:
    file = config.security_server.ca_file
    try:
        client_context(file)
    except ssl.SSLError:
        yield f"security_server.ca_file: {file} holds no certificate"
    except OSError as error:
        yield f"security_server.ca_file: {file}: {error.strerror}"


def _roots(config: Config) -> Iterator[str]:
    from updateagent.package.manifest import DeviceError, PackageError
    from updateagent.package.trust import load_roots

    try:
        load_roots(config.update.roots)
    except (OSError, DeviceError, PackageError) as error:
        yield f"update.roots: {error}"


def _reading_lists(config: Config) -> Iterator[str]:
    from agent.metering.scheduling.readinglist import ReadingListError, ReadingLists

    lists = ReadingLists(config.metering.reading_lists_dir, config.update.software_dir)
    names = lists.names()
    if not names:
        yield f"metering.reading_lists_dir: no list in {config.metering.reading_lists_dir}"
    for name in names:
        try:
            lists.get(name)
        except ReadingListError as error:
            yield from (f"metering.reading_lists_dir: {line}" for line in str(error).splitlines())


def _ports(config: Config) -> Iterator[str]:
    from dlms.errors import DlmsError
    from plc.protocols import shadowed_protocols

    for name, distribution in shadowed_protocols():
        yield f"ports: {distribution} offers a protocol {name}, which is built in: it is never used"
    for index, port in enumerate(config.ports):
        for key in port.unused:
            yield f"ports[{index}].{key}: has no effect on a port of protocol {port.protocol.name}"
        if port.url.startswith("/") and not Path(port.url).exists():
            yield f"ports[{index}].url: no device {port.url}"
        for entry, meter in enumerate(port.meters):
            try:
                port.data_link(meter.address)
            except DlmsError as error:
                yield f"ports[{index}].meters[{entry}]: {error}"
        if port.scan is not None:
            try:
                port.data_link(port.scan.last)
            except DlmsError as error:
                yield f"ports[{index}].scan.last: {error}"
