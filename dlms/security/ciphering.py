"""Protection of APDUs with AES-GCM, of one side of one association (GB 9.2.7.2, 9.5).

```
service-specific   tag(C8.. glo, D0.. ded, 21/28 initiate)  length  SC IC(4) contents
general-glo/ded    DB/DC  08 system-title(8)                length  SC IC(4) contents

SC        bits 0-3 suite, 10 authenticated, 20 encrypted, 40 broadcast key, 80 compressed
IV        system title of the sender (8) | IC (4)
contents  10: APDU, tag(12) over SC | AK | APDU      20: encrypted APDU      30: encrypted APDU, tag(12) over SC | AK
```

An invocation counter is accepted only if it is higher than all before. The peer's protection must not be weaker than
ours. An answer has at least the protection of its request, and more where the policy requires more. Under the broadcast
key a meter accepts only unconfirmed requests, and a client accepts nothing.
"""

from __future__ import annotations

import functools
import hmac
from typing import TYPE_CHECKING

from dlms.codes import (
    DED_OF_PLAIN,
    GLO_OF_PLAIN,
    NAMED_TAGS,
    PLAIN_OF_DED,
    PLAIN_OF_GLO,
    PROTECTED_TAGS,
    Apdu,
    is_unconfirmed,
)
from dlms.cursor import Cursor
from dlms.errors import LocalError, PeerError, SecurityError
from dlms.security.gcm import BROADCAST_KEY, COMPRESSED, SUITE_MASK, TAG_OCTETS, Gcm, check_counter, counted
from dlms.security.settings import SYSTEM_TITLE_OCTETS, InvocationCounters, MemoryCounters, Policy, Security

if TYPE_CHECKING:
    from dlms.security.general_protection import GeneralProtection

_AUTHENTICATE, _ENCRYPT, _BOTH = int(Policy.AUTHENTICATE), int(Policy.ENCRYPT), int(Policy.BOTH)
_NAMED_OCTETS = frozenset(bytes((tag,)) for tag in NAMED_TAGS)
_INITIATE_OCTETS = frozenset(bytes((GLO_OF_PLAIN[tag],)) for tag in (Apdu.INITIATE_REQUEST, Apdu.INITIATE_RESPONSE))


class Key(Gcm):
    """One encryption key with its invocation counters."""

    def __init__(self, key: bytes, counters: InvocationCounters) -> None:
        super().__init__(key)
        self.counters = counters


