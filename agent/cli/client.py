"""The client's end of the control socket: one command per connection, its result or a typed error back."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

DEFAULT_SOCKET = Path("/run/dcu/control.sock")
SOCKET_VARIABLE = "DCU_CONTROL_SOCKET"
TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 8 << 20  # the status of 4096 meters is about 1 MB


class NotRunningError(Exception):
    """No daemon answers at the socket."""


class RefusedError(Exception):
    """The daemon answered that it cannot do what was asked."""


def socket_path(given: Path | None) -> Path:
    """Return the path from the option, else from `$DCU_CONTROL_SOCKET`, else the default."""
    return given or Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)


def ask(path: Path, command: str, **arguments: object) -> Any:
    """Send one command and return the daemon's result. Raises `NotRunningError`, `RefusedError`."""
    try:
        answer = _exchange(path, json.dumps({"command": command, **arguments}).encode() + b"\n")
    except FileNotFoundError as error:
        raise NotRunningError(f"dcu-agent does not run (no socket {path})") from error
    except ConnectionRefusedError as error:
        raise NotRunningError(f"dcu-agent does not run (nobody listens at {path})") from error
    except PermissionError as error:
        raise NotRunningError(f"{path}: you may not use it; root and the control group may") from error
    except OSError as error:
        raise NotRunningError(f"{path}: {error}") from error
    try:
        document = json.loads(answer)
    except ValueError as error:
        raise NotRunningError(f"{path}: the daemon's answer was cut short") from error
    if not isinstance(document, dict) or not document.get("ok"):
        raise RefusedError(str(document.get("error", "no reason given")) if isinstance(document, dict) else "?")
    return document.get("result")


def _exchange(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        pieces: list[bytes] = []
        size = 0
        while size <= ANSWER_BYTES_MAX and (piece := connection.recv(65_536)):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)
