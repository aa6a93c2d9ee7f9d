"""The numbers of DLMS/COSEM and what they mean, with the place where the standard fixes them.

GB: Green Book (IEC 62056-5-3), BB: Blue Book (IEC 62056-6-2).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class DataAccessResult(IntEnum):
    """Outcome of a GET or SET of one attribute (GB 9.5, Data-Access-Result)."""

    SUCCESS = 0
    HARDWARE_FAULT = 1
    TEMPORARY_FAILURE = 2
    READ_WRITE_DENIED = 3
    OBJECT_UNDEFINED = 4
    OBJECT_CLASS_INCONSISTENT = 9
    OBJECT_UNAVAILABLE = 11
    TYPE_UNMATCHED = 12
    SCOPE_OF_ACCESS_VIOLATED = 13
    DATA_BLOCK_UNAVAILABLE = 14
    LONG_GET_ABORTED = 15
    NO_LONG_GET_IN_PROGRESS = 16
    LONG_SET_ABORTED = 17
    NO_LONG_SET_IN_PROGRESS = 18
    DATA_BLOCK_NUMBER_INVALID = 19
    OTHER_REASON = 250

    @property
    def text(self) -> str:
        """The standard's name, as `object-undefined`."""
        return kebab(self)


class ActionResult(IntEnum):
    """Outcome of a method (GB 9.5, Action-Result)."""

    SUCCESS = 0
    HARDWARE_FAULT = 1
    TEMPORARY_FAILURE = 2
    READ_WRITE_DENIED = 3
    OBJECT_UNDEFINED = 4
    OBJECT_CLASS_INCONSISTENT = 9
    OBJECT_UNAVAILABLE = 11
    TYPE_UNMATCHED = 12
    SCOPE_OF_ACCESS_VIOLATED = 13
    DATA_BLOCK_UNAVAILABLE = 14
    LONG_ACTION_ABORTED = 15
    NO_LONG_ACTION_IN_PROGRESS = 16
    OTHER_REASON = 250

    @property
    def text(self) -> str:
        """The standard's name, as `read-write-denied`."""
        return kebab(self)


class Conformance(IntFlag):
    """Services of an association; bit 0 of the standard is the first bit on the wire (GB 9.4.6.1)."""

    GENERAL_PROTECTION = 1 << 22
    GENERAL_BLOCK_TRANSFER = 1 << 21
    READ = 1 << 20
    WRITE = 1 << 19
    UNCONFIRMED_WRITE = 1 << 18
    DELTA_VALUE_ENCODING = 1 << 17
    ATTRIBUTE0_WITH_SET = 1 << 15
    PRIORITY = 1 << 14
    ATTRIBUTE0_WITH_GET = 1 << 13
    BLOCK_TRANSFER_WITH_GET = 1 << 12
    BLOCK_TRANSFER_WITH_SET = 1 << 11
    BLOCK_TRANSFER_WITH_ACTION = 1 << 10
    MULTIPLE_REFERENCES = 1 << 9
    INFORMATION_REPORT = 1 << 8
    DATA_NOTIFICATION = 1 << 7
    ACCESS = 1 << 6
    PARAMETERIZED_ACCESS = 1 << 5
    GET = 1 << 4
    SET = 1 << 3
    SELECTIVE_ACCESS = 1 << 2
    EVENT_NOTIFICATION = 1 << 1
    ACTION = 1 << 0


CONFORMANCE_BITS = 24

LN_CLIENT_CONFORMANCE = (
    Conformance.BLOCK_TRANSFER_WITH_GET
    | Conformance.BLOCK_TRANSFER_WITH_SET
    | Conformance.BLOCK_TRANSFER_WITH_ACTION
    | Conformance.MULTIPLE_REFERENCES
    | Conformance.GET
    | Conformance.SET
    | Conformance.SELECTIVE_ACCESS
    | Conformance.ACTION
)
"""What a client of this package proposes with logical-name referencing when nothing else is asked of it."""

SN_CLIENT_CONFORMANCE = (
    Conformance.READ
    | Conformance.WRITE
    | Conformance.MULTIPLE_REFERENCES
    | Conformance.BLOCK_TRANSFER_WITH_GET
    | Conformance.BLOCK_TRANSFER_WITH_SET
    | Conformance.PARAMETERIZED_ACCESS
)
"""The same with short-name referencing."""

