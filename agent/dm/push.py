"""A small HTTP/1.1 listener for Package #0 (OMA-TS-DM_Notification 1.2): POST /push and nothing else.

A notification only ever starts a session with the server that is already configured, so the worst a stranger can do
here is to be in the way of the genuine one. Hence: some connections at a time, few of them from one network, a deadline
for each, small limits for each part of the request; when there is no room, the connection that has waited longest gives
way. A token bucket bounds how often a session is started; what is not genuine takes nothing from it.

An address that cannot be listened at is a problem of this part alone: it is told of, and tried again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agent.wakeup import Wakeup
from omadm.notification import MIME

LOG = logging.getLogger("agent.dm.push")

PATH = "/push"
HEAD_BYTES_MAX = 4096  # request line and headers; a sender needs some 200
BODY_BYTES_MAX = 1024  # digest, header, server id (255 at most) and vendor tail
REQUEST_S = 5.0  # from accept to the last byte of the request
CONNECTIONS_MAX = 48
CONNECTIONS_PER_NETWORK_MAX = 16  # the head-end needs one; an IPv6 network is a /64, an IPv4 one an address
BEAT_S = 10.0  # at most, between two beats
BIND_AGAIN_S = 10.0
ACCEPT_FAILED_S = 1.0  # pause after an accept that failed
ACCEPTS_MAX = 16  # before connections are looked at again
BACKLOG = 64
RECEIVE_BYTES = 2048
RATE_PER_S = 2.0  # genuine notifications per second, sustained
BURST = 10
REFUSED_EVERY_S = 60.0  # one line of the log about refused notifications

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


class Request:
    """Collects the octets of one request."""

    def __init__(self) -> None:
        self._data = b""
        self._length: int | None = None

    def receive(self, data: bytes) -> bytes | None:
        """Take what came; return the body once it is whole. Raises `RequestError`; no octets are the end."""
        if not data:
            raise RequestError(400)
        self._data += data
        if self._length is None:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                if len(self._data) > HEAD_BYTES_MAX:
                    raise RequestError(431)
                return None
            self._length, self._data = parse_head(head), rest
        return self._data[: self._length] if len(self._data) >= self._length else None


class TokenBucket:
    """Lets through `burst` at once and `rate_per_s` sustained. Time is an argument (monotonic seconds)."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at: float | None = None

    def has(self, now: float) -> bool:
        """Return whether there is a token."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return self._tokens >= 1.0

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if not self.has(now):
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


def network_of(host: str) -> str:
    """The network that an address belongs to, as limits count it: all that one subscriber is given."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


@dataclass(slots=True, eq=False)
class _Connection:
    """A connection that a request may come on: of whom, from which network, since when (monotonic seconds)."""

    socket: socket.socket
    peer: str
    network: str
    since: float
    request: Request = field(default_factory=Request)

    def fileno(self) -> int:
        return self.socket.fileno()


