"""Checking the parameters of jobs when the operator queues them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headend.dm.jobs.steps import URI_CHARS_MAX, Json
from omadm.addresses import AddressError, check_address
from omadm.syncml.text import NO_XML_CHAR, unfit
from omadm.syncml.tnds import BINARY_FORMATS

NODES_PER_JOB_MAX = 1000
FORMATS = ("b64", "bin", "bool", "chr", "date", "float", "int", "time", "xml")
ROOT = "."
URL_CHARS_MAX = 1008

_URI = re.compile(r"\.(/[^/?\x00-\x1f]+)+")
_QUERY = re.compile(r"\?(prop=[A-Za-z]{1,16}|list=[A-Za-z+-]{1,64})")


class JobError(ValueError):
    """The parameters of a job are wrong. The text is a sentence for the operator."""


def sendable(params: Mapping[str, Any]) -> None:
    """Check that every text of a job, of whatever kind, can be told to a device: XML 1.0 has no form for some
    characters, and what cannot be written would stop the device's queue. Raises `JobError`, naming the parameter."""
    if why := unfit(dict(params)):
        raise JobError(why)


def known_keys(params: Mapping[str, Any], allowed: set[str], required: set[str]) -> None:
    unknown, absent = sorted(set(params) - allowed), sorted(required - set(params))
    if unknown:
        raise JobError(f"unknown parameter {', '.join(unknown)}; known are {', '.join(sorted(allowed))}")
    if absent:
        raise JobError(f"parameter {', '.join(absent)} is missing")


def uri(value: object, what: str, *, query: bool = False, root: bool = False) -> str:
    """A node's URI; with `query`, `?prop=` or `?list=` may follow it; with `root`, it may be that of the whole tree."""
    if root and value == ROOT:
        return ROOT
    if isinstance(value, str) and len(value) <= URI_CHARS_MAX:
        match = _URI.match(value)
        rest = value[match.end() :] if match else value
        if match and (not rest or (query and _QUERY.fullmatch(rest))):
            return value
    raise JobError(f"{what}: a URI like ./Parent/Node wanted, not {value!r}")


def text(params: Mapping[str, Any], name: str, pattern: str, wanted: str) -> str:
    """The text parameter `name`, which must match `pattern`; `wanted` describes that in words."""
    value = params[name]
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise JobError(f"{name}: {wanted} wanted, not {value!r}")
    return value


def address(params: Mapping[str, Any], name: str) -> str:
    """The parameter `name`, an https URL that every device can call."""
    value = text(params, name, r"(?s:.+)", "an https URL")
    try:
        check_address(value, ascii_max=URL_CHARS_MAX)
    except AddressError as error:
        raise JobError(f"{name}: an https URL wanted: {value[:80]!r} {error}") from error
    return value


def objects(value: object, what: str) -> list[Mapping[str, Any]]:
    """A list of 1 to `NODES_PER_JOB_MAX` objects."""
    if not isinstance(value, list) or not 1 <= len(value) <= NODES_PER_JOB_MAX:
        raise JobError(f"{what}: a list of 1 to {NODES_PER_JOB_MAX} wanted")
    for entry in value:
        if not isinstance(entry, dict):
            raise JobError(f"{what}: objects wanted, not {entry!r}")
    return value


def node_value(path: str, value: object, wanted: object) -> Json:
    """Check `value` and `format` of a node. Without a format it follows from the value; binary values stay hexadecimal
    text until they are sent."""
    if isinstance(value, bool):
        value, inferred = ("true" if value else "false"), "bool"
    elif isinstance(value, int):
        value, inferred = str(value), "int"
    else:
        inferred = "chr"
    if not isinstance(value, str):
        raise JobError(f"{path}: a text, number or truth value wanted")
    if wanted is not None and wanted not in FORMATS:
        raise JobError(f"{path}: format {wanted!r} does not exist")
    if NO_XML_CHAR.search(value):
        raise JobError(f"{path}: a control character cannot be sent as text; use format bin")
    if wanted in BINARY_FORMATS and not re.fullmatch(r"([0-9a-fA-F]{2})*", value):
        raise JobError(f"{path}: a binary value is hexadecimal text")
    return {"value": value, "format": wanted or inferred}


def data(node: Mapping[str, Any]) -> str | bytes:
    """The value of a node from `node_value`, as it is sent."""
    value = str(node["value"])
    return bytes.fromhex(value) if node["format"] in BINARY_FORMATS else value
