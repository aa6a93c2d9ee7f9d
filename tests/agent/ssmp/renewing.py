"""What renewing a key and renewing a certificate have in common: a device on a disk that may lose its power, a line
that may break, and a head-end; and what must hold whichever of the two is renewed."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from agent.https import HttpsClient, HttpsError, Response
from agent.settings.device import DeviceInfo
from agent.ssmp.registration import Registrar
from agent.ssmp.security_module import Secret
from headend.security import app
from headend.security.certificates import Identity
from headend.security.service import SecurityService
from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpError, SsmpUnsettledError
from tests.headend.database import empty_database
from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival

DEVICE = DeviceInfo("urn:dcu:T-1", "Maker", "Model", "H", "F", "S")
ID = DEVICE.device_id
FOLDER = Path("/state/ssmp")
URL = "https://s.example/ssmp"
HEADERS = {"content-type": wire.CONTENT_TYPE}
ROUND_TRIPS = 6  # of a registration that brings a new secret, and the one that uses it


class Renewing(ABC):
    """`first` is the secret that the device was made with."""

    first: bytes

    def __init__(self, folder: Path, now: float) -> None:
        self.engine: Engine = empty_database(folder / "headend.db")
        self.disk = FaultyDisk()
        self.now = now
        self.monotonic = 0.0
        self.random = random.Random(9)
        self.on_round_trip: Callable[[int, str], None] = lambda _, __: None
        self.round_trips = 0
        self.start_server()

    def identity(self) -> Identity | None:
        """By what the server proves itself to devices with a certificate."""
        return None

    def start_server(self) -> None:
        """It remembers what is in its database, and nothing else."""
        self.service = SecurityService(
            self.engine,
            app.dm_accounts("headend", "https://dm.example/dm"),
            monotonic=lambda: self.now,
            wall=lambda: self.now,
            random_bytes=self.random.randbytes,
            identity=self.identity(),
        )

    @abstractmethod
    def want(self) -> None:
        """The operator wants another secret."""

    @abstractmethod
    def store(self) -> Any:
        """What the device has after a start."""

    @abstractmethod
    def settled(self) -> bool:
        """Whether there is one secret, and the renewal is over."""

    @abstractmethod
    def secret(self) -> bytes:
        """The secret that is in force."""

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert (method, url, headers is not None, body is not None) == ("POST", URL, True, True)
        self.round_trips += 1
        self.on_round_trip(self.round_trips, "request")
        status, answer = self.service.handle(body or b"", "192.0.2.1")
        self.on_round_trip(self.round_trips, "answer")
        return Response(status, HEADERS, answer)

    def registrar(self, **named: Any) -> Registrar:
        return Registrar(cast("HttpsClient", self), URL, DEVICE, monotonic=lambda: self.monotonic, **named)

    def register(self, module: Secret | None = None) -> bytes:
        self.now += 60.0  # so that no limit is reached
        return self.registrar().register(module or self.store(), "", b"")


def again_and_again(world: Renewing) -> None:
    seen = {world.first}
    for _ in range(3):
        world.want()
        world.register()
        assert world.settled()
        seen.add(world.secret())
    assert len(seen) == 4


def line_breaks(world: Renewing, lost: int, which: str) -> None:
    """Wherever it does, the device gets in again, with another secret."""

    def lose(number: int, passing: str) -> None:
        if (number, passing) == (lost, which):
            raise HttpsError("gone")

    world.want()
    world.on_round_trip = lose
    if lost <= 3 or lost == ROUND_TRIPS:  # of the last one it is not known which registration counts
        with pytest.raises(SsmpError, match="gone") as caught:
            world.register()
        assert isinstance(caught.value, SsmpUnsettledError) is (lost in (3, ROUND_TRIPS))
    else:
        assert world.register()  # the first registration counts; the new secret waits
    assert world.register()
    assert world.settled()
    assert world.secret() != world.first


def power_goes(make: Callable[[Path], Renewing], folder: Path) -> None:
    """Each operation of the disk, with what was not synced lost, kept or in parts, and each moment of the line. Every
    second time the head-end is started again as well; what it commits is one transaction."""
    cuts = 0
    fates = (Survival.LOST, Survival.KEPT, Survival.HOLED)
    for survival in fates:
        for at in range(200):
            place = folder / f"{survival.name}{at}"
            place.mkdir()
            world = make(place)
            world.store()
            world.want()
            was_cut = _cut(world, at, survival)
            if at % 2:
                world.start_server()
            for _ in range(2):  # a device tries again; a registration that was under way may end first
                world.register()
            assert world.settled(), (survival, at)
            assert world.secret() != world.first
            world.engine.dispose()
            if not was_cut:
                break
            cuts += 1
    assert cuts > len(fates) * 2 * ROUND_TRIPS


def _cut(world: Renewing, at: int, survival: Survival) -> bool:
    """Register until event `at`, an operation of the disk or a moment of the line; returns whether there was one."""
    events = iter(range(10_000))

    def happens(*_: object) -> None:
        if next(events) == at:
            raise PowerCut

    def on_operation(_: Operation) -> None:
        happens()

    world.disk.on_operation = on_operation
    world.on_round_trip = happens
    try:
        world.register()
    except PowerCut:
        world.disk = world.disk.after_power_cut(survival, random.Random(at))
        return True
    finally:
        world.disk.on_operation = None
        world.on_round_trip = lambda _, __: None
    return False
