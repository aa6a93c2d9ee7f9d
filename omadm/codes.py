"""Status and alert codes of the DM protocol, for both ends (OMA-TS-DM_RepPro 1.2, section 10).

Status codes that only data synchronisation uses (201, 203 to 211, 419 and 421 to 423) are left out. An unknown code of
a peer is classified by its hundreds (`succeeded`), as in HTTP.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Status codes."""

    OK = 200
    ACCEPTED = 202  # an Exec that goes on after the session
    AUTHENTICATED = 212  # for the rest of the session
    CHUNK_BUFFERED = 213
    CANCELLED = 214
    NOT_EXECUTED = 215  # a child of Sequence or Atomic that was not reached
    ATOMIC_ROLLED_BACK = 216
    NOT_MODIFIED = 304
    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    NOT_ALLOWED = 405
    NOT_SUPPORTED = 406
    CREDENTIALS_MISSING = 407
    TIMEOUT = 408
    CONFLICT = 409
    GONE = 410
    SIZE_REQUIRED = 411
    INCOMPLETE = 412
    TOO_LARGE = 413
    URI_TOO_LONG = 414
    UNSUPPORTED_FORMAT = 415
    OBJECT_TOO_LARGE = 416  # the size that the first chunk announces
    RETRY_LATER = 417
    ALREADY_EXISTS = 418
    DEVICE_FULL = 420
    SIZE_MISMATCH = 424
    PERMISSION_DENIED = 425
    COMMAND_FAILED = 500
    NOT_IMPLEMENTED = 501
    UNAVAILABLE = 503
    DTD_VERSION_NOT_SUPPORTED = 505
    PROCESSING_ERROR = 506
    ATOMIC_FAILED = 507
    DATA_STORE_FAILURE = 510
    SERVER_FAILURE = 511
    PROTOCOL_VERSION_NOT_SUPPORTED = 513
    OPERATION_CANCELLED = 514
    ATOMIC_ROLL_BACK_FAILED = 516
    ATOMIC_TOO_LARGE = 517


class AlertCode(IntEnum):
    """Alert codes (section 10.2). 1100 to 1104 need a person at a display, which a concentrator does not have."""

    DISPLAY = 1100
    CONFIRM_OR_REJECT = 1101
    TEXT_INPUT = 1102
    CHOICE_SINGLE = 1103
    CHOICE_MULTIPLE = 1104
    SERVER_INITIATED = 1200
    CLIENT_INITIATED = 1201
    NEXT_MESSAGE = 1222
    SESSION_ABORT = 1223
    CLIENT_EVENT = 1224
    NO_END_OF_DATA = 1225
    GENERIC = 1226


SOFTWARE_ROLLED_BACK = 1450  # SCOMO 1.0 leaves 1450 to 1499 to vendors: not activated, the version before is in use


def succeeded(code: int) -> bool:
    """Whether a status code means that the command was carried out, or will be. FUMO's result codes work the same."""
    return 200 <= code < 300


PARTIAL_CONTENT = 206
_NOT_DONE = frozenset(
    {PARTIAL_CONTENT, Code.CHUNK_BUFFERED, Code.CANCELLED, Code.NOT_EXECUTED, Code.ATOMIC_ROLLED_BACK}
)  # fmt: skip


def carried_out(code: int, *, later: bool = False) -> bool:
    """Whether the command with this status has its effect: of the codes of success some say that it has none, or none
    yet. `later`: one that was accepted, and whose end is told by an alert, counts as well (Exec)."""
    return succeeded(code) and code not in _NOT_DONE and (later or code != Code.ACCEPTED)


class Refusal(Exception):
    """A command of the server is answered with an error status. It has changed nothing."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(f"{code.value} {why}")
        self.code = code
        self.why = why
