"""HTTP over TLS for everything the device asks a server: SSMP, DM, downloads, uplink.

The server's certificate is always verified against the configured authorities (`agent.tls`); plain `http` is refused.
Every answer is bounded, every wait has an end, and every foreign exception leaves here as one of two of ours.

`HttpsClient` opens a connection per request. `KeptConnection` keeps one open for those who ask often.
"""

from __future__ import annotations

import http.client
import io
import math
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from agent.clock_floor import CertificateTime, Validity
from agent.tls import Fault, TlsError, by_system_clock, client_context, connection_validity, explain
from omadm.addresses import check_address

BODY_BYTES_MAX = 1 << 20  # no answer of the DM, SSMP or metering server is legitimately larger
CHUNK_BYTES = 64 * 1024
TIMEOUT_S = 20.0  # without a byte; well below every worker's watchdog budget
CONNECTION_AGE_MAX_S = 600.0  # of a kept connection; then a new one, and the certificate is verified again
CONNECTION_IDLE_MAX_S = 50.0  # servers and NATs forget an idle connection, many after a minute
# For a whole answer, its head included, from the request on; of a download for each piece. A server that drips bytes,
# or says 100 (Continue) without end, must not outlast that budget either.
ANSWER_S = 60.0


class HttpsError(Exception):
    """The environment's fault: the server could not be reached, or the connection broke. Worth another try."""


class HttpsRefused(HttpsError):
    """TLS could not be established with this server, `fault` says why; or the request is none that can be sent. Trying
    again changes little."""

    def __init__(self, text: str, fault: Fault | None = None) -> None:
        super().__init__(text)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    valid: Validity | None = None  # when the certificates are valid that the server was verified by


class _Octets(io.RawIOBase):
    """What comes from a server, until a time. `begun`: something has come; `in_head`: the head is not complete yet, and
    may not end with the connection, which `http.client` would take for its end. `left`: octets that came behind the
    answer."""

    def __init__(self, raw: io.RawIOBase, monotonic: Callable[[], float], until: float) -> None:
        self._raw = raw
        self._monotonic = monotonic
        self.until = until
        self.begun = False
        self.in_head = True
        self.left = 0
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._monotonic() > self.until:
            raise TimeoutError(f"the answer was not complete after {ANSWER_S:.0f} s")
        got = self._raw.readinto(buffer)  # waits no longer than the timeout of the socket
        if got == 0 and self.begun and self.in_head:
            raise ConnectionError("the answer ended within its head")
        self.begun = self.begun or bool(got)
        self._count += got or 0
        return got

    def tell(self) -> int:
        return self._count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Reader(io.BufferedReader):
    """Says, when an answer is read, how much came behind it."""

    def __init__(self, octets: _Octets) -> None:
        super().__init__(octets)
        self._octets = octets

    def close(self) -> None:
        if not self.closed:
            self._octets.left = self._octets.tell() - self.tell()
        super().close()


class _Connection(http.client.HTTPSConnection):
    """A connection whose answers come in time. `octets`: those of the last one, `None` before it."""

    def __init__(self, host: str, port: int, *, monotonic: Callable[[], float], **more: Any) -> None:
        super().__init__(host, port, **more)
        self.monotonic = monotonic
        self.until = math.inf
        self.octets: _Octets | None = None
        self.response_class = self._answer  # type: ignore[assignment]

    def expect(self, until: float) -> None:
        """An answer is to come by then."""
        self.until, self.octets = until, None

    @property
    def clean(self) -> bool:
        """Whether nothing came behind that answer."""
        pending = self.sock.pending() if isinstance(self.sock, ssl.SSLSocket) else 0
        return pending == 0 and (self.octets is None or self.octets.left == 0)

    @property
    def begun(self) -> bool:
        """Whether something of that answer has come."""
        return self.octets is not None and self.octets.begun

    def _answer(self, *arguments: Any, **more: Any) -> http.client.HTTPResponse:
        answer = http.client.HTTPResponse(*arguments, **more)
        self.octets = _Octets(answer.fp.detach(), self.monotonic, self.until)
        answer.fp = _Reader(self.octets)
        return answer


