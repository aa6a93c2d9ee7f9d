"""HTTP over TLS for everything the device asks a server: SSMP, DM, downloads, uplink.

The server's certificate is always verified against the configured authorities (`agent.tls`); plain `http` is refused.
Every answer is bounded, every wait has an end, and every foreign exception leaves here as one of two of ours.

`HttpsClient` opens a connection per request. `KeptConnection` keeps one open for those who ask often.
"""

from __future__ import annotations

import http.client
import select
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from agent.clock_floor import CertificateTime, Validity
from agent.tls import Fault, TlsError, by_system_clock, client_context, connection_validity, explain

BODY_BYTES_MAX = 1 << 20  # no answer of the DM, SSMP or metering server is legitimately larger
CHUNK_BYTES = 64 * 1024
TIMEOUT_S = 20.0  # without a byte; well below every worker's watchdog budget
CONNECTION_AGE_MAX_S = 600.0  # of a kept connection; then a new one, and the certificate is verified again
CONNECTION_IDLE_MAX_S = 50.0  # servers and NATs forget an idle connection, many after a minute
ANSWER_S = 60.0  # for a whole answer: a server that drips bytes must not outlast that budget either


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


class Stream:
    """An answer whose body is read piece by piece (downloads). Close it, or use it in `with`."""

    def __init__(
        self,
        connection: http.client.HTTPSConnection,
        response: http.client.HTTPResponse,
        valid: Validity | None = None,
    ) -> None:
        """`valid`: when the certificates are valid that the server was verified by."""
        self._connection = connection
        self._response = response
        self.valid = valid
        self.status = response.status
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in response.getheaders()}

    def chunks(self) -> Iterator[bytes]:
        """Bytes as they arrive, each piece at most `CHUNK_BYTES`. A broken connection raises `HttpsError` after
        everything that did arrive has been handed out."""
        expected = self._response.length
        got = 0
        while True:
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
        """Be done with an answer that was read to its end. Returns whether the connection can take another request."""
        self._response.close()
        return not self._response.will_close

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
        self._context = client_context(ca_file, certificate_time, on_verdict)
        self._timeout_s = timeout_s
        self.monotonic = monotonic

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

    def send(self, connection: http.client.HTTPSConnection, request: _Request) -> Stream:
        """Send a request over a connection, see `stream`."""
        sent = self.monotonic()
        stream = _send(connection, request)
        if stream.valid is not None:
            self.on_answer(stream.headers, sent, self.monotonic(), stream.valid)
        return stream

    def connection(self, host: str, port: int) -> http.client.HTTPSConnection:
        """Return a connection that is opened, and verified, with the first request. Raises `HttpsRefused`."""
        try:
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._context)
        except http.client.InvalidURL as error:
            raise HttpsRefused(f"not a URL: {error}") from error

    def collect(self, stream: Stream, url: str) -> Response:
        """Return the whole answer. Raises `HttpsError` when it is too large or too slow."""
        pieces: list[bytes] = []
        size = 0
        end = self.monotonic() + ANSWER_S
        for piece in stream.chunks():
            size += len(piece)
            if self.monotonic() > end:
                raise HttpsError(f"{_shown(url)}: the answer was not complete after {ANSWER_S:.0f} s")
            if size > BODY_BYTES_MAX:
                raise HttpsError(f"{_shown(url)}: the answer exceeds {BODY_BYTES_MAX} bytes")
            pieces.append(piece)
        return Response(stream.status, stream.headers, b"".join(pieces))


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
        self._open = _Open(self._client.connection(host, port), host, port, self._client.monotonic())
        return self._ask(request)

    def close(self) -> None:
        if self._open is not None:
            self._open.connection.close()
            self._open = None

    def _usable(self, host: str, port: int) -> bool:
        known = self._open
        if known is None or (known.host, known.port) != (host, port):
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
    """A kept connection, when it was opened, and when it was last used (monotonic seconds)."""

    connection: http.client.HTTPSConnection
    host: str
    port: int
    opened: float
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


def _send(connection: http.client.HTTPSConnection, request: _Request) -> Stream:
    shown = _shown(request.url)
    try:
        connection.request(request.method, request.path, body=request.body, headers=dict(request.headers))
        valid = connection_validity(connection.sock)  # now: the answer may end the connection
        response = connection.getresponse()
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        connection.close()
        raise _GoneError(f"{shown}: {error}") from error
    except (TlsError, ssl.SSLError) as error:
        connection.close()
        found = error if isinstance(error, TlsError) else explain(error)
        raise HttpsRefused(f"{shown}: TLS: {found}", found.fault) from error
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise HttpsError(f"{shown}: {error}") from error
    except ValueError:
        # A host name that IDNA cannot encode, a header value with a line break: addresses and tokens are
        # provisioned, and a wrong one must not end the process. The text may quote a token, so it stays here.
        connection.close()
        raise HttpsRefused(f"{shown}: the host name or a header cannot be sent") from None
    return Stream(connection, response, valid)


def _target(url: str) -> tuple[str, int, str]:
    """Return (host, port, path with query). Raises `HttpsRefused` for what is no https URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
        path = parts.path or "/"
        (path + parts.query).encode("ascii")
    except ValueError as error:
        raise HttpsRefused(f"not a URL: {error}") from error
    if parts.scheme != "https" or not host:
        raise HttpsRefused(f"{_shown(url)}: only https URLs are used")
    return host, port, f"{path}?{parts.query}" if parts.query else path


def _shown(url: str) -> str:
    """Return the URL as logs may show it: without its query, which can carry a token, and without user information."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or '?'}:{parts.port or 443}{parts.path}"
