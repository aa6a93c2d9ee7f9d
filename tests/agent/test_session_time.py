"""A clock that makes a device refuse every certificate: the security server proves what time it is, over TLS whose
periods nobody judges, and every server is reached again."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from agent.clock import KERNEL, PROVEN, SystemClock
from agent.clock_floor import ClockFloor, Stored
from agent.clock_trust import Evidence
from agent.https import HttpsClient, HttpsRefused
from agent.settings.device import DeviceInfo
from agent.ssmp.certificate_file import HeldCertificate, ServerTrust
from agent.ssmp.key_store import KeyStore
from agent.ssmp.registration import Registrar
from agent.tls import Fault
from headend.security import app, certificate_renewals, certificates, devices, renewals
from headend.security.service import SecurityService
from omadm.ssmp import wire
from omadm.ssmp.certificates import SERVER
from omadm.ssmp.errors import SsmpError, SsmpRefused
from omadm.ssmp.identity import KeyModule, SharedKey
from tests.agent.certificates import DAY, Made, TlsServer, authority
from tests.headend.database import empty_database
from tests.omadm.ssmp import certified
from tests.sim.faulty_disk import FaultyDisk

pytestmark = pytest.mark.process

NOW = 1_800_000_000.0  # 2027-01-15: what the time really is
YEAR = 365 * DAY
BUILT = NOW - YEAR
YEARS = (NOW - 10 * YEAR, NOW + 10 * YEAR)
CURRENT = (NOW - 30 * DAY, NOW + 60 * DAY)
INFO = DeviceInfo("urn:dcu:T-1", "Maker", "Model", "H", "F", "S")
KEY = bytes(range(32))


class SsmpServer(TlsServer):
    """The security server behind TLS."""

    def __init__(self, folder: Path, shown: Made, service: SecurityService) -> None:
        self.service = service
        self.asked: list[int] = []  # the types of the messages
        super().__init__(folder, shown)

    def _answer(self, line: ssl.SSLSocket) -> None:  # type: ignore[override]
        with line.makefile("rwb") as stream:
            length = 0
            while (head := stream.readline().strip()) != b"":
                name, _, value = head.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            if not length:
                return  # asked for nothing
            body = stream.read(length)
            self.asked.append(body[3])
            status, answer = self.service.handle(body, "192.0.2.1")
            start = f"HTTP/1.1 {status} -\r\nContent-Type: {wire.CONTENT_TYPE}\r\nContent-Length: {len(answer)}\r\n\r\n"
            stream.write(start.encode() + answer)


class World:
    """A device whose clock is wrong, and its head-end, whose clock is right unless `off` says otherwise."""

    name = KERNEL

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = authority(YEARS)
        (folder / "ca.pem").write_bytes(self.authority.ca_pem())
        self.engine: Engine = empty_database(folder / "headend.db")
        self.off = self.ahead = 0.0
        self.synchronised = False
        self.service = SecurityService(
            self.engine, app.dm_accounts("h", "https://dm.example/dm"), wall=lambda: NOW + self.off
        )
        self.server = SsmpServer(folder, self.authority.issue(CURRENT), self.service)
        with self.engine.begin() as connection:
            devices.enrol(connection, INFO.device_id, KEY, 1.0)
        self.start()

    def start(self, stored: Stored | None = None) -> None:
        self.clock = SystemClock(
            [self], floor=ClockFloor(BUILT, stored), monotonic=lambda: 10.0, system=lambda: NOW + self.ahead
        )
        self.https = HttpsClient(
            self.folder / "ca.pem",
            monotonic=lambda: 10.0,
            certificate_time=self.clock.certificate_time,
            on_verdict=self._judged,
        )
        self.clock.judge()

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        return Evidence(KERNEL, monotonic, wall - monotonic, 0.1) if self.synchronised else None

    def _judged(self, fault: Fault | None) -> None:
        if fault in (None, Fault.EXPIRED, Fault.NOT_YET_VALID):
            self.clock.certificate_judged(expired=fault is Fault.EXPIRED, early=fault is Fault.NOT_YET_VALID)

    @property
    def registrar(self) -> Registrar:
        url = f"https://127.0.0.1:{self.server.port}/ssmp"
        return Registrar(self.https, url, INFO, self.clock.session_time, lambda: 10.0)

    def reach(self) -> Fault | None:
        """What is wrong with the head-end, by the device."""
        try:
            self.https.reach(f"https://127.0.0.1:{self.server.port}/dm")
        except HttpsRefused as error:
            return error.fault
        return None

    def wrong_time(self, *, ahead: float) -> None:
        """A time service makes the device believe in another time."""
        self.ahead, self.synchronised = ahead, True
        self.start()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.server.close()
    made.engine.dispose()


@pytest.mark.parametrize(
    ("ahead", "fault"),
    [(3 * YEAR, Fault.EXPIRED), (-31 * DAY, Fault.NOT_YET_VALID), (-300 * DAY, Fault.NOT_YET_VALID)],
)
def test_a_believed_clock_that_is_wrong_is_found_out_and_the_head_end_is_reached(
    world: World, ahead: float, fault: Fault
) -> None:
    world.wrong_time(ahead=ahead)
    assert world.clock.trusted()
    assert world.reach() is fault
    assert world.clock.doubted()
    world.registrar.ask_time(SharedKey(KEY))
    judged = world.clock.judge()
    assert (judged.trusted, judged.source) == (False, PROVEN), "one of the two is wrong"
    assert judged.wall == pytest.approx(NOW, abs=0.1)
    assert world.reach() is None
    assert not world.clock.doubted(), "what was refused before was asked about"


def test_with_the_clock_at_1970_the_session_s_time_is_believed_against_it(world: World) -> None:
    world.wrong_time(ahead=-NOW)
    assert not world.clock.trusted()
    world.registrar.ask_time(SharedKey(KEY))
    judged = world.clock.judge()
    assert (judged.trusted, judged.source) == (True, PROVEN)
    assert judged.wall == pytest.approx(NOW, abs=0.1)
    assert world.reach() is None


def test_a_floor_that_is_years_too_late_is_taken_back_at_once(world: World) -> None:
    world.start(Stored(NOW + 2 * YEAR, NOW + 20 * YEAR))
    assert world.reach() is Fault.EXPIRED
    world.registrar.ask_time(SharedKey(KEY))
    assert world.clock.floor.earliest(10.0) == pytest.approx(NOW, abs=0.1)
    assert world.reach() is None
    assert world.clock.trusted() is True, "the machine's clock is right, and the session says so"


def test_a_clock_that_jumps_after_the_session_s_time_moves_nothing(world: World) -> None:
    world.registrar.ask_time(SharedKey(KEY))
    assert world.clock.trusted()
    for ahead in (3 * YEAR, -NOW, -YEAR, 60.0):
        world.ahead = ahead
        assert world.clock.wall() == pytest.approx(NOW, abs=0.1)
        assert world.reach() is None


def test_a_certificate_that_has_really_expired_stays_refused_and_says_the_right_time(world: World) -> None:
    world.off = 61 * DAY
    world.ahead = 61 * DAY
    world.synchronised = True
    world.start()
    assert world.reach() is Fault.EXPIRED
    world.registrar.ask_time(SharedKey(KEY))
    assert world.clock.trusted()
    assert world.reach() is Fault.EXPIRED


def test_a_server_whose_certificate_has_really_expired_is_believed_what_it_proves(world: World) -> None:
    world.off = world.ahead = 61 * DAY
    world.start(Stored(proven=NOW + 61 * DAY - 60))  # nothing vouches for the clock
    with pytest.raises(HttpsRefused, match="it cannot be before"):
        world.https.reach(f"https://127.0.0.1:{world.server.port}/dm")
    world.registrar.ask_time(SharedKey(KEY))
    judged = world.clock.judge()
    assert (judged.trusted, judged.source) == (True, "session")
    with pytest.raises(HttpsRefused, match=r"expired at .*; here it is"):
        world.https.reach(f"https://127.0.0.1:{world.server.port}/dm")


def test_asking_for_the_time_changes_nothing_at_the_head_end(world: World) -> None:
    with world.engine.begin() as connection:
        renewals.want(connection, INFO.device_id, NOW)
    before = dump(world.engine)
    store = KeyStore(FaultyDisk(), Path("/state/ssmp"), KEY)
    world.registrar.ask_time(store)
    assert world.server.asked == [wire.Type.HELLO, wire.Type.AUTH]
    assert dump(world.engine) == before
    assert len(store.candidates()) == 1


def test_a_device_with_a_newer_key_asks_with_that_or_with_the_one_before(world: World) -> None:
    store = KeyStore(FaultyDisk(), Path("/state/ssmp"), KEY)
    store.offer(bytes(32))
    world.registrar.ask_time(store)
    assert world.clock.judge().source == PROVEN
    assert len(store.candidates()) == 2, "which of them is good was no question"


@pytest.mark.parametrize("module", [SharedKey(bytes(32)), KeyStore(FaultyDisk(), Path("/state/ssmp"), bytes(32))])
def test_who_is_not_known_is_told_no_time(world: World, module: KeyModule | KeyStore) -> None:
    with pytest.raises(SsmpRefused):
        world.registrar.ask_time(module)
    assert world.clock.judge().source == ""


def test_another_authority_or_name_is_refused_whatever_time_it_is(world: World) -> None:
    world.server.show(authority(YEARS).issue(CURRENT))
    with pytest.raises(SsmpError, match="authority"):
        world.registrar.ask_time(SharedKey(KEY))
    world.server.show(world.authority.issue(CURRENT, name="other.example"))
    with pytest.raises(SsmpError, match=r"not for 127\.0\.0\.1"):
        world.registrar.ask_time(SharedKey(KEY))
    assert world.server.asked == []


def test_a_registration_tells_the_time_too_within_its_certificates_only(world: World) -> None:
    assert world.registrar.register(SharedKey(KEY), "", b"")
    assert world.clock.judge().source == PROVEN
    world.start()
    world.off = 61 * DAY
    assert world.registrar.register(SharedKey(KEY), "", b"")
    assert world.clock.judge().source == ""


def test_a_head_end_of_before_tells_no_time(world: World) -> None:
    world.off = -NOW  # its BOOTSTRAP has no such field then, as of one that does not know it
    with pytest.raises(SsmpError, match="does not tell the time"):
        world.registrar.ask_time(SharedKey(KEY))
    assert world.registrar.register(SharedKey(KEY), "", b"")
    assert world.clock.judge().source == ""


# ---- a device with a certificate


def certified_device(world: World, period: tuple[float, float]) -> HeldCertificate:
    """Device and security server prove themselves with certificates of one authority; the server's has this period."""
    own = certified.authority(period=YEARS)
    (world.folder / "ssmp-ca.pem").write_bytes(own.pem())
    shown = certified.issue(own, "127.0.0.1", SERVER, period)
    device = certified.issue(own, INFO.device_id, period=CURRENT)
    identity = certificates.Identity(shown.certificate, shown.key, (own.certificate,), (own.certificate, own.key))
    world.server.service = SecurityService(
        world.engine, app.dm_accounts("h", "https://dm.example/dm"), wall=lambda: NOW + world.off, identity=identity
    )
    with world.engine.begin() as connection:
        certificates.enrol(connection, INFO.device_id, None, NOW, replace=True)
        certificate_renewals.want(connection, INFO.device_id, NOW)
    trust = ServerTrust(
        world.folder / "ssmp-ca.pem",
        "https://127.0.0.1/ssmp",
        lambda: world.clock.certificate_time(),  # noqa: PLW0108  the clock changes with each start
        lambda: None,
    )
    return HeldCertificate(device.key, device.certificate, trust)


