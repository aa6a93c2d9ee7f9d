"""APDUs as nodes, ciphered ones with what is inside where the keys are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dlms.acse import Aare, Aarq, InitiateRequest, InitiateResponse, Release
from dlms.apdu import access, action, faults, get, notify, sn
from dlms.apdu import set as set_apdu
from dlms.ciphering import CIPHERED_TAGS, Ciphering
from dlms.codes import Apdu, Mechanism, kebab
from dlms.cursor import Cursor
from dlms.errors import DlmsError
from dlms.explain.node import Node, octets_text
from dlms.explain.values import message_fields
from dlms.gbt import GeneralBlock
from dlms.security import SYSTEM_TITLE_OCTETS, MemoryCounters, Policy, Security

DEPTH_MAX = 4  # an APDU inside a ciphered one inside a general one: nothing real nests deeper
_SUITE_MASK = 0x0F
_TITLE_UNKNOWN = bytes(SYSTEM_TITLE_OCTETS)

# Service-specific ciphered APDUs that a server sends: answers and notifications.
_FROM_SERVER = frozenset({0x28, 0x2C, 0x2D, 0x2E, 0x38, 0x4C, 0x4D, 0x4E, 0x58, 0xCA, 0xCC, 0xCD, 0xCF})
_FROM_SERVER_DED = frozenset({0xD2, 0xD4, 0xD5, 0xD7})


@dataclass(slots=True)
class Keys:
    """What is needed to look into ciphered APDUs. The titles are learned from AARQ and AARE on the way."""

    ek: bytes = field(default=b"", repr=False)
    ak: bytes = field(default=b"", repr=False)
    dedicated: bytes = field(default=b"", repr=False)
    client_title: bytes | None = None
    server_title: bytes | None = None


def _initiate(data: bytes, keys: Keys, depth: int) -> Node:
    return explain_apdu(data, keys, depth + 1)


def _association(message: Aarq | Aare, keys: Keys, depth: int) -> tuple[Node, ...]:
    fields = [node for node in message_fields(message) if node.label not in ("user information", "authentication")]
    if isinstance(message, Aare):
        fields.append(Node("says", message.reason))
        keys.server_title = message.system_title or keys.server_title
    else:
        keys.client_title = message.system_title or keys.client_title
    if message.authentication is not None:
        # What authenticates low level security is the password itself.
        secret = message.mechanism == Mechanism.LLS
        shown = f"({len(message.authentication)} octets, not shown)" if secret else octets_text(message.authentication)
        fields.append(Node("authentication", shown))
    if message.user_information is not None:
        fields.append(Node("user information", "", (_initiate(message.user_information, keys, depth),)))
    return tuple(fields)


def _fields_of(parse: Callable[[bytes], object]) -> Callable[[bytes, Keys, int], tuple[str, tuple[Node, ...]]]:
    def explain(data: bytes, keys: Keys, depth: int) -> tuple[str, tuple[Node, ...]]:
        del depth
        message = parse(data)
        if isinstance(message, InitiateRequest) and message.dedicated_key:
            keys.dedicated = message.dedicated_key
        return type(message).__name__, message_fields(message)

    return explain


def _acse_of(parse: Callable[[bytes], Aarq | Aare]) -> Callable[[bytes, Keys, int], tuple[str, tuple[Node, ...]]]:
    def explain(data: bytes, keys: Keys, depth: int) -> tuple[str, tuple[Node, ...]]:
        return "", _association(parse(data), keys, depth)

    return explain


def _release(data: bytes, keys: Keys, depth: int) -> tuple[str, tuple[Node, ...]]:
    message = Release.parse(data)
    fields = [node for node in message_fields(message) if node.label != "user information"]
    if message.user_information is not None:
        fields.append(Node("user information", "", (_initiate(message.user_information, keys, depth),)))
    return "", tuple(fields)


def _general_block(data: bytes, keys: Keys, depth: int) -> tuple[str, tuple[Node, ...]]:
    """One block; where it is the first and the last, the APDU inside."""
    block = GeneralBlock.parse(data)
    fields = message_fields(block)
    if block.last and block.number == 1 and block.data:
        fields = (*(node for node in fields if node.label != "data"), explain_apdu(block.data, keys, depth + 1))
    return "", fields


_EXPLAINERS: dict[int, Callable[[bytes, Keys, int], tuple[str, tuple[Node, ...]]]] = {
    Apdu.INITIATE_REQUEST: _fields_of(InitiateRequest.parse),
    Apdu.INITIATE_RESPONSE: _fields_of(InitiateResponse.parse),
    Apdu.AARQ: _acse_of(Aarq.parse),
    Apdu.AARE: _acse_of(Aare.parse),
    Apdu.RLRQ: _release,
    Apdu.RLRE: _release,
    Apdu.GET_REQUEST: _fields_of(get.parse_request),
    Apdu.GET_RESPONSE: _fields_of(get.parse_response),
    Apdu.SET_REQUEST: _fields_of(set_apdu.parse_request),
    Apdu.SET_RESPONSE: _fields_of(set_apdu.parse_response),
    Apdu.ACTION_REQUEST: _fields_of(action.parse_request),
    Apdu.ACTION_RESPONSE: _fields_of(action.parse_response),
    Apdu.READ_REQUEST: _fields_of(sn.parse_read_request),
    Apdu.READ_RESPONSE: _fields_of(sn.parse_read_response),
    Apdu.WRITE_REQUEST: _fields_of(sn.parse_write_request),
    Apdu.WRITE_RESPONSE: _fields_of(sn.parse_write_response),
    Apdu.ACCESS_REQUEST: _fields_of(access.AccessRequest.parse),
    Apdu.ACCESS_RESPONSE: _fields_of(access.AccessResponse.parse),
    Apdu.DATA_NOTIFICATION: _fields_of(notify.parse),
    Apdu.EVENT_NOTIFICATION: _fields_of(notify.parse),
    Apdu.INFORMATION_REPORT: _fields_of(notify.parse),
    Apdu.GENERAL_BLOCK_TRANSFER: _general_block,
    Apdu.EXCEPTION_RESPONSE: _fields_of(faults.parse_exception),
    Apdu.CONFIRMED_SERVICE_ERROR: _fields_of(faults.parse_service_error),
}


def explain_apdu(apdu: bytes, keys: Keys, depth: int = 0) -> Node:
    """One APDU; what is wrong with it is said in the tree, never raised."""
    if not apdu:
        return Node("APDU", "(empty)")
    label = _name(apdu[0])
    try:
        if apdu[0] in CIPHERED_TAGS:
            return Node(label, f"{len(apdu)} octets", _ciphered(apdu, keys, depth))
        explainer = _EXPLAINERS.get(apdu[0])
        if explainer is None:
            return Node(label, octets_text(apdu[1:]))
        kind, children = explainer(apdu, keys, depth)
    except DlmsError as error:
        return Node(label, f"cannot be read: {error}", (Node("octets", apdu.hex()),))
    return Node(label, kind, children)


def _name(tag: int) -> str:
    try:
        return kebab(Apdu(tag))
    except ValueError:
        plain, name = _plain_tag(tag)
        return f"{name}-{kebab(plain)}" if plain is not None else f"APDU 0x{tag:02x}"


def _plain_tag(tag: int) -> tuple[Apdu | None, str]:
    """What a service-specific ciphered APDU holds, and with which key (GB 9.5: its tag is the plain one's plus 8 or 16,
    below 40 plus 20 or 40, all in hexadecimal)."""
    if tag in CIPHERED_TAGS:
        for name, high, low in (("glo", 0x08, 0x20), ("ded", 0x10, 0x40)):
            for plain in Apdu:
                if tag == plain + (high if plain >= Apdu.GET_REQUEST else low):
                    return plain, name
    return None, ""


def _ciphered(apdu: bytes, keys: Keys, depth: int) -> tuple[Node, ...]:
    cursor = Cursor(apdu, "ciphered APDU")
    tag = cursor.u8()
    named = cursor.octets() if tag in (Apdu.GENERAL_GLO, Apdu.GENERAL_DED) else b""
    body = cursor.sub("ciphered APDU")
    control, counter = body.u8(), body.u32()
    protection = Policy(control & Policy.BOTH)
    nodes = [Node("system title", octets_text(named))] if named else []
    nodes.append(Node("security control", f"0x{control:02x} suite {control & _SUITE_MASK}, {_protection(protection)}"))
    nodes.append(Node("invocation counter", str(counter)))
    dedicated = tag == Apdu.GENERAL_DED or 0xD0 <= tag <= 0xD7 or 0x41 <= tag <= 0x58
    key = keys.dedicated if dedicated else keys.ek
    if not key:
        return (*nodes, Node("contents", f"{body.remaining} octets; give the key to see them"))
    nodes.append(_opened(apdu, key, control & _SUITE_MASK, named or _title_of(tag, keys), keys, depth))
    return tuple(nodes)


def _title_of(tag: int, keys: Keys) -> bytes:
    from_server = tag in _FROM_SERVER or tag in _FROM_SERVER_DED
    return (keys.server_title if from_server else keys.client_title) or b""


def _opened(apdu: bytes, key: bytes, suite: int, title: bytes, keys: Keys, depth: int) -> Node:
    if not title:
        return Node("contents", "give the sender's system title to see them")
    if depth >= DEPTH_MAX:
        return Node("contents", "nested too deeply")
    try:
        security = Security(_TITLE_UNKNOWN, key, keys.ak, suite, Policy.NONE, MemoryCounters(), peer_title=title)
        ciphering = Ciphering(security)
        if apdu[0] == Apdu.GENERAL_DED or key == keys.dedicated:
            ciphering.use_dedicated(key)
        return explain_apdu(ciphering.unprotect(apdu), keys, depth + 1)
    except DlmsError as error:
        return Node("contents", f"cannot be deciphered: {error}")


def _protection(policy: Policy) -> str:
    names = {
        Policy.NONE: "not protected",
        Policy.AUTHENTICATE: "authenticated",
        Policy.ENCRYPT: "encrypted",
        Policy.BOTH: "authenticated and encrypted",
    }
    return names[policy]
