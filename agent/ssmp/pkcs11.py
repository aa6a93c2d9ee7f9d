"""Keys in a token, by the C interface of PKCS#11 v2.40 (OASIS): the device's secret works there and stays there.

Each operation opens a session and closes it: a device registers a few times in its life, and a token that was taken out
and put back needs no restart. Only what SSMP needs is here: C_Sign with CKM_SHA256_HMAC or
CKM_ECDSA, and making the key that comes after one. That has the same label with `~` and a number behind it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent import log
from agent.settings.config import TokenConfig
from agent.settings.identity import SecretError, read_password
from omadm.ssmp.errors import SsmpError, SsmpKeyMissingError

Ulong = ctypes.c_ulong  # CK_ULONG

# Where functions stand in CK_FUNCTION_LIST (pkcs11f.h).
_PLACES = {
    "C_Initialize": 0,
    "C_GetSlotList": 4,
    "C_GetTokenInfo": 6,
    "C_OpenSession": 12,
    "C_CloseSession": 13,
    "C_Login": 18,
    "C_CreateObject": 20,
    "C_DestroyObject": 22,
    "C_GetAttributeValue": 24,
    "C_FindObjectsInit": 26,
    "C_FindObjects": 27,
    "C_FindObjectsFinal": 28,
    "C_SignInit": 42,
    "C_Sign": 43,
    "C_GenerateKeyPair": 59,
}
_OS_LOCKING_OK = 2  # CKF_OS_LOCKING_OK
_RW_SESSION, _SERIAL_SESSION = 2, 4  # CKF_…
_WRITE_PROTECTED = 2  # CKF_WRITE_PROTECTED
_USER = 1  # CKU_USER
_CLASS, _TOKEN, _PRIVATE, _LABEL, _VALUE, _KEY_TYPE, _ID = 0x0, 0x1, 0x2, 0x3, 0x11, 0x100, 0x102  # CKA_…
_SENSITIVE, _SIGN, _VERIFY, _EXTRACTABLE, _EC_PARAMS, _EC_POINT = 0x103, 0x108, 0x10A, 0x162, 0x180, 0x181
_GENERIC_SECRET, _EC = 0x10, 0x3  # CKK_…
_P256 = bytes.fromhex("06082a8648ce3d030107")  # its object identifier in DER
_EC_KEY_PAIR_GEN = 0x1040  # CKM_…
_YES, _NO = b"\1", b"\0"
PRIVATE_KEY, SECRET_KEY = 3, 4  # CKO_…
SHA256_HMAC, ECDSA = 0x251, 0x1041  # CKM_…
MARK = "~"  # between the first key's label and the number of one that came after it
LABEL_BYTES = 32  # of a token, filled up with blanks
SLOTS_MAX = 64
ANSWER_BYTES_MAX = 256  # of C_Sign: 32 and 64 are expected; and of an attribute
OBJECTS_MAX = 1024  # that are looked at
_OK, _PIN_INCORRECT, _ALREADY_LOGGED_IN, _ALREADY_INITIALIZED = 0x0, 0xA0, 0x100, 0x191
_NAMES = {
    0x5: "CKR_GENERAL_ERROR",
    0x6: "CKR_FUNCTION_FAILED",
    0x30: "CKR_DEVICE_ERROR",
    0x31: "CKR_DEVICE_MEMORY",
    0x32: "CKR_DEVICE_REMOVED",
    0x63: "CKR_KEY_TYPE_INCONSISTENT",
    0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    0x70: "CKR_MECHANISM_INVALID",
    _PIN_INCORRECT: "CKR_PIN_INCORRECT",
    0xA2: "CKR_PIN_LEN_RANGE",
    0xA4: "CKR_PIN_LOCKED",
    0xE0: "CKR_TOKEN_NOT_PRESENT",
    0x101: "CKR_USER_NOT_LOGGED_IN",
}


class TokenError(SecretError, SsmpError):
    """The token, or what is in it, cannot be used. The text holds no PIN."""


class MissingKeyError(TokenError, SsmpKeyMissingError):
    """The token is there, and this key is not in it."""


class TokenCallError(TokenError):
    """A function of the library failed. `code` is its CK_RV."""

    def __init__(self, library: Path, function: str, code: int) -> None:
        super().__init__(f"{library}: {function}: {_NAMES.get(code, f'0x{code:x}')}")
        self.code = code


class _FunctionList(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_ubyte * 2),
        ("functions", ctypes.c_void_p * (1 + max(_PLACES.values()))),
    ]


class _InitializeArgs(ctypes.Structure):
    _fields_ = [("mutex", ctypes.c_void_p * 4), ("flags", Ulong), ("reserved", ctypes.c_void_p)]


class _Attribute(ctypes.Structure):
    _fields_ = [("type", Ulong), ("value", ctypes.c_void_p), ("length", Ulong)]


class _Mechanism(ctypes.Structure):
    _fields_ = [("mechanism", Ulong), ("parameter", ctypes.c_void_p), ("length", Ulong)]


class _TokenInfo(ctypes.Structure):
    _fields_ = [
        ("label", ctypes.c_char * LABEL_BYTES),
        ("made", ctypes.c_char * 64),  # manufacturer, model, serial number
        ("flags", Ulong),
        ("rest", ctypes.c_ubyte * 512),  # what follows is not looked at
    ]


class Library:
    """A PKCS#11 library, loaded and initialised."""

    def __init__(self, path: Path) -> None:
        """Load it. Raises `TokenError`."""
        self._path = path
        try:
            self._library = ctypes.CDLL(str(path))
            get = self._library.C_GetFunctionList
        except (OSError, AttributeError) as error:
            raise TokenError(f"{path}: is no PKCS#11 library that can be loaded: {error}") from error
        found = ctypes.POINTER(_FunctionList)()
        get.restype, get.argtypes = Ulong, [ctypes.c_void_p]
        code = get(ctypes.byref(found))
        if code != _OK:
            raise TokenCallError(path, "C_GetFunctionList", code)
        self._functions = found.contents.functions
        arguments = _InitializeArgs(flags=_OS_LOCKING_OK)
        self.call("C_Initialize", ctypes.byref(arguments), also=_ALREADY_INITIALIZED)

    def call(self, function: str, *arguments: object, also: int = _OK) -> None:
        """Call a function. Raises `TokenCallError` unless it returns CKR_OK, or `also`."""
        address = self._functions[_PLACES[function]]
        if not address:
            raise TokenError(f"{self._path}: has no {function}")
        code = ctypes.CFUNCTYPE(Ulong, *(_kind(each) for each in arguments))(address)(*arguments)
        if code not in (_OK, also):
            raise TokenCallError(self._path, function, code)

    def slot_of(self, label: str) -> int:
        """The slot with the token of this label. Raises `TokenError` unless there is exactly one."""
        count = Ulong(SLOTS_MAX)
        slots = (Ulong * SLOTS_MAX)()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(slots), ctypes.byref(count))
        wanted = label.encode().ljust(LABEL_BYTES)
        found = []
        for slot in slots[: count.value]:
            info = _TokenInfo()
            self.call("C_GetTokenInfo", Ulong(slot), ctypes.byref(info))
            if ctypes.string_at(ctypes.addressof(info), LABEL_BYTES) == wanted:
                found.append(slot)
        if len(found) != 1:
            raise TokenError(f"{self._path}: {len(found)} tokens have the label {label!r}, one is expected")
        return found[0]


