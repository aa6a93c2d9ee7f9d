"""The control socket: a local person or script asks the daemon. One line of JSON in, one line of JSON out.

Request `{"command": "status"}`, answer `{"ok": true, "result": …}` or `{"ok": false, "error": "…"}`; a connection may
ask several times. Who may connect is decided by the file's mode (0660) and group. Everything is bounded: the bytes of a
request, the time for it, the connections that wait.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import logging
import os
import pwd
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.wakeup import Wakeup

LOG = logging.getLogger("agent.control")

REQUEST_BYTES_MAX = 32 << 10  # an order may name 256 meters
REQUESTS_MAX = 64  # a connection; then it has to come again
TALK_S = 5.0  # without a byte, either way
CONNECTION_S = 15.0  # for a whole connection: who drips bytes must not keep the worker from its beat
WAITING_MAX = 8
ACCEPT_S = 10.0  # for a connection, between two beats
MODE = 0o660

CHANGING = frozenset({"order", "order-cancel", "forget-meter", "give-up", "add-meter", "network-order"})
"""Commands that change something, which a locked device takes from nobody."""

Handler = Callable[[Mapping[str, object]], object]


class ControlError(Exception):
    """The request cannot be answered; the text goes to the one who asked."""


class ControlServer:
    """A worker that serves one connection after another."""

    name = "control"
    budget_s = 30.0

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        *,
        group: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """A handler gets the request's object and returns something JSON can say; it may raise `ControlError`. It runs
        on the control thread and must answer within a second or so."""
        self._path = path
        self._handlers = dict(handlers)
        self._group = group
        self._monotonic = monotonic
        self._listener: socket.socket | None = None
        self._wakeup = Wakeup()

    def bind(self) -> None:
        """Make the socket now, so that whoever is told that we are ready can connect. Raises `OSError`."""
        self._listener = self.listen()

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Answer requests, one connection at a time, until `stop`. Raises `OSError` when the socket cannot be made."""
        with self._listener or self.listen() as listener:
            try:
                while not stop.is_set():
                    beat()
                    self.serve_one(listener)
            finally:
                self._path.unlink(missing_ok=True)

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wakeup.set()

    def listen(self) -> socket.socket:
        """The listening socket. A file left behind by a process that died is replaced; one at which somebody answers is
        left alone: another agent's, with another state folder. Raises `OSError`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        refuse_taken(self._path)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~MODE)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(before)
        try:
            if self._group:
                os.chown(self._path, -1, grp.getgrnam(self._group).gr_gid)
        except (LookupError, OSError) as error:
            LOG.warning("group %s cannot own %s: %s", self._group, self._path, error, extra={"event": "control.group"})
        listener.listen(WAITING_MAX)
        listener.settimeout(0)
        return listener

    def serve_one(self, listener: socket.socket) -> None:
        """Wait for a connection, up to `ACCEPT_S` or `wake`, and serve it to its end."""
        if not self._wakeup.wait(ACCEPT_S, [listener]):
            return
        try:
            connection, _ = listener.accept()
        except BlockingIOError:  # whoever asked is gone already
            return
        with connection, contextlib.suppress(OSError):  # whoever asked is gone or slow: their loss
            self._talk(connection, self._monotonic() + CONNECTION_S)

    def answer(self, line: bytes, peer: str = "") -> bytes:
        """The answer to one request line, with its newline. `peer` is who asks, as the kernel knows it; a handler finds
        it in its request, whatever stood there under that name."""
        try:
            result = self._dispatch(line, peer)
        except ControlError as error:
            document: dict[str, object] = {"ok": False, "error": str(error)}
        except Exception:
            # A defect in one answer must not end the reading of meters.
            LOG.exception("a control request failed", extra={"event": "control.defect"})
            document = {"ok": False, "error": "internal error; the daemon's log says more"}
        else:
            document = {"ok": True, "result": result}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    def _dispatch(self, line: bytes, peer: str) -> object:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ControlError("the request is not JSON") from error
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            raise ControlError('the request is an object with a "command"')
        handler = self._handlers.get(request["command"])
        if handler is None:
            raise ControlError(
                f"unknown command {request['command'][:40]!r}; known: {', '.join(sorted(self._handlers))}"
            )
        return handler({**request, "peer": peer})

    def _talk(self, connection: socket.socket, until: float) -> None:
        peer = peer_of(connection)
        buffer = bytearray()
        for _ in range(REQUESTS_MAX):
            while b"\n" not in buffer:
                left = until - self._monotonic()
                if left <= 0:
                    return
                connection.settimeout(min(TALK_S, left))
                if len(buffer) > REQUEST_BYTES_MAX:
                    connection.sendall(b'{"ok":false,"error":"the request is too long"}\n')
                    self._drain(connection, until)
                    return
                piece = connection.recv(REQUEST_BYTES_MAX)
                if not piece:
                    return
                buffer += piece
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer = bytearray(rest)
            connection.sendall(self.answer(line, peer))

    def _drain(self, connection: socket.socket, until: float) -> None:
        """Take what still comes, within bounds: closing over unread bytes resets the connection, answer included."""
        connection.shutdown(socket.SHUT_WR)
        for _ in range(REQUESTS_MAX):
            left = until - self._monotonic()
            connection.settimeout(min(TALK_S, max(left, 0.0)))
            if left <= 0 or not connection.recv(REQUEST_BYTES_MAX):
                return


def peer_of(connection: socket.socket) -> str:
    """Return the user at the other end of a Unix socket: `root`, or `uid 1000` where that has no name."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def refuse_taken(path: Path) -> None:
    """Make sure that no other process answers at this socket. Raises `OSError` (EADDRINUSE) when one does."""
    if _is_answered(path):
        raise OSError(errno.EADDRINUSE, "another process answers at this control_socket", str(path))


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(TALK_S)
        try:
            caller.connect(str(path))
        except (BlockingIOError, TimeoutError):
            return True  # so many wait there that there is no room: it is alive
        except OSError:
            return False  # no file, no socket, or one that nobody listens at any more
    return True


def unless_locked(handlers: Mapping[str, Handler], locked: Callable[[], bool]) -> dict[str, Handler]:
    """Return the handlers, of which those that change something refuse while the device is `locked`."""

    def guarded(handler: Handler) -> Handler:
        def handle(request: Mapping[str, object]) -> object:
            if locked():
                raise ControlError("the device is locked by its head-end")
            return handler(request)

        return handle

    return {name: guarded(handler) if name in CHANGING else handler for name, handler in handlers.items()}
