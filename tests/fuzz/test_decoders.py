"""No decoder of the agent, of the shared protocols and of the head-end is without a fuzz target."""

from __future__ import annotations

import pytest

from tests.fuzz import agent, headend, omadm
from tests.fuzz.guided import Target
from tests.fuzz.reach import decoders, reached

OTHERS = (
    "account_from_tnds",
    "answer",
    "choose",
    "describe",
    "from_base64",
    "from_tnds",
    "inflate",
    "state_from_json",
    "unchanged",
    "verify",
    "verify_basic",
    "verify_hmac",
    "verify_mac",
    "verify_md5",
)
TARGETS: dict[str, dict[str, Target]] = {
    "omadm": omadm.TARGETS,
    "agent": agent.TARGETS,
    "headend": headend.TARGETS,
}
# What has such a name and takes nothing that a peer or a disk made up, or is a line around a decoder with a target.
NO_DECODERS: dict[str, dict[str, str]] = {
    "omadm": {},
    "agent": {
        "metering.visit.profile_catchup.ProfileReading.answer": "values that dlms decoded",
        "metering.visit.profile_catchup.ProfileReading.describe": "values that dlms decoded",
        "metering.visit.profile_place.Place.load": "a record of the store, which its test damages at random",
        "jobs.firmware.load": "a record of the stored tree, which the target tree reads",
    },
    "headend": {
        "db.open_engine": "a URL of the configuration",
        "dm.accounts.load": "a row of the database",
        "dm.jobs.steps.read": "steps of a job",
        "dm.schemes.Scheme.verify": "a protocol",
        "operator.commands.load": "a line around config.load",
    },
}


@pytest.mark.parametrize("package", sorted(TARGETS))
def test_every_decoder_is_reached_by_a_fuzz_target(package: str) -> None:
    found = decoders(package, OTHERS)
    missing = found - reached(package, TARGETS[package].values()) - set(NO_DECODERS[package])
    assert not missing
    assert set(NO_DECODERS[package]) <= found
