"""Meters with keys of their own, read by the collector over simulated lines in virtual time."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.metering.access.accessbook import PAUSE_MIN_S, AccessBook
from agent.metering.access.credentials import credentials
from agent.metering.access.keystore import BLOCK, SECRET_FIELDS, KeyStore
from agent.metering.access.rules import AccessRules
from agent.metering.ports.port_state import Bridge as BridgePort
from agent.metering.registry.entry import Meter
from agent.settings.provisioning import AUTHS, POLICIES, AccessRule, MeterAccess, Provisioning, ReadingTask
from dlms import axdr
from dlms.client.events import ItemRead, SessionClosed
from dlms.client.session import MeterSession
from dlms.codes import Mechanism
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import LocalError
from dlms.link.wrapper import WrapperLink, WrapperServerLink
from dlms.security.hls import aes_ecb
from dlms.security.keys import public_octets
from dlms.security.settings import Auth, Hls, Lls, MemoryCounters, NoAuth, Policy, Security, open_auth
from dlms.server.objects import CosemObject
from dlms.server.rights import USUAL_RIGHTS
from plc.prime.link import PlcLink
from plc.transparent import TransparentLink
from tests.agent.metering.lines import Line, bridge_over
from tests.agent.metering.test_collector import BUS, EVERY_S, PLC, ROWS, Rig
from tests.agent.virtual import VirtualClock
from tests.sim.faulty_disk import FaultyDisk, Operation
from tests.sim.meters import SimMeter
from tests.sim.plc_network import BaseNode
from tests.sim.rs485_bus import Bus, Station
from updateagent.disk import RealDisk, Storage

EK, AK, BK = bytes(range(16)), bytes(range(0xD0, 0xE0)), bytes(range(0x40, 0x50))
NEW_EK = bytes(range(0x60, 0x70))
LONG_EK, LONG_AK = bytes(range(32)), bytes(range(0x80, 0xA0))
OURS = bytes.fromhex("4d4d4d0000000001")
METER = bytes.fromhex("4d4d4d0000bc614e")
PASSWORD = b"pole42-lls"
SIGNS = ec.generate_private_key(ec.SECP256R1())
METER_SIGNS = ec.generate_private_key(ec.SECP256R1())
DER = SIGNS.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
RUN = 1_800_000_000


@dataclass(frozen=True)
class Kind:
    """A kind of access, on both sides. `ours` is what is provisioned for client 1."""

    ours: dict[str, int | str | bytes]
    auth: Auth
    security: Security | None = None

    def meter(self, serial: int) -> SimMeter:
        """A meter that lets client 1 in as this kind says, and the public client for its name."""
        security = {} if self.security is None else {1: replace(self.security, counters=MemoryCounters(0))}
        auth = {1: self.auth, 16: NoAuth()}
        return SimMeter(serial, ROWS, 3, None, auth=auth, security=security, rights=USUAL_RIGHTS)

    def rule(self, serial: int, **more: int | str | bytes) -> AccessRule:
        meter = f"DCU{serial:013d}"
        return AccessRule(f"meter/{meter}", meter=meter, given=(*(self.ours | {"client": 1} | more).items(),))


def given(**fields: int | str | bytes) -> dict[str, int | str | bytes]:
    return fields


def keyed(suite: int, policy: str = "both") -> dict[str, int | str | bytes]:
    ek, ak = (LONG_EK, LONG_AK) if suite == 2 else (EK, AK)
    return {"suite": suite, "policy": policy, "encryption_key": ek, "authentication_key": ak}


def security(suite: int, policy: Policy = Policy.BOTH, **more: bool) -> Security:
    ek, ak = (LONG_EK, LONG_AK) if suite == 2 else (EK, AK)
    return Security(METER, ek, ak, suite, policy, **more)  # type: ignore[arg-type]


KINDS = {
    "lls": Kind({"auth": "low", "secret": PASSWORD}, Lls(PASSWORD)),
    "aes": Kind({"auth": "aes", "secret": AK}, Hls(Mechanism.HLS, transform=aes_ecb(AK))),
    "md5": Kind({"auth": "md5", "secret": b"secret"}, open_auth("md5", b"secret")),
    "sha1": Kind({"auth": "sha1", "secret": b"secret"}, open_auth("sha1", b"secret")),
    "gmac": Kind({"auth": "gmac"} | keyed(0), open_auth("gmac"), security(0)),
    "gmac-plain": Kind(
        {"auth": "gmac"} | keyed(0, "plain"), open_auth("gmac"), security(0, Policy.NONE, ciphered_context=False)
    ),
    "sha256": Kind(given(auth="sha256", secret=b"secret") | keyed(1), open_auth("sha256", b"secret"), security(1)),
    "ecdsa": Kind(
        given(auth="ecdsa", signing_key=DER, meter_key=public_octets(METER_SIGNS.public_key())) | keyed(1),
        Hls(Mechanism.HLS_ECDSA, private_key=METER_SIGNS, peer_key=SIGNS.public_key()),
        security(1),
    ),
    "suite-2": Kind({"auth": "gmac"} | keyed(2, "encrypted"), open_auth("gmac"), security(2, Policy.ENCRYPT)),
    "authenticated": Kind({"auth": "none"} | keyed(0, "authenticated"), NoAuth(), security(0, Policy.AUTHENTICATE)),
}
TASK = ReadingTask("t1", EVERY_S, "residential-108")
WRONG = 99
SERIALS = {name: serial for serial, name in enumerate(KINDS, start=1)}


def everything() -> Provisioning:
    """All kinds, and a meter whose key is not the one that is provisioned."""
    rules = [KINDS[name].rule(serial) for name, serial in SERIALS.items()]
    rules.append(KINDS["gmac"].rule(WRONG, encryption_key=NEW_EK))
    return Provisioning((TASK,), access_rules=tuple(rules), system_title=OURS)


def all_meters() -> list[SimMeter]:
    return [*(KINDS[name].meter(serial) for name, serial in SERIALS.items()), KINDS["gmac"].meter(WRONG)]


class PlcRig(Rig):
    def __init__(self, tmp_path: Path, meters: Sequence[SimMeter]) -> None:
        self.meters = list(meters)
        super().__init__(tmp_path, PLC)
        self.network = BaseNode(self.meters, start=self.clock.now, join_interval_s=0.5, latency_s=0.05)

    def new_bridge(self) -> BridgePort:
        self.lines.append(Line(self.network, self.clock, octet_s=10 / 115_200))
        return bridge_over(self.lines[-1], PlcLink())


class BusRig(Rig):
    def __init__(self, tmp_path: Path, meters: Sequence[SimMeter]) -> None:
        self.meters = list(meters)
        self.network = Bus([Station(meter, address, 128, 1) for address, meter in enumerate(self.meters, start=17)])
        scan = replace(BUS.scan, first=17, last=16 + len(self.meters))  # type: ignore[type-var]
        super().__init__(tmp_path, replace(BUS, scan=scan))

    def new_bridge(self) -> BridgePort:
        self.lines.append(Line(self.network, self.clock, octet_s=10 / 9600))
        return bridge_over(self.lines[-1], TransparentLink())


def events(caplog: pytest.LogCaptureFixture) -> Counter[tuple[str, str]]:
    """(event, level) → lines, of those about meters' keys."""
    named = [(getattr(record, "event", ""), record.levelname) for record in caplog.records]
    return Counter(entry for entry in named if entry[0].startswith(("meter.key", "meter.pro", "meter.replay")))


