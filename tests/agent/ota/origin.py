"""An HTTP server for downloads, without sockets: objects with ranges, and lines that break where a test says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.https import HttpsError, Response


@dataclass
class Asked:
    """One request as it came."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass
class Object:
    """What stands under a URL."""

    content: bytes
    etag: str | None = '"v1"'
    content_type: str = "application/octet-stream"
    ranges: bool = True


class Body:
    """The answer as the downloader sees it: pieces, and perhaps a break."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes, cut: int | None, piece: int) -> None:
        self.status = status
        self.headers = headers
        self._content = content
        self._cut = cut
        self._piece = piece
        self.closed = False

    def chunks(self) -> Iterator[bytes]:
        end = len(self._content) if self._cut is None else min(self._cut, len(self._content))
        for at in range(0, end, self._piece):
            yield self._content[at : min(at + self._piece, end)]
        if self._cut is not None and end < len(self._content):
            raise HttpsError(f"connection lost after {end} bytes")

    def close(self) -> None:
        self.closed = True


Answer = Response | HttpsError


@dataclass
class Origin:
    """Serves `objects`. `cuts`: bytes after which the next GET answers break, None for one that does not; `instead`
    may give another answer to a request (by its number from 1)."""

    objects: dict[str, Object] = field(default_factory=dict)
    cuts: list[int | None] = field(default_factory=list)
    instead: Callable[[int, Asked], Answer | None] = lambda _, __: None
    piece: int = 1000
    asked: list[Asked] = field(default_factory=list)
    reports: list[tuple[str, bytes]] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        other = self._note(Asked(method, url, headers or {}, body))
        if other is not None:
            return other
        if method == "POST":
            self.reports.append((url, body or b""))
            return Response(200, {}, b"")
        assert method == "HEAD"
        wanted = self.objects.get(url)
        if wanted is None:
            return Response(404, {}, b"")
        head = {"content-length": str(len(wanted.content))} | ({"etag": wanted.etag} if wanted.etag else {})
        return Response(200, head, b"")

    def stream(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Body:
        asked = Asked(method, url, headers or {}, body)
        other = self._note(asked)
        answer = self._get(asked) if other is None else other
        cut = self.cuts.pop(0) if self.cuts and answer.status in (200, 206) else None
        made = Body(answer.status, answer.headers, answer.body, cut, self.piece)
        self.bodies.append(made)
        return made

    def ranges(self) -> list[str]:
        """The Range of each GET, empty for none."""
        return [asked.headers.get("Range", "") for asked in self.asked if asked.method == "GET"]

    def _note(self, asked: Asked) -> Response | None:
        self.asked.append(asked)
        other = self.instead(len(self.asked), asked)
        if isinstance(other, HttpsError):
            raise other
        return other

    def _get(self, asked: Asked) -> Response:
        wanted = self.objects.get(asked.url)
        if wanted is None:
            return Response(404, {}, b"")
        total = len(wanted.content)
        head = {"content-type": wanted.content_type} | ({"etag": wanted.etag} if wanted.etag else {})
        match = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("Range", ""))
        if match is None or not wanted.ranges or asked.headers.get("If-Range") != wanted.etag:
            return Response(200, head | {"content-length": str(total)}, wanted.content)
        start = int(match[1])
        if start >= total:
            return Response(416, {"content-range": f"bytes */{total}"}, b"")
        part = wanted.content[start:]
        head |= {"content-length": str(len(part)), "content-range": f"bytes {start}-{total - 1}/{total}"}
        return Response(206, head, part)
