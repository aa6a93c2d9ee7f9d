"""Recognises that `dcu-update boot` has nothing to do, before anything is imported.

On a small board, imports are most of the cost of a start. The usual case is therefore recognised here from the files
alone: the journal is idle, there is no request and no result to hand over, `status.json` is of this slot, and the boot
loader has saved what is in the environment. Everything else, and anything unusual, is left to the whole program:
`answer` then returns None.

Only settings in their plain form (`key = "text"`, `key = 3`) are understood.
"""

import os

from updateagent.boot import CANARY, CANARY_KEY
from updateagent.boot.loaders import policies
from updateagent.boot.uboot import bytes as envbytes
from updateagent.engine import sealed

NOTHING_TO_DO = 0
START_THE_GUARD = 11
FILE_BYTES_MAX = 1 << 20
UNDERSTOOD = ("uboot", "rauc")  # the only row of the table in `updateagent.boot.loaders` that this module knows
DIGITS_MAX = 2
MARKED = (b"nor", b"dataflash", b"ram")
_WANTED = {
    "update_dir": "",
    "cmdline": "/proc/cmdline",
    "cmdline_key": "rauc.slot",
    "trial_tries": "3",
    "bootenv.type": "",
    "bootenv.config": "",
    "bootenv.policy": policies("uboot")[0],
}


def answer(config_file: str) -> int | None:
    """The exit status 0 or 11, or None when the whole program is needed. Never writes, never raises `OSError`."""
    try:
        settings = read_settings(_read(config_file).decode())
        if settings is None or (settings["bootenv.type"], settings["bootenv.policy"]) != UNDERSTOOD:
            return None
        words = _read(settings["cmdline"]).decode().split()
        slot = _last(words, settings["cmdline_key"])
        if slot is None or not _is_idle(settings["update_dir"], slot):
            return None
        variables = _variables(settings["bootenv.config"])
        canary = _last(words, CANARY_KEY)
        left = variables.get(f"BOOT_{slot}_LEFT".encode(), b"").lower().removeprefix(b"0x")
        if not left.isalnum() or len(left) > DIGITS_MAX:
            return None
        if canary is not None and variables.get(CANARY.encode(), b"").decode() != canary:
            return None
        is_new = not any(os.access(name, os.F_OK) for name in _journals(settings["update_dir"]))
        return START_THE_GUARD if is_new or int(left, 16) < int(settings["trial_tries"]) else NOTHING_TO_DO
    except (OSError, ValueError):
        return None


def read_settings(text: str) -> dict[str, str] | None:
    """The settings needed here; None when one of them may be in a form that is not understood."""
    if '"""' in text or "'''" in text or "\\" in text:
        return None
    found = dict(_WANTED)
    section = ""
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]").strip() + "."
            continue
        key, equals, value = line.partition("=")
        name = section + key.strip()
        if name not in _WANTED or not equals:
            continue
        value = value.split("#")[0].strip()
        quoted = len(value) > 1 and value[0] == value[-1] == '"' and '"' not in value[1:-1]
        if not quoted and not value.isdigit():
            return None
        found[name] = value.strip('"')
    return found if all(found.values()) else None


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  pathlib is one of the things not to be imported here
        return file.read(FILE_BYTES_MAX)


def _last(words: list[str], key: str) -> str | None:
    found = [word for word in words if word.startswith(key + "=")]
    return found[-1][len(key) + 1 :] if found else None


def _journals(folder: str) -> list[str]:
    return [f"{folder}/journal.{index}" for index in (0, 1)]


def _is_idle(folder: str, slot: str) -> bool:
    for name in ("inbox/request.json", "inbox/by-hand.swu", "inbox/.by-hand.swu.tmp", "outbox/.result.pending"):
        if os.access(f"{folder}/{name}", os.F_OK):
            return False
    shown = _read(f"{folder}/status.json")
    if f'"booted": "{slot}"'.encode() not in shown or b'"error": ""' not in shown:
        return False
    names = [name for name in _journals(folder) if os.access(name, os.F_OK)]  # the second copy comes with an update
    if not names:
        return True  # a board that never had an update
    newest = (-1, b"")
    for name in names:
        copy = sealed.unseal(_read(name))
        if copy is None or copy[0] != sealed.VERSION:
            return False
        newest = max(newest, copy[1:])
    # Inside a JSON text the quotes would be escaped: these can only be the keys of the record.
    return b'"state":"idle"' in newest[1] and b'"lost":false' in newest[1]


def _variables(config: str) -> dict[bytes, bytes]:
    """The variables of the environment; empty when finding them takes more than reading."""
    lines = [line.split("#")[0].split() for line in _read(config).decode().split("\n")]
    locations = [line for line in lines if line]
    copies = []
    flash = set()
    for device, offset, size, *_ in locations:
        flash.add(_flash(os.path.realpath(device)))
        if offset.startswith("-"):
            return {}
        with open(device, "rb", buffering=0) as file:  # noqa: PTH123
            file.seek(envbytes.c_integer(offset))
            raw = file.read(int(size, 16))
        if len(raw) != int(size, 16):
            return {}
        copies.append(envbytes.parse_copy(raw, redundant=len(locations) == 2))
    if len(flash) != 1:
        return {}
    chosen = envbytes.choose(copies, marked=flash.pop() in MARKED)
    copy = None if chosen is None else copies[chosen]
    return dict(envbytes.entries(copy[1]) or ()) if copy else {}


def _flash(device: str) -> bytes:
    """The type of flash of an MTD device; empty for other devices. Raises `ValueError` for NAND with bad blocks."""
    if not device.startswith("/dev/mtd") or device.startswith("/dev/mtdblock"):
        return b""
    about = f"/sys/class/mtd/{device[5:]}"
    with open(f"{about}/type", "rb") as file:  # noqa: PTH123
        kind = file.read(16).strip()
    if kind not in MARKED:
        with open(f"{about}/bad_blocks", "rb") as file:  # noqa: PTH123
            if file.read(16).strip() != b"0":
                raise ValueError("the environment may have moved")
    return kind