# --- every kind, over every link ---


@pytest.mark.parametrize(("rig_of", "seconds"), [(PlcRig, 120), (BusRig, 900)])
@pytest.mark.slow
def test_meters_of_every_kind_are_read_beside_one_whose_key_is_wrong(
    rig_of: type[PlcRig | BusRig], seconds: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig = rig_of(tmp_path, all_meters())
    rig.collector.configure(everything())
    rig.run(seconds, until=lambda: len(rig.count()) == len(KINDS) and rig.clock.now > 160)
    good = {f"DCU{serial:013d}" for serial in SERIALS.values()}
    assert {meter for meter, _ in rig.count()} == good
    assert {count for (_, run), count in rig.count().items() if run == RUN} == {108}
    found = {meter.meter_id: meter for meter in rig.collector.meters()}
    wrong = found.pop(f"DCU{WRONG:013d}")
    assert (wrong.state, wrong.key_failures, wrong.security) == ("failing", 1, "gmac, suite 0, both, client 1")
    assert {meter.key_failures for meter in found.values()} == {0}
    assert events(caplog) == {("meter.key", "WARNING"): 1}
    assert found["DCU0000000000008"].security == "ecdsa, suite 1, both, client 1"


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_works_over_the_tcp_wrapper(name: str) -> None:
    kind = KINDS[name]
    meter = kind.meter(1)
    access = MeterAccess(**({"client": 1} | kind.ours))  # type: ignore[arg-type]
    given = credentials(access, OURS, lambda _: MemoryCounters())
    session = MeterSession(WrapperLink(1, 1), client=given.client, server=1, auth=given.auth, security=given.security)
    server = WrapperServerLink(1)
    server.connect(0.0)
    session.read([AttributeRef.parse("1/0.0.42.0.0.255/2")], 0.0)
    found = []
    for _ in range(50):
        while output := session.take_output():
            server.receive(output, 0.0)
        while (event := server.next_event()) is not None:
            if hasattr(event, "apdu"):
                for answer in meter.receive_apdu(server.client or 0, event.apdu, 0.0):
                    server.send(answer, 0.0)
        while output := server.take_output():
            session.receive(output, 0.0)
        while (happened := session.next_event()) is not None:
            found.append(happened)
            if isinstance(happened, ItemRead):
                session.close(0.0)
    assert any(isinstance(event, ItemRead) for event in found)
    assert isinstance(found[-1], SessionClosed)


# --- a wrong key ---


class CountingMeter(SimMeter):
    """Notes which client asks for an association, and when."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.aarqs: list[tuple[int, float]] = []

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        if apdu[:1] == b"\x60":
            self.aarqs.append((client, now))
        return super().receive_apdu(client, apdu, now)


def counting(kind: Kind, serial: int) -> CountingMeter:
    keys = {} if kind.security is None else {1: replace(kind.security, counters=MemoryCounters(0))}
    return CountingMeter(serial, ROWS, 3, None, auth={1: kind.auth, 16: NoAuth()}, security=keys)


def tried(meter: CountingMeter) -> list[float]:
    """When client 1 asked for an association."""
    return [at for client, at in meter.aarqs if client == 1]


@pytest.mark.slow
def test_a_wrong_key_is_one_warning_and_pauses_that_grow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    meter = counting(KINDS["gmac"], WRONG)
    rig = PlcRig(tmp_path, [meter])
    rig.collector.configure(Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(WRONG, authentication_key=NEW_EK),)))
    rig.run(86_400)
    times = tried(meter)
    assert 5 <= len(times) <= 9
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert pauses[0] >= PAUSE_MIN_S / 2
    assert all(later >= 0.9 * sooner for sooner, later in itertools.pairwise(pauses))
    assert events(caplog) == {("meter.key", "WARNING"): 1}
    assert rig.collector.meters()[0].key_failures == len(times)
    assert rig.count() == {}


@pytest.mark.slow
def test_the_run_of_a_meter_with_a_wrong_key_counts_as_failed(tmp_path: Path) -> None:
    rig = PlcRig(tmp_path, all_meters()[-2:])
    rig.collector.configure(everything())
    rig.run(60)
    assert rig.collector.task_status("t1").last_result == "1 of 2 read, 1 failing"


def test_a_meter_with_a_wrong_key_is_not_read_again_because_it_says_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After each refusal the public client asks for the name, and that was a good visit."""
    rig = PlcRig(tmp_path, [KINDS["gmac"].meter(1)])
    rig.collector.configure(
        Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(1, authentication_key=NEW_EK),), system_title=OURS)
    )
    caplog.set_level(logging.INFO)
    rig.run(8 * 3600)
    (meter,) = rig.collector.meters()
    assert (meter.state, meter.last_success) == ("failing", 0.0)
    assert [getattr(record, "event", "") for record in caplog.records].count("meter.recovered") == 0


