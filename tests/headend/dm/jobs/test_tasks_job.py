"""The job `tasks`: what it refuses when it is queued, and what it makes of a device's tree."""

from __future__ import annotations

from typing import Any

import pytest

from headend.dm.jobs.params import JobError
from headend.dm.jobs.tasks import TasksJob

CODES = "3/1.0.1.8.0.255/2"
MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"


def test_parameters_become_the_nodes_of_the_tree() -> None:
    checked = TasksJob().check(
        {
            "tasks": {
                "day": {"times": "0 0 * * *", "codes": CODES, "meters": ["m1", "m2"], "retries": 0, "enabled": False},
                "old": None,
            },
            "zone": MADRID,
            "quiet_hours": "17:00-21:00",
        }
    )
    assert checked == {
        "tasks": {
            "day": {
                "Setting/Times": {"value": "0 0 * * *", "format": "chr"},
                "Setting/Codes": {"value": CODES, "format": "chr"},
                "Select/Meters": {"value": "m1,m2", "format": "chr"},
                "Setting/Retries": {"value": "0", "format": "int"},
                "Enabled": {"value": "false", "format": "bool"},
            },
            "old": None,
        },
        "zone": MADRID,
        "quiet_hours": "17:00-21:00",
    }
    assert TasksJob().check({"quiet_hours": ""}) == {"tasks": {}, "quiet_hours": ""}


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({}, "t: every or times wanted"),
        ({"every": 900}, "t: reading_list or codes wanted"),
        ({"every": 900, "times": "0 0 * * *", "codes": CODES}, "t: every or times wanted"),
        ({"every": 0, "codes": CODES}, "t: every: 1 to 2678400 wanted, not 0"),
        ({"every": True, "codes": CODES}, "t: every: 1 to 2678400 wanted"),
        ({"every": 900, "offset": 900, "codes": CODES}, "t: offset goes with every"),
        ({"times": "0 0 * * *", "offset": 9, "codes": CODES}, "t: offset goes with every"),
        ({"times": "0 0 30 2 *", "codes": CODES}, "t: times: 0 0 30 2 .: no such day"),
        ({"every": 900, "codes": CODES, "window": "night"}, "t: window: 'night'"),
        ({"every": 900, "codes": CODES, "spread": 60, "deadline": 60}, "t: a spread as long"),
        ({"every": 900, "codes": CODES, "meters": "m1"}, "t: meters: a list"),
        ({"every": 900, "codes": CODES, "meters": ["m1,m2"]}, "t: meters: 'm1,m2' has a comma"),
        ({"every": 900, "codes": CODES, "meters": []}, "t: meters: a list"),
        ({"every": 900, "codes": CODES, "colour": "red"}, "unknown parameter colour"),
        ({"every": 900, "codes": CODES, "enabled": "yes"}, "t: enabled: true or false"),
        ("daily", "t: an object, or null, wanted"),
    ],
)
def test_a_wrong_task_is_refused_with_its_place(task: Any, why: str) -> None:
    with pytest.raises(JobError, match=why):
        TasksJob().check({"tasks": {"t": task}})


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({}, "tasks: an object"),
        ({"tasks": []}, "tasks: an object"),
        ({"tasks": {"a/b": None}}, "a task: up to 64 letters"),
        ({"zone": "Europe/Madrid"}, "zone: 'Europe/Madrid': a POSIX TZ string"),
        ({"quiet_hours": "17-21"}, "quiet_hours: '17-21'"),
        ({"colour": "red"}, "unknown parameter colour"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], why: str) -> None:
    with pytest.raises(JobError, match=why):
        TasksJob().check(params)
