"""The YAML form of `fw_env.config`, as libubootenv reads it from version 0.3.4 on; exactly that form, not YAML.

    uboot:                          a namespace: the device tree names one, or the first counts
      size : 0x4000                 of each copy; before the devices
      lockfile : /run/env.lock
      devices:
        - path : /dev/mtd1          one or two
          offset : 0x0              0x… hexadecimal, 0… octal, otherwise decimal; so are all numbers
          sectorsize : 0x10000
          disablelock : yes
      writelist:                    what fw_setenv may change; no matter here
        - BOOT_ORDER:sw

A device has no PyYAML that the Update Agent could rely on, so what is more than this (flow lists, anchors, texts over
several lines) is a mistake that names its line. Sans-IO.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from updateagent.boot.uboot.bytes import c_integer
from updateagent.errors import CONFIGURATION, RequestError

LINES_MAX = 1000
DEVICES_MAX = 2
KEY = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.,-]*)[ ]*:(?:[ ]+(.*))?")
SPECIAL = "&*!|>%@`{}[],?"  # what a value of YAML does not begin with, unless it is more than plain text


@dataclass(frozen=True, slots=True)
class Line:
    """A line that says something. `indent` is the column of its text, behind the dash of a list's `item`."""

    number: int
    dash: int
    indent: int
    item: bool
    text: str


@dataclass(slots=True)
class Device:
    """One copy, and the line where it begins."""

    line: int
    path: str = ""
    offset: int = 0
    size: int = 0
    sector_size: int = 0
    no_lock: bool = False


@dataclass(slots=True)
class Namespace:
    """One environment."""

    name: str
    size: int = 0
    lockfile: str = ""
    devices: list[Device] = field(default_factory=list)


def lines_of(text: str) -> list[Line]:
    """The lines of the YAML form; empty when the text is the other form. Raises `RequestError` (configuration)."""
    found = list(islice(_lines(text), LINES_MAX + 1))
    if not found or re.fullmatch(r"[^\s:]+[ ]*:", found[0].text) is None:
        return []
    if len(found) > LINES_MAX:
        raise _mistake(found[-1], "too many lines")
    if found[0].dash:
        raise _mistake(found[0], "its indentation does not fit")
    return found


def _lines(text: str) -> Iterator[Line]:
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", raw).rstrip()
        if not line or line == "---":
            continue
        said = line.lstrip(" ")
        dash = len(line) - len(said)
        item = said.startswith("- ")
        if item:
            said = said[1:].lstrip(" ")
        yield Line(number, dash, len(line) - len(said), item, said)


def parse(lines: Sequence[Line], namespace: str = "") -> Namespace:
    """The environment of that name, or the first. Raises `RequestError` (configuration) naming the line."""
    found: list[tuple[Namespace, list[Line]]] = []
    for line in lines:
        if line.dash or line.item:
            found[-1][1].append(line)
            continue
        key, value = _pair(line)
        if value:
            raise _mistake(line, "a namespace has keys below it")
        found.append((Namespace(key), []))
    for space, below in found:
        _fields(space, below)
    for one, _ in found:
        if not namespace or one.name == namespace:
            return one
    raise RequestError(CONFIGURATION, f"fw_env.config: there is no namespace {namespace[:40]!r}")


def _fields(space: Namespace, lines: Sequence[Line]) -> None:
    """The keys of a namespace."""
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.item or line.indent != lines[0].indent:
            raise _mistake(line, "its indentation does not fit")
        key, value = _pair(line)
        at += 1
        below = at
        while below < len(lines) and (lines[below].item or lines[below].indent > line.indent):
            below += 1
        inner, at = lines[at:below], below
        if key in ("devices", "writelist"):
            if value:
                raise _mistake(line, f"{key} is a list, one entry a line")
            if key == "devices":
                _devices(space, line, inner)
        elif inner:
            raise _mistake(inner[0], "its indentation does not fit")
        elif key == "size":
            space.size = _number(line, value)
        elif key == "lockfile":
            space.lockfile = value
        else:
            raise _mistake(line, f"unknown key {key}")


def _devices(space: Namespace, where: Line, lines: Sequence[Line]) -> None:
    if not space.size:
        raise _mistake(where, "size must come before the devices")
    for line in lines:
        if line.item:
            space.devices.append(Device(line.number, size=space.size))
        if not space.devices or (line.indent, line.dash if line.item else lines[0].dash) != (
            lines[0].indent,
            lines[0].dash,
        ):
            raise _mistake(line, "its indentation does not fit")
        if len(space.devices) > DEVICES_MAX:
            raise _mistake(line, "one or two devices")
        _device(space.devices[-1], line)
    for device in space.devices:
        if not device.path:
            raise RequestError(CONFIGURATION, f"fw_env.config line {device.line}: this device has no path")


def _device(device: Device, line: Line) -> None:
    key, value = _pair(line)
    if key == "path":
        device.path = value
    elif key == "offset":
        device.offset = _number(line, value)
    elif key == "sectorsize":
        device.sector_size = _number(line, value)
    elif key == "disablelock":
        device.no_lock = value == "yes"  # the only word that libubootenv knows
    else:
        raise _mistake(line, f"unknown key {key}")


def _pair(line: Line) -> tuple[str, str]:
    found = KEY.fullmatch(line.text)
    if found is None:
        raise _mistake(line, "expected a key and a value")
    value = (found[2] or "").strip()
    if value[:1] in ("'", '"'):
        inner = value[1:-1]
        if len(value) < 2 or value[-1] != value[0] or value[0] in inner or "\\" in inner:
            raise _mistake(line, "this text is in a form that is not understood")
        return found[1], inner
    if value[:1] and value[0] in SPECIAL:
        raise _mistake(line, "this value is in a form that is not understood")
    return found[1], value


def _number(line: Line, text: str) -> int:
    try:
        return c_integer(text)
    except ValueError:
        raise _mistake(line, f"{text[:20]!r} is no number") from None


def _mistake(line: Line, why: str) -> RequestError:
    return RequestError(CONFIGURATION, f"fw_env.config line {line.number}: {why}")