class Stream:
    """An answer whose body is read piece by piece (downloads). Close it, or use it in `with`."""

    def __init__(
        self,
        connection: _Connection,
        response: http.client.HTTPResponse,
        valid: Validity | None = None,
    ) -> None:
        """`valid`: when the certificates are valid that the server was verified by."""
        self._connection = connection
        self._response = response
        self.valid = valid
        self.until = connection.until
        self.status = response.status
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in response.getheaders()}

    def chunks(self, until: float | None = None) -> Iterator[bytes]:
        """Bytes as they arrive, each piece at most `CHUNK_BYTES`; all of them by `until`, else each within `ANSWER_S`.
        A broken connection raises `HttpsError` after everything that did arrive has been handed out."""
        octets = self._connection.octets
        expected = self._response.length
        got = 0
        while True:
            if octets is not None:
                octets.until = self._connection.monotonic() + ANSWER_S if until is None else until
            try:
                piece = self._response.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise HttpsError(f"connection lost after {got} bytes: {error}") from error
            if not piece:
                break
            got += len(piece)
            yield piece
        if expected is not None and got < expected:
            raise HttpsError(f"connection closed after {got} of {expected} bytes")

    def leave_open(self) -> bool:
        """Be done with an answer that was read to its end. Returns whether the connection can take another request: not
        where something came behind it, which would be taken for the next answer."""
        self._response.close()
        return not self._response.will_close and self._connection.clean

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HttpsClient:
    """One client per process; each request has a connection of its own, as a few sessions per hour need no pool."""

    def __init__(
        self,
        ca_file: Path,
        *,
        timeout_s: float = TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
        certificate_time: Callable[[], CertificateTime] = by_system_clock,
        on_verdict: Callable[[Fault | None], None] = lambda _fault: None,
    ) -> None:
        """`ca_file`, `certificate_time`, `on_verdict`: see `agent.tls.client_context`. Raises `OSError` when the file
        cannot be read, `ssl.SSLError` when it holds no certificate: both are configuration errors for the caller to
        name."""
        self.on_answer: Callable[[Mapping[str, str], float, float, Validity], None] = lambda *_: None
        self._certificate_time, self._on_verdict = certificate_time, on_verdict
        self._changing = threading.Lock()
        self._ca_file, self._anchors = ca_file, tuple[str, ...]()
        self._context = self._make_context(ca_file, ())
        self._timeout_s = timeout_s
        self.monotonic = monotonic

    @property
    def context(self) -> ssl.SSLContext:
        """What connections are made with; another one when the authorities have changed."""
        return self._context

    def trust(self, ca_file: Path) -> None:
        """Verify servers by the authorities of another file from now on, kept connections included. Any thread. Raises
        as the constructor does; then nothing has changed."""
        with self._changing:
            self._context = self._make_context(ca_file, self._anchors)
            self._ca_file = ca_file

    def trust_also(self, anchors: Sequence[str]) -> None:
        """Believe the authorities in these texts (PEM), and no others, beside those of the file, in every connection
        that is made from now on. Any thread. Raises `OSError` and changes nothing, where one cannot be read."""
        with self._changing:
            self._context = self._make_context(self._ca_file, anchors)
            self._anchors = tuple(anchors)

    def _make_context(self, ca_file: Path, anchors: Sequence[str]) -> ssl.SSLContext:
        return client_context(ca_file, self._certificate_time, self._on_verdict, also=anchors)

    def at_any_time(self) -> HttpsClient:
        """A client that takes certificates before and after their time, and is otherwise as strict as this one: for
        messages that are authenticated and sealed by themselves, when it is not known what time it is."""
        with self._changing:
            made = HttpsClient(
                self._ca_file,
                timeout_s=self._timeout_s,
                monotonic=self.monotonic,
                certificate_time=lambda: CertificateTime(0.0, None),
            )
            made.trust_also(self._anchors)
        return made

    def reach(self, url: str) -> None:
        """Open a connection, judge the server's certificate, ask for nothing. Raises `HttpsError`, and `HttpsRefused`
        for a server that is not believed."""
        host, port, _ = _target(url)
        connection = self.connection(host, port)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _explained(url, error) from error
        finally:
            connection.close()

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request, return the whole answer. Raises `HttpsError`; any HTTP status is a `Response`."""
        with self.stream(method, url, body=body, headers=headers) as stream:
            return self.collect(stream, url)

    def stream(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Stream:
        """Send a request and return once the head of the answer has arrived. Raises `HttpsError`."""
        host, port, path = _target(url)
        return self.send(self.connection(host, port), _Request(method, url, path, body, headers or {}))

    def send(self, connection: _Connection, request: _Request) -> Stream:
        """Send a request over a connection, see `stream`."""
        sent = self.monotonic()
        connection.expect(sent + ANSWER_S)
        stream = _send(connection, request)
        if stream.valid is not None:
            self.on_answer(stream.headers, sent, self.monotonic(), stream.valid)
        return stream

    def connection(self, host: str, port: int) -> _Connection:
        """Return a connection that is opened, and verified, with the first request. Raises `HttpsRefused`."""
        try:
            return _Connection(host, port, monotonic=self.monotonic, timeout=self._timeout_s, context=self.context)
        except http.client.InvalidURL as error:
            raise HttpsRefused(f"not a URL: {error}") from error

    def collect(self, stream: Stream, url: str) -> Response:
        """Return the whole answer. Raises `HttpsError` when it is too large or too slow."""
        pieces: list[bytes] = []
        size = 0
        for piece in stream.chunks(stream.until):
            size += len(piece)
            if size > BODY_BYTES_MAX:
                raise HttpsError(f"{_shown(url)}: the answer exceeds {BODY_BYTES_MAX} bytes")
            pieces.append(piece)
        return Response(stream.status, stream.headers, b"".join(pieces), stream.valid)


class KeptConnection:
    """A connection that stays open from one request to the next (RFC 9112, 9.3), and is opened again when it is too
    old, was idle for too long, or died. One thread.

    Only for requests that do no harm when they are repeated. A server may close a connection at any moment, also while
    a request is on its way to it; a request that got not one byte of an answer on a connection used before is sent
    once more on a new one, since nobody can tell whether it arrived.
    """

    def __init__(self, client: HttpsClient) -> None:
        self._client = client
        self._open: _Open | None = None

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request, return the whole answer. Raises `HttpsError`; any HTTP status is a `Response`."""
        host, port, path = _target(url)
        request = _Request(method, url, path, body, headers or {})
        if self._usable(host, port):
            try:
                return self._ask(request)
            except _GoneError:
                pass  # closed by the server since
        self.close()
        context = self._client.context  # before the connection: one that has just become older is not used again
        self._open = _Open(self._client.connection(host, port), host, port, self._client.monotonic(), context)
        return self._ask(request)

    def close(self) -> None:
        if self._open is not None:
            self._open.connection.close()
            self._open = None

    def _usable(self, host: str, port: int) -> bool:
        known = self._open
        if known is None or (known.host, known.port) != (host, port) or known.context is not self._client.context:
            return False
        now = self._client.monotonic()
        if now - known.opened > CONNECTION_AGE_MAX_S or now - known.used > CONNECTION_IDLE_MAX_S:
            return False
        if known.connection.sock is None:
            return False
        poll = select.poll()
        poll.register(known.connection.sock, select.POLLIN)
        return not poll.poll(0)  # nothing was asked: what can be read is the end, or not an answer of ours

    def _ask(self, request: _Request) -> Response:
        assert self._open is not None  # noqa: S101 - both callers have just seen to that
        keep = False
        try:
            stream = self._client.send(self._open.connection, request)
            answer = self._client.collect(stream, request.url)
            keep = stream.leave_open()
            self._open.used = self._client.monotonic()
            return answer
        finally:
            if not keep:
                self.close()


