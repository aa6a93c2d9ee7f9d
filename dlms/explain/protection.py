"""Protected APDUs as nodes: how they are protected, by whom and with which key, and what is inside where the keys are
given. A decoder of recordings looks at no counters and demands no policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlms.codes import PLAIN_OF_DED, Apdu
from dlms.cosem.time import CosemDateTime
from dlms.cursor import Cursor
from dlms.errors import DlmsError, PeerError
from dlms.explain.blocks import Blocks
from dlms.explain.node import Node, octets_text
from dlms.security.ciphering import Ciphering
from dlms.security.ecdsa import check_signature
from dlms.security.gcm import BROADCAST_KEY, COMPRESSED, SUITE_MASK
from dlms.security.general_formats import (
    AGREED,
    IDENTIFIED,
    WRAPPED,
    GeneralCiphered,
    GeneralSigned,
    Header,
    KeyInfo,
    open_ciphered,
)
from dlms.security.keys import KeyId
from dlms.security.message_keys import ephemeral_of, key_of, one_pass_key, static_key
from dlms.security.settings import (
    KEY_OCTETS,
    SYSTEM_TITLE_OCTETS,
    GeneralOptions,
    MemoryCounters,
    Policy,
    Security,
    coordinate_octets,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

_NOBODY = bytes(SYSTEM_TITLE_OCTETS)
_SCHEMES = {b"\x01": "one-pass Diffie-Hellman C(1e, 1s)", b"\x02": "static unified model C(0e, 2s)"}

# Service-specific ciphered APDUs that a server sends: answers and notifications.
_FROM_SERVER = frozenset({0x28, 0x2C, 0x2D, 0x2E, 0x38, 0x4C, 0x4D, 0x4E, 0x58, 0xCA, 0xCC, 0xCD, 0xCF})
_FROM_SERVER_DED = frozenset({0xD2, 0xD4, 0xD5, 0xD7})
_DED = frozenset((*PLAIN_OF_DED, Apdu.GENERAL_DED))


@dataclass(slots=True)
class Keys:
    """What is needed to look into protected APDUs. The titles are learned from AARQ and AARE on the way.

    `agreement` are private key agreement keys of either side, `peer_agreement` public ones, `verifying` the public keys
    whose signatures are told. `blocks` is what came of an answer in blocks.
    """

    ek: bytes = field(default=b"", repr=False)
    ak: bytes = field(default=b"", repr=False)
    dedicated: bytes = field(default=b"", repr=False)
    client_title: bytes | None = None
    server_title: bytes | None = None
    broadcast: bytes = field(default=b"", repr=False)
    master: bytes = field(default=b"", repr=False)
    agreement: tuple[EllipticCurvePrivateKey, ...] = field(default=(), repr=False)
    peer_agreement: tuple[EllipticCurvePublicKey, ...] = ()
    verifying: tuple[EllipticCurvePublicKey, ...] = ()
    blocks: Blocks = field(default_factory=Blocks, repr=False, compare=False)


Inside = Callable[[bytes], Node]
"""How what is found inside is explained."""


def explain_ciphered(apdu: bytes, keys: Keys, inside: Inside) -> tuple[Node, ...]:
    """The forms of a service, and general-glo and -ded. Raises `DecodeError`."""
    cursor = Cursor(apdu, "ciphered APDU")
    tag = cursor.u8()
    named = cursor.octets() if tag in (Apdu.GENERAL_GLO, Apdu.GENERAL_DED) else b""
    body = cursor.sub("ciphered APDU")
    control, counter = body.u8(), body.u32()
    nodes = [Node("system title", octets_text(named))] if named else []
    nodes += _head(control, counter)
    key = keys.dedicated if tag in _DED else keys.broadcast if control & BROADCAST_KEY else keys.ek
    if not key:
        return (*nodes, Node("contents", f"{body.remaining} octets; give the key to see them"))
    title = named or _title_of(tag, keys)
    if not title:
        return (*nodes, Node("contents", "give the sender's system title to see them"))
    try:
        return (*nodes, inside(_unciphered(apdu, tag, key, control, title, keys)))
    except DlmsError as error:
        return (*nodes, Node("contents", f"cannot be deciphered: {error}"))


def _unciphered(apdu: bytes, tag: int, key: bytes, control: int, title: bytes, keys: Keys) -> bytes:
    options = GeneralOptions(broadcast_key=key) if control & BROADCAST_KEY else GeneralOptions()
    security = Security(
        _NOBODY, key, keys.ak, control & SUITE_MASK, Policy.NONE, MemoryCounters(), peer_title=title, options=options
    )
    ciphering = Ciphering(security, is_server=True)
    if tag in _DED:
        ciphering.use_dedicated(key)
    return ciphering.unprotect(apdu)


def _title_of(tag: int, keys: Keys) -> bytes:
    from_server = tag in _FROM_SERVER or tag in _FROM_SERVER_DED
    return (keys.server_title if from_server else keys.client_title) or b""


def _head(control: int, counter: int) -> list[Node]:
    more = ", broadcast key" if control & BROADCAST_KEY else ""
    more += ", compressed" if control & COMPRESSED else ""
    text = f"0x{control:02x} suite {control & SUITE_MASK}, {_protection(Policy(control & Policy.BOTH))}{more}"
    return [Node("security control", text), Node("invocation counter", str(counter))]


def _protection(policy: Policy) -> str:
    names = {
        Policy.NONE: "not protected",
        Policy.AUTHENTICATE: "authenticated",
        Policy.ENCRYPT: "encrypted",
        Policy.BOTH: "authenticated and encrypted",
    }
    return names[policy]


# ------------------------------------------------------------------------------------------------- general protection


def _header(header: Header) -> tuple[Node, ...]:
    nodes = [
        Node("transaction id", octets_text(header.transaction)),
        Node("originator", octets_text(header.originator)),
        Node("recipient", octets_text(header.recipient) if header.recipient else "(everybody)"),
    ]
    if header.date_time:
        nodes.append(Node("date-time", f"{header.date_time.hex()} ({CosemDateTime.parse(header.date_time)})"))
    if header.other:
        nodes.append(Node("other information", octets_text(header.other)))
    return tuple(nodes)


def _key_info(info: KeyInfo | None, suite: int) -> Node:
    if info is None:
        return Node("key-info", "none: the global unicast encryption key")
    if info.choice == IDENTIFIED:
        known = {0: "global unicast encryption key", 1: "global broadcast encryption key"}
        return Node("key-info", f"identified-key {info.key_id} {known.get(info.key_id, '(reserved)')}")
    if info.choice == WRAPPED:
        wrapped = Node("wrapped key", f"{len(info.data)} octets")
        return Node("key-info", f"wrapped-key, under key {info.key_id} (0 is the master key)", (wrapped,))
    parts: list[Node] = []
    if info.data:
        size = 2 * coordinate_octets(suite)
        parts = [
            Node("ephemeral public key", info.data[:size].hex()),
            Node("signature", info.data[size:].hex() or "(none)"),
        ]
    scheme = _SCHEMES.get(info.parameters, f"scheme {info.parameters.hex() or '(none)'}")
    return Node("key-info", f"agreed-key, {scheme}", tuple(parts))


def explain_general_ciphered(apdu: bytes, keys: Keys, inside: Inside) -> tuple[Node, ...]:
    """general-ciphering. Raises `DecodeError`."""
    ciphered = GeneralCiphered.parse(apdu)
    contents = Cursor(ciphered.contents, "general-ciphering contents")
    control, counter = contents.u8(), contents.u32()
    nodes = (*_header(ciphered.header), _key_info(ciphered.key_info, control & SUITE_MASK), *_head(control, counter))
    refusal = f"{contents.remaining} octets; give the key to see them"
    for key in _candidates(ciphered, keys, control & SUITE_MASK):
        try:
            security = Security(_NOBODY, key, keys.ak, control & SUITE_MASK, Policy.NONE)
            return (*nodes, inside(open_ciphered(ciphered, security, MemoryCounters(), key)))
        except DlmsError as error:
            refusal = f"cannot be deciphered: {error}"
    return (*nodes, Node("contents", refusal))


def _candidates(ciphered: GeneralCiphered, keys: Keys, suite: int) -> Iterator[bytes]:
    """The keys that `ciphered` may be meant for, of those given."""
    header, info = ciphered.header, ciphered.key_info
    if info is None or info.choice == IDENTIFIED:
        named = keys.broadcast if info is not None and info.key_id == KeyId.GLOBAL_BROADCAST_ENCRYPTION else keys.ek
        if named:
            yield named
    elif info.choice == WRAPPED and keys.master:
        try:
            yield key_of(info, keys.master)
        except PeerError:
            return
    elif info.choice == AGREED and suite in KEY_OCTETS and suite:
        for ours in keys.agreement:
            if ours.curve.key_size != 8 * coordinate_octets(suite):
                continue
            try:
                if info.data:
                    yield one_pass_key(suite, header, ephemeral_of(suite, info)[0], ours)
                    continue
            except PeerError:
                continue
            publics = (*keys.peer_agreement, *(key.public_key() for key in keys.agreement if key is not ours))
            for theirs in publics:
                if header.transaction and theirs.curve.key_size == ours.curve.key_size:
                    yield static_key(suite, header, ours, theirs)


def explain_general_signed(apdu: bytes, keys: Keys, inside: Inside) -> tuple[Node, ...]:
    """general-signing. Raises `DecodeError`."""
    signed = GeneralSigned.parse(apdu)
    verdict = _verdict(signed, keys)
    content = inside(signed.content) if signed.content else Node("content", "(empty)")
    return (*_header(signed.header), content, Node("signature", f"{len(signed.signature)} octets{verdict}"))


def _verdict(signed: GeneralSigned, keys: Keys) -> str:
    if not keys.verifying:
        return ""
    for number, key in enumerate(keys.verifying, start=1):
        try:
            check_signature(key, signed.signed(), signed.signature)
        except PeerError:
            continue
        return f", good by key {number} of those given"
    return ", NOT of a key that was given"
