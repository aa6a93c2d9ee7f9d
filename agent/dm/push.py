"""A small HTTP/1.1 listener for Package #0 (OMA-TS-DM_Notification 1.2): POST /push and nothing else.

A notification only ever starts a session with the server that is already configured, so the worst a stranger can do
here is to use up the listener's time. Hence: one connection at a time, a deadline for each, small limits for each
part of the request, and a token bucket in front of the verification.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from agent.wakeup import Wakeup
from omadm.notification import MIME

LOG = logging.getLogger("agent.dm.push")

PATH = "/push"
HEAD_BYTES_MAX = 4096  # request line and headers; a sender needs some 200
BODY_BYTES_MAX = 1024  # digest, header, server id (255 at most) and vendor tail
REQUEST_S = 5.0  # from accept to the last byte of the request
ACCEPT_S = 10.0  # for a connection, between two beats
ACCEPT_FAILED_S = 1.0  # pause after an accept that failed
BACKLOG = 8
RATE_PER_S = 2.0  # verified notifications per second, sustained
BURST = 10

_REASONS = {
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class RequestError(Exception):
    """The sender's fault: the request is answered with `status` and not looked at further."""

    def __init__(self, status: int) -> None:
        super().__init__(_REASONS[status])
        self.status = status


def parse_head(head: bytes) -> int:
    """Check request line and headers (without the empty line); return the body's length. Raises `RequestError`."""
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise RequestError(400) from None
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise RequestError(400)
    if parts[1] != PATH:
        raise RequestError(404)
    if parts[0] != "POST":
        raise RequestError(405)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or name.lower() in headers:
            raise RequestError(400)
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers or "content-length" not in headers:
        raise RequestError(411)
    if headers.get("content-type", "").split(";")[0].strip().lower() != MIME:
        raise RequestError(415)
    length = headers["content-length"]
    if not length.isdigit() or len(length) > 9:
        raise RequestError(400)
    if int(length) > BODY_BYTES_MAX:
        raise RequestError(413)
    return int(length)


class TokenBucket:
    """Lets through `burst` at once and `rate_per_s` sustained. Time is an argument (monotonic seconds)."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def own_url(host: str, port: int, server_url: str) -> str:
    """The URL under which a listener on `host` can be reached; empty when that cannot be told now.

    For a listener on every interface it is the address from which packets to the host of `server_url` leave. It is
    asked of the routing table; nothing is sent.
    """
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return _url(host, port)
    target = urlsplit(server_url)
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    try:
        found = socket.getaddrinfo(target.hostname, target.port or 443, family, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])
            return _url(str(probe.getsockname()[0]), port)
    except (OSError, ValueError) as error:  # no route, no name service
        LOG.debug("own address not known: %s", error)
        return ""


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"


class PushListener:
    """Worker. `on_notification(body) -> HTTP status` is `DmService.on_notification`. Binds on construction.

    Raises `OSError` from the constructor when the address cannot be bound (a configuration error).
    """

    name = "push"
    budget_s = 30.0

    def __init__(
        self,
        on_notification: Callable[[bytes], int],
        *,
        host: str,
        port: int,
        monotonic: Callable[[], float] = time.monotonic,
        request_s: float = REQUEST_S,
    ) -> None:
        self._request_s = request_s
        self._on_notification = on_notification
        self._monotonic = monotonic
        self._bucket = TokenBucket(RATE_PER_S, BURST)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._socket.settimeout(0)
        self._wakeup = Wakeup()
        # For a listener that was configured with port 0. Asked now: other threads want it also while this one ends.
        self.port = int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Give the port back, of a listener that does not `run`: that one does it itself."""
        self._socket.close()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wakeup.set()

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Serve until `stop`; then close the socket."""
        with self._socket:
            while not stop.is_set():
                beat()
                if not self._wakeup.wait(ACCEPT_S, [self._socket]):
                    continue
                try:
                    connection, peer = self._socket.accept()
                except BlockingIOError:  # the peer hung up while queued
                    continue
                except OSError as error:  # descriptors ran out: that passes
                    LOG.debug("accept failed: %s", error)
                    stop.wait(ACCEPT_FAILED_S)
                    continue
                with connection:
                    self._serve(connection, str(peer[0]))

    def _serve(self, connection: socket.socket, peer: str) -> None:
        deadline = self._monotonic() + self._request_s
        try:
            status = self._answer(connection, deadline)
        except RequestError as error:
            status = error.status
        except TimeoutError:
            status = 408
        except OSError as error:
            LOG.debug("push from %s: %s", peer, error)
            return
        LOG.debug("push from %s: %d", peer, status)
        text = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        try:
            connection.settimeout(1.0)
            connection.sendall(text.encode("ascii"))
        except OSError as error:
            LOG.debug("push from %s: answer not sent: %s", peer, error)

    def _answer(self, connection: socket.socket, deadline: float) -> int:
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            if len(buffer) > HEAD_BYTES_MAX:
                raise RequestError(431)
            buffer += self._receive(connection, deadline)
        head, _, body = buffer.partition(b"\r\n\r\n")
        length = parse_head(head)
        while len(body) < length:
            body += self._receive(connection, deadline)
        if not self._bucket.take(self._monotonic()):
            raise RequestError(429)
        return self._on_notification(body[:length])

    def _receive(self, connection: socket.socket, deadline: float) -> bytes:
        left = deadline - self._monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(2048)
        if not piece:
            raise RequestError(400)
        return piece
