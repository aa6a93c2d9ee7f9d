"""Another key in a token without a visit: wherever the power goes, the device gets in again."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from agent.ssmp.certificate_store import CertificateStore
from agent.ssmp.pkcs11 import PRIVATE_KEY, SECRET_KEY, Library, Token, TokenCallError
from agent.ssmp.token_modules import FIXED, TokenCertificate, TokenKeys, TokenPairKeys
from headend.dm.jobs import queue
from headend.operator import lifecycle
from headend.operator.lifecycle import Actor
from headend.security import devices, records
from omadm.ssmp import certificates as x509
from omadm.ssmp.errors import SsmpRefused
from tests.agent.ssmp import softhsm, test_certificate_renewal, test_renewal
from tests.agent.ssmp.renewing import FOLDER, ID
from tests.agent.ssmp.softhsm import SoftHsm
from tests.agent.ssmp.test_certificate_renewal import AUTHORITY, PERIOD
from tests.omadm.ssmp.certified import Pair, issue
from tests.sim.faulty_disk import Operation, PowerCut, Survival

pytestmark = pytest.mark.process

WRITES = ("C_CreateObject", "C_DestroyObject", "C_GenerateKeyPair")
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    before = os.environ.get("SOFTHSM2_CONF")
    made = softhsm.make(tmp_path_factory.mktemp("hsm"))
    yield made
    softhsm.finalize(made.library)
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


class WatchedLibrary(Library):
    """A library that tells when it writes: before, and after."""

    def __init__(self, path: Path, on_write: Callable[[str], None]) -> None:
        super().__init__(path)
        self.on_write = on_write

    def call(self, function: str, *arguments: object, also: int = 0) -> None:
        if function in WRITES:
            self.on_write(function)
        super().call(function, *arguments, also=also)
        if function in WRITES:
            self.on_write(function)


class KeyWorld(test_renewal.World):
    """A device whose key is in a token, and a head-end."""

    def __init__(self, folder: Path, hsm: SoftHsm) -> None:
        super().__init__(folder)
        self.hsm = hsm
        self.label = f"device{next(NUMBERS)}"
        self.renewal = True
        self.on_write: Callable[[str], None] = lambda _: None
        self.told: list[str] = []
        hsm.import_key(self.label, test_renewal.KEY)

    def token(self) -> Token:
        token = Token(self.hsm.place(self.label), SECRET_KEY)
        token._library = WatchedLibrary(self.hsm.library, self.wrote)
        return token

    def wrote(self, function: str) -> None:
        self.on_write(function)

    def keys(self) -> TokenKeys:
        return TokenKeys(self.token(), renewal=self.renewal)

    def go(self) -> bytes:
        self.now += 60.0
        return self.registrar(on_renewal=self.told.append).register(self.keys(), "", b"")

    def watch(self, happens: Callable[[], None]) -> None:
        self.on_write = lambda _: happens()
        self.on_round_trip = lambda _, __: happens()


class CertificateWorld(test_certificate_renewal.World):
    """A device with a certificate whose key is in a token, and a head-end."""

    def __init__(self, folder: Path, hsm: SoftHsm, *, pinned: bool = False) -> None:
        self.hsm = hsm
        number = next(NUMBERS)
        self.label = "b" * number  # of another length each: the id in the token
        own = issue(AUTHORITY, ID, period=PERIOD)
        assert isinstance(own, Pair)
        assert isinstance(own.key, ec.EllipticCurvePrivateKey)
        hsm.import_private(self.label, own.key)
        super().__init__(folder, pinned=pinned, own=own)
        self.own_certificate = own.certificate
        self.renewal = True
        self.on_write: Callable[[str], None] = lambda _: None
        self.told: list[str] = []

    def token(self) -> Token:
        token = Token(self.hsm.place(self.label), PRIVATE_KEY)
        token._library = WatchedLibrary(self.hsm.library, self.wrote)
        return token

    def wrote(self, function: str) -> None:
        self.on_write(function)

    def store(self) -> CertificateStore:
        token = self.token()
        first = TokenCertificate(token, self.own_certificate, self.factory.trust)
        keys = TokenPairKeys(token, renewal=self.renewal)
        return CertificateStore(self.disk, FOLDER, first, ID, self.certificate_time, keys)

    def go(self) -> bytes:
        self.now += 60.0
        return self.registrar(on_renewal=self.told.append).register(self.store(), "", b"")

    def watch(self, happens: Callable[[], None]) -> None:
        def on_operation(_: Operation) -> None:
            happens()

        self.on_write = lambda _: happens()
        self.on_round_trip = lambda _, __: happens()
        self.disk.on_operation = on_operation


World = KeyWorld | CertificateWorld


def make(kind: str, folder: Path, hsm: SoftHsm) -> World:
    folder.mkdir(exist_ok=True)
    return KeyWorld(folder, hsm) if kind == "key" else CertificateWorld(folder, hsm, pinned=kind == "pinned")


@pytest.fixture(params=["key", "issued", "pinned"])
def world(tmp_path: Path, hsm: SoftHsm, request: pytest.FixtureRequest) -> Iterator[World]:
    made = make(request.param, tmp_path, hsm)
    yield made
    made.engine.dispose()


def is_over(world: World) -> bool:
    """Whether the renewal is over, with another key than the first one, and nothing else in the token."""
    with world.engine.begin() as connection:
        key = devices.find(connection, ID)
    assert key is not None
    labels = world.token().labels()
    if isinstance(world, CertificateWorld):
        (only,) = world.store().candidates()
        return world.settled() and only.certificate != world.own_certificate.der and world.label not in labels
    return len(labels) == 1 and labels != [world.label] and key.key != test_renewal.KEY


def test_another_key_is_made_in_the_token_and_the_one_before_destroyed(world: World) -> None:
    for number in (1, 2, 3):
        world.want()
        assert world.go()
        assert is_over(world)
        assert world.token().labels() == [f"{world.label}~{number}"]
        world.token().check(f"{world.label}~{number}")  # it is not given away
    assert world.told == ["", "", ""]
    assert world.go()  # after a start
    assert is_over(world)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["key", "issued", "pinned"])
def test_the_power_may_go_before_and_after_each_write_and_each_message(kind: str, tmp_path: Path, hsm: SoftHsm) -> None:
    """Each write to the token and to the disk, and each moment of the line."""
    for at in range(200):
        world = make(kind, tmp_path / str(at), hsm)
        world.go()
        world.want()
        left = at

        def happens() -> None:
            nonlocal left
            if left == 0:
                raise PowerCut
            left -= 1

        world.watch(happens)
        try:
            world.go()
            was_cut = False
        except PowerCut:
            was_cut = True
        world.watch(lambda: None)
        if isinstance(world, CertificateWorld) and was_cut:
            world.disk = world.disk.after_power_cut(Survival.LOST, random.Random(at))
        if at % 2:
            world.start_server()
        for _ in range(2):
            assert world.go()
        assert is_over(world), (kind, at)
        world.engine.dispose()
        if not was_cut:
            break
    assert not was_cut
    assert at > 14


def ordered(world: World) -> int:
    """The operator orders it; the device has erased its account. Returns the job."""
    with world.engine.begin() as connection:
        actor = Actor("op", world.now)
        if isinstance(world, KeyWorld):
            return lifecycle.renew_key(connection, actor, ID)
        return lifecycle.renew_certificate(connection, actor, ID, issues=True)


def refused(world: World, job: int, why: str) -> None:
    """Everything that can tell of it says why it cannot be."""
    what = "device key" if isinstance(world, KeyWorld) else "certificate"
    text = f"the device cannot renew its {what}: {why}"
    with world.engine.begin() as connection:
        shown = queue.show(connection, job)
        (alarm,) = records.alarm_listing(connection, ID, 10)
        last = connection.scalars(select(devices.registrations.c.text).order_by(devices.registrations.c.seq)).all()[-1]
    assert shown is not None
    assert (shown["state"], shown["result"]["error"]) == ("failed", text)
    assert (alarm["kind"], alarm["text"]) == ("renewal", text)
    assert last == f"registered; {text}"
    assert world.told == [why]


def test_a_token_that_is_to_stay_as_it_is_ends_the_order_with_the_reason(world: World) -> None:
    world.renewal = False
    assert world.go()
    job = ordered(world)
    assert world.go()
    refused(world, job, FIXED)
    assert world.token().labels() == [world.label]
    world.told.clear()
    assert world.go()
    assert world.told == []  # once


def test_a_token_that_refuses_a_key_ends_the_order_with_the_reason(world: World) -> None:
    assert world.go()
    job = ordered(world)

    def full(function: str) -> None:
        raise TokenCallError(world.hsm.library, function, 0x31)

    world.on_write = full
    assert world.go()
    world.on_write = lambda _: None
    name = "C_CreateObject" if isinstance(world, KeyWorld) else "C_GenerateKeyPair"
    refused(world, job, f"{world.hsm.library}: {name}: CKR_DEVICE_MEMORY")
    assert world.go()
    assert world.token().labels() == [world.label]
    world.told.clear()
    ordered(world)  # when there is room again
    assert world.go()
    assert is_over(world)


def test_a_new_key_that_the_token_has_lost_is_passed_over(world: World) -> None:
    world.want()

    def cut(number: int, passing: str) -> None:
        if (number, passing) == (4, "request"):
            raise PowerCut

    world.on_round_trip = cut
    with pytest.raises(PowerCut):
        world.go()
    world.on_round_trip = lambda _, __: None
    world.token().destroy_others({world.label})
    assert world.token().labels() == [world.label]
    assert world.go()
    world.want()
    assert world.go()
    assert is_over(world)


def test_an_old_key_is_dead_at_the_head_end(tmp_path: Path, hsm: SoftHsm) -> None:
    world = CertificateWorld(tmp_path, hsm)
    world.want()
    world.go()
    with pytest.raises(SsmpRefused):
        world.register(world.factory)
    assert x509.read(world.secret()).names == (ID,)
    world.engine.dispose()