def test_another_key_is_tried_at_once(tmp_path: Path) -> None:
    meter = counting(KINDS["gmac"], WRONG)
    rig = PlcRig(tmp_path, [meter])
    rule = KINDS["gmac"].rule(WRONG, encryption_key=NEW_EK)
    rig.collector.configure(Provisioning((TASK,), access_rules=(rule,)))
    rig.run(60)
    assert rig.count() == {}
    rig.collector.configure(Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(WRONG),)))
    rig.run(60)
    assert set(rig.count().values()) == {108}
    assert rig.collector.meters()[0].state == "read"


@pytest.mark.slow
@pytest.mark.parametrize("known", [False, True], ids=["never read", "read with a key before"])
def test_a_wait_of_hours_ends_with_a_new_key_for_that_meter_and_for_no_other(tmp_path: Path, *, known: bool) -> None:
    meters = [counting(KINDS["gmac"], serial) for serial in (WRONG, WRONG + 1)]
    rig = PlcRig(tmp_path, meters)

    def provision(*keys: bytes) -> None:
        rules = [KINDS["gmac"].rule(WRONG + at, encryption_key=key) for at, key in enumerate(keys)]
        rig.collector.configure(Provisioning((TASK,), access_rules=tuple(rules)))

    if known:
        provision(EK, EK)
        rig.run(60)
        for meter in meters:
            rekey(meter, bytes(16))
    provision(NEW_EK, NEW_EK)
    rig.run(12 * 3600)
    rig.run(EVERY_S - (rig.clock.wall() - RUN) % EVERY_S + 300)
    before, read = [tried(meter)[-1] for meter in meters], rig.count()
    assert not any(rig.clock.now - at < 300 for at in before), "both rest for long"
    provision(bytes(16) if known else EK, NEW_EK)
    rig.run(60)
    newest = max(int(str(run)) for _, run in rig.count())
    assert {meter for meter, run in rig.count() if (meter, run) not in read} == {meters[0].id}
    assert newest == RUN + (rig.clock.wall() - RUN) // EVERY_S * EVERY_S
    assert tried(meters[1])[-1] == before[1]


