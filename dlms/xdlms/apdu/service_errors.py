"""The two APDUs with which a server refuses a service (GB 9.5).

```
exception-response        D8 state-error service-error [invocation counter(4), with service error 6]
confirmed-service-error   0E service error-class code
```
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms.codes import Apdu, ServiceError, StateError
from dlms.cursor import Cursor

_SERVICES = {1: "initiate", 2: "get-status", 3: "get-name-list", 4: "get-variable-attribute", 5: "read", 6: "write"}
_CLASSES = {
    0: "application-reference",
    1: "hardware-resource",
    2: "vde-state-error",
    3: "service",
    4: "definition",
    5: "access",
    6: "initiate",
    7: "load-data-set",
    9: "task",
    10: "other",
}
_INITIATE_CODES = {
    0: "other",
    1: "dlms-version-too-low",
    2: "incompatible-conformance",
    3: "pdu-size-too-short",
    4: "refused-by-the-vde-handler",
}
INITIATE_SERVICE, READ_SERVICE, WRITE_SERVICE = 1, 5, 6
SERVICE_CLASS, INITIATE_CLASS = 3, 6


@dataclass(frozen=True, slots=True)
class ExceptionResponse:
    """exception-response; `counter` is the invocation counter that the server expects, with service error 6."""

    state_error: int
    service_error: int
    counter: int | None = None

    @property
    def text(self) -> str:
        """The service error, which says more than the state error."""
        return _name(ServiceError, self.service_error)

    @property
    def unsupported(self) -> bool:
        """Whether the server reports that it does not know the service."""
        return (
            self.state_error == StateError.SERVICE_UNKNOWN or self.service_error == ServiceError.SERVICE_NOT_SUPPORTED
        )

    @property
    def about_keys(self) -> bool:
        """Whether the server could not decipher the request, or took it for a repeated one."""
        return self.service_error in (ServiceError.DECIPHERING_ERROR, ServiceError.INVOCATION_COUNTER_ERROR)

    def emit(self) -> bytes:
        head = bytes((Apdu.EXCEPTION_RESPONSE, self.state_error, self.service_error))
        return head if self.counter is None else head + self.counter.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class ConfirmedServiceError:
    """confirmedServiceError: the service, the class of the error, and its code within the class."""

    service: int
    error_class: int
    code: int

    @property
    def text(self) -> str:
        service = _SERVICES.get(self.service, f"service {self.service}")
        error_class = _CLASSES.get(self.error_class, f"class {self.error_class}")
        code = str(self.code)
        if self.error_class == INITIATE_CLASS:
            code = _INITIATE_CODES.get(self.code, code)
        return f"{service} refused: {error_class} {code}"

    def emit(self) -> bytes:
        return bytes((Apdu.CONFIRMED_SERVICE_ERROR, self.service, self.error_class, self.code))


def _name(enum: type[StateError | ServiceError], code: int) -> str:
    try:
        return enum(code).name.lower().replace("_", "-")
    except ValueError:
        return f"error {code}"


def parse_exception(data: bytes) -> ExceptionResponse:
    """Parse an exception-response. Raises `DecodeError`."""
    cursor = Cursor(data, "exception-response")
    cursor.u8()
    state_error = cursor.u8()
    service_error = cursor.u8()
    counter = None
    if service_error == ServiceError.INVOCATION_COUNTER_ERROR and cursor.remaining:
        counter = cursor.u32()
    cursor.check_end()
    return ExceptionResponse(state_error, service_error, counter)


def parse_service_error(data: bytes) -> ConfirmedServiceError:
    """Parse a confirmed-service-error. Raises `DecodeError`."""
    cursor = Cursor(data, "confirmedServiceError")
    cursor.u8()
    error = ConfirmedServiceError(cursor.u8(), cursor.u8(), cursor.u8())
    cursor.check_end()
    return error
