"""SCOMO jobs, one at a time: fetch, verify, install by way of the Update Agent's command, report."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agent.jobs import software
from agent.jobs.software import DELIVERED, DOWNLOAD, DownloadStatus, Job
from agent.ota.deps import OtaDeps, SoftwareResult
from agent.ota.download import DownloadError, DownloadStopped, Progress
from agent.ota.errors import Rejected
from agent.ota.update_command import ACTIVATE_FAILED, INSTALL_FAILED
from agent.ota.verification import verified_software
from updateagent.errors import NOT_FOUND as NOT_INSTALLED

LOG = logging.getLogger("agent.update")

NOT_FOUND = 1400
NO_ROOM_DOWNLOAD = 1404  # "memory error at download" (SCOMO 1.0, section 7)
NO_ROOM_INSTALL = 1406
PACKAGE_PREFIX, PACKAGE_SUFFIX = "software-", ".swu"


class SoftwareJobs:
    """Not a thread of its own: `agent.ota.worker` calls `step`."""

    def __init__(self, deps: OtaDeps, folder: Path) -> None:
        """`folder` is where packages are kept until they are installed."""
        self._deps = deps
        self._tree = deps.tree
        self._folder = folder
        self._mark: object = None

    def refresh(self) -> None:
        """After a start: make the inventory say what is installed, and remove what jobs that have ended left behind."""
        self._inventory({})
        with self._tree.transaction() as changing:
            software.forget_ended(changing)
        waiting = {self._package(job).name for job in software.jobs(self._tree.view())}
        for name in self._deps.disk.listdir(self._folder):
            if name.startswith(PACKAGE_PREFIX) and name.endswith(PACKAGE_SUFFIX) and name not in waiting:
                self._deps.fetcher.discard(self._folder / name)

    def look(self) -> None:
        """See whether somebody has changed the active software by hand: then inventory and reading lists follow."""
        if self._deps.software_mark() == self._mark:
            return
        LOG.info("the active software was changed", extra={"event": "software.by_hand"})
        self._inventory({})
        self._deps.software_changed()

    def step(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Carry out the first waiting job, if there is one."""
        waiting = software.jobs(self._tree.view())
        if not waiting:
            return
        job = waiting[0]
        if job.kind == "Download":
            self._download(job, stop, beat)
        elif job.kind == "Delivered":
            self._delivered(job, beat)
        else:
            self._deployed(job, beat)

    def current(self) -> str:
        """The id of the job that `step` works on; empty when there is none."""
        return next((job.id for job in software.jobs(self._tree.view())), "")

    def give_up(self) -> None:
        """Report the current job as failed, because the storage fails it for good."""
        job = software.jobs(self._tree.view())[0]
        LOG.error("software job given up: the storage fails", extra={"event": "software.given_up"})
        if job.kind != "Download":
            self._finish(job, NO_ROOM_INSTALL, "", None)
            return
        with contextlib.suppress(OSError):
            self._deps.fetcher.discard(self._package(job))  # its room may be what is missing
        if software.status_of(self._tree.view(), job.name) == DownloadStatus.INSTALLING:
            self._finish(job, NO_ROOM_INSTALL, "", DownloadStatus.INSTALL_FAILED)
        else:
            self._finish(job, NO_ROOM_DOWNLOAD, "", DownloadStatus.DOWNLOAD_FAILED)

    def _package(self, job: Job) -> Path:
        return self._folder / f"{PACKAGE_PREFIX}{job.id}{PACKAGE_SUFFIX}"

    # -- Download/<x> -----------------------------------------------------------------------------------------

    def _download(self, job: Job, stop: threading.Event, beat: Callable[[], None]) -> None:
        package = self._package(job)
        self._status(job, DownloadStatus.PROGRESSING)
        try:
            self._deps.fetcher.fetch(job.url, package, progress=_ignore, stop=stop, beat=beat)
        except DownloadStopped:
            return
        except DownloadError as error:
            LOG.warning("software download failed: %s", error, extra={"event": "software.download"})
            self._finish(job, error.code_scomo, "", DownloadStatus.DOWNLOAD_FAILED)
            self._deps.fetcher.discard(package)
            return
        beat()
        try:
            manifest = verified_software(self._deps.verify_package, package)
        except Rejected as error:
            LOG.warning("software package refused: %s", error, extra={"event": "software.refused"})
            self._finish(job, error.code.scomo, "", DownloadStatus.INSTALL_FAILED)
            self._deps.fetcher.discard(package)
            return
        other = self._not_what_was_asked_for(job, manifest.software_id, manifest.version)
        if other:
            self._done(job, SoftwareResult(INSTALL_FAILED, manifest.software_id, message=other), manifest.software_id)
        elif job.operation == "Download":
            self._deliver(job, package, manifest.software_id, manifest.version)
        else:
            self._status(job, DownloadStatus.INSTALLING)
            result = self._install(package, job.operation == "DownloadInstall", manifest.version, beat)
            self._done(job, result, manifest.software_id)
        self._deps.fetcher.discard(package)

    def _deliver(self, job: Job, package: Path, software_id: str, version: str) -> None:
        looking = self._tree.view()
        name = looking.text((*DOWNLOAD, job.name, "Name")) or software_id
        values = {
            "PkgID": looking.text((*DOWNLOAD, job.name, "PkgID")) or software_id,
            "Name": name,
            "Version": version,
            "State": software.DELIVERED_STATE,
            "Status": "10",
        }
        if self._deps.disk.exists(package):
            self._deps.disk.rename_durable(package, self._delivered_file(job.name))
        with self._tree.transaction() as changing:
            software.put_delivered(changing, job.name, values)
            software.finish(changing, job, software.SUCCESS, software_id, DownloadStatus.COMPLETE)
        self._deps.on_alert()

    def _delivered_file(self, name: str) -> Path:
        # A node name may be longer, in bytes, than a file name.
        return self._folder / f"delivered-{hashlib.sha256(name.encode()).hexdigest()[:32]}.swu"

    # -- Inventory --------------------------------------------------------------------------------------------

    def _delivered(self, job: Job, beat: Callable[[], None]) -> None:
        package = self._delivered_file(job.name)
        software_id = self._tree.view().text((*DELIVERED, job.name, "PkgID"))
        if job.operation == "Remove":
            self._deps.disk.remove_durable(package)
            with self._tree.transaction() as changing:
                changing.drop((*DELIVERED, job.name))
                software.finish(changing, job, software.SUCCESS, software_id)
            self._deps.on_alert()
            return
        version = self._tree.view().text((*DELIVERED, job.name, "Version"))
        result = self._install(package, job.operation == "Install", version, beat)
        if result.scomo == software.SUCCESS:
            with self._tree.transaction() as changing:
                software.put_delivered(changing, job.name, {"State": software.INSTALLED_STATE})
        self._done(job, result, software_id)

    def _deployed(self, job: Job, beat: Callable[[], None]) -> None:
        software_id = job.software_id or self._tree.view().text((*job.base, "ID"))
        if not software_id:
            self._finish(job, NOT_FOUND, "", None)
            return
        installer = self._deps.software
        if job.operation == "Activate":
            view = self._tree.view()
            # The node shows the active version while there is one: then it is the newest installed that is meant.
            inactive = view.text((*job.base, "State")) == software.DEPLOYED_INACTIVE
            result = self._activate(software_id, view.text((*job.base, "Version")) if inactive else "", beat)
        else:
            step = {"Deactivate": installer.deactivate, "Remove": installer.remove}
            result = step[job.operation](software_id, beat)
        if job.operation == "Remove" and result.name == NOT_INSTALLED.name:
            result = SoftwareResult(software.SUCCESS, software_id)  # it was removed before the power went
        self._done(job, result, software_id)

    def _not_what_was_asked_for(self, job: Job, software_id: str, version: str) -> str:
        """What differs between a package and the `id=` and `version=` in InstallParams; empty for nothing."""
        text = self._tree.view().text((*DOWNLOAD, job.name, "InstallParams"))
        wanted = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
        found = {"id": software_id, "version": version}
        wrong = [
            f"{name} {found[name]}, not {wanted[name]}"
            for name in found
            if wanted.get(name, found[name]) != found[name]
        ]
        return f"the package has {', '.join(wrong)}" if wrong else ""

    def _install(self, package: Path, activate: bool, version: str, beat: Callable[[], None]) -> SoftwareResult:
        """Install, then look at what came before it is used: until then the version of before stays active."""
        result = self._deps.software.install(package, activate=False, beat=beat)
        if not activate or result.scomo != software.SUCCESS:
            return result
        return self._activate(result.software_id, result.version or version, beat)

    def _activate(self, software_id: str, version: str, beat: Callable[[], None]) -> SoftwareResult:
        problem = self._deps.software_problem(software_id, version)
        if problem:
            return SoftwareResult(ACTIVATE_FAILED, software_id, version, problem)
        return self._deps.software.activate(software_id, beat, version)

    # -- ends -------------------------------------------------------------------------------------------------

    def _done(self, job: Job, result: SoftwareResult, software_id: str) -> None:
        """An operation of the installer has ended: inventory first, so that the alert finds it true."""
        identifier = result.software_id or software_id
        good = result.scomo == software.SUCCESS
        if not good:
            LOG.warning(
                "software %s: %s: %d %s",
                identifier,
                job.operation,
                result.scomo,
                result.message,
                extra={"event": "software.failed"},
            )
        package_id = self._tree.view().text((*job.base, "PkgID")) if job.kind != "Deployed" else ""
        self._inventory({identifier: package_id} if good and package_id else {})
        self._finish(job, result.scomo, identifier, DownloadStatus.IDLE if good else DownloadStatus.INSTALL_FAILED)
        if good:
            LOG.info("software %s: %s done", identifier, job.operation, extra={"event": "software.done"})
            self._deps.software_changed()

    def _inventory(self, package_of: dict[str, str]) -> None:
        self._mark = self._deps.software_mark()
        deployed = self._deps.software.deployed()
        if deployed is None:
            return
        with self._tree.transaction() as changing:
            software.set_deployed(changing, deployed, package_of)

    def _status(self, job: Job, status: DownloadStatus) -> None:
        if software.status_of(self._tree.view(), job.name) != status:
            with self._tree.transaction() as changing:
                software.set_status(changing, job.name, status)

    def _finish(self, job: Job, result: int, identifier: str, status: DownloadStatus | None) -> None:
        with self._tree.transaction() as changing:
            software.finish(changing, job, result, identifier, status)
        self._deps.on_alert()


def _ignore(_: Progress) -> None:
    """Nobody watches."""