@pytest.mark.slow
def test_a_wrong_key_does_not_slow_the_others(tmp_path: Path) -> None:
    def last_read(wrong: int) -> float:
        folder = tmp_path / str(wrong)
        folder.mkdir()
        meters = [KINDS["gmac"].meter(serial) for serial in range(1, 31)]
        rig = PlcRig(folder, meters)
        rules = [KINDS["gmac"].rule(serial) for serial in range(1, 31)]
        rules[:wrong] = [KINDS["gmac"].rule(serial, encryption_key=NEW_EK) for serial in range(1, wrong + 1)]
        rig.collector.configure(Provisioning((TASK,), access_rules=tuple(rules)))
        rig.run(300)  # the first run, with names and scalers
        rig.run(EVERY_S - 100)
        return max(float(str(r["received"])) - RUN - EVERY_S for r in rig.records() if r["run"] == RUN + EVERY_S)

    assert last_read(20) <= last_read(0)


# --- a change of keys ---


def rekey(meter: SimMeter, ek: bytes) -> None:
    held = meter.server.security_of(1)
    assert held is not None
    meter.server.change_security(held, replace(held, ek=ek, counters=MemoryCounters(0)))


@pytest.mark.slow
def test_new_keys_are_used_once_the_meter_has_them_and_the_old_ones_until_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    meter = counting(KINDS["gmac"], 5)
    rig = PlcRig(tmp_path, [meter])
    old = Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(5),))
    new = Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(5, encryption_key=NEW_EK),))
    rig.collector.configure(old)
    rig.run(60)
    assert len(rig.count()) == 1
    rig.collector.configure(new)
    rig.run(4 * EVERY_S)  # the meter does not know of it yet
    assert len(rig.count()) == 5
    assert set(rig.count().values()) == {108}
    assert events(caplog) == {("meter.key.pending", "WARNING"): 1}
    assert rig.collector.meters()[0].state == "read"
    rig.restart()  # the old keys are still known then
    rig.collector.configure(new)
    rig.run(EVERY_S)
    assert len(rig.count()) == 6
    caplog.clear()
    rekey(meter, NEW_EK)
    rig.run(4 * EVERY_S)
    assert events(caplog)["meter.key.changed", "INFO"] == 1
    assert len(rig.count()) == 10
    assert set(rig.count().values()) == {108}
    failures = rig.collector.meters()[0].key_failures
    rig.restart()
    rig.collector.configure(new)
    rig.run(2 * EVERY_S)
    assert rig.collector.meters()[0].key_failures == 0, failures
    assert len(rig.count()) == 12


