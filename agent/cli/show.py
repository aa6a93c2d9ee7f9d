"""The daemon's answers as a person reads them: aligned columns, times as UTC with an age."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MINUTE, HOUR, DAY = 60, 3600, 86_400
FIRMWARE_STATES_AT_REST = ("idle",)
STATES_WITH_PROGRESS = ("writing", "written")


def when(epoch: float, now: float) -> str:
    """Return `2026-11-22 10:00:00Z (3 min ago)`; `never` for 0."""
    if not epoch:
        return "never"
    return f"{stamp(epoch)} ({age(now - epoch)})"


def age(seconds: float) -> str:
    """Return `12 s ago`, `in 3 min`: a distance in time, the future being negative."""
    amount = abs(seconds)
    if amount < 100:
        text = f"{amount:.0f} s"
    elif amount < 100 * MINUTE:
        text = f"{amount / MINUTE:.0f} min"
    elif amount < 2 * DAY:
        text = f"{amount / HOUR:.0f} h"
    else:
        text = f"{amount / DAY:.0f} d"
    return f"in {text}" if seconds < 0 else f"{text} ago"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table whose columns are as wide as their widest cell; numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(head), *cells]) for index in range(len(head))]
    right = [bool(rows) and all(isinstance(row[index], int | float) for row in rows) for index in range(len(head))]

    def line(parts: Sequence[str]) -> str:
        padded = [
            part.rjust(width) if to_right else part.ljust(width)
            for part, width, to_right in zip(parts, widths, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(line(parts) for parts in [list(head), *cells])


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Return one line `name  value` per pair."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs)


def status(document: Mapping[str, Any]) -> str:
    """Return the whole status as text."""
    now = document["now"]
    return "\n\n".join(block for block in _blocks(document, now) if block)


def _blocks(document: Mapping[str, Any], now: float) -> Iterator[str]:
    dm, meters = document["dm"], document["meters"]
    clock = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now))
    yield facts(
        [
            ("device", document["device_id"]),
            ("firmware", document["fw_version"]),
            ("software", document["sw_version"]),
            ("running", f"since {when(document['started'], now)}"),
            ("clock", clock_line(clock, document)),
            ("account", account(dm)),
            ("last session", session(dm["last_session"], now)),
            ("meters", counted(meters)),
            *((("gaps", gaps_line(document["gaps"])),) if document.get("gaps") else ()),
            ("queue", queue_line(document["queue"], now)),
            ("update", document["update_state"]),
            ("health", health_line(document["health"])),
            *(("warning", warning) for warning in document["warnings"]),
        ]
    )
    yield ports(document["ports"], now) if document.get("ports") else ""
    yield slots(document["slots"]) if document["slots"] else ""
    yield services(document["services"], now) if document.get("services") else ""
    yield tasks(document["tasks"], now) if document["tasks"] else ""


def clock_line(shown: str, document: Mapping[str, Any]) -> str:
    """Return the time with what it is worth."""
    judged = document.get("clock")
    if document["clock_trusted"]:
        return f"{shown} (by {judged['source']}, {age(judged['age_s'])})" if judged else shown
    return f"{shown} (not trusted{': ' + judged['why'] if judged else ''})"


def gaps_line(found: Mapping[str, int]) -> str:
    if not found["open"]:
        return "none"
    return f"{found['open']}, {found['going_on']} of them go on; `dcuctl gaps` lists them"


def gaps(found: Mapping[str, Any]) -> str:
    """Return a table of the slots that are missing."""
    rows = [
        (
            printable(gap["meter"]),
            printable(gap["profile"] or gap["task"]),
            stamp(gap["first"]),
            "goes on" if gap["going_on"] else stamp(gap["last"]),
            gap["slots"],
            printable(gap["reason"]),
        )
        for gap in found["gaps"]
    ]
    if not rows:
        return "nothing is missing"
    shown = table(("meter", "task", "first", "last", "slots", "reason"), rows)
    return shown if len(rows) == found["total"] else f"{shown}\n{len(rows)} of {found['total']} gaps"


def events(found: Mapping[str, Any]) -> str:
    """Return a table of events, with what was not kept below it."""
    rows = [
        (
            stamp(event["received"]),
            printable(event["meter"] or f"unknown ({event['sender']})"),
            event["event"],
            "" if event["code"] is None else event["code"],
            printable(event["name"] or event["error"] or ""),
            "alarm" if event["grave"] else "",
            event["security"],
            event["meter_time"] or "",
        )
        for event in found["events"]
    ]
    heads = ("received", "meter", "known by", "code", "event", "", "protection", "meter's time")
    shown = table(heads, rows) if rows else "no events"
    counts = [
        (found["repeated"], "sent again by their meters"),
        (found["too_many"], "more than a meter may send"),
        (found["refused"], "refused for want of protection"),
        (found["replayed"], "replayed"),
    ]
    not_kept = ", ".join(f"{count} {why}" for count, why in counts if count)
    return f"{shown}\nnot kept since the start: {not_kept}" if not_kept else shown


def stamp(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(epoch))


def account(dm: Mapping[str, Any]) -> str:
    if dm["state"] == "registered":
        text = f"{dm['server_id']} at {dm['server_url']}"
        return f"{text}; {dm['error']}" if dm["error"] else text
    return f"{dm['state']}: {dm['error']}" if dm["error"] else str(dm["state"])


def session(last: Mapping[str, Any] | None, now: float) -> str:
    if not last:
        return "none yet"
    return f"{when(last['ended'], now)}, {last['trigger']}, {last['messages']} messages, {last['result']}"


def counted(meters: Sequence[Mapping[str, Any]]) -> str:
    states = sorted({str(meter["state"]) for meter in meters})
    parts = [f"{sum(meter['state'] == state for meter in meters)} {state}" for state in states]
    return f"{len(meters)}{': ' if parts else ''}{', '.join(parts)}"


def queue_line(queue: Mapping[str, Any], now: float) -> str:
    text = f"{queue['records']} readings wait"
    if queue["records"]:
        text += f", the oldest since {age(now - queue['oldest']).removesuffix(' ago')}"
    text += f"; {queue['forwarded']} delivered"
    for name in ("lost", "refused"):
        if queue[name]:
            text += f", {queue[name]} {name}"
    return f"{text}; {queue['last_error']}" if queue["last_error"] else text


def health_line(checks: Mapping[str, Any]) -> str:
    wrong = [f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"]]
    return "; ".join(wrong) or "all good"


def slots(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [(slot["name"], slot["version"] or "-", slot["state"], "booted" if slot["booted"] else "") for slot in found]
    return table(("slot", "version", "state", ""), rows)


def ports(found: Sequence[Mapping[str, Any]], now: float) -> str:
    """Return a table of the ports: what they lead to, whether they work and why not."""
    rows = [
        (
            port["port"],
            printable(port["where"]),
            "works" if port["works"] else "not proven" if port["excused"] else "DOES NOT WORK",
            when(port["since"], now),
            printable(port["problem"]),
        )
        for port in found
    ]
    return table(("port", "leads to", "", "since", "why"), rows)


def services(found: Sequence[Mapping[str, Any]], now: float) -> str:
    """Return a table of the programs of software packages."""
    rows = [
        (
            service["id"],
            service["version"] or "-",
            service["state"],
            when(service["since"], now),
            service["restarts"],
            f"{service['memory_kib']} KiB" if service["memory_kib"] else "-",
            f"{service['kept_kib']} KiB" if service["kept_kib"] else "-",
            printable("; ".join(text for text in (service["detail"], service["warning"]) if text)),
        )
        for service in found
    ]
    return table(("service", "version", "state", "since", "restarts", "memory", "keeps", ""), rows)


def tasks(found: Mapping[str, Mapping[str, Any]], now: float) -> str:
    """Return a table of the tasks and their runs; the next one is in the task's local time."""
    rows = [(name, task["state"], when(task["last_run"], now), next_run(task, now), task["last_result"])
            for name, task in found.items()]  # fmt: skip
    return table(("task", "state", "last run", "next run", "result"), rows)


