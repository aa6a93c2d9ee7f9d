"""Which back end runs services on this system."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from agent.clock import Clock
from agent.services.folders import FOLDER, SYSTEMD_ROOTS, SYSTEMD_STATE
from agent.services.room import OnAlarm
from agent.services.worker import Backend
from agent.settings.config import Config, ServicesConfig

LOG = logging.getLogger("agent.services")

BOOTED = Path("/run/systemd/system")  # there where systemd is init: sd_booted(3)


def kept_by_services(config: Config) -> tuple[Path, ...]:
    """Where programs of software packages keep what is theirs, and what they printed."""
    return (
        config.state_dir / FOLDER,
        config.update.run_dir / FOLDER,
        *(root / SYSTEMD_STATE for root in SYSTEMD_ROOTS),
    )


def end_services(config: Config) -> None:
    """End the programs of software packages that run, or were left behind, before what is theirs is erased."""
    from agent.services.program import sweep

    sweep(str(config.state_dir))
    if _chosen(config.services) == "systemd":
        from agent.services.systemd import stop_all

        stop_all()


def make_backend(
    config: ServicesConfig, clock: Clock, state_dir: Path, run_dir: Path, on_alarm: OnAlarm = lambda *_: None
) -> Backend:
    """The back end that is configured, or that fits. `on_alarm` is told of a service that was stopped for what it
    keeps."""
    chosen = _chosen(config)
    LOG.info("services are run by: %s", chosen, extra={"event": "service.backend"})
    if chosen == "systemd":
        from agent.services.systemd import Systemd

        return Systemd(
            clock,
            unit_dir=config.unit_dir,
            state_dir=state_dir,
            kept_kib_max=config.kept_kib_max,
            on_alarm=on_alarm,
        )
    from agent.services.own import OwnSupervisor

    return OwnSupervisor(
        clock,
        state_dir=state_dir,
        run_dir=run_dir,
        enabled=chosen == "own",
        kept_kib_max=config.kept_kib_max,
        on_alarm=on_alarm,
    )


def _chosen(config: ServicesConfig) -> str:
    if config.backend != "auto":
        return config.backend
    return "systemd" if BOOTED.is_dir() and os.geteuid() == 0 else "own"