SERVER_CONFORMANCE = (
    LN_CLIENT_CONFORMANCE
    | Conformance.GENERAL_BLOCK_TRANSFER
    | Conformance.ACCESS
    | Conformance.PRIORITY
    | Conformance.DATA_NOTIFICATION
    | Conformance.EVENT_NOTIFICATION
    | Conformance.UNCONFIRMED_WRITE
    | Conformance.INFORMATION_REPORT
)
"""Everything that the meter's side of this package can do, beside short names."""


class Context(IntEnum):
    """Last arc of the application context name 2.16.756.5.8.1.x (GB 9.4.2.2.2)."""

    LN = 1
    SN = 2
    LN_CIPHERED = 3
    SN_CIPHERED = 4

    @property
    def ciphered(self) -> bool:
        return self in (Context.LN_CIPHERED, Context.SN_CIPHERED)

    @property
    def short_names(self) -> bool:
        return self in (Context.SN, Context.SN_CIPHERED)


class Mechanism(IntEnum):
    """Last arc of the authentication mechanism name 2.16.756.5.8.2.x (GB 9.4.2.2.3)."""

    NONE = 0
    LLS = 1
    HLS = 2
    HLS_MD5 = 3
    HLS_SHA1 = 4
    HLS_GMAC = 5
    HLS_SHA256 = 6
    HLS_ECDSA = 7


class AssociationResult(IntEnum):
    """Field `result` of the AARE (GB 9.4.2.4)."""

    ACCEPTED = 0
    REJECTED_PERMANENT = 1
    REJECTED_TRANSIENT = 2


class Diagnostic(IntEnum):
    """Field `acse-service-user` of the AARE's result-source-diagnostic."""

    NULL = 0
    NO_REASON_GIVEN = 1
    APPLICATION_CONTEXT_NAME_NOT_SUPPORTED = 2
    CALLING_AP_TITLE_NOT_RECOGNIZED = 3
    CALLING_AP_INVOCATION_IDENTIFIER_NOT_RECOGNIZED = 4
    CALLING_AE_QUALIFIER_NOT_RECOGNIZED = 5
    CALLING_AE_INVOCATION_IDENTIFIER_NOT_RECOGNIZED = 6
    CALLED_AP_TITLE_NOT_RECOGNIZED = 7
    CALLED_AP_INVOCATION_IDENTIFIER_NOT_RECOGNIZED = 8
    CALLED_AE_QUALIFIER_NOT_RECOGNIZED = 9
    CALLED_AE_INVOCATION_IDENTIFIER_NOT_RECOGNIZED = 10
    AUTHENTICATION_MECHANISM_NAME_NOT_RECOGNISED = 11
    AUTHENTICATION_MECHANISM_NAME_REQUIRED = 12
    AUTHENTICATION_FAILURE = 13
    AUTHENTICATION_REQUIRED = 14


class StateError(IntEnum):
    """First field of an exception-response."""

    SERVICE_NOT_ALLOWED = 1
    SERVICE_UNKNOWN = 2


class ServiceError(IntEnum):
    """Second field of an exception-response."""

    OPERATION_NOT_POSSIBLE = 1
    SERVICE_NOT_SUPPORTED = 2
    OTHER_REASON = 3
    PDU_TOO_LONG = 4
    DECIPHERING_ERROR = 5
    INVOCATION_COUNTER_ERROR = 6


class Apdu(IntEnum):
    """First octet of an APDU (GB 9.5; the ACSE ones are BER application tags)."""

    INITIATE_REQUEST = 0x01
    READ_REQUEST = 0x05
    WRITE_REQUEST = 0x06
    INITIATE_RESPONSE = 0x08
    READ_RESPONSE = 0x0C
    WRITE_RESPONSE = 0x0D
    CONFIRMED_SERVICE_ERROR = 0x0E
    DATA_NOTIFICATION = 0x0F
    DATA_NOTIFICATION_CONFIRM = 0x10
    UNCONFIRMED_WRITE_REQUEST = 0x16
    INFORMATION_REPORT = 0x18
    GLO_INITIATE_REQUEST = 0x21
    GLO_INITIATE_RESPONSE = 0x28
    GLO_CONFIRMED_SERVICE_ERROR = 0x2E
    AARQ = 0x60
    AARE = 0x61
    RLRQ = 0x62
    RLRE = 0x63
    GET_REQUEST = 0xC0
    SET_REQUEST = 0xC1
    EVENT_NOTIFICATION = 0xC2
    ACTION_REQUEST = 0xC3
    GET_RESPONSE = 0xC4
    SET_RESPONSE = 0xC5
    ACTION_RESPONSE = 0xC7
    EXCEPTION_RESPONSE = 0xD8
    ACCESS_REQUEST = 0xD9
    ACCESS_RESPONSE = 0xDA
    GENERAL_GLO = 0xDB
    GENERAL_DED = 0xDC
    GENERAL_CIPHERING = 0xDD
    GENERAL_SIGNING = 0xDF
    GENERAL_BLOCK_TRANSFER = 0xE0