def next_run(task: Mapping[str, Any], now: float) -> str:
    """Return `2026-11-22 10:00:00+01:00 (in 3 min)`; `never` for a task that will not run."""
    local = task["local"]
    return f"{local} ({age(now - task['next_run'])})" if local else when(task["next_run"], now)


def task_details(found: Mapping[str, Mapping[str, Any]], now: float) -> str:
    """Return the tasks, when and of which meters they read, and why others are not among these."""
    rows = [
        (
            name,
            task.get("times", ""),
            task.get("windows") or "any time",
            task.get("selection", ""),
            task.get("meters", 0),
        )
        for name, task in found.items()
    ]
    blocks = [tasks(found, now), table(("task", "times", "window", "selection", "meters"), rows)]
    others = [
        (name, printable(meter), state, why)
        for name, task in found.items()
        for state, listed in (("waits", task["waiting"]), ("not in it", task["left_out"]))
        for meter, why in listed
    ]
    if others:
        blocks.append(table(("task", "meter", "", "why"), [(*row[:3], printable(row[3])) for row in others]))
    return "\n\n".join(blocks)


def meters(found: Sequence[Mapping[str, Any]], now: float) -> str:
    if not found:
        return "no meters yet"
    rows = [
        (
            meter["meter_id"],
            printable(meter.get("model") or "-"),
            meter["port"],
            meter["address"],
            meter["state"],
            when(meter["last_success"], now),
            meter["last_error"],
        )
        for meter in found
    ]
    return table(("meter", "model", "port", "address", "state", "last read", "error"), rows)


