"""The commands of `dcu-update`, over `compose.UpdateAgent`."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from updateagent import __version__
from updateagent.compose import UpdateAgent
from updateagent.config import DEFAULT_FILE, load
from updateagent.disk import RealDisk
from updateagent.errors import (
    EXIT_GUARD_WANTED,
    EXIT_OK,
    EXIT_REBOOT_WANTED,
    IMAGE_ROLE,
    OK_SCOMO,
    REQUEST,
    DeviceError,
    PackageError,
    RequestError,
    UpdateError,
    storage_error,
)

if TYPE_CHECKING:
    import argparse

    from updateagent.engine.by_hand import ByHand
    from updateagent.package.payload import DeltaSource

ROOT_BYTES = 32  # SHA-256


def run(argv: list[str]) -> int:
    """Do what the command line says. Raises `UpdateError`."""
    arguments = _parser().parse_args(argv)
    _log_to_stderr()
    command: Callable[[argparse.Namespace], int] = arguments.run
    return command(arguments)


def boot(config: str | Path) -> int:
    """`dcu-update boot`, which init waits for. Raises `RequestError` (configuration)."""
    _log_to_stderr()
    return _boot_of(UpdateAgent(load(Path(config), strict=False), RealDisk()))


def _boot_of(agent: UpdateAgent) -> int:
    # Nothing can have set the clock right yet, and to ask the kernel would cost half a MiB beside the installation.
    agent = replace(agent, vouched=lambda: False)
    try:
        with agent.alone():
            return agent.updater().boot()
    except DeviceError as error:
        # The system starts all the same; the guard finds out whether it is healthy.
        logging.getLogger("update").error("%s", error, extra={"event": "update.error"})  # noqa: TRY400
        agent.mailbox().note_error(str(error))
        return EXIT_GUARD_WANTED


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s", stream=sys.stderr)


def _agent(arguments: argparse.Namespace) -> UpdateAgent:
    agent = UpdateAgent(load(arguments.config, strict=False), RealDisk())
    if getattr(arguments, "dry_run", False):
        return agent.dry(getattr(arguments, "package", None))
    return agent


def _say_commits(agent: UpdateAgent) -> None:
    """After a dry run: what would have been written to the boot environment."""
    if agent.dry_run is not None:
        from updateagent.engine.dry_run import lines

        for line in lines(agent.dry_run.commits):
            _say(line)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _boot(arguments: argparse.Namespace) -> int:
    agent = _agent(arguments)
    code = _boot_of(agent)
    _say_commits(agent)
    return code


def _guard(arguments: argparse.Namespace) -> int:
    agent = _agent(arguments)
    if agent.dry_run is not None:
        for command in agent.config.health.commands:
            _say(f"# health command {command.name} is not run, and taken as good")
    code = agent.guard(time.monotonic, time.sleep).run()
    _say_commits(agent)
    return code


def _status(arguments: argparse.Namespace) -> int:
    status: Mapping[str, Any] = _agent(arguments).updater().status()
    if arguments.json:
        _say(json.dumps(status, indent=2))
        return EXIT_OK
    for line in _status_lines(status):
        _say(line)
    return EXIT_OK


def _status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield f"state    {status['state']}"
    for slot in status["slots"]:
        running = "  running" if slot["name"] == status["booted"] else ""
        left = f"  attempts {slot['left']}" if "left" in slot else ""
        why = f"  ({slot['why']})" if "why" in slot else ""
        yield f"slot {slot['name']}   version {slot['version'] or '-'}  {slot['state']}{running}{left}{why}"
    yield f"order    {' '.join(status['order']) or 'not known'}"
    yield "floors   " + "  ".join(f"{name} {floor}" for name, floor in status["floors"].items())
    if status["last"]:
        yield f"last     {status['last']['name']}: {status['last']['message']}"
    if status["error"]:
        yield f"error    {status['error']}"


def _package(arguments: argparse.Namespace) -> Path:
    """The package that is named. Raises `RequestError` (request) for what is no file: a FIFO may never end."""
    package: Path = arguments.package
    if package.exists() and not package.is_file():
        raise RequestError(REQUEST, f"{package} is no regular file")
    return package


def _verify(arguments: argparse.Namespace) -> int:
    from updateagent.package.manifest import Trust, verify_package
    from updateagent.package.trust import load_roots

    if arguments.roots is not None:
        trust = Trust(load_roots(arguments.roots), arguments.compatible or "", time.time())
    else:
        agent = _agent(arguments)
        record = agent.journal().load()
        record.check_known()
        trust = agent.packages().trust(record)
        if arguments.compatible:
            trust = replace(trust, compatible=arguments.compatible)
    manifest = verify_package(_package(arguments), trust)
    _say(f"{manifest.kind.value} {manifest.software_id} version {manifest.version}: ok".replace("  ", " "))
    return EXIT_OK


def _source(arguments: argparse.Namespace) -> int:
    """Check whether the running slot holds the images that a delta was made from."""
    agent = _agent(arguments)

    def check() -> Mapping[str, Any]:
        agent.check_root()
        partitions = agent.partitions()[agent.read_booted_slot()]
        for text in arguments.images:
            name, source = _delta_source(text)
            if name not in partitions:
                raise PackageError(IMAGE_ROLE, f"this device has no place for an image {name}")
            try:
                with partitions[name].open() as file:
                    source.check(name, file)
            except OSError as error:
                raise storage_error(error, f"image {name} of the slot that runs") from error
        return {}

    return _answered(check, as_json=arguments.json)


def _delta_source(text: str) -> tuple[str, DeltaSource]:
    """`NAME=VERSION:SIZE:ROOT`. Raises `RequestError` (request)."""
    from updateagent.package.payload import DeltaSource

    name, _, rest = text.partition("=")
    try:
        version, size, root = rest.split(":")
        source = DeltaSource(version, int(size), bytes.fromhex(root))
    except ValueError:
        source = None
    if source is None or source.size <= 0 or len(source.root) != ROOT_BYTES:
        raise RequestError(REQUEST, f"{text[:80]!r}: NAME=VERSION:SIZE:ROOT is expected")
    return name, source


def _install(arguments: argparse.Namespace) -> int:
    from updateagent.engine.mailbox import BY_HAND_PACKAGE
    from updateagent.handover import InstallRequest

    agent = _agent(arguments)
    with agent.alone():
        updater = agent.by_hand()
        updater.check_free()
        if not arguments.dry_run:
            agent.mailbox().take_in(arguments.package, BY_HAND_PACKAGE)
        code = updater.install(InstallRequest(f"by-hand-{os.urandom(8).hex()}", BY_HAND_PACKAGE, "", time.time()))
    last = updater.record.last
    if code != EXIT_REBOOT_WANTED and last is not None:
        sys.stderr.write(f"dcu-update: {last.name}: {last.message}\n")
        return last.code
    if arguments.dry_run:
        _say_commits(agent)
    else:
        _say("written; reboot to try it")
    return code


def _confirm(arguments: argparse.Namespace) -> int:
    agent = _agent(arguments)
    with agent.alone():
        code = agent.updater().confirm()
    _say_commits(agent)
    return code if code == EXIT_REBOOT_WANTED else EXIT_OK


def _rollback(arguments: argparse.Namespace) -> int:
    agent = _agent(arguments)
    with agent.alone():
        person = agent.by_hand()
        code = person.rollback(force=arguments.force)
    _say_cost(person)
    _say_commits(agent)
    return code


def _cancel(arguments: argparse.Namespace) -> int:
    agent = _agent(arguments)
    with agent.alone():
        agent.by_hand().cancel()
    if agent.dry_run is None:
        _say("cancelled")
    _say_commits(agent)
    return EXIT_OK


def _mark(arguments: argparse.Namespace) -> int:
    agent = _agent(arguments)
    with agent.alone():
        person = agent.by_hand()
        person.mark(arguments.slot or agent.read_booted_slot(), arguments.how, force=arguments.force)
    _say_cost(person)
    _say_commits(agent)
    return EXIT_OK


def _say_cost(person: ByHand) -> None:
    if person.cost:
        sys.stderr.write(f"dcu-update: {person.cost}\n")


def _software(arguments: argparse.Namespace) -> int:
    def do() -> Mapping[str, Any]:
        answer = _SOFTWARE[arguments.action](arguments)
        if not arguments.json:
            for line in answer.get("software", [answer]):
                mark = "active" if line.get("active") else "inactive"
                _say(f"{line.get('id', '')} {line.get('version', '')} {mark}".replace("  ", " "))
        return answer

    return _answered(do, as_json=arguments.json)


def _answered(command: Callable[[], Mapping[str, Any]], *, as_json: bool) -> int:
    """Run a command; with `as_json` print its result, or its error, as one JSON object."""
    try:
        answer = command()
    except UpdateError as error:
        if not as_json:
            raise
        _say(json.dumps({"code": error.number, "name": error.name, "scomo": error.scomo, "message": error.message}))
        return error.number
    if as_json:
        _say(json.dumps({"code": 0, "name": "ok", "scomo": OK_SCOMO, "message": "", **answer}))
    return EXIT_OK


def _software_install(arguments: argparse.Namespace) -> Mapping[str, Any]:
    from updateagent.software.install import install_software
    from updateagent.software.store import SoftwareStore

    agent = _agent(arguments)
    store = SoftwareStore(agent.disk, agent.config.software_dir)
    with agent.alone():
        manifest = install_software(
            store, agent.journal(), agent.packages(), _package(arguments), activate=arguments.activate
        )
    return {"id": manifest.software_id, "version": manifest.version, "active": arguments.activate}


def _software_activate(arguments: argparse.Namespace) -> Mapping[str, Any]:
    from updateagent.engine.mailbox import read_release_version
    from updateagent.software.store import SoftwareStore

    agent = _agent(arguments)
    with agent.alone():
        record = agent.journal().load()
        record.check_known()
        version = SoftwareStore(agent.disk, agent.config.software_dir).activate(
            arguments.id,
            arguments.version,
            floor=record.software_floors.get(arguments.id, 0),
            running=read_release_version(agent.disk, agent.config.release_file),
        )
    return {"id": arguments.id, "version": version, "active": True}


def _software_deactivate(arguments: argparse.Namespace) -> Mapping[str, Any]:
    from updateagent.software.store import SoftwareStore

    agent = _agent(arguments)
    with agent.alone():
        SoftwareStore(agent.disk, agent.config.software_dir).deactivate(arguments.id)
    return {"id": arguments.id, "active": False}


def _software_remove(arguments: argparse.Namespace) -> Mapping[str, Any]:
    from updateagent.software.store import SoftwareStore

    agent = _agent(arguments)
    with agent.alone():
        SoftwareStore(agent.disk, agent.config.software_dir).remove(arguments.id)
    return {"id": arguments.id, "active": False}


def _software_list(arguments: argparse.Namespace) -> Mapping[str, Any]:
    from updateagent.software.store import SoftwareStore

    agent = _agent(arguments)
    found = SoftwareStore(agent.disk, agent.config.software_dir).installed()
    return {"software": [{"id": one.id, "version": one.version, "active": one.active} for one in found]}


_SOFTWARE: dict[str, Callable[[argparse.Namespace], Mapping[str, Any]]] = {
    "install": _software_install,
    "activate": _software_activate,
    "deactivate": _software_deactivate,
    "remove": _software_remove,
    "list": _software_list,
}


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(prog="dcu-update", description="A/B firmware updates that cannot brick.")
    parser.add_argument("--config", type=Path, default=DEFAULT_FILE)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added

    def committing(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = command(name, run, text)
        added.add_argument("--dry-run", action="store_true", help="write nothing; show the commits to the environment")
        return added

    committing("boot", _boot, "advance an update; run by init before the agent").add_argument(
        "--thorough", action="store_true", help="without the fast path, which looks for nothing to do"
    )
    committing("guard", _guard, "watch the health of this boot; run by init beside the agent")
    command("status", _status, "slots and update").add_argument("--json", action="store_true")
    verify = command("verify", _verify, "check a package")
    verify.add_argument("package", type=Path)
    verify.add_argument("--roots", type=Path, help="root certificates (PEM); without it those of the configuration")
    verify.add_argument("--compatible", help="hardware to check for")
    source = command("source", _source, "does the slot that runs hold the images that a delta was made from?")
    source.add_argument("--json", action="store_true")
    source.add_argument("images", nargs="+", metavar="NAME=VERSION:SIZE:ROOT")
    committing("install", _install, "install a firmware package").add_argument("package", type=Path)
    committing("confirm", _confirm, "the system on trial is good")
    rollback = committing("rollback", _rollback, "give up the trial, or go back to the other slot")
    rollback.add_argument("--force", action="store_true", help="try a slot that is not known to be good")
    committing("cancel", _cancel, "give up an update that was not started yet")
    mark = committing("mark", _mark, "tell the boot loader about a slot")
    mark.add_argument("how", choices=["good", "bad", "active"])
    mark.add_argument("slot", nargs="?", help="default: the one that runs")
    mark.add_argument(
        "--force", action="store_true", help="also a slot that is not known to be good; says what it costs"
    )
    _add_software(command("software", _software, "software packages"))
    return parser


def _add_software(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    for action in _SOFTWARE:
        added = actions.add_parser(action)
        added.add_argument("--json", action="store_true")
        if action == "install":
            added.add_argument("package", type=Path)
            added.add_argument("--inactive", dest="activate", action="store_false", help="do not activate it")
        elif action != "list":
            added.add_argument("id")
        if action == "activate":
            added.add_argument("version", nargs="?")


__all__: Sequence[str] = ["run"]
