"""The formats of `request.json` and `result.json`, by which a firmware package changes hands. Both ends import them.

inbox/package.swu       a package that the agent downloaded
inbox/request.json      `InstallRequest`, written last: the request to install it
outbox/result.json      `InstallResult`: how it ended; the agent removes it when the server has acknowledged it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from updateagent.errors import REQUEST, RequestError

VERSION = 1
PACKAGE = "package.swu"
NAME_CHARS_MAX = 256  # of each text of a request: identifier, package, correlator, kind
RESULT_CHARS_MAX = 1024  # of each text of a result; what is longer is cut
TAIL_LINES_MAX = 20  # of the agent's log on trial
LOG_LINES_MAX = TAIL_LINES_MAX + 1  # of a result: those, and one about the health check that was not good


@dataclass(frozen=True, slots=True)
class InstallRequest:
    """Install `package`, a file of the inbox. `id` makes the request and its result one.

    `correlator` is the server's, at most `NAME_CHARS_MAX` characters; `requested` is in seconds since the epoch.
    """

    id: str
    package: str
    correlator: str
    requested: float
    kind: str = "firmware"

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the encoded form. Raises `RequestError` (request)."""
        try:
            document = json.loads(raw)
            request = cls(
                _name(document, "id"),
                _name(document, "package"),
                _name(document, "correlator", ""),
                float(document.get("requested", 0)),
                _name(document, "kind"),
            )
            version = document["version"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RequestError(REQUEST, f"the request cannot be read: {error}") from error
        if version != VERSION:
            raise RequestError(REQUEST, f"the request has version {version!r}, this program knows {VERSION}")
        if not request.id or request.package in ("", ".", "..") or "/" in request.package or "\0" in request.package:
            raise RequestError(REQUEST, "the request needs an id and the plain name of a file")
        return request

    def emit(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}).encode()


@dataclass(frozen=True, slots=True)
class InstallResult:
    """The outcome of a request: `code` and `name` of `errors`, 0 for none, and the results for FUMO and SCOMO."""

    id: str
    correlator: str
    name: str
    fumo: int
    message: str = ""
    from_version: str = ""
    to_version: str = ""
    failed_check: str | None = None
    log: tuple[str, ...] = ()
    code: int = 0
    scomo: int = 0
    attempts: int = 0
    finished: float = 0.0

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self | None:
        """From a file that any version of the Update Agent may have written; None if id or FUMO result is missing."""
        result_id, fumo = _text(document, "id"), document.get("fumo")
        if not result_id or not isinstance(fumo, int):
            return None
        lines, finished = document.get("log"), document.get("finished")
        return cls(
            id=result_id,
            correlator=_text(document, "correlator"),
            name=_text(document, "name"),
            fumo=fumo,
            message=_text(document, "message"),
            from_version=_text(document, "from_version"),
            to_version=_text(document, "to_version"),
            failed_check=_text(document, "failed_check") or None,
            log=tuple(str(line) for line in lines[-LOG_LINES_MAX:]) if isinstance(lines, list) else (),
            code=_number(document, "code"),
            scomo=_number(document, "scomo"),
            attempts=_number(document, "attempts"),
            finished=float(finished) if isinstance(finished, float) else float(_number(document, "finished")),
        )

    def document(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return {"version": VERSION, **asdict(self), "log": list(self.log)}

    @property
    def error(self) -> str:
        """Number, name and sentence of what went wrong; empty for success."""
        return f"{self.code} {self.name}: {self.message}" if self.code else ""


def _name(document: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = document[key] if default is None else document.get(key, default)
    if not isinstance(value, str) or len(value) > NAME_CHARS_MAX:
        raise ValueError(f"{key} is a text of at most {NAME_CHARS_MAX} characters")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value[:RESULT_CHARS_MAX] if isinstance(value, str) else ""


def _number(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    # A float holds whole numbers to 2**53; json reads any number of digits.
    return value if isinstance(value, int) and abs(value) < 1 << 53 else 0