# --- counters ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gmac", "sha256"])
def test_counters_behind_those_that_the_meter_has_seen_go_on_ahead_of_them(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    meter = KINDS[name].meter(5)
    rig = PlcRig(tmp_path, [meter])

    def seen() -> int:
        held = meter.server.security_of(1)
        assert held is not None
        return held.counters.seen() or 0

    meter.server.add(CosemObject(1, Obis.parse("0.0.43.1.0.255"), readers={2: lambda _selection: axdr.u32(seen())}))
    settings = Provisioning((TASK,), access_rules=(KINDS[name].rule(5),))
    rig.collector.configure(settings)
    rig.run(100)
    held = meter.server.security_of(1)
    assert held is not None
    held.counters.note(70_000)  # of another device with our title, or of this one before an old state was put back
    assert seen() == 70_000
    rig.run(3 * EVERY_S)
    assert [run for _, run in sorted(rig.count())] == [RUN, RUN + EVERY_S, RUN + 2 * EVERY_S, RUN + 3 * EVERY_S]
    assert set(rig.count().values()) == {108}
    assert events(caplog) == {("meter.key", "WARNING"): 1}
    (said,) = [record for record in caplog.records if getattr(record, "event", "") == "meter.counter"]
    assert "has seen invocation counter 70000 and ours stood at " in said.getMessage()
    assert 70_000 < seen() < 70_000 + 2 * BLOCK
    assert rig.collector.meters()[0].key_failures == 1
    rig.restart()
    rig.collector.configure(settings)
    rig.run(EVERY_S)
    assert len(rig.count()) == 5
    assert rig.collector.meters()[0].key_failures == 0


@pytest.mark.slow
def test_a_kill_neither_repeats_a_counter_nor_locks_us_out(tmp_path: Path) -> None:
    """The meter refuses a counter that is not higher than all before, as meters do."""
    meter = KINDS["gmac"].meter(5)
    rig = PlcRig(tmp_path, [meter])
    settings = Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(5),))
    seen: list[int] = []
    for _ in range(4):
        rig.collector.configure(settings)
        rig.run(EVERY_S)
        held = meter.server.security_of(1)
        assert held is not None
        seen.append(held.counters.seen() or 0)
        rig.reader.close()
        rig.store.close()  # nothing of the collector is closed: it was killed
        rig.start()
    assert seen == sorted(set(seen))
    assert len(rig.count()) == 5
    assert rig.collector.meters()[0].key_failures == 0


def test_an_answer_that_is_sent_again_after_a_restart_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = KINDS["authenticated"].meter(5)
    begin_at(meter, 1000)
    rig = PlcRig(tmp_path, [meter])
    settings = Provisioning((TASK,), access_rules=(KINDS["authenticated"].rule(5),))
    rig.collector.configure(settings)
    rig.run(60)
    rig.restart()
    rig.collector.configure(settings)
    begin_at(meter, 0)
    rig.run(EVERY_S)
    assert events(caplog) == {("meter.replay", "WARNING"): 1}
    assert len(rig.count()) == 1
    rig.collector.remove(meter.id)  # a person says that it is another meter, or begins anew
    rig.network.command({"cmd": "join", "meter": meter.id}, rig.clock.now)
    rig.run(100)
    assert len(rig.count()) == 2


def begin_at(meter: SimMeter, counter: int) -> None:
    """The meter's own invocation counter goes on here, whatever it was."""
    held = meter.server.security_of(1)
    assert held is not None
    meter.server.change_security(held, replace(held, counters=MemoryCounters(counter, held.counters.seen())))


# --- secrets ---


@pytest.mark.slow
def test_no_secret_is_shown_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rig = PlcRig(tmp_path, all_meters())
    rig.collector.configure(everything())
    rig.run(60)
    shown = [*(record.getMessage() for record in caplog.records), repr(rig.collector.meters()), repr(everything())]
    secrets = [secret for secret in everything().secrets() if len(secret) > 6]
    assert len(secrets) > 10
    for text in shown:
        for secret in secrets:
            assert secret.hex() not in text.lower()
            assert repr(secret)[2:-1] not in text
    for file in tmp_path.rglob("*"):
        if file.is_file() and any(
            secret in file.read_bytes() or secret.hex().encode() in file.read_bytes() for secret in secrets
        ):
            assert file.parent.name == "keys"
            assert file.stat().st_mode & 0o077 == 0


# --- which access holds ---

HERE = Meter("plc0/02dc", "plc0", 7, "02dc00000005", "DCU0000000000005", named=True, joined=0.0)


def group(name: str, pattern: str = "", port: str = "", **given: int | str | bytes) -> AccessRule:
    return AccessRule(f"group/{name}", pattern=pattern, port=port, given=tuple(given.items()))