class PushListener:
    """Worker. `on_notification(body) -> HTTP status` is `DmService.on_notification`. Binds on construction, or else in
    `run`; `report(ok, detail)` is told how that went."""

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
        report: Callable[[bool, str], None] = lambda _ok, _detail: None,
    ) -> None:
        self._request_s = request_s
        self._on_notification = on_notification
        self._monotonic = monotonic
        self._report = report
        self._bucket = TokenBucket(RATE_PER_S, BURST)
        self._where = (host, port)
        self._connections: list[_Connection] = []
        self._selector = selectors.DefaultSelector()
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._socket: socket.socket | None = None
        self._bind_at = float("-inf")
        self._accept_at: float | None = None  # not before, after an accept that failed
        self._refused, self._refused_at = 0, float("-inf")
        self.problem = ""
        self.port = 0  # where it listens, 0 while it does not; asked by other threads, also while this one ends
        self._bind()

    def close(self) -> None:
        """Give the port back, of a listener that does not `run`: that one does it itself."""
        for connection in list(self._connections):
            self._drop(connection)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._selector.close()

    def wake(self) -> None:
        """Have `run` look at its `stop` now. Any thread."""
        self._wakeup.set()

    def warnings(self) -> list[str]:
        """What an operator should know. Any thread."""
        return [f"no notification can reach this device: {self.problem}"] if self.problem else []

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Serve until `stop`; then close the socket."""
        try:
            while not stop.is_set():
                beat()
                self.step()
        finally:
            self.close()

    def step(self) -> None:
        """Wait for something to happen, `BEAT_S` at most, and see to it."""
        now = self._monotonic()
        if self._socket is None and now >= self._bind_at:
            self._bind()
        if self._socket is not None and self._accept_at is not None and now >= self._accept_at:
            self._accept_at = None
            self._selector.register(self._socket, selectors.EVENT_READ)
        ready = [key.fileobj for key, _ in self._selector.select(self._wait_s(now))]
        now = self._monotonic()
        if self._wakeup in ready:
            self._wakeup.clear()
        for connection in list(self._connections):
            if connection in ready:
                self._receive(connection, now)
            # Also of one that has just sent an octet: a peer that always has one ready would go on for ever.
            if connection in self._connections and now - connection.since >= self._request_s:
                self._answer(connection, 408)
        if self._socket is not None and self._socket in ready:
            self._accept(self._socket)

    # --- inside ---

    def _bind(self) -> None:
        host, port = self._where
        self._bind_at = self._monotonic() + BIND_AGAIN_S
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error  # Python adds the address
            problem = f"cannot listen on {host}:{port}: {why}"
            level = logging.DEBUG if problem == self.problem else logging.WARNING
            LOG.log(level, "%s; tried again every %.0f s", problem, BIND_AGAIN_S, extra={"event": "dm.push.unbound"})
            self.problem = problem
            self._report(False, problem)  # noqa: FBT003  the signature of `agent.daemon.health.Health.set`
            return
        if self.problem:
            LOG.info("listening on %s:%d at last", host, port, extra={"event": "dm.push.bound"})
        bound.settimeout(0)
        self._selector.register(bound, selectors.EVENT_READ)
        self._socket, self.problem = bound, ""
        self.port = int(bound.getsockname()[1])  # for a listener that was configured with port 0
        self._report(True, f"listening on {host}:{self.port}")  # noqa: FBT003

    def _wait_s(self, now: float) -> float:
        ends = [connection.since + self._request_s for connection in self._connections]
        if self._socket is None:
            ends.append(self._bind_at)
        if self._accept_at is not None:
            ends.append(self._accept_at)
        return max(0.0, min([BEAT_S, *(end - now for end in ends)]))

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, address = listening.accept()
            except BlockingIOError:  # none is left, or the peer hung up while queued
                return
            except OSError as error:  # descriptors ran out: that passes
                LOG.debug("accept failed: %s", error)
                self._selector.unregister(listening)
                self._accept_at = self._monotonic() + ACCEPT_FAILED_S
                return
            now = self._monotonic()  # of this connection: those before it may have taken their time
            accepted.settimeout(0)
            connection = _Connection(accepted, str(address[0]), network_of(str(address[0])), now)
            self._connections.append(connection)
            self._selector.register(connection, selectors.EVENT_READ)
            self._receive(connection, now)  # a whole request is here already, as a rule, and takes nobody's place
            if connection in self._connections:
                self._make_room(connection.network)

    def _make_room(self, network: str) -> None:
        """Have the connection that has waited longest give way, where there are too many, of all or of one network.

        However young that is: who comes last is never refused, or a few new connections per second would keep
        everybody out who sends his request at once.
        """
        same = [one for one in self._connections if one.network == network]
        if len(same) > CONNECTIONS_PER_NETWORK_MAX:
            self._answer(same[0], 503)
        elif len(self._connections) > CONNECTIONS_MAX:
            self._answer(self._connections[0], 503)

    def _receive(self, connection: _Connection, now: float) -> None:
        try:
            body = connection.request.receive(connection.socket.recv(RECEIVE_BYTES))
        except BlockingIOError:
            return
        except RequestError as error:
            self._answer(connection, error.status)
            return
        except OSError as error:
            LOG.debug("push from %s: %s", connection.peer, error)
            self._drop(connection)
            return
        if body is not None:
            self._answer(connection, self._notified(body, connection.peer, now))

    def _notified(self, body: bytes, peer: str, now: float) -> int:
        """Hand a notification on. Only a genuine one uses up a token, so that junk cannot keep it out."""
        if not self._bucket.has(now):
            return 429
        status = self._on_notification(body)
        if status == 202:
            self._bucket.take(now)
        elif status == 403:
            self._note_refused(peer, now)
        return status

    def _note_refused(self, peer: str, now: float) -> None:
        self._refused += 1
        if now - self._refused_at < REFUSED_EVERY_S:
            return
        LOG.warning(
            "notifications that are not genuine: %d, the last one from %s", self._refused, peer,
            extra={"event": "dm.push.refused"},
        )  # fmt: skip
        self._refused, self._refused_at = 0, now

    def _answer(self, connection: _Connection, status: int) -> None:
        LOG.debug("push from %s: %d", connection.peer, status)
        text = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(OSError):  # whoever is gone needs no answer; the first octets always find room
            connection.socket.send(text.encode("ascii"))
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection)
        self._connections.remove(connection)
        connection.socket.close()