class Ciphering:
    """Protects what this side sends, and checks what the other side sends. `peer_title` is set when it becomes known.

    `dlms.security.general_protection` does general-ciphering and general-signing. A client uses them after `use_named`,
    that is, once the meter is known to take them; a server (`is_server`) answers in the form of the request.
    """

    def __init__(self, security: Security, *, is_server: bool = False) -> None:
        self._is_server = is_server
        self._general: GeneralProtection | None = None
        self._named = False
        self._security = security
        self._policy = int(security.policy)  # plain numbers: flags cost more than the ciphering of a short APDU
        self._ak = security.ak
        self._suite = security.suite
        self._global = Key(security.ek, security.counters)
        self._dedicated: Key | None = None
        self._asked = 0  # policy bits of the request that is being answered
        self.peer_title = security.peer_title

    tags = PROTECTED_TAGS

    @property
    def system_title(self) -> bytes:
        return self._security.system_title

    def use_dedicated(self, key: bytes) -> None:
        """Send with the dedicated key of this association from now on. Raises `LocalError` for a wrong length."""
        if len(key) != len(self._security.ek):
            raise LocalError(f"a dedicated key of {len(key)} octets")
        self._dedicated = Key(key, MemoryCounters())

    def use_named(self) -> None:
        """Send in general-ciphering and general-signing from now on, as the settings say."""
        self._named = True

    def _general_protection(self) -> GeneralProtection:
        if self._general is None:
            # loaded on first use: most associations do not need it, and it imports elliptic curves
            from dlms.security.general_protection import GeneralProtection

            self._general = GeneralProtection(self._security, is_server=self._is_server, uncipher=self._uncipher_signed)
        return self._general

    # ------------------------------------------------------------------------------------------------------- sending

    def protect(self, apdu: bytes, like: int | None = None) -> bytes:
        """Protect `apdu` as the policy requires; unchanged if it requires nothing.

        `like` is the first octet of the request that is being answered: the answer uses the same key and form.
        Raises `LocalError` when the counter is used up.
        """
        policy = self._policy
        if self._named or like in NAMED_TAGS:
            return self._general_protection().seal(apdu, self.peer_title)
        if like is not None and like in PROTECTED_TAGS:
            policy |= self._asked
        if not policy:
            return apdu
        key, table, in_general = self._global, GLO_OF_PLAIN, self._security.general
        dedicated = self._dedicated
        if like is not None:
            in_general = like in (Apdu.GENERAL_GLO, Apdu.GENERAL_DED)
            if like != Apdu.GENERAL_DED and like not in PLAIN_OF_DED:
                dedicated = None
        general = Apdu.GENERAL_GLO
        if dedicated is not None:
            key, table, general = dedicated, DED_OF_PLAIN, Apdu.GENERAL_DED
        contents = self._seal(key, apdu, policy)
        tag = table.get(apdu[0])
        if tag is None or in_general:
            return bytes((general,)) + counted(self.system_title) + counted(contents)
        return bytes((tag,)) + counted(contents)

    def protect_broadcast(self, apdu: bytes) -> bytes:
        """Protect an unconfirmed request for every meter that has the broadcast key.

        The form is general-glo, which names the sender, or general-ciphering. Raises `LocalError` for confirmed
        requests, and without a broadcast key or a policy.
        """
        if not is_unconfirmed(apdu):
            raise LocalError("only an unconfirmed request can be broadcast")
        if self._named:
            return self._general_protection().seal_broadcast(apdu)
        key = self._broadcast
        if key is None or not self._policy:
            raise LocalError("a broadcast needs the broadcast key and a policy")
        contents = self._seal(key, apdu, self._policy | BROADCAST_KEY)
        return bytes((Apdu.GENERAL_GLO,)) + counted(self.system_title) + counted(contents)

    @functools.cached_property
    def _broadcast(self) -> Key | None:
        options = self._security.options
        return Key(options.broadcast_key, options.broadcast_counters) if options.broadcast_key else None

    def protect_initiate(self, apdu: bytes) -> bytes:
        """Protect an InitiateRequest or -Response: always with the global key, encrypted, and authenticated if there is
        an authentication key."""
        policy = _BOTH if self._ak else _ENCRYPT
        contents = self._seal(self._global, apdu, policy)
        return bytes((GLO_OF_PLAIN[apdu[0]],)) + counted(contents)

    def _seal(self, key: Key, apdu: bytes, policy: int) -> bytes:
        control = bytes((policy | self._suite,))
        counter = key.counters.next().to_bytes(4, "big")
        iv = self._security.system_title + counter
        if policy & _BOTH == _AUTHENTICATE:
            return control + counter + apdu + key.seal(iv, b"", control + self._ak + apdu)[1]
        aad = control + self._ak if policy & _AUTHENTICATE else b""
        ciphertext, tag = key.seal(iv, apdu, aad)
        return control + counter + ciphertext + (tag if policy & _AUTHENTICATE else b"")

    # ----------------------------------------------------------------------------------------------------- receiving

    def unprotect(self, apdu: bytes) -> bytes:
        """Decipher and check an APDU. Raises `DecodeError`, and `PeerError` for one that is wrong, weak or replayed."""
        if apdu[:1] in _NAMED_OCTETS:
            protection = self._general_protection()
            plain = protection.open(apdu, self.peer_title)
            if protection.broadcast:
                self._check_broadcast(plain)
            return plain
        if self._security.signs and apdu[:1] not in _INITIATE_OCTETS:
            raise PeerError("protection weaker than agreed: not signed")
        return self._uncipher(apdu)

    def _uncipher_signed(self, apdu: bytes) -> tuple[bytes, int]:
        return self._uncipher(apdu), self._asked

    def _uncipher(self, apdu: bytes) -> bytes:
        """Decipher a service-specific, general-glo or general-ded APDU."""
        cursor = Cursor(apdu, "ciphered APDU")
        tag = cursor.u8()
        title = self.peer_title
        if tag in (Apdu.GENERAL_GLO, Apdu.GENERAL_DED):
            named = cursor.octets()
            if named:  # only a hint which key to use: the title is not authenticated itself
                if title is not None and named != title:
                    raise PeerError(f"ciphered by {named.hex()}, not by {title.hex()}")
                title = named
        elif tag not in PLAIN_OF_GLO and tag not in PLAIN_OF_DED:
            raise cursor.error(f"0x{tag:02x} is not a ciphered APDU", back=1)
        if title is None or len(title) != SYSTEM_TITLE_OCTETS:
            raise PeerError("a ciphered APDU from a side whose system title is not known")
        key = self._global
        if tag == Apdu.GENERAL_DED or tag in PLAIN_OF_DED:
            if self._dedicated is None:
                raise PeerError("ciphered with a dedicated key, but none was agreed")
            key = self._dedicated
        count = cursor.length()
        if count != cursor.remaining:
            raise cursor.error(f"{count} octets are announced where {cursor.remaining} follow")
        return self._open(key, cursor, title, PLAIN_OF_GLO.get(tag, PLAIN_OF_DED.get(tag)))

    def _open(self, key: Key, body: Cursor, title: bytes, expected: int | None) -> bytes:
        control = body.u8()
        counter = body.take(4)
        if control & COMPRESSED:
            raise body.error("compression is not in use here", back=5)
        broadcast = control & BROADCAST_KEY
        if broadcast:
            if self._broadcast is None or key is not self._global:
                raise PeerError("ciphered with a broadcast key, and there is none")
            key = self._broadcast
        if control & SUITE_MASK != self._suite:
            raise SecurityError(f"security suite {control & SUITE_MASK} where {self._suite} is in use")
        policy = control & _BOTH
        if self._policy & ~policy:
            raise PeerError("protection weaker than agreed")
        plain = self._plain(key, body, policy, title + counter, bytes((control,)))
        if not plain or (expected is not None and plain[0] != expected):
            raise SecurityError("the tag of a ciphered APDU does not match its contents")
        if broadcast:
            self._check_broadcast(plain)
        # Only after the tag was checked: otherwise anybody could advance the counter and lock out the owner of the key.
        check_counter(key.counters, int.from_bytes(counter, "big"))
        self._asked = policy
        return plain

    def _check_broadcast(self, plain: bytes) -> None:
        """Accept unconfirmed requests only: every meter of the group has the key, so it does not prove who sent
        them."""
        if not self._is_server or not is_unconfirmed(plain):
            raise PeerError("ciphered with the broadcast key, but not an unconfirmed request")

    def _plain(self, key: Key, body: Cursor, policy: int, iv: bytes, control: bytes) -> bytes:
        if not policy & _AUTHENTICATE:
            contents = body.rest()
            plain = key.open(iv, contents, None, b"") if policy & _ENCRYPT else contents
            return plain or b""
        contents = body.take(max(0, body.remaining - TAG_OCTETS))
        tag = body.take(TAG_OCTETS)
        aad = control + self._ak
        if policy & _ENCRYPT:
            opened = key.open(iv, contents, tag, aad)
        else:
            right = hmac.compare_digest(key.seal(iv, b"", aad + contents)[1], tag)
            opened = contents if right else None
        if opened is None:
            raise SecurityError("the authentication tag is wrong")
        return opened

    # ---------------------------------------------------------------------------------------------------- HLS 5 GMAC

    def gmac(self, challenge: bytes) -> bytes:
        """The proof of mechanism 5: SC | IC | tag over `challenge`, with the global key."""
        control = bytes((_AUTHENTICATE | self._suite,))
        counter = self._global.counters.next().to_bytes(4, "big")
        aad = control + self._ak + challenge
        return control + counter + self._global.seal(self.system_title + counter, b"", aad)[1]

    def check_gmac(self, challenge: bytes, proof: bytes) -> None:
        """Check the peer's `proof` for `challenge`. Raises `DecodeError`, and `PeerError` when it is wrong."""
        cursor = Cursor(proof, "HLS proof")
        control, counter, tag = cursor.take(1), cursor.take(4), cursor.take(TAG_OCTETS)
        cursor.check_end()
        if control[0] != _AUTHENTICATE | self._suite or self.peer_title is None:
            raise SecurityError("the proof of the other side is of another suite, or its system title is not known")
        aad = control + self._ak + challenge
        expected = self._global.seal(self.peer_title + counter, b"", aad)[1]
        if not hmac.compare_digest(expected, tag):
            raise SecurityError("the proof of the other side is wrong")
        # The counter is not checked: the challenge was fresh, so this is no replay, and the APDU around the proof may
        # have used a later counter.
        number, seen = int.from_bytes(counter, "big"), self._global.counters.seen()
        if seen is None or number > seen:
            self._global.counters.note(number)
