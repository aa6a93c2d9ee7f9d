"""general-signing and general-ciphering around the APDUs of one side of one association (GB 9.2.7.2, 9.2.7.5).

A signed APDU is signed first and ciphered, where the policy says so, around that; both headers are the same. Both ends
are named and checked: the originator is the peer, the recipient is us. A request has a transaction id of its own, the
answer repeats it, and an answer to another request is refused. The transaction ids that we make are invocation counter
values, 8 octets: where nothing is ciphered, the receiver of a request accepts each once and only if it is higher than
all before. (The standard leaves their making open.) Where something is ciphered, its counter does the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlms.ciphering import Replayed
from dlms.codes import Apdu
from dlms.errors import LocalError, PeerError
from dlms.general import (
    IDENTIFIED,
    TRANSACTION_OCTETS,
    GeneralCiphered,
    Header,
    KeyInfo,
    cipher_apdu,
    open_ciphered,
    open_signed,
    sign_apdu,
)

if TYPE_CHECKING:
    from dlms.security import Security

GLOBAL_UNICAST = KeyInfo(IDENTIFIED, 0)
_UNASKED = frozenset((Apdu.DATA_NOTIFICATION, Apdu.EVENT_NOTIFICATION, Apdu.INFORMATION_REPORT))


class Layers:
    """See the module. `is_server` says which side asks and which repeats transaction ids."""

    def __init__(self, security: Security, *, is_server: bool) -> None:
        self._security = security
        self._is_server = is_server
        self._transaction: bytes | None = None

    def seal(self, apdu: bytes, peer_title: bytes | None) -> bytes:
        """`apdu` protected. Raises `LocalError` when the counter is used up or there is nobody to send it to."""
        security = self._security
        if peer_title is None:
            raise LocalError("general protection needs the system title of the other side")
        if not self._is_server or self._transaction is None:
            self._transaction = security.counters.next().to_bytes(TRANSACTION_OCTETS, "big")
        header = Header(self._transaction, security.system_title, peer_title)
        if security.signing_key is not None:
            apdu = sign_apdu(apdu, header, security.signing_key)
        if security.policy:
            apdu = cipher_apdu(apdu, header, security, GLOBAL_UNICAST)
        return apdu

    def open(self, apdu: bytes, peer_title: bytes | None) -> bytes:
        """The APDU inside. Raises `DecodeError`, and `PeerError` for what is wrong, weaker than ours, or replayed."""
        security, plain = self._security, apdu
        header = outer = None
        if plain[0] == Apdu.GENERAL_CIPHERING:
            ciphered = GeneralCiphered.parse(plain)
            header = outer = ciphered.header
            self._check_ends(header, peer_title)
            if ciphered.key_info not in (None, GLOBAL_UNICAST):
                raise PeerError("ciphered with another key than the global one")
            plain = open_ciphered(plain, security, security.counters)
        elif security.policy:
            raise PeerError("protection weaker than agreed: not ciphered")
        if plain[0] == Apdu.GENERAL_SIGNING:
            if security.peer_signing_key is None:
                raise PeerError("signed, and the key to check it with is not known")
            signed = open_signed(plain, security.peer_signing_key)
            header, plain = signed.header, signed.content
            self._check_ends(header, peer_title)
            if outer is not None and outer != header:
                raise PeerError("signed and ciphered for different transactions")
        elif security.signs:
            raise PeerError("protection weaker than agreed: not signed")
        if header is None or not plain:
            raise PeerError("nothing is inside of a protected APDU")
        self._check_transaction(header, plain[0], counted=outer is not None)
        return plain

    def _check_ends(self, header: Header, peer_title: bytes | None) -> None:
        if peer_title is None or header.originator != peer_title:
            raise PeerError(f"protected by {header.originator.hex()}, who is not the other side")
        if header.recipient != self._security.system_title:
            raise PeerError(f"protected for {header.recipient.hex()}, not for us")

    def _check_transaction(self, header: Header, tag: int, *, counted: bool) -> None:
        """`counted`: an invocation counter was checked already."""
        asked = self._is_server or tag in _UNASKED
        if not asked and header.transaction != self._transaction:
            raise PeerError("the answer to another request")
        if asked and not counted:
            counters, number = self._security.counters, int.from_bytes(header.transaction, "big")
            seen = counters.seen()
            if seen is not None and number <= seen:
                raise Replayed(number, seen + 1)
            counters.note(number)
        if self._is_server:
            self._transaction = header.transaction