def queue(found: Mapping[str, Any], now: float) -> str:
    counts = facts(
        [
            ("waiting", f"{found['records']} readings"),
            ("oldest", when(found["oldest"], now)),
            ("delivered", found["forwarded"]),
            ("kept", f"{found['kept']} delivered readings"),
            ("lost", found["lost"]),
            ("refused", found["refused"]),
            ("last delivery", when(found["last_uplink"], now)),
            ("last error", found["last_error"] or "none"),
            ("store", found["store"]),
        ]
    )
    return f"{counts}\n\n{sinks(found['sinks'], now)}"


def sinks(found: Sequence[Mapping[str, Any]], now: float) -> str:
    """Return a table of everybody who gets readings: what waits, how fast it goes, what they did not get."""
    rows = [
        (
            sink["name"],
            sink["waiting"],
            sink["per_min"],
            pace(sink),
            sink["missed"],
            when(sink["last_delivery"], now),
            printable(sink["last_error"]),
        )
        for sink in found
    ]
    return table(("sink", "waiting", "per min", "pace", "missed", "last delivery", "error"), rows)


def pace(sink: Mapping[str, Any]) -> str:
    """Return when a sink gets what, in a few words."""
    if sink["failures"]:
        return f"{sink['failures']} failures, again {age(-sink['again_in_s'])}"
    if not sink["backlog_per_min"]:
        return "at once"
    held = f" {age(-sink['backlog_in_s'])}" if sink["waiting"] and sink["backlog_in_s"] >= 1 else ""
    return f"fresh at once, backlog{held} at {sink['backlog_per_min']} per min"


def refused(found: Mapping[str, Any], now: float) -> str:
    """Return a table of the newest readings that were refused. Reasons and values come from elsewhere, so control
    characters in them do not reach the terminal."""
    readings = found["readings"]
    if not readings:
        return f"none of {found['total']} refused readings is kept" if found["total"] else "no reading was refused"
    rows = [
        (
            when(reading["refused_at"], now) if reading["refused_at"] else "-",
            printable(reading["meter"]),
            printable(f"{reading['cls']}/{reading['obis']}/{reading['attr']}"),
            printable(reading["value"]),
            printable(reading["why"]),
        )
        for reading in readings
    ]
    shown = table(("refused", "meter", "attribute", "value", "why"), rows)
    return f"{shown}\n{len(rows)} of {found['total']} refused readings"


def printable(text: object) -> str:
    """Return the text on one line, with `?` for control characters."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def health(checks: Mapping[str, Mapping[str, Any]], now: float) -> str:
    rows = [
        (name, "ok" if check["ok"] else "NOT OK", when(check["at"], now), check["detail"])
        for name, check in checks.items()
    ]
    return table(("check", "", "determined", "detail"), rows)


def update(found: Mapping[str, Any]) -> str:
    parts = [update_line(found)]
    if update_at_rest(found) and found.get("error"):
        parts.append(facts([("error", found["error"])]))
    if found["slots"]:
        parts.append(slots(found["slots"]))
    if found.get("agent"):
        parts.append(f"from the Update Agent's file: {found['agent']}")
    result = found.get("result")
    if found.get("last") and not result:
        parts.append(facts([("last update", found["last"])]))
    if result:
        parts.append(
            facts(
                [
                    ("last result", f"{result['name']} ({result['fumo']}), not yet reported"),
                    ("versions", f"{result['from_version']} to {result['to_version']}"),
                    ("message", result["message"] or "-"),
                    *([("failed check", result["failed_check"])] if result.get("failed_check") else []),
                    *([("log", "\n".join(result["log"]))] if result.get("log") else []),
                ]
            )
        )
    return "\n\n".join(parts)


def update_at_rest(found: Mapping[str, Any]) -> bool:
    """Return whether no update is under way: none is downloaded, handed over, written or on trial."""
    return found["state"] in FIRMWARE_STATES_AT_REST and not found.get("job")


def update_percent(found: Mapping[str, Any]) -> int | None:
    """Return how far a long step has come; `None` for a step that cannot tell."""
    download = found.get("download")
    if found.get("job") == "downloading":
        return download["have"] * 100 // download["total"] if download and download["total"] else None
    return int(found["progress"]) if found["state"] in STATES_WITH_PROGRESS else None


def update_line(found: Mapping[str, Any]) -> str:
    if update_at_rest(found):
        return "no update under way"
    download, percent = found.get("download"), update_percent(found)
    if found["state"] in FIRMWARE_STATES_AT_REST:
        line = "handed over, waits for the reboot" if found["job"] == "handed over" else str(found["job"])
    else:
        line = str(found["state"])
        if found.get("to_version"):
            line += f", version {found['to_version']}"
        if found["state"] == "trial" and found.get("attempts"):
            line += f", attempt {found['attempts']}"
    if percent is not None:
        line += f", {percent} %"
    if download and found.get("job") == "downloading":
        of = f" of {_megabytes(download['total'])}" if download["total"] else ""
        line += f", {_megabytes(download['have'])}{of} MB"
    return f"{line}; {found['error']}" if found.get("error") else line


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"
