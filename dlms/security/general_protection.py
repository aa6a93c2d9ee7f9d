"""general-signing and general-ciphering around the APDUs of one side of one association (GB 9.2.7.2, 9.2.7.5).

Where the policy requires both, we sign first and then cipher the signed APDU. Received APDUs may be protected in the
other order, or have a service-specific ciphered APDU inside a signature. Both ends are named and checked: the
originator must be the peer, the recipient must be us (or nobody, in a broadcast). An answer has at least the protection
of its request and the same choice of key, and more protection where the policy requires more.

Each request has a transaction id of its own, its answer repeats it, and an answer to another request is refused. Our
transaction ids are invocation counter values in 8 octets. Where no invocation counter protects from replay, because
nothing is ciphered or the key came with the message, the receiver of a request accepts a transaction id only if it is
higher than all before. (The standard does not say how transaction ids are made.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlms.codes import CIPHERED_TAGS, UNASKED, Apdu
from dlms.errors import LocalError, PeerError
from dlms.security.gcm import check_counter
from dlms.security.general_formats import (
    TRANSACTION_OCTETS,
    GeneralCiphered,
    Header,
    cipher_apdu,
    open_ciphered,
    open_signed,
    sign_apdu,
)
from dlms.security.message_keys import GLOBAL_BROADCAST, incoming, outgoing
from dlms.security.settings import COUNTER_MAX, KeyChoice, Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlms.security.settings import Security

PROTECTIONS_MAX = 2  # one signature, one ciphering


class _Opened:
    """The protection found while an APDU is opened, from the outside in."""

    def __init__(self, apdu: bytes) -> None:
        self.plain = apdu
        self.headers: list[Header] = []
        self.signed = False
        self.ciphered = False
        self.broadcast = False
        self.counted = False  # an invocation counter was checked
        self.choice: KeyChoice | None = None
        self.policy = 0  # of general-ciphering, bits of `Policy`

    @property
    def consistent(self) -> bool:
        """Whether signature and ciphering name the same transaction and the same two ends."""
        return len({(header.transaction, header.originator, header.recipient) for header in self.headers}) == 1


class GeneralProtection:
    """General protection on one side of an association.

    A client makes transaction ids; a server (`is_server`) repeats them. `uncipher` opens the other forms of ciphering,
    which may be inside a signature, and returns the APDU with its policy bits. `broadcast` says whether the last APDU
    came with the broadcast key.
    """

    def __init__(
        self, security: Security, *, is_server: bool, uncipher: Callable[[bytes], tuple[bytes, int]] | None = None
    ) -> None:
        self._security = security
        self._uncipher = uncipher
        self._is_server = is_server
        self._transaction: bytes | None = None
        self._asked_signed = False
        self._asked_with: KeyChoice | None = None
        self._asked_policy = 0
        self.broadcast = False

    # ------------------------------------------------------------------------------------------------------- sending

    def seal(self, apdu: bytes, peer_title: bytes | None) -> bytes:
        """Protect `apdu`. Raises `LocalError` when the counter is used up or the peer's system title is not known."""
        security = self._security
        if peer_title is None:
            raise LocalError("general protection needs the system title of the other side")
        if not self._is_server or self._transaction is None:
            self._transaction = self._new_transaction()
        header = self._header(self._transaction, peer_title)
        if security.signing_key is not None and (security.signs or self._asked_signed):
            apdu = sign_apdu(apdu, header, security.signing_key)
        if security.policy or self._asked_policy:
            key = outgoing(security, header, self._asked_with or security.options.key)
            counter = 0 if key.fresh else None
            apdu = cipher_apdu(apdu, header, security, key.info, key.key, counter=counter, also=self._asked_policy)
        return apdu

    def seal_broadcast(self, apdu: bytes) -> bytes:
        """Protect `apdu` for every meter that has the broadcast key. Raises `LocalError` when we do not have it."""
        security, options = self._security, self._security.options
        if not options.broadcast_key:
            raise LocalError("there is no broadcast key")
        header = self._header(self._new_transaction(), b"")
        if security.signing_key is not None and security.signs:
            apdu = sign_apdu(apdu, header, security.signing_key)
        counter = options.broadcast_counters.next()
        return cipher_apdu(apdu, header, security, GLOBAL_BROADCAST, options.broadcast_key, counter=counter)

    def _new_transaction(self) -> bytes:
        return self._security.counters.next().to_bytes(TRANSACTION_OCTETS, "big")

    def _header(self, transaction: bytes, recipient: bytes) -> Header:
        options = self._security.options
        date_time = b"" if options.date_time is None else options.date_time()
        return Header(transaction, self._security.system_title, recipient, date_time, options.other_information)

    # ----------------------------------------------------------------------------------------------------- receiving

    def open(self, apdu: bytes, peer_title: bytes | None) -> bytes:
        """Open an APDU. Raises `DecodeError`, and `PeerError` for one that is wrong, weaker than ours, or replayed."""
        security, found = self._security, _Opened(apdu)
        for _ in range(PROTECTIONS_MAX):
            if not self._remove_one(found, peer_title):
                break
        if security.policy and not found.ciphered:
            raise PeerError("protection weaker than agreed: not ciphered")
        if security.signs and not found.signed:
            raise PeerError("protection weaker than agreed: not signed")
        if not found.headers or not found.plain:
            raise PeerError("a protected APDU is empty")
        if not found.consistent:
            raise PeerError("signed and ciphered for different transactions")
        self._check_transaction(found)
        self.broadcast = found.broadcast
        return found.plain

    def _remove_one(self, found: _Opened, peer_title: bytes | None) -> bool:
        """Remove the outer signature or ciphering; False when there is none."""
        tag = found.plain[0] if found.plain else -1
        if tag == Apdu.GENERAL_CIPHERING and not found.ciphered:
            self._decipher(found, peer_title)
        elif tag == Apdu.GENERAL_SIGNING and not found.signed:
            if self._security.peer_signing_key is None:
                raise PeerError("signed, but the peer's public signing key is not known")
            signed = open_signed(found.plain, self._security.peer_signing_key)
            self._check_ends(signed.header, peer_title)
            found.headers.append(signed.header)
            found.plain, found.signed = signed.content, True
        elif tag in CIPHERED_TAGS and not found.ciphered and self._uncipher is not None:
            found.plain, found.policy = self._uncipher(found.plain)
            found.ciphered = found.counted = True
        else:
            return False
        return True

    def _decipher(self, found: _Opened, peer_title: bytes | None) -> None:
        security = self._security
        ciphered = GeneralCiphered.parse(found.plain)
        self._check_ends(ciphered.header, peer_title, anybody=ciphered.key_info == GLOBAL_BROADCAST)
        key = incoming(security, ciphered.header, ciphered.key_info)
        counters = security.options.broadcast_counters if key.broadcast else security.counters
        found.plain = open_ciphered(ciphered, security, None if key.fresh else counters, key.key)
        found.headers.append(ciphered.header)
        found.ciphered, found.counted = True, not key.fresh
        found.choice, found.broadcast = key.choice, key.broadcast
        found.policy = ciphered.contents[0] & Policy.BOTH

    def _check_ends(self, header: Header, peer_title: bytes | None, *, anybody: bool = False) -> None:
        if peer_title is None or header.originator != peer_title:
            raise PeerError(f"protected by {header.originator.hex()}, who is not the other side")
        if header.recipient != self._security.system_title and not (self._is_server and not header.recipient):
            raise PeerError(f"protected for {header.recipient.hex()}, not for us")
        if anybody and not self._is_server:
            raise PeerError("a meter does not broadcast")

    def _check_transaction(self, found: _Opened) -> None:
        transaction = found.headers[0].transaction
        asked = self._is_server or found.plain[0] in UNASKED
        if not asked and transaction != self._transaction:
            raise PeerError("the answer to another request")
        if asked and not found.counted:
            number = int.from_bytes(transaction, "big")
            if number > COUNTER_MAX:  # it would lock out every invocation counter that is still to come
                raise PeerError("a transaction id beyond the range of invocation counters")
            check_counter(self._security.counters, number)
        if self._is_server and not found.broadcast:
            self._transaction = transaction
            self._asked_signed, self._asked_with, self._asked_policy = found.signed, found.choice, found.policy
