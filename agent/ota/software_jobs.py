"""SCOMO jobs, one at a time: fetch, verify, install by way of the Update Agent's command, report."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from agent.jobs import software
from agent.jobs.software import DELIVERED, DOWNLOAD, DownloadStatus, Job, Trial
from agent.ota.deps import OtaDeps, SoftwareResult
from agent.ota.download import DownloadError, DownloadStopped, Progress
from agent.ota.errors import Rejected
from agent.ota.update_command import ACTIVATE_FAILED, INSTALL_FAILED
from agent.ota.verification import verified_software
from omadm.codes import SOFTWARE_ROLLED_BACK
from updateagent.errors import NOT_FOUND as NOT_INSTALLED

LOG = logging.getLogger("agent.update")

NOT_FOUND = UNKNOWN = software.DEVICE_ERROR
NO_ROOM_DOWNLOAD = 1404  # "memory error at download" (SCOMO 1.0, section 7)
NO_ROOM_INSTALL = 1406
TRIALS_MAX = 3  # of one activation; the device may have restarted because of what was started
PACKAGE_PREFIX, PACKAGE_SUFFIX = "software-", ".swu"


class AgentEndsError(Exception):
    """What became of an activation will not be known: the next start takes it up again."""


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
        if software.is_damaged(self._tree.view()):
            with self._tree.transaction() as changing:
                software.end_damaged(changing)
            LOG.error("software jobs cannot be read: ended as failed", extra={"event": "software.job.damaged"})
            self._deps.on_alert()
        waiting = software.jobs(self._tree.view())
        if not waiting:
            return
        job = waiting[0]
        if not job.is_known:
            LOG.error(
                "software job %s %s: of a later version", job.kind, job.operation, extra={"event": "software.unknown"}
            )
            self._finish(job, UNKNOWN, "", None, f"{job.kind} {job.operation}: of a later version of the agent")
            return
        with contextlib.suppress(AgentEndsError):
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
        why = "the storage fails"
        if job.kind != "Download":
            self._finish(job, NO_ROOM_INSTALL, "", None, why)
            return
        with contextlib.suppress(OSError):
            self._deps.fetcher.discard(self._package(job))  # its room may be what is missing
        if software.status_of(self._tree.view(), job.name) == DownloadStatus.INSTALLING:
            self._finish(job, NO_ROOM_INSTALL, "", DownloadStatus.INSTALL_FAILED, why)
        else:
            self._finish(job, NO_ROOM_DOWNLOAD, "", DownloadStatus.DOWNLOAD_FAILED, why)

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
            self._finish(job, error.code_scomo, "", DownloadStatus.DOWNLOAD_FAILED, f"download: {error}")
            self._deps.fetcher.discard(package)
            return
        beat()
        try:
            manifest = verified_software(self._deps.verify_package, package)
        except Rejected as error:
            LOG.warning("software package refused: %s", error, extra={"event": "software.refused"})
            self._finish(job, error.code.scomo, "", DownloadStatus.INSTALL_FAILED, str(error))
            self._deps.fetcher.discard(package)
            return
        other = self._not_what_was_asked_for(job, manifest.software_id, manifest.version)
        if other:
            self._done(job, SoftwareResult(INSTALL_FAILED, manifest.software_id, message=other), manifest.software_id)
        elif job.operation == "Download":
            self._deliver(job, package, manifest.software_id, manifest.version)
        else:
            self._status(job, DownloadStatus.INSTALLING)
            result = self._install(job, package, manifest.version, beat, activate=job.operation == "DownloadInstall")
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
        result = self._install(job, package, version, beat, activate=job.operation == "Install")
        if result.scomo == software.SUCCESS:
            with self._tree.transaction() as changing:
                software.put_delivered(changing, job.name, {"State": software.INSTALLED_STATE})
        self._done(job, result, software_id)

    def _deployed(self, job: Job, beat: Callable[[], None]) -> None:
        software_id = job.software_id or self._tree.view().text((*job.base, "ID"))
        if not software_id:
            self._finish(job, NOT_FOUND, "", None, "no such component is installed")
            return
        installer = self._deps.software
        if job.operation == "Activate":
            view = self._tree.view()
            # The node shows the active version while there is one: then it is the newest installed that is meant.
            inactive = view.text((*job.base, "State")) == software.DEPLOYED_INACTIVE
            known = software.trial(view)  # of before a restart: what the node shows has changed since
            version = known.version if known and known.job == job.id else ""
            result = self._activate(
                job, software_id, version or (view.text((*job.base, "Version")) if inactive else ""), beat
            )
        else:
            result = installer.deactivate(software_id, beat)
            if result.scomo == software.SUCCESS:  # nothing of it runs any more when that is reported, or it is removed
                self._settle(software_id, "", beat)
            if job.operation == "Remove":
                result = installer.remove(software_id, beat)
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

    def _install(
        self, job: Job, package: Path, version: str, beat: Callable[[], None], *, activate: bool
    ) -> SoftwareResult:
        """Install, then look at what came before it is used: until then the version of before stays active."""
        result = self._deps.software.install(package, activate=False, beat=beat)
        if not activate or result.scomo != software.SUCCESS:
            return result
        return self._activate(job, result.software_id, result.version or version, beat)

    def _activate(self, job: Job, software_id: str, version: str, beat: Callable[[], None]) -> SoftwareResult:
        """Make a version active, have it run where it is to, and take that back where it does not. Without a `version`
        the newest one that is installed."""
        version = version or self._deps.software.newest(software_id, self._taken_back().get(software_id, ""))
        problem = self._deps.software_problem(software_id, version)
        if problem:
            return SoftwareResult(ACTIVATE_FAILED, software_id, version, problem)
        trial = self._trial(job, software_id, version)
        if not trial.failed:
            result = self._deps.software.activate(software_id, beat, version)
            if result.scomo != software.SUCCESS:
                return result
            failed = self._settle(software_id, version, beat)
            if not failed:
                if self._taken_back().get(software_id) == version:
                    self._note_taken_back(software_id, "")
                return result
            trial = replace(trial, failed=failed)
            self._save(trial)  # so that it is not tried again after a power cut
        return self._take_back(trial, beat)

    def _trial(self, job: Job, software_id: str, version: str) -> Trial:
        """The activation as it is known, durably, before it begins. A restart goes on with the one from before it."""
        known = software.trial(self._tree.view())
        if known is None or (known.job, known.software_id, known.version) != (job.id, software_id, version):
            active = [one.version for one in self._deps.software.deployed() or () if one.software_id == software_id
                      and one.active]  # fmt: skip
            known = Trial(job.id, software_id, version, active[0] if active else "")
        if not known.failed:
            known = replace(known, starts=known.starts + 1)
            if known.starts > TRIALS_MAX:
                known = replace(known, failed=f"came to no end in {TRIALS_MAX} starts of the agent")
            self._save(known)
        return known

    def _save(self, trial: Trial) -> None:
        with self._tree.transaction() as changing:
            software.set_trial(changing, trial)

    def _take_back(self, trial: Trial, beat: Callable[[], None]) -> SoftwareResult:
        """A version that does not run is not left active: the one before it is, where there is one and it may be."""
        installer, software_id = self._deps.software, trial.software_id
        LOG.error(
            "software %s %s does not run: %s", software_id, trial.version, trial.failed,
            extra={"event": "software.taken_back"},
        )  # fmt: skip
        code, message = ACTIVATE_FAILED, trial.failed
        if trial.before != trial.version:
            self._note_taken_back(software_id, trial.version)
        if trial.before == trial.version:
            pass  # it was active before this job, and there is nothing to go back to
        elif trial.before:
            back = installer.activate(software_id, beat, trial.before)
            again = back.message if back.scomo != software.SUCCESS else self._settle(software_id, trial.before, beat)
            if back.scomo == software.SUCCESS and not again:
                code = SOFTWARE_ROLLED_BACK
            else:
                message = f"{message}; nor does version {trial.before}: {again}"
            if back.scomo != software.SUCCESS:  # below the floor that the new one has raised, for one
                installer.deactivate(software_id, beat)
        else:
            installer.deactivate(software_id, beat)
            self._settle(software_id, "", beat)
        self._deps.software_changed()
        return SoftwareResult(code, software_id, trial.version, message)

    def _taken_back(self) -> Mapping[str, str]:
        return software.taken_back(self._tree.view())

    def _note_taken_back(self, software_id: str, version: str) -> None:
        if self._taken_back().get(software_id, "") == version:
            return
        with self._tree.transaction() as changing:
            software.set_taken_back(changing, software_id, version)

    def _settle(self, software_id: str, version: str, beat: Callable[[], None]) -> str:
        """`OtaDeps.settle`. Raises `AgentEndsError`."""
        found = self._deps.settle(software_id, version, beat)
        if found is None:
            raise AgentEndsError
        return found

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
        ended = DownloadStatus.IDLE if good else DownloadStatus.INSTALL_FAILED
        self._finish(job, result.scomo, identifier, ended, "" if good else result.message or result.name)
        if good:
            LOG.info("software %s: %s done", identifier, job.operation, extra={"event": "software.done"})
            self._deps.software_changed()

    def _inventory(self, package_of: dict[str, str]) -> None:
        self._mark = self._deps.software_mark()
        deployed = self._deps.software.deployed(self._taken_back())
        if deployed is None:
            return
        with self._tree.transaction() as changing:
            software.set_deployed(changing, deployed, package_of)

    def _status(self, job: Job, status: DownloadStatus) -> None:
        if software.status_of(self._tree.view(), job.name) != status:
            with self._tree.transaction() as changing:
                software.set_status(changing, job.name, status)

    def _finish(self, job: Job, result: int, identifier: str, status: DownloadStatus | None, why: str = "") -> None:
        with self._tree.transaction() as changing:
            software.finish(changing, job, result, identifier, status, why)
        self._deps.on_alert()


def _ignore(_: Progress) -> None:
    """Nobody watches."""
