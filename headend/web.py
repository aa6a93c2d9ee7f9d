"""HTTP helpers of all servers of the head-end: bounded bodies, JSON answers and errors, bearer tokens."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from omadm.syncml.text import unfit

BODY_TIMEOUT_S = 30.0  # a client that takes longer to send its request is cut off
JSON_BODY_BYTES_MAX = 64 * 1024
_NO_TEXT = re.compile("[\ud800-\udfff]")  # half of a surrogate pair: UTF-8 and the database have no form for it
_BEARER = re.compile(r"Bearer ([A-Za-z0-9._~+/=-]{1,512})", re.ASCII | re.IGNORECASE)


class JsonAnswer(JSONResponse):
    """An answer in JSON, whatever is in the database: half of a surrogate pair, which UTF-8 cannot carry, is escaped as
    JSON can, and a number that is none is text. A row that cannot be shown would hide all others with it."""

    def render(self, content: Any) -> bytes:
        try:
            return super().render(content)
        except ValueError:
            return json.dumps(_shown(content), allow_nan=False, separators=(",", ":")).encode("ascii")


def _shown(part: Any) -> Any:
    if isinstance(part, float):
        return part if math.isfinite(part) else str(part)
    if isinstance(part, dict):
        return {name: _shown(member) for name, member in part.items()}
    return [_shown(member) for member in part] if isinstance(part, list | tuple) else part


class HttpProblem(Exception):
    """Ends a request with `status` and the body `{"error": text}`."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


async def on_problem(_: Request, error: Exception) -> Response:
    """Exception handler for `HttpProblem`."""
    if not isinstance(error, HttpProblem):
        raise error
    return JsonAnswer({"error": error.text}, status_code=error.status, headers=error.headers)


async def read_body(request: Request, size_max: int) -> bytes:
    """The request's body. Raises `HttpProblem` 413 or 408."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and (len(length) > 15 or int(length) > size_max):
        raise HttpProblem(413, f"the body exceeds {size_max} bytes")
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                size += len(piece)
                if size > size_max:
                    raise HttpProblem(413, f"the body exceeds {size_max} bytes")
                pieces.append(piece)
    except TimeoutError:
        raise HttpProblem(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    return b"".join(pieces)


async def read_json(request: Request, size_max: int = JSON_BODY_BYTES_MAX) -> dict[str, Any]:
    """The request's body as a JSON object. Raises `HttpProblem` 400, 408 or 413."""
    return parse_json(await read_body(request, size_max))


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object without NaN and infinities, without text that cannot be stored, and with each name once. Raises
    `HttpProblem` 400."""
    try:
        document = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        raise HttpProblem(400, "the body is not JSON") from None
    if not isinstance(document, dict):
        raise HttpProblem(400, "a JSON object is expected")
    if why := unfit(document, _NO_TEXT):
        raise HttpProblem(400, why)
    return document


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise HttpProblem(400, f"{ascii(name)[1:-1]}: stands more than once")
        made[name] = value
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def bearer(request: Request) -> str:
    """The bearer token of the request. Raises `HttpProblem` 401 when there is none."""
    match = _BEARER.fullmatch(request.headers.get("authorization", ""))
    if match is None:
        raise HttpProblem(401, "a bearer token is required", {"WWW-Authenticate": "Bearer"})
    return match[1]


def token_hash(token: str) -> str:
    """The hash of a token, for storage. Tokens are 256 random bits, so a plain hash cannot be reversed."""
    return hashlib.sha256(token.encode()).hexdigest()


def same_token(token: str, kept_hash: str) -> bool:
    """Whether `token` has the stored hash; compared in constant time."""
    return hmac.compare_digest(token_hash(token), kept_hash)


def require_token(request: Request, kept_hash: str) -> None:
    """Check that the request carries the token of this hash. Raises `HttpProblem` 401 otherwise."""
    if not same_token(bearer(request), kept_hash):
        raise HttpProblem(401, "this token is not known", {"WWW-Authenticate": "Bearer"})


async def _healthz(_: Request) -> Response:
    return JsonAnswer({"status": "ok"})


def health_route() -> Route:
    """The route `GET /healthz`, which tells that the server is up."""
    return Route("/healthz", _healthz)