def test_the_most_specific_rule_holds_and_gives_what_the_others_do_not() -> None:
    default = MeterAccess(16, "low", b"default")
    rules = [
        group("port", port="plc0", client=2),
        group("maker", "DCU*", client=3, auth="gmac"),
        group("series", "DCU00000*", client=4, suite=1),
        group("both", "DCU*", "plc0", client=5, policy="both"),
        group("elsewhere", "DCU0000000000005", "plc1", client=6),
        group("empty", client=7),
        AccessRule("meter/other", meter="DCU0000000000006", given=(("client", 8),)),
    ]
    assert AccessRules(default, rules).resolve(HERE) == MeterAccess(5, "low", b"default", policy="both")
    assert AccessRules(default, [*rules[:3], *rules[4:]]).resolve(HERE) == MeterAccess(4, "low", b"default", suite=1)
    assert AccessRules(default, [rules[0], *rules[4:]]).resolve(HERE) == MeterAccess(2, "low", b"default")
    assert AccessRules(default, rules[4:]).resolve(HERE) == default
    for name in ("DCU0000000000005", "02dc00000005", "plc0/7"):
        own = AccessRule("meter/x", meter=name, given=(("encryption_key", EK),))
        found = AccessRules(default, [*rules, own]).resolve(HERE)
        assert found == MeterAccess(5, "low", b"default", policy="both", encryption_key=EK)


def test_a_meter_with_a_rule_for_its_place_is_not_asked_for_its_name_first(tmp_path: Path) -> None:
    meter = counting(KINDS["lls"], 5)
    rig = PlcRig(tmp_path, [meter])
    rule = replace(KINDS["lls"].rule(5), meter="plc0/2")
    rig.collector.configure(Provisioning((TASK,), access_rules=(rule,)))
    rig.run(60)
    assert set(rig.count().values()) == {108}
    assert {client for client, _ in meter.aarqs} == {1}


def test_a_meter_without_a_public_client_is_tried_with_the_keys_of_all(tmp_path: Path) -> None:
    meter = SimMeter(5, ROWS, 3, None, auth={1: Lls(PASSWORD)})
    rig = PlcRig(tmp_path, [meter])
    rig.collector.configure(
        Provisioning((TASK,), access=MeterAccess(1, "low", PASSWORD), access_rules=(KINDS["gmac"].rule(6),))
    )
    rig.run(120)
    assert set(rig.count().values()) == {108}


# --- what does not fit together ---


