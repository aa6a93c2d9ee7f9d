"""SCOMO, `urn:oma:mo:oma-scomo:1.0` (OMA-TS-DM-SCOMO 1.0): software components.

As with FUMO, an Exec records a job (`agent.jobs.software`) and is answered 202.

    Download/<x>    made by a server: what to fetch; Exec on its Operations
    Delivered/<x>   fetched, verified, not installed
    Deployed/<id>   installed, active or not
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.jobs import software
from agent.jobs.software import DELIVERED, DEPLOYED, DOWNLOAD
from agent.status import ServiceStatus
from agent.tree import alerts
from agent.tree.schema import (
    AGRD,
    GE,
    Access,
    ExecCall,
    Format,
    NodeSpec,
    Path,
    group,
    https_url,
    interior,
    live,
    setting,
)
from agent.tree.tree import Transaction
from agent.tree.uri import show
from omadm.codes import Code, Refusal

URN = "urn:oma:mo:oma-scomo:1.0"
ROOT: Path = ("SCOMO",)
NO_SERVICE = ServiceStatus("", state="")


class Scomo:
    """Software components: downloads, what was delivered and what is deployed."""

    root = ROOT

    def __init__(
        self,
        view: Callable[[], Transaction],
        new_id: Callable[[], str],
        services: Callable[[], Sequence[ServiceStatus]] = lambda: (),
        service_log: Callable[[str], str] = lambda _id: "",
    ) -> None:
        """`services`: the programs of active components; `service_log(id)`: what one printed last."""
        self._view = view
        self._new_id = new_id
        self._services = services
        self._service_log = service_log

    def spec(self) -> NodeSpec:
        download = group(
            setting("PkgID", Format.CHR, value_chars_max=128),
            setting("Name", Format.CHR, value_chars_max=128),
            setting("PkgURL", Format.CHR, check=https_url, value_chars_max=2048, description="https"),
            setting("InstallParams", Format.CHR),
            setting("Description", Format.CHR),
            live(
                "Status",
                Format.INT,
                lambda path: str(software.status_of(self._view(), path[2])),
                "SCOMO 1.0, section 6.2",
            ),
            setting("EnvType", Format.CHR),
            setting("PkgType", Format.CHR),
            interior("Ext", self._error("Download")),
            _operations("Download"),
            access=AGRD,
        )
        delivered = _component(
            "Delivered",
            ("PkgID", "Data", "Name", "Version", "State", "Status", "EnvType"),
            interior("Ext", self._error("Delivered")),
        )
        deployed = _component(
            "Deployed", ("ID", "PkgIDRef", "Name", "Version", "EnvType", "State", "Status"), self._ext()
        )
        return interior(
            "SCOMO",
            interior("Download", download),
            interior("Inventory", interior("Delivered", delivered), interior("Deployed", deployed)),
            type=URN,
        )

    def _ext(self) -> NodeSpec:
        """What the program of a component is doing; empty for a component without one."""

        def status(path: Path) -> ServiceStatus:
            wanted = self._id(path)
            return next((one for one in self._services() if one.id == wanted), NO_SERVICE)

        return interior(
            "Ext",
            live("Service", Format.CHR, lambda path: status(path).state, "starting, running, waiting, over, …"),
            live("Restarts", Format.INT, lambda path: str(status(path).restarts), "starts but the first"),
            live("Detail", Format.CHR, lambda path: status(path).detail, "why it does not run"),
            live("Log", Format.CHR, self._log, "the last lines that it printed"),
            self._error("Deployed"),
        )

    def _error(self, kind: str) -> NodeSpec:
        at = len(DOWNLOAD) if kind == "Download" else len(DEPLOYED)
        return live(
            "LastError",
            Format.CHR,
            lambda path: software.last_error(self._view(), kind, path[at]),
            "why its last job failed",
        )

    def _id(self, path: Path) -> str:
        return self._view().text((*DEPLOYED, path[len(DEPLOYED)], "ID"))

    def _log(self, path: Path) -> str:
        wanted = self._id(path)
        return self._service_log(wanted) if any(one.id == wanted for one in self._services()) else ""

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Exec of an operation: 202; 405 where there is none, 412 without PkgURL, 420 with too many jobs waiting."""
        kind, name, operation = _split(call.path)
        waiting = software.jobs(changing)
        for job in waiting:
            if (job.kind, job.name, job.operation, job.correlator) == (kind, name, operation, call.correlator):
                return Code.ACCEPTED
        url = changing.text((*DOWNLOAD, name, "PkgURL")) if kind == "Download" else ""
        if kind == "Download" and not url:
            raise Refusal(Code.INCOMPLETE, "PkgURL is empty")
        if len(waiting) >= software.JOBS_MAX:
            raise Refusal(Code.DEVICE_FULL, f"{software.JOBS_MAX} jobs are waiting")
        software_id = changing.text((*DEPLOYED, name, "ID")) if kind == "Deployed" else ""
        job = software.Job(self._new_id(), operation, kind, name, url, call.correlator, software_id)
        software.set_jobs(changing, [*waiting, job])
        return Code.ACCEPTED

    def written(self, changing: Transaction, path: Path) -> None:
        """Nothing follows from a value."""

    def acknowledged(self, changing: Transaction, alert: alerts.GenericAlert) -> None:
        """A download whose result the server knows need not stay; the last ones do, for who wants to look."""
        if alert.type == alerts.SCOMO_TYPE:
            software.forget_ended(changing)


def _split(path: Path) -> tuple[str, str, str]:
    for kind, base in (("Download", DOWNLOAD), ("Delivered", DELIVERED), ("Deployed", DEPLOYED)):
        if path[: len(base)] == base and len(path) == len(base) + 3 and path[-1] in software.OPERATIONS[kind]:
            return kind, path[len(base)], path[-1]
    raise Refusal(Code.NOT_ALLOWED, f"{show(path)} is no operation")


def _operations(kind: str) -> NodeSpec:
    return interior("Operations", *(NodeSpec(name, Format.NULL, GE) for name in software.OPERATIONS[kind]))


def _component(kind: str, leaves: Sequence[str], *more: NodeSpec) -> NodeSpec:
    """Made by the device alone."""
    numbers = {"State", "Status"}
    settings = [
        setting(leaf, Format.INT if leaf in numbers else Format.CHR, access=Access.GET, value_chars_max=256)
        for leaf in leaves
    ]
    return group(*settings, *more, _operations(kind), access=Access.GET)
