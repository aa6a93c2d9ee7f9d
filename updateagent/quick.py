"""The answer of `dcu-update boot` when there is nothing to do, given before anything is imported.

On a small board importing is what a start costs. So the usual case is recognised here, from the files alone: the
journal is idle, there is no request and no result to hand over, the display is of this slot. Whatever else is found,
and whatever looks unusual, is left to the whole program: `answer` then returns None.

Only settings that are written the plain way (`key = "text"`, `key = 3`) are understood.
"""

import os

from updateagent import envbytes, sealed

NOTHING_TO_DO = 0
START_THE_GUARD = 11
FILE_BYTES_MAX = 1 << 20
_WANTED = {
    "update_dir": "",
    "cmdline": "/proc/cmdline",
    "cmdline_key": "rauc.slot",
    "trial_tries": "3",
    "bootenv.type": "",
    "bootenv.config": "",
    "bootenv.policy": "rauc",
}


def answer(config_file: str) -> int | None:
    """0 or 11 when that is certain; None when the whole program has to look. Never writes, never raises `OSError`."""
    try:
        settings = read_settings(_read(config_file).decode())
        if settings is None or (settings["bootenv.type"], settings["bootenv.policy"]) != ("uboot", "rauc"):
            return None
        slot = _booted(settings)
        if slot is None or not _is_idle(settings["update_dir"], slot):
            return None
        left = _attempts_left(settings["bootenv.config"], slot)
    except (OSError, ValueError):
        return None
    if left is None:
        return None
    return START_THE_GUARD if left < int(settings["trial_tries"]) else NOTHING_TO_DO


def read_settings(text: str) -> dict[str, str] | None:
    """The settings wanted here; None when one of them may be written in a way that is not understood."""
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


def _booted(settings: dict[str, str]) -> str | None:
    start = settings["cmdline_key"] + "="
    found = [word for word in _read(settings["cmdline"]).decode().split() if word.startswith(start)]
    return found[-1][len(start) :] if found else None


def _is_idle(folder: str, slot: str) -> bool:
    for name in ("inbox/request.json", "outbox/.result.pending"):
        if os.access(f"{folder}/{name}", os.F_OK):
            return False
    shown = _read(f"{folder}/status.json")
    if f'"booted": "{slot}"'.encode() not in shown or b'"error": ""' not in shown:
        return False
    names = [f"{folder}/journal.{index}" for index in (0, 1)]
    if not any(os.access(name, os.F_OK) for name in names):
        return True  # a board that never had an update
    newest = (-1, b"")
    for name in names:
        copy = sealed.unseal(_read(name))
        if copy is None or copy[0] != sealed.VERSION:
            return False
        newest = max(newest, copy[1:])
    # Inside a JSON text the quotes would be escaped: these can only be the keys of the record.
    return b'"state":"idle"' in newest[1] and b'"lost":false' in newest[1]


def _attempts_left(config: str, slot: str) -> int | None:
    lines = [line.split("#")[0].split() for line in _read(config).decode().split("\n")]
    places = [line for line in lines if line]
    copies = []
    for device, offset, size, *_ in places:
        if offset.startswith("-"):
            return None
        with open(device, "rb") as file:  # noqa: PTH123
            file.seek(int(offset, 0))
            copies.append(envbytes.parse_copy(file.read(int(size, 16)), redundant=len(places) == 2))
    chosen = envbytes.choose(copies)
    copy = None if chosen is None else copies[chosen]
    variables = dict(envbytes.entries(copy[1]) or ()) if copy else {}
    left = variables.get(f"BOOT_{slot}_LEFT".encode())
    return None if left is None else int(left, 16)