class Token:
    """One key in a token, and those that came after it. `kind` is `PRIVATE_KEY` or `SECRET_KEY`. One owner; not for
    concurrent use. All methods raise `TokenError`."""

    def __init__(self, place: TokenConfig, kind: int) -> None:
        self._place = place
        self._kind = kind
        self._library: Library | None = None
        self._refused_pin = ""  # the token counts wrong tries, and locks itself

    def __repr__(self) -> str:
        return f"Token({self._place.token!r}, {self._place.object!r})"

    @property
    def label(self) -> str:
        """The label of the key that the configuration names, the first one."""
        return self._place.object

    def sign(self, data: bytes, mechanism: int, label: str = "") -> bytes:
        """C_Sign with the key of this label; empty for the first one's."""
        with self._session() as (library, session):
            key = self._find(library, session, label or self.label)
            chosen = _Mechanism(mechanism=mechanism)
            library.call("C_SignInit", session, ctypes.byref(chosen), Ulong(key))
            answer = (ctypes.c_ubyte * ANSWER_BYTES_MAX)()
            size = Ulong(ANSWER_BYTES_MAX)
            library.call(
                "C_Sign", session, ctypes.c_char_p(data), Ulong(len(data)), ctypes.byref(answer), ctypes.byref(size)
            )
            return bytes(answer[: size.value])

    def check(self, label: str = "") -> None:
        """Check that the key is there and that the token does not give it away."""
        with self._session() as (library, session):
            self._check(library, session, self._find(library, session, label or self.label))

    def labels(self) -> list[str]:
        """The labels of the keys that are there, the newest first: the first one's, and of those that came after it."""
        with self._session() as (library, session):
            found = {self._label(library, session, key) for key in self._objects(library, session)}
        numbered = sorted(((self._number(label), label) for label in found), reverse=True)
        return [label for number, label in numbered if number >= 0]

    def write_protected(self) -> bool:
        """Whether the token lets nobody make a key in it."""
        if self._library is None:
            self._library = Library(self._place.library)
        info = _TokenInfo()
        slot = self._library.slot_of(self._place.token)
        self._library.call("C_GetTokenInfo", Ulong(slot), ctypes.byref(info))
        return bool(info.flags & _WRITE_PROTECTED)

    def create(self, value: bytes) -> str:
        """Put the next key in, as a generic secret for MACs. Returns its label."""
        label = self._following()
        template = {_CLASS: bytes(Ulong(SECRET_KEY)), _KEY_TYPE: bytes(Ulong(_GENERIC_SECRET)), _VALUE: value}
        with self._session(writes=True) as (library, session):
            made, key = _template({**template, **_kept(label)}), Ulong()
            library.call("C_CreateObject", session, ctypes.byref(made), Ulong(len(made)), ctypes.byref(key))
            self._check_new(library, session, key.value)
        return label

    def generate(self) -> tuple[str, bytes]:
        """Make the next key pair, of P-256. Returns its label, and the public key as a point (SEC 1, 65 bytes)."""
        label = self._following()
        # The public key stays in the session: whoever needs it later has it in the certificate.
        public = _template({_TOKEN: _NO, _VERIFY: _YES, _EC_PARAMS: _P256})
        private = _template({_KEY_TYPE: bytes(Ulong(_EC)), **_kept(label)})
        with self._session(writes=True) as (library, session):
            how, shown, key = _Mechanism(mechanism=_EC_KEY_PAIR_GEN), Ulong(), Ulong()
            library.call(
                "C_GenerateKeyPair", session, ctypes.byref(how), ctypes.byref(public), Ulong(len(public)),
                ctypes.byref(private), Ulong(len(private)), ctypes.byref(shown), ctypes.byref(key),
            )  # fmt: skip
            self._check_new(library, session, key.value)
            point = self._value(library, session, shown.value, _EC_POINT)
        if point[:2] != b"\x04\x41" or len(point) != 67:  # an OCTET STRING in DER
            raise TokenError(f"{self}: the public key of the pair that was made is no point of P-256")
        return label, point[2:]

    def destroy_others(self, kept: Collection[str]) -> None:
        """Destroy all keys of `labels` but those."""
        for label in [each for each in self.labels() if each not in kept]:
            with self._session(writes=True) as (library, session):
                library.call("C_DestroyObject", session, Ulong(self._find(library, session, label)))

    def _following(self) -> str:
        newest, *_ = [*self.labels(), self.label]
        return f"{self.label}{MARK}{self._number(newest) + 1}"

    def _number(self, label: str) -> int:
        """Which key this is: 0 for the first one; -1 for one that has nothing to do with it."""
        if label == self.label:
            return 0
        before, _, number = label.rpartition(MARK)
        return int(number) if before == self.label and number.isdecimal() and number.isascii() else -1

    @contextmanager
    def _session(self, *, writes: bool = False) -> Iterator[tuple[Library, Ulong]]:
        if self._library is None:
            self._library = Library(self._place.library)
        library, session = self._library, Ulong()
        slot = library.slot_of(self._place.token)
        flags = _SERIAL_SESSION | (_RW_SESSION if writes else 0)
        library.call("C_OpenSession", Ulong(slot), Ulong(flags), None, None, ctypes.byref(session))
        try:
            self._login(library, session)
            yield library, session
        finally:
            library.call("C_CloseSession", session)

    def _login(self, library: Library, session: Ulong) -> None:
        try:
            pin = read_password(self._place.pin_file)
        except SecretError as error:
            raise TokenError(str(error)) from error
        log.hide(pin)
        if pin == self._refused_pin:
            raise TokenError(f"{self}: refused the PIN of {self._place.pin_file} before; it is not tried again")
        octets = pin.encode()
        try:
            library.call(
                "C_Login", session, Ulong(_USER), ctypes.c_char_p(octets), Ulong(len(octets)), also=_ALREADY_LOGGED_IN
            )
        except TokenCallError as error:
            if error.code == _PIN_INCORRECT:
                self._refused_pin = pin
            raise

    def _find(self, library: Library, session: Ulong, label: str) -> int:
        found = self._objects(library, session, {_LABEL: label.encode()})
        if not found:
            raise MissingKeyError(f"Token({self._place.token!r}, {label!r}): no such key is in the token")
        if len(found) > 1:
            raise TokenError(f"Token({self._place.token!r}, {label!r}): more than one such key is in the token")
        return found[0]

    def _objects(self, library: Library, session: Ulong, wanted: Mapping[int, bytes] | None = None) -> list[int]:
        template = _template({_CLASS: bytes(Ulong(self._kind)), **(wanted or {})})
        library.call("C_FindObjectsInit", session, ctypes.byref(template), Ulong(len(template)))
        try:
            found, count = (Ulong * OBJECTS_MAX)(), Ulong()
            library.call("C_FindObjects", session, ctypes.byref(found), Ulong(OBJECTS_MAX), ctypes.byref(count))
        finally:
            library.call("C_FindObjectsFinal", session)
        return [int(each) for each in found[: count.value]]

    def _check(self, library: Library, session: Ulong, key: int) -> None:
        for attribute, wanted in ((_SENSITIVE, True), (_EXTRACTABLE, False)):
            if any(self._value(library, session, key, attribute)) is not wanted:
                raise TokenError(f"{self}: the token gives this key away: it is not sensitive, or extractable")

    def _check_new(self, library: Library, session: Ulong, key: int) -> None:
        try:
            self._check(library, session, key)
        except TokenError:
            library.call("C_DestroyObject", session, Ulong(key))
            raise

    def _label(self, library: Library, session: Ulong, key: int) -> str:
        return self._value(library, session, key, _LABEL).decode("utf-8", "replace")

    @staticmethod
    def _value(library: Library, session: Ulong, key: int, attribute: int) -> bytes:
        value = ctypes.create_string_buffer(ANSWER_BYTES_MAX)
        asked = _Attribute(attribute, ctypes.addressof(value), ANSWER_BYTES_MAX)
        library.call("C_GetAttributeValue", session, Ulong(key), ctypes.byref(asked), Ulong(1))
        return value.raw[: asked.length]


def _kept(label: str) -> dict[int, bytes]:
    """What is so of every key that is made: it stays in the token, is not given away, and signs."""
    name = label.encode()
    flags = {_TOKEN: _YES, _PRIVATE: _YES, _SENSITIVE: _YES, _EXTRACTABLE: _NO, _SIGN: _YES}
    return {**flags, _LABEL: name, _ID: name}


def _template(values: Mapping[int, bytes]) -> ctypes.Array[_Attribute]:
    """Attributes to make or to find an object with. They keep their values alive."""
    buffers = {kind: ctypes.create_string_buffer(value, len(value)) for kind, value in values.items()}
    return (_Attribute * len(values))(
        *(_Attribute(kind, ctypes.cast(each, ctypes.c_void_p), len(each)) for kind, each in buffers.items())
    )


def _kind(argument: object) -> type[Ulong | ctypes.c_ubyte | ctypes.c_void_p]:
    """How an argument is passed: by value where it is a number, else as a pointer."""
    return type(argument) if isinstance(argument, Ulong | ctypes.c_ubyte) else ctypes.c_void_p