UNASKED = frozenset((Apdu.DATA_NOTIFICATION, Apdu.EVENT_NOTIFICATION, Apdu.INFORMATION_REPORT))
"""APDUs that a server sends without a request."""


# Tags of the ciphered form of each service, with the global and with the dedicated key (GB 9.5).
GLO_OF_PLAIN: dict[int, int] = {
    Apdu.INITIATE_REQUEST: 0x21,
    Apdu.READ_REQUEST: 0x25,
    Apdu.WRITE_REQUEST: 0x26,
    Apdu.INITIATE_RESPONSE: 0x28,
    Apdu.READ_RESPONSE: 0x2C,
    Apdu.WRITE_RESPONSE: 0x2D,
    Apdu.CONFIRMED_SERVICE_ERROR: 0x2E,
    Apdu.UNCONFIRMED_WRITE_REQUEST: 0x36,
    Apdu.INFORMATION_REPORT: 0x38,
    Apdu.GET_REQUEST: 0xC8,
    Apdu.SET_REQUEST: 0xC9,
    Apdu.EVENT_NOTIFICATION: 0xCA,
    Apdu.ACTION_REQUEST: 0xCB,
    Apdu.GET_RESPONSE: 0xCC,
    Apdu.SET_RESPONSE: 0xCD,
    Apdu.ACTION_RESPONSE: 0xCF,
}
DED_OF_PLAIN: dict[int, int] = {
    plain: 0xD0 + glo - 0xC8 if glo >= 0xC8 else 0x40 + plain
    for plain, glo in GLO_OF_PLAIN.items()
    if plain not in (Apdu.INITIATE_REQUEST, Apdu.INITIATE_RESPONSE)
}
PLAIN_OF_GLO = {glo: plain for plain, glo in GLO_OF_PLAIN.items()}
PLAIN_OF_DED = {ded: plain for plain, ded in DED_OF_PLAIN.items()}
NAMED_TAGS = frozenset((Apdu.GENERAL_CIPHERING, Apdu.GENERAL_SIGNING))
CIPHERED_TAGS = frozenset((*PLAIN_OF_GLO, *PLAIN_OF_DED, Apdu.GENERAL_GLO, Apdu.GENERAL_DED))
PROTECTED_TAGS = CIPHERED_TAGS | NAMED_TAGS

CONFIRMED = 0x40  # service class bit of invoke-id-and-priority
# Where the service class is, by the service that may go without an answer.
_WITHOUT_ANSWER: dict[int, int] = {Apdu.SET_REQUEST: 2, Apdu.ACTION_REQUEST: 2, Apdu.ACCESS_REQUEST: 1}


def is_unconfirmed(apdu: bytes) -> bool:
    """Whether a plain request wants no answer: an UNCONFIRMED-WRITE, or the service class of SET, ACTION, ACCESS.

    (A GET without an answer makes no sense: some clients forget the bit.)
    """
    if apdu[:1] == bytes((Apdu.UNCONFIRMED_WRITE_REQUEST,)):
        return True
    at = _WITHOUT_ANSWER.get(apdu[0]) if apdu else None
    return at is not None and len(apdu) > at and not apdu[at] & CONFIRMED


DLMS_VERSION = 6
VAA_NAME_LN = 0x0007
VAA_NAME_SN = 0xFA00


def kebab(code: IntEnum) -> str:
    """The standard's spelling of a name: `READ_WRITE_DENIED` is `read-write-denied`."""
    return code.name.lower().replace("_", "-")


def data_access_text(code: int) -> str:
    """Name of a Data-Access-Result, also of one this edition of the standard does not have."""
    try:
        return DataAccessResult(code).text
    except ValueError:
        return f"data-access-result-{code}"


def action_result_text(code: int) -> str:
    """Name of an Action-Result, also of one this edition of the standard does not have."""
    try:
        return ActionResult(code).text
    except ValueError:
        return f"action-result-{code}"
