"""FUMO, `urn:oma:mo:oma-fumo:1.0` (OMA-TS-DM_FUMO 1.0): firmware packages.

The object itself does nothing slow: an Exec records a job (`agent.jobs.firmware`) in the tree's transaction and is
answered 202. An Exec is refused while a job is under way, except the same one again, by which a server asks once more
after losing the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.jobs import device, firmware
from agent.jobs.firmware import PKG_DATA, ROOT, RunningDownload
from agent.mo.connectivity import trial
from agent.tree import alerts
from agent.tree.schema import GE, Access, ExecCall, Format, NodeSpec, Path, https_url, interior, live, permanent
from agent.tree.tree import Transaction
from omadm.codes import Code, Refusal
from updateagent.handover import NAME_CHARS_MAX

URN = "urn:oma:mo:oma-fumo:1.0"
PKG_DATA_BYTES_MAX = 192 * 1024  # what fits MaxObjSize in every encoding


class Fumo:
    """`new_id()` makes the identifier that ties a job, its request and its result together."""

    root = ROOT

    def __init__(
        self,
        view: Callable[[], Transaction],
        new_id: Callable[[], str],
        compatible: str = "",
        download: RunningDownload | None = None,
    ) -> None:
        self._view = view
        self._new_id = new_id
        self._compatible = compatible
        self._download = download or RunningDownload()

    def _number(self, path: Path) -> str:
        job = firmware.load(self._view())
        fetched, resumes = self._download.counts or (job.bytes_fetched, job.resumes)
        values = {"State": job.state, "BytesFetched": fetched, "Resumes": resumes, "LastResult": job.result}
        return str(values[path[-1]])

    def _text(self, path: Path) -> str:
        job = firmware.load(self._view())
        values = {
            "LastError": job.error,
            "FailedCheck": job.failed_check,
            "LastLog": job.log,
            "FullInstead": job.instead,
            "Compatible": self._compatible,
        }
        return values[path[-1]]

    def spec(self) -> NodeSpec:
        def number(name: str, description: str = "") -> NodeSpec:
            return live(name, Format.INT, self._number, description)

        def text(name: str, description: str) -> NodeSpec:
            return live(name, Format.CHR, self._text, description)

        url = permanent("PkgURL", Format.CHR, check=https_url, value_chars_max=2048, description="https")
        data = permanent(
            "PkgData",
            Format.BIN,
            access=Access.REPLACE,
            value_chars_max=PKG_DATA_BYTES_MAX,
            description="a package small enough for MaxObjSize",
        )
        object_ = interior(
            "Firmware",
            permanent("PkgName", Format.CHR, value_chars_max=128),
            permanent("PkgVersion", Format.CHR, value_chars_max=64),
            interior("Download", url, access=GE),
            interior("Update", data, access=GE),
            interior("DownloadAndUpdate", url, access=GE),
            number("State", "FUMO 1.0, section 5.1"),
            interior(
                "Ext",
                number("BytesFetched", "of the last or running job"),
                number("Resumes", "of the last or running job"),
                number("LastResult", "of the last job"),
                text("LastError", "why the last job failed: number, name and sentence"),
                text("FailedCheck", "the health check that was not good"),
                text("LastLog", "the last lines of the log on trial"),
                text("FullInstead", "why the full package was fetched in place of a delta"),
                text("Compatible", "the hardware's name, which a package must list"),
            ),
            type=URN,
        )
        return interior("FUMO", object_)

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of Download, Update or DownloadAndUpdate: 202, or 405, 412 without a URL, 500 while busy.

        413 for a correlator that the Update Agent would refuse, after download and reboot.
        """
        if device.load(changing).under_way:
            raise Refusal(Code.COMMAND_FAILED, "the device is about to reboot, or to be reset")
        if trial.load(changing).under_way:  # a new firmware would be judged by sessions over an address on trial
            raise Refusal(Code.COMMAND_FAILED, "a change of how the head-end is reached is on trial")
        operation = call.path[len(ROOT) :][0].lower() if len(call.path) == len(ROOT) + 1 else ""
        if operation not in {firmware.DOWNLOAD, firmware.UPDATE, firmware.BOTH}:
            raise Refusal(Code.NOT_ALLOWED, "nothing to execute")
        if len(call.correlator) > NAME_CHARS_MAX:
            raise Refusal(Code.TOO_LARGE, f"a correlator has at most {NAME_CHARS_MAX} characters")
        if firmware.is_damaged(changing):  # its server hears of it before the record is another job's
            raise Refusal(Code.COMMAND_FAILED, "the record of the job before is damaged, and is being ended")
        job = firmware.load(changing)
        url = changing.text((*call.path, "PkgURL"))
        if job.active:
            same = (job.operation, job.correlator) == (operation, call.correlator) and job.url in {url, ""}
            if same and call.correlator:
                return Code.ACCEPTED
            raise Refusal(Code.COMMAND_FAILED, "a firmware job is under way")
        if operation != firmware.UPDATE and not url:
            raise Refusal(Code.INCOMPLETE, "PkgURL is empty")
        event = firmware.Event.EXEC_UPDATE if operation == firmware.UPDATE else firmware.Event.EXEC_FETCH
        try:
            new_state = job.after(event).state
        except firmware.FumoStateError:
            raise Refusal(Code.COMMAND_FAILED, "there is no package to update with") from None
        started = firmware.Job(
            state=new_state,
            active=True,
            id=self._new_id(),
            operation=operation,
            url=url if operation != firmware.UPDATE else "",
            correlator=call.correlator,
            reported=job.reported,
            full_url=job.full_url if operation == firmware.UPDATE else "",  # offered with the package that was kept
            full_bytes=job.full_bytes if operation == firmware.UPDATE else 0,
        )
        if operation != firmware.UPDATE:
            firmware.drop_data(changing)
        firmware.save(changing, started)
        return Code.ACCEPTED

    def written(self, changing: Transaction, path: Path) -> None:
        """PkgData: the package came through the tree. Refused (500) while a job is under way."""
        if path != PKG_DATA:
            return
        job = firmware.load(changing)
        if job.active or firmware.is_damaged(changing):
            raise Refusal(Code.COMMAND_FAILED, "a firmware job is under way")
        firmware.save(changing, firmware.Job(state=job.after(firmware.Event.DATA_BROUGHT).state, reported=job.reported))

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """Note which result the server knows, so that it is never reported again."""
        firmware.save(changing, replace(firmware.load(changing), reported=alert.id.removeprefix("fumo-")))