def test_a_device_with_a_certificate_is_told_the_time_and_its_renewal_still_stands(world: World) -> None:
    device = certified_device(world, YEARS)
    world.wrong_time(ahead=3 * YEAR)
    before = dump(world.engine)
    world.registrar.ask_time(device)
    assert world.clock.wall() == pytest.approx(NOW, abs=0.1)
    assert dump(world.engine) == before


def test_it_believes_no_time_of_a_server_whose_own_certificate_is_over_for_it(world: World) -> None:
    device = certified_device(world, CURRENT)
    world.wrong_time(ahead=3 * YEAR)
    with pytest.raises(SsmpError, match="the security server shows"):
        world.registrar.ask_time(device)
    assert world.clock.judge().source == KERNEL


def test_with_a_certificate_and_the_clock_at_1970_it_is_told_the_time_and_registers(world: World) -> None:
    """A clock from before the build says nothing, so that a certificate which is valid now is none of the future."""
    device = certified_device(world, CURRENT)
    world.wrong_time(ahead=-NOW)
    world.registrar.ask_time(device)
    judged = world.clock.judge()
    assert (judged.trusted, judged.source) == (True, PROVEN)
    assert judged.wall == pytest.approx(NOW, abs=0.1)
    assert world.registrar.register(device, "", b"")


def test_with_a_certificate_and_a_clock_at_2030_that_nothing_vouches_for_it_registers(world: World) -> None:
    device = certified_device(world, CURRENT)
    world.ahead = 3 * YEAR
    world.start()
    assert not world.clock.trusted()
    assert world.registrar.register(device, "", b"")
    assert world.clock.wall() == pytest.approx(NOW, abs=0.1)


def dump(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        return list(driver.iterdump())