@dataclass(slots=True)
class _Open:
    """A kept connection, when it was opened, and when it was last used (monotonic seconds). `context`: what it was
    verified by."""

    connection: _Connection
    host: str
    port: int
    opened: float
    context: ssl.SSLContext
    used: float = 0.0

    def __post_init__(self) -> None:
        self.used = self.opened


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of the server; `path` is that of `url`, with its query."""

    method: str
    url: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]


class _GoneError(HttpsError):
    """The connection ended before the first byte of an answer."""


def _send(connection: _Connection, request: _Request) -> Stream:
    try:
        connection.request(request.method, request.path, body=request.body, headers=dict(request.headers))
        valid = connection_validity(connection.sock)  # now: the answer may end the connection
        response = connection.getresponse()
        if connection.octets is not None:
            connection.octets.in_head = False
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        found = _explained(request.url, error)
        if isinstance(found, _GoneError) and connection.begun:
            found = HttpsError(str(found))  # it was there, and has begun to answer
        # What cannot be sent may have a token in it, which a traceback must not show.
        raise found from (None if isinstance(error, ValueError) and not isinstance(error, OSError) else error)
    return Stream(connection, response, valid)


def _explained(url: str, error: Exception) -> HttpsError:
    """Return which of our errors stands for one of `http.client` or `ssl`."""
    shown = _shown(url)
    match error:
        case ConnectionError() | ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return _GoneError(f"{shown}: {error}")
        case TlsError() | ssl.SSLError():
            found = error if isinstance(error, TlsError) else explain(error)
            return HttpsRefused(f"{shown}: TLS: {found}", found.fault)
        case ValueError():
            # A host name that IDNA cannot encode, a header value with a line break: addresses and tokens are
            # provisioned, and a wrong one must not end the process. The error's own text may quote a token.
            return HttpsRefused(f"{shown}: the host name or a header cannot be sent")
    return HttpsError(f"{shown}: {error}")


def _target(url: str) -> tuple[str, int, str]:
    """Return (host, port, path with query). Raises `HttpsRefused` for what is no https URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
        path = parts.path or "/"
        (path + parts.query).encode("ascii")
        if parts.scheme != "https" or not host:
            raise HttpsRefused(f"{_shown(url)}: only https URLs are used")
        check_address(url)
    except ValueError as error:
        raise HttpsRefused(f"not a URL: {error}") from error
    return host, port, f"{path}?{parts.query}" if parts.query else path


def _shown(url: str) -> str:
    """Return the URL as logs may show it: without its query, which can carry a token, and without user information."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or '?'}:{parts.port or 443}{parts.path}"
