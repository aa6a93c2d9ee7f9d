"""The control socket of a simulator: JSON over a unix stream, one object per line, one answer per line."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable
from pathlib import Path

LINE_BYTES_MAX = 65536

Handler = Callable[[dict[str, object]], dict[str, object]]


class ControlServer:
    """Serves commands from the simulator's own loop."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, handler: Handler) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._selector = selector
        self._handler = handler
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._buffers: dict[socket.socket, bytearray] = {}
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(5.0)  # for answers; reads happen when there is something
        self._buffers[connection] = bytearray()
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._serve(connection))

    def _serve(self, connection: socket.socket) -> None:
        buffer = self._buffers[connection]
        try:
            data = connection.recv(65536)
            buffer += data
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
        except OSError:
            data = b""
        if not data or len(buffer) > LINE_BYTES_MAX:
            self._selector.unregister(connection)
            del self._buffers[connection]
            connection.close()

    def _answer(self, line: bytes) -> dict[str, object]:
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                return {"error": "one JSON object per line is expected"}
            return self._handler(command)
        except (ValueError, KeyError, TypeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def close(self) -> None:
        """Stop serving and remove the socket."""
        for connection in self._buffers:
            connection.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)


def ask(path: Path, command: dict[str, object], timeout_s: float = 5.0) -> dict[str, object]:
    """One command to a simulator, and its answer. Raises OSError, ValueError, TypeError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(json.dumps(command).encode() + b"\n")
        with connection.makefile("rb") as answers:
            answer = json.loads(answers.readline())
    if not isinstance(answer, dict):
        raise TypeError("the simulator answered with no object")
    return answer
