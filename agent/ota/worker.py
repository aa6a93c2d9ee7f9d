"""The worker that carries out package jobs: download, verify, hand over or install, and report.

FUMO and SCOMO record jobs in the tree (`agent.jobs`); this worker finds them there, also after a
restart, and takes each step so that it can be repeated: whatever was done before a power cut is found done. DM
sessions go on in their own thread meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from agent.jobs import firmware
from agent.jobs.firmware import Event, Job, State
from agent.ota.deltas import Deltas, check_full
from agent.ota.deps import OtaConfig, OtaDeps
from agent.ota.download import Downloaded, DownloadError, DownloadStopped, Progress
from agent.ota.errors import DeltaUnfit, Rejected
from agent.ota.handover import HandOver
from agent.ota.software_jobs import SoftwareJobs
from agent.ota.verification import verified_firmware
from agent.status import DownloadStatus, UpdateStatus
from agent.tree import alerts
from omadm.codes import Refusal
from omadm.descriptor import DeltaFacts, DeltaSource, Descriptor
from updateagent.errors import DELTA_UNUSABLE, FULL_REFUSED, Code
from updateagent.handover import PACKAGE, InstallRequest, InstallResult

LOG = logging.getLogger("agent.update")

LOOK_EVERY_S = 1.0  # for what the Update Agent does with a package that it was given
LOOK_IDLE_S = 15.0  # for an update that was started by hand; a new job wakes the worker at once
REBOOT_AGAIN_S = 600.0  # a reboot that was asked for and did not come is asked for again
STORAGE_RETRY_S_MAX = 60.0
STORAGE_TRIES_MAX = 8  # of one job, over some four minutes; then it is reported as failed
DOUBLINGS_MAX = 10
LOST_S = 900.0  # no package, no result, an idle Update Agent for so long: nothing will come any more
RESULT_LOST = 409
RESULT_VANISHED = 410  # "update failed": the file was gone when it was to be handed over
RESULT_NO_ROOM_DOWNLOAD = 501  # "out of memory at download" (FUMO 1.0, section 7)
RESULT_NO_ROOM_UPDATE = 502
STORAGE_FAILS = "the storage fails"
WORDS: dict[int, str] = {State.DOWNLOADING: "downloading", State.DOWNLOADED: "verifying", State.UPDATING: "handed over"}
VANISHED = "the package was gone when it was to be handed over"
FIRMWARE_FILE = "firmware.swu"


class PackageWorker:
    """The thread `dm-packages`. One job at a time: firmware first, then software in the order of the Execs."""

    name = "dm-packages"
    budget_s = 600.0  # verification hashes a whole package without a pause

    def __init__(self, config: OtaConfig, deps: OtaDeps) -> None:
        self._config = config
        self._deps = deps
        self._tree = deps.tree
        self._handover = HandOver(deps.disk, config.update_dir)
        self._package = self._handover.download_dir / FIRMWARE_FILE
        self._policy = config.full
        self._deltas = Deltas(config.fw_version, deps.check_sources)
        self._software = SoftwareJobs(deps, self._handover.download_dir)
        self._wake = threading.Event()
        self._reboot_asked: float | None = None
        self._lost_since: float | None = None
        self._shown: UpdateStatus | None = None
        self._prepared = False
        self._failures = 0
        self._tried = ("", 0)  # the job that the storage fails, and how often in a row
        deps.tree.on_commit(self._wake.set)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        while not stop.is_set():
            beat()
            self._wake.clear()
            self.step(stop, beat)
            if self._failures:
                stop.wait(min(LOOK_EVERY_S * 2 ** min(self._failures, DOUBLINGS_MAX), STORAGE_RETRY_S_MAX))
            elif not stop.is_set():
                self._wake.wait(LOOK_EVERY_S if self._is_updating() else LOOK_IDLE_S)

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wake.set()

    def _is_updating(self) -> bool:
        """Whether the Update Agent has something to do, or will have."""
        job = firmware.load(self._tree.view())
        return job.active or (self._shown is not None and self._shown.state != "idle")

    def step(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Everything that can be done now. Trouble of the storage is logged, and the step tried again later; a job
        that has seen enough of it is reported as failed."""
        try:
            self._step(stop, beat)
        except (OSError, Refusal) as error:
            self._failures += 1
            LOG.error("package job: %s", error, extra={"event": "update.storage"})  # noqa: TRY400
            self._count(stop)
        else:
            self._failures = 0
            self._tried = ("", 0)

    def _count(self, stop: threading.Event) -> None:
        """One more try of the job under way has failed."""
        job = firmware.load(self._tree.view())
        job_id = job.id if job.active else self._software.current()
        known, tries = self._tried
        self._tried = (job_id, tries + 1 if job_id == known else 1)
        if not job_id or self._tried[1] < STORAGE_TRIES_MAX or stop.is_set():
            return
        try:
            if job.active:
                self._give_up(job)
            else:
                self._software.give_up()
        except (OSError, Refusal) as error:  # not even that can be stored: later, with the next try
            LOG.error("package job: cannot be given up: %s", error, extra={"event": "update.storage"})  # noqa: TRY400

    def _give_up(self, job: Job) -> None:
        """The storage fails a firmware job for good. What is with the Update Agent already stays there."""
        if job.state == State.UPDATING or self._handed_over_before(job):
            if job.boot in {"", self._config.boot_id}:
                self._ask_for_reboot()
            return
        LOG.error("firmware job given up: the storage fails", extra={"event": "update.given_up"})
        with contextlib.suppress(OSError):
            self._deps.fetcher.discard(self._package)  # its room may be what is missing
        if job.state == State.DOWNLOADING:
            self._finish(job, Event.FETCH_FAILED, RESULT_NO_ROOM_DOWNLOAD, error=STORAGE_FAILS)
        else:
            verifying = job.operation == firmware.DOWNLOAD
            result = RESULT_NO_ROOM_DOWNLOAD if verifying else RESULT_NO_ROOM_UPDATE
            self._finish(job, Event.REJECTED, result, error=STORAGE_FAILS)

    def _step(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        if not self._prepared:
            self._handover.prepare()
            self._software.refresh()
            self._discard_leftovers()
            self._prepared = True
        self._show()
        self._take_result()
        if firmware.is_damaged(self._tree.view()):
            self._end_damaged()
        job = firmware.load(self._tree.view())
        if job.active and job.state in {State.DOWNLOADING, State.DOWNLOADED}:
            self._firmware_job(job, stop, beat)
        elif job.active and job.state == State.UPDATING:
            self._await_update(job)
        else:
            self._software.look()
            self._software.step(stop, beat)

    def _end_damaged(self) -> None:
        """End a job that cannot be read. What is with the Update Agent is told by its result, which names the job."""
        if self._handover.requested() or self._handover.result() or self._handover.status().state != "idle":
            return
        with self._tree.transaction() as changing:
            firmware.end_damaged(changing)
        LOG.error("a firmware job cannot be read: ended as failed", extra={"event": "update.job.damaged"})
        self._deps.on_alert()

    def _discard_leftovers(self) -> None:
        """The package of a job that had ended when the power went."""
        job = firmware.load(self._tree.view())
        if not job.active and job.state not in (State.READY, State.FAILED_WITH_DATA):
            self._deps.fetcher.discard(self._package)

    def _show(self) -> None:
        status = self._handover.status()
        if status != self._shown:
            self._shown = status
            self._deps.board.publish(slots=status.slots, update_state=status.state, update_error=status.error)
        self._show_job(firmware.load(self._tree.view()))

    def _show_job(self, job: Job) -> None:
        word = WORDS.get(job.state, "") if job.active else ""
        if word != self._deps.board.current.firmware_job:
            self._deps.board.publish(firmware_job=word)

    # -- firmware ---------------------------------------------------------------------------------------------

    def _firmware_job(self, job: Job, stop: threading.Event, beat: Callable[[], None]) -> None:
        if job.state == State.DOWNLOADING:
            found = self._fetch(job, stop, beat)
            if found is None:
                return
            job = found
        beat()
        if self._handed_over_before(job):
            self._mark_handed_over(job)
            return
        self._take_data()
        package = self._package if self._deps.disk.exists(self._package) else self._handover.package
        try:
            manifest = verified_firmware(self._deps.verify_package, package)
            signed = [DeltaSource(name, one.version, one.size, one.root.hex()) for name, one in manifest.deltas.items()]
            self._deltas.check_signed(signed, beat)
        except Rejected as error:
            LOG.warning("firmware package refused: %s", error, extra={"event": "update.refused"})
            self._refused(job, Event.REJECTED, error.code, error.message)
            return
        LOG.info("firmware %s verified", manifest.version, extra={"event": "update.verified"})
        if job.operation == firmware.DOWNLOAD:
            self._finish(job, Event.VERIFIED, firmware.OK_RESULT)
        else:
            self._hand_over(job)

    def _fetch(self, job: Job, stop: threading.Event, beat: Callable[[], None]) -> Job | None:
        """The job with its package complete; `None` when it is over, or has to wait for the next start or turn."""
        before = job.bytes_fetched  # of the delta that this package replaces
        offer: DeltaFacts | None = None

        def progress(now: Progress) -> None:
            self._deps.download.counts = (before + now.bytes_fetched, job.resumes + now.resumes)
            self._deps.board.publish(download=DownloadStatus(now.have, now.total))

        def accept(descriptor: Descriptor) -> None:
            nonlocal offer
            offer = descriptor.delta
            if job.instead:
                check_full(descriptor, self._policy)
            elif offer is not None:
                self._deltas.check_described(offer, beat)

        try:
            done = self._download(job, progress, stop, beat, accept)
        except DownloadStopped:
            return None
        except DeltaUnfit as error:
            LOG.warning("firmware package not fetched: %s", error, extra={"event": "update.delta"})
            self._refused(_offered(job, offer), Event.FETCH_FAILED, error.code, error.message)
            return None
        except DownloadError as error:
            LOG.warning("firmware download failed: %s", error, extra={"event": "update.download"})
            self._finish(job, Event.FETCH_FAILED, error.code_fumo, error=f"download: {error}")
            self._deps.fetcher.discard(self._package)
            return None
        finally:
            self._deps.download.counts = None
            self._deps.board.publish(download=None)
        delta = done.descriptor.delta if done.descriptor is not None else None
        fetched = {"bytes_fetched": before + done.bytes_fetched, "resumes": job.resumes + done.resumes}
        job = _offered(job, delta).after(Event.FETCHED, **fetched)
        self._save(job)
        return job

    def _download(
        self,
        job: Job,
        progress: Callable[[Progress], None],
        stop: threading.Event,
        beat: Callable[[], None],
        accept: Callable[[Descriptor], None],
    ) -> Downloaded:
        fetch = self._deps.fetcher.fetch
        if not job.instead:
            return fetch(job.url, self._package, progress=progress, stop=stop, beat=beat, accept=accept)
        refusal = self._refusal(job)  # the settings may have changed since
        if refusal:
            raise DeltaUnfit(FULL_REFUSED, refusal)
        limit = self._policy.bytes_max
        return fetch(
            job.full_url, self._package, progress=progress, stop=stop, beat=beat, accept=accept, bytes_max=limit
        )

    def _refused(self, job: Job, event: Event, code: Code, message: str) -> None:
        """The package of a job is not for this device: the full one in its place, or the end of the job."""
        reported = self._full_instead(job, code, message)
        if reported is not None:
            why = message if reported is code else f"{self._refusal(job)}; {code.number} {code.name}: {message}"
            self._finish(job, event, reported.fumo, error=f"{reported.number} {reported.name}: {why}")
        self._deps.fetcher.discard(self._package)

    def _refusal(self, job: Job) -> str:
        return self._policy.refusal(job.full_bytes)

    def _full_instead(self, job: Job, code: Code, message: str, **changes: str) -> Code | None:
        """Turn a job whose delta is of no use to the full package, durably; `None` when that is done, else what is to
        be reported. From then on the job is an ordinary one, with another URL."""
        if code not in DELTA_UNUSABLE or not job.full_url or job.instead:
            return code
        if self._refusal(job):
            return FULL_REFUSED
        instead = f"{code.number} {code.name}: {message}"[: firmware.ERROR_CHARS_MAX]
        self._save(job.after(Event.FULL_INSTEAD, instead=instead, boot="", **changes))
        LOG.warning("the full package is fetched in place of a delta", extra={"event": "update.full_instead"})
        return None

    def _take_data(self) -> None:
        """A package that came through the tree becomes a file."""
        data = firmware.package_data(self._tree.view())
        if data:
            self._deps.disk.write_durable(self._package, data)
            with self._tree.transaction() as changing:
                firmware.drop_data(changing)

    def _handed_over_before(self, job: Job) -> bool:
        result = self._handover.result()
        return self._handover.requested() == job.id or (result is not None and result.id == job.id)

    def _hand_over(self, job: Job) -> None:
        request = InstallRequest(job.id, PACKAGE, job.correlator, int(self._deps.clock.wall()))
        try:
            self._handover.submit(self._package, request)
        except FileNotFoundError:
            self._finish(job, Event.FETCH_FAILED, RESULT_VANISHED, error=VANISHED)
            return
        self._mark_handed_over(job)
        self._deps.fetcher.discard(self._package)

    def _mark_handed_over(self, job: Job) -> None:
        self._save(job.after(Event.HANDED_OVER, boot=self._config.boot_id))
        LOG.info("firmware package handed over", extra={"event": "update.handed_over"})
        self._await_update(firmware.load(self._tree.view()))

    def _await_update(self, job: Job) -> None:
        """Before the reboot: ask for it. After: wait for the result, but not for ever."""
        if job.boot == self._config.boot_id:
            self._ask_for_reboot()
            return
        now = self._deps.clock.monotonic()
        idle = self._handover.status().state == "idle" and not self._handover.requested()
        if not idle or self._handover.result() is not None:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
        elif now - self._lost_since >= LOST_S:
            LOG.error("the update left no result", extra={"event": "update.lost"})
            self._finish(job, Event.UPDATE_FAILED, RESULT_LOST, error="the update left no result")

    def _ask_for_reboot(self) -> None:
        now = self._deps.clock.monotonic()
        if self._reboot_asked is None or now - self._reboot_asked >= REBOOT_AGAIN_S:
            self._reboot_asked = now
            self._deps.on_reboot()

    def _take_result(self) -> None:
        result = self._handover.result()
        if result is None:
            return
        looking = self._tree.view()
        job = firmware.load(looking)
        if result.id in (job.reported, job.replaced):
            self._handover.forget_result(result.id)
            return
        if any(alert.id == f"fumo-{result.id}" for alert in alerts.pending(looking)):
            return
        LOG.info("update ended: %s, %d", result.name, result.fumo, extra={"event": "update.result"})
        code, error = result.fumo, result.error
        useless = next((one for one in DELTA_UNUSABLE if one.number == result.code), None)
        if useless is not None and job.active and job.id == result.id:
            # The Update Agent never does a request again that it has answered: the full package comes under another id.
            reported = self._full_instead(job, useless, result.message, id=f"{job.id}-full", replaced=job.id)
            if reported is None:
                self._handover.forget_result(result.id)
                return
            if reported is FULL_REFUSED:
                code, error = reported.fumo, f"{reported.number} {reported.name}: {self._refusal(job)}; {error}"
        with self._tree.transaction() as changing:
            job = _updating(firmware.load(changing), result, self._config.boot_id)
            event = Event.UPDATED if firmware.OK_RESULT <= code < 300 else Event.UPDATE_FAILED
            firmware.finish(
                changing,
                job,
                event,
                code,
                firmware.FailureDetails(error, result.failed_check or "", "\n".join(result.log)),
            )
        self._deps.on_alert()

    def _save(self, job: Job) -> None:
        with self._tree.transaction() as changing:
            firmware.save(changing, job)
        self._show_job(job)

    def _finish(self, job: Job, event: Event, result: int, error: str = "") -> None:
        with self._tree.transaction() as changing:
            firmware.finish(changing, job, event, result, firmware.FailureDetails(error))
        self._show_job(firmware.load(self._tree.view()))
        self._deps.on_alert()


def _offered(job: Job, delta: DeltaFacts | None) -> Job:
    """The job, with what the server offers in place of its delta."""
    if delta is None or delta.full_uri is None or job.instead:
        return job
    return replace(job, full_url=delta.full_uri, full_bytes=delta.full_size)


def _updating(job: Job, result: InstallResult, boot: str) -> Job:
    """The job that `result` ends. An update that was started by hand, or whose job was lost, becomes one."""
    if job.id == result.id and job.state == State.UPDATING:
        return job
    if job.id == result.id and job.state == State.DOWNLOADED:
        return job.after(Event.HANDED_OVER, boot=boot)
    return replace(
        Job(reported=job.reported),
        state=int(State.UPDATING),
        active=True,
        id=result.id,
        operation=firmware.BOTH,
        correlator=result.correlator,
    )
