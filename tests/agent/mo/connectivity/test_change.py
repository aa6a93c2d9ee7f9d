"""The states of a change on trial, apart from sessions."""

from __future__ import annotations

import itertools

import pytest

from agent.mo.connectivity import trial
from agent.mo.connectivity.trial import Event, State, Trial, TrialStateError
from agent.tree import alerts
from agent.tree.nodes import Content
from agent.tree.tree import Transaction
from omadm.codes import Code, Refusal
from tests.agent.dm.server import FakeDmServer
from tests.agent.dm_device import Device
from tests.omadm.test_addresses import UNUSABLE


def fresh() -> Transaction:
    return Device(FakeDmServer()).tree.view()


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_a_trial_begins_where_there_is_none_and_ends_where_there_is_one(state: State, event: Event) -> None:
    one = Trial(state=state)
    if (event is Event.BEGIN) == one.under_way:
        with pytest.raises(TrialStateError):
            one.after(event)
    else:
        wanted = {Event.BEGIN: State.TRIAL, Event.CONFIRM: State.CONFIRMED, Event.REVERT: State.REVERTED}
        assert one.after(event).state == wanted[event]


@pytest.mark.parametrize("leaf", ["ServerURL", "RegistrationURL", "UplinkURL"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_address_is_not_proposed(leaf: str, name: str) -> None:
    url, why = UNUSABLE[name]
    with pytest.raises(Refusal, match=why) as refused:
        fresh().replace(("ConnMO", "Proposed", leaf), Content("chr", "text/plain", url))
    assert refused.value.code == Code.BAD_REQUEST


def test_an_address_without_an_account_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        trial.begin(fresh(), {trial.DM_SERVER: "https://new.example/"}, trial_id="1")
    assert refused.value.code == Code.INCOMPLETE


def test_without_an_id_of_the_boot_every_start_counts_as_one() -> None:
    changing = fresh()
    trial.begin(changing, {trial.ACCESS: "apn=x"}, trial_id="1")
    for boots in range(trial.BOOTS_MAX + 1):
        trial.run_from(changing, 10.0, "")
        assert trial.load(changing).boots == boots
    trial.run_from(changing, 10.0, "")
    assert trial.load(changing).state == State.REVERTED
    assert trial.in_use(changing).access == ""


def test_what_a_later_version_keeps_in_the_record_stays() -> None:
    changing = fresh()
    changing.set_record(trial.RECORD, {"trial": {"later": 1}, "later": 2})
    trial.begin(changing, {trial.ACCESS: "apn=x"}, trial_id="1")
    trial.confirm(changing)
    record = changing.record(trial.RECORD)
    assert (record["later"], record["trial"]["later"]) == (2, 1)


def test_a_change_in_a_state_of_a_later_version_is_on_trial_until_its_deadline() -> None:
    """After a rollback in mid-change: it would stay in use for ever otherwise, and its server would hear nothing."""
    one = Device(FakeDmServer()).registered()
    with one.tree.transaction() as changing:
        trial.begin(changing, {trial.TIME_SERVERS: "new.example"}, trial_id="1", correlator="c-1", within_s=900.0)
        record = changing.record(trial.RECORD)
        changing.update_record(trial.RECORD, trial={**record["trial"], "state": "probing"})
    one.restart()
    assert trial.load(one.tree.view()).under_way
    with one.tree.transaction() as changing:
        trial.revert(changing, "no session in time")
    assert trial.in_use(one.tree.view()).time_servers == ""
    (alert,) = alerts.pending(one.tree.view())
    assert (alert.correlator, f"<ResultCode>{trial.TAKEN_BACK}</ResultCode>") == ("c-1", alert.data)
    with one.tree.transaction() as changing:  # one that is over in a word of its own is over
        record = changing.record(trial.RECORD)
        changing.update_record(trial.RECORD, trial={**record["trial"], "state": "superseded"})
    assert trial.load(one.tree.view()).state == State.IDLE
