"""Numbers of the DM protocol that the client decides on: status and alert codes (OMA-TS-DM_RepPro 1.2, section 10)."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Status codes that this client sends or understands."""

    OK = 200
    ACCEPTED = 202  # an Exec that goes on after the session
    AUTHENTICATED = 212  # for the rest of the session
    CHUNK_BUFFERED = 213
    NOT_EXECUTED = 215  # a child of Sequence or Atomic that was not reached
    ATOMIC_ROLLED_BACK = 216
    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    NOT_ALLOWED = 405
    NOT_SUPPORTED = 406
    CREDENTIALS_MISSING = 407
    INCOMPLETE = 412
    TOO_LARGE = 413
    URI_TOO_LONG = 414
    UNSUPPORTED_FORMAT = 415
    ALREADY_EXISTS = 418
    DEVICE_FULL = 420
    SIZE_MISMATCH = 424
    PERMISSION_DENIED = 425
    COMMAND_FAILED = 500
    ATOMIC_FAILED = 507
    ATOMIC_TOO_LARGE = 517


class AlertCode(IntEnum):
    """Alert codes (section 10.2). 1100 to 1104 want a person at a display, which a concentrator has not."""

    DISPLAY = 1100
    CHOICE_MULTIPLE = 1104
    SERVER_INITIATED = 1200
    CLIENT_INITIATED = 1201
    NEXT_MESSAGE = 1222
    SESSION_ABORT = 1223
    CLIENT_EVENT = 1224
    NO_END_OF_DATA = 1225
    GENERIC = 1226


class Refusal(Exception):
    """The server asked for something that is answered with an error status. Nothing was changed by it."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(f"{code.value} {why}")
        self.code = code
        self.why = why