@pytest.mark.parametrize(
    ("access", "reason"),
    [
        (MeterAccess(auth="low"), "a password has"),
        (MeterAccess(auth="gmac"), "needs an encryption key"),
        (MeterAccess(auth="gmac", encryption_key=EK), "needs an authentication key"),
        (MeterAccess(policy="both"), "needs an encryption key"),
        (MeterAccess(policy="both", encryption_key=EK), "authentication key"),
        (MeterAccess(policy="both", suite=2, encryption_key=EK, authentication_key=AK), "32 octets"),
        (MeterAccess(policy="both", suite=3, encryption_key=EK, authentication_key=AK), "suite 3"),
        (MeterAccess(policy="none", encryption_key=EK), "not a policy"),
        (MeterAccess(auth="ecdsa", suite=1), "public key"),
        (MeterAccess(auth="ecdsa", suite=1, meter_key=bytes(64), signing_key=DER), "point"),
        (MeterAccess(auth="ecdsa", suite=1, meter_key=public_octets(METER_SIGNS.public_key())), "signing key"),
        (MeterAccess(auth="aes", secret=b"short"), "16 octets"),
        (MeterAccess(auth="magic"), "not an authentication"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(access: MeterAccess, reason: str) -> None:
    with pytest.raises(LocalError, match=reason):
        credentials(access, OURS, lambda _: MemoryCounters())


def test_every_word_of_the_settings_is_understood() -> None:
    kinds = {kind.ours["auth"] for kind in KINDS.values()}
    assert kinds == set(AUTHS)
    assert {str(kind.ours.get("policy", "plain")) for kind in KINDS.values()} == set(POLICIES)


def test_a_broadcast_key_has_counters_of_its_own() -> None:
    asked: list[bytes] = []

    def counters(key: bytes) -> MemoryCounters:
        asked.append(key)
        return MemoryCounters()

    access = MeterAccess(1, "gmac", policy="both", authentication_key=AK, encryption_key=EK, broadcast_key=BK)
    made = credentials(access, OURS, counters)
    assert asked == [BK, EK]
    assert made.security is not None
    assert made.security.options.broadcast_key == BK


def test_objects_that_the_last_client_did_not_see_are_asked_for_with_the_next(tmp_path: Path) -> None:
    meter = KINDS["lls"].meter(5)
    rig = PlcRig(tmp_path, [meter])
    rig.collector.configure(Provisioning((TASK,)))
    rig.run(60)
    assert Counter(record["error"] for record in rig.records())["object-undefined"] > 50
    rig.collector.configure(Provisioning((TASK,), access=MeterAccess(1, "low", PASSWORD)))
    rig.run(EVERY_S)
    assert {record["error"] for record in rig.records() if record["run"] == RUN + EVERY_S} == {None}


# --- settings that come in parts ---


def book(tmp_path: Path, disk: Storage | None = None) -> AccessBook:
    return AccessBook(KeyStore(disk or RealDisk(), tmp_path / "keys"), VirtualClock(), lambda: 1.0)


def without_secrets(settings: Provisioning) -> Provisioning:
    """As the management tree has them, once it has given the secrets away."""
    empty = dict.fromkeys(SECRET_FIELDS, b"")
    rules = [
        replace(rule, given=tuple((name, value) for name, value in rule.given if name not in SECRET_FIELDS))
        for rule in settings.access_rules
    ]
    return replace(settings, access=replace(settings.access, **empty), access_rules=tuple(rules))  # type: ignore[arg-type]


def test_secrets_that_the_tree_gave_away_are_still_there_after_a_restart(tmp_path: Path) -> None:
    settings = replace(everything(), access=MeterAccess(1, "low", PASSWORD))
    one = book(tmp_path)
    assert not one.stored(settings)
    complete = one.configure(settings)
    assert set(complete.secrets()) == set(settings.secrets())
    assert one.stored(settings)
    again = book(tmp_path)
    assert again.configure(without_secrets(settings)) == complete
    assert again.configure(without_secrets(settings)) == complete


def test_a_new_secret_replaces_one_and_a_rule_that_goes_takes_its_secrets_along(tmp_path: Path) -> None:
    settings = Provisioning(access_rules=(KINDS["gmac"].rule(5), KINDS["gmac"].rule(6)))
    one = book(tmp_path)
    one.configure(settings)
    changed = AccessRule("meter/DCU0000000000005", meter="DCU0000000000005", given=(("encryption_key", NEW_EK),))
    complete = one.configure(Provisioning(access_rules=(changed,)))
    assert dict(complete.access_rules[0].given) == {"encryption_key": NEW_EK, "authentication_key": AK}
    assert one.configure(without_secrets(settings)).access_rules[1].given == tuple(
        (name, value) for name, value in KINDS["gmac"].rule(6).given if name not in SECRET_FIELDS
    )


def test_secrets_stay_in_the_tree_while_they_cannot_be_stored_and_are_joined_later(tmp_path: Path) -> None:
    disk = FaultyDisk()
    settings = everything()
    one = book(tmp_path, disk)
    one.configure(Provisioning())

    def full(operation: Operation) -> float | None:
        raise OSError(28, "no space left on device")

    disk.on_operation = full
    assert one.configure(settings) == settings
    assert not one.stored(settings)
    disk.on_operation = None
    one.open(HERE)
    assert one.stored(settings)


def test_our_system_title_is_the_one_that_is_provisioned_else_one_of_our_own(tmp_path: Path) -> None:
    one = book(tmp_path)
    own = one.system_title()
    assert len(own) == 8
    assert book(tmp_path).system_title() == own
    one.configure(Provisioning(system_title=OURS))
    assert one.system_title() == OURS


def test_a_meter_that_is_forgotten_while_its_keys_change_is_read_with_the_old_ones(tmp_path: Path) -> None:
    """They are in the meter, and nowhere else: the head-end cannot read them back."""
    meter = KINDS["gmac"].meter(5)
    rig = PlcRig(tmp_path, [meter])
    rig.collector.configure(Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(5),)))
    rig.run(60)
    changed = Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(5, encryption_key=NEW_EK),))
    rig.collector.configure(changed)
    rig.run(1000)
    before = len(rig.count())
    assert rig.collector.remove(meter.id)
    rig.restart()
    rig.collector.configure(changed)
    rig.run(3 * 3600)
    assert rig.statuses() == {meter.id: "read"}
    assert len(rig.count()) >= before + 10
