"""The sign of life itself is lost, or tells a time that has not come: no id is used twice, and all of it is said."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.store import life_sign
from agent.metering.store.life_sign import GENERATION_BYTES, LifeSign, LifeSignFile, Look
from agent.metering.store.reading_store import StoreError
from tests.agent.metering.readings import event, visit
from tests.agent.metering.store.test_life_sign import NAME, SIGN, Headend, collect, damages, deliver, lived, opened
from tests.agent.virtual import VirtualClock
from updateagent.disk import RawFile, RealDisk

ALIVE = f"{NAME}-alive"
T0 = VirtualClock().wall()


def spoil(path: Path, *places: int) -> None:
    octets = bytearray(path.read_bytes())
    for at in places:
        octets[at + 20] ^= 0xFF
    path.write_bytes(octets)


def gone(path: Path) -> None:
    path.unlink()


def both(path: Path) -> None:
    path.write_bytes(b"\xa5" * path.stat().st_size)


def newest(path: Path) -> None:
    """The generation that was written last, both lines of it: one older is left, which looks sound."""
    sign = LifeSignFile(path).read()
    assert sign is not None
    at = sign.number % life_sign.GENERATIONS * GENERATION_BYTES
    spoil(path, *(at + copy for copy in life_sign.COPY_AT))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("lose", [gone, both, newest, folder])
def test_no_id_is_used_twice_where_the_sign_is_lost_and_the_log_is_damaged_too(
    tmp_path: Path, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = lived(tmp_path / "s", 3)
    uuid = next(store for store, _ in before)
    log = (tmp_path / "s" / f"{NAME}-wal").read_bytes()
    said = 0
    for number, (what, damaged) in enumerate(list(damages(log))[::5]):
        case = tmp_path / f"case-{number}"
        shutil.copytree(tmp_path / "s", case)
        (case / f"{NAME}-wal").write_bytes(damaged)
        lose(case / ALIVE)
        headend = dict(before)
        caplog.clear()
        store = opened(case, VirtualClock(wall=T0 + 3600.0))
        collect(store, 4)
        deliver(store, headend)  # and asserts that no id is used for the second time
        assert all(reading.raw in headend.values() for reading in visit(12, 3)), what
        assert store.file.uuid != uuid
        if list(case.glob("*.quarantine-1")):  # else all that there was had been in the log
            assert [loss.records for loss in store.losses()][-1] == 0, "nobody knows how many"
            assert "store.corrupt" in [getattr(record, "event", "") for record in caplog.records]
            said += 1
        again = store.file.uuid
        store.close()
        store = opened(case, VirtualClock(wall=T0 + 3600.0))
        assert store.progress() != {}
        assert store.file.uuid == again  # once is enough
        store.close()
    assert said


def test_a_sign_that_is_lost_alone_costs_no_reading(tmp_path: Path) -> None:
    headend = lived(tmp_path / "s", 1)
    gone(tmp_path / "s" / ALIVE)
    store = opened(tmp_path / "s", VirtualClock(wall=T0 + 3600.0))
    store.append(visit(100, 1))
    deliver(store, headend)
    assert sorted(map(str, headend.values())) == sorted(str(reading.raw) for reading in [*visit(3, 9), *visit(100, 1)])


def test_a_store_that_is_put_back_beside_the_sign_of_its_successor_is_no_store_to_go_on_with(tmp_path: Path) -> None:
    headend = Headend()
    store = opened(tmp_path, VirtualClock())
    collect(store, 1)
    deliver(store, headend)
    store.close()
    kept = (tmp_path / NAME).read_bytes()
    store = opened(tmp_path, VirtualClock())
    collect(store, 2)
    deliver(store, headend)
    store.close()
    (tmp_path / NAME).write_bytes(b"\xff" * 20_000)
    store = opened(tmp_path, VirtualClock())
    collect(store, 3)
    deliver(store, headend)
    store.close()
    (tmp_path / NAME).write_bytes(kept)
    store = opened(tmp_path, VirtualClock())
    collect(store, 4)
    deliver(store, headend)
    assert len({store for store, _ in headend}) == 3


def test_a_store_of_before_there_were_signs_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path, VirtualClock())
    collect(store, 1)
    uuid = store.file.uuid
    store.ask(lambda db: db.execute("DELETE FROM identity WHERE key='signed'"))
    store.close()
    gone(tmp_path / ALIVE)
    store = opened(tmp_path, VirtualClock())
    collect(store, 2)
    assert store.file.uuid == uuid
    store.close()
    gone(tmp_path / ALIVE)  # but from now on it says that it had one
    store = opened(tmp_path, VirtualClock())
    collect(store, 3)
    assert store.file.uuid != uuid


@pytest.mark.parametrize("cut", [1, 30, 200, 300])
def test_a_write_that_is_cut_leaves_no_doubt(tmp_path: Path, cut: int) -> None:
    """Whichever of the two lines the cut went through, the other one tells."""
    file = LifeSignFile(tmp_path / "a")
    signs = {number: LifeSign(number, SIGN.store, number * 100, lists_from=number) for number in (3, 4, 5, 6)}
    for number in (3, 4, 5):
        file.write(signs[number])
    octets = bytearray((tmp_path / "a").read_bytes())
    new = signs[6].emit()
    for copy, number in zip(life_sign.COPY_AT, (5, 6), strict=True):
        part = new[: min(cut, len(new) - 5)]
        octets[copy : copy + len(part)] = part
        (tmp_path / "a").write_bytes(octets)
        assert LifeSignFile(tmp_path / "a").look() == Look(signs[number], doubtful=False)
        octets[copy : copy + len(new)] = new
        (tmp_path / "a").write_bytes(octets)
        assert LifeSignFile(tmp_path / "a").look() == Look(signs[6], doubtful=False)


class Failing(RealDisk):
    def __init__(self, error: int) -> None:
        self.error = error

    def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
        if not write:
            raise OSError(self.error, "the medium")
        return super().open_raw(path, write=write, create=create, mode=mode)


def test_what_says_nothing_about_the_file_is_no_doubt_but_trouble(tmp_path: Path) -> None:
    assert LifeSignFile(tmp_path / "a", Failing(errno.EIO)).look() == Look(None, doubtful=True)
    with pytest.raises(OSError, match="the medium"):
        LifeSignFile(tmp_path / "a", Failing(errno.EMFILE)).look()


def test_a_copy_keeps_the_doubt(tmp_path: Path) -> None:
    file = LifeSignFile(tmp_path / "a")
    for number in (1, 2):
        file.write(LifeSign(number, SIGN.store, number))
    newest(tmp_path / "a")
    file.copy(tmp_path / "b")
    assert LifeSignFile(tmp_path / "b").look() == Look(LifeSign(1, SIGN.store, 1), doubtful=True)
    LifeSignFile(tmp_path / "c", Failing(errno.EIO)).copy(tmp_path / "b")
    assert LifeSignFile(tmp_path / "b").look() == Look(None, doubtful=True)


def test_a_file_that_was_taken_away_is_made_again_with_the_next_sign(tmp_path: Path) -> None:
    file = LifeSignFile(tmp_path / "a")
    file.write(LifeSign(1, SIGN.store, 1))
    gone(tmp_path / "a")
    file.write(LifeSign(2, SIGN.store, 2))
    assert file.read() == LifeSign(2, SIGN.store, 2)


# ---- events that meters have told once only


def with_events(folder: Path) -> Headend:
    """A store that took a visit and an event, which the head-end has, and two events that it does not have."""
    folder.mkdir()
    clock, headend = VirtualClock(), Headend()
    store = opened(folder, clock)
    collect(store, 1)
    store.append([], urgent=[event("k1")])
    while (batch := store.batch(100)) is not None:
        headend |= {(batch.store, int(str(one["id"]))): one.get("key", one.get("raw")) for one in batch.records}
        store.release(batch.store, batch.last, first=batch.first)
    clock.advance(600.0)
    store.append([], urgent=[event("k2")])
    clock.advance(60.0)
    store.append([], urgent=[event("k3")])
    at_the_cut = folder.with_name(folder.name + "-cut")
    shutil.copytree(folder, at_the_cut)
    store.close()
    shutil.rmtree(folder)
    at_the_cut.rename(folder)
    return headend


def lost_events(folder: Path) -> tuple[int, str, list[str]]:
    """What the store says of events that are lost: how many, from when to when; and the events that it still has."""
    store = opened(folder, VirtualClock(wall=T0 + 7200.0))
    store.next_id()
    while store.file.recovering:
        store.next_id()
    records = []
    while (batch := store.batch(100)) is not None:
        records += [one for one in batch.records if "event" in one]
        store.release(batch.store, batch.last, first=batch.first)
    store.close()
    said = [one for one in records if one["event"] == "notice"]
    assert len(said) <= 1
    assert all(one["grave"] and one["sender"] == "the concentrator" for one in said)
    span = " ".join(str(value["raw"]) for one in said for value in one["values"])  # type: ignore[attr-defined]
    kept = [str(one["key"]) for one in records if one["event"] != "notice"]
    return (int(str(said[0]["count"])) if said else 0), span, kept


def test_events_that_a_damaged_log_took_are_said_with_their_number_and_time(tmp_path: Path) -> None:
    headend = with_events(tmp_path / "s")
    assert "k1" in headend.values()
    log = (tmp_path / "s" / f"{NAME}-wal").read_bytes()
    seen = set()
    for number, (what, damaged) in enumerate(list(damages(log))[::3]):
        case = tmp_path / f"case-{number}"
        shutil.copytree(tmp_path / "s", case)
        (case / f"{NAME}-wal").write_bytes(damaged)
        lost, span, kept = lost_events(case)
        waiting = [key for key in kept if key != "k1"]
        assert lost + len(waiting) == 2, what
        seen.add(lost)
        if lost:
            assert span == "2027-01-15T08:10:00Z 2027-01-15T10:00:00Z", what
        shutil.rmtree(case)
    assert seen == {1, 2}


def test_events_that_went_with_the_whole_store_are_said_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    with_events(tmp_path / "s")
    for path in (tmp_path / "s").iterdir():
        if path.name != ALIVE:
            path.unlink()
    with caplog.at_level(logging.ERROR):
        assert lost_events(tmp_path / "s") == (2, "2027-01-15T08:10:00Z 2027-01-15T10:00:00Z", [])
    assert "event.lost" in [getattr(record, "event", "") for record in caplog.records]
    assert lost_events(tmp_path / "s") == (0, "", [])  # once


def test_a_whole_log_has_lost_no_event(tmp_path: Path) -> None:
    with_events(tmp_path / "s")
    assert lost_events(tmp_path / "s") == (0, "", ["k2", "k3"])


def test_an_event_is_stored_though_the_sign_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    store = opened(tmp_path, VirtualClock())
    collect(store, 1)

    def full(_self: LifeSignFile, _sign: LifeSign) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(LifeSignFile, "write", full)
    assert store.append([], urgent=[event("k1")]) == (5, 4)
    assert [one["key"] for one in store.events(9)] == ["k1"]
    with pytest.raises(StoreError):
        store.batch(10)  # but it goes nowhere before there is one


# ---- a time that has not come


def signs(*times: float) -> LifeSign:
    sign = LifeSign()
    for wall in times:
        sign = sign.alive_at(wall)
    return sign


def test_a_sign_keeps_what_was_before_the_clock_moved_on_at_once() -> None:
    assert (signs(T0, T0 + 300.0, T0 + 1200.0).alive, signs(T0, T0 + 300.0, T0 + 1200.0).steady) == (T0 + 1200.0, 0.0)
    ahead = signs(T0, T0 + 300.0, T0 + 86_400.0, T0 + 86_700.0)
    assert (ahead.alive, ahead.steady) == (T0 + 86_700.0, T0 + 300.0)
    back = ahead.alive_at(T0 + 900.0)
    assert (back.alive, back.steady) == (T0 + 900.0, T0 + 300.0)
    assert back.alive_at(T0 - 60.0).steady == T0 - 60.0
    assert LifeSign.parse(ahead.emit()) == ahead


def test_a_ledger_counts_from_the_last_sign_that_has_come(tmp_path: Path) -> None:
    store = opened(tmp_path, VirtualClock())
    for wall in (T0, T0 + 300.0, T0 + 86_400.0):
        store.note_alive(wall)
    keeper = LedgerKeeper(store)
    keeper.load({})
    assert keeper.orphaned
    assert keeper.alive_before(T0 + 86_400.0) == T0 + 86_400.0
    assert keeper.alive_before(T0 + 3600.0) == T0 + 300.0
    assert keeper.alive_before(T0 - 3600.0) == 0.0
    assert keeper.last_sign == T0 + 86_400.0
