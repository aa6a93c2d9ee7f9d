"""APDUs as nodes, ciphered ones with what is inside where the keys are given."""

from __future__ import annotations

from collections.abc import Callable

from dlms.codes import CIPHERED_TAGS, PLAIN_OF_DED, PLAIN_OF_GLO, Apdu, Mechanism, kebab
from dlms.errors import DlmsError
from dlms.explain.node import Node, octets_text
from dlms.explain.protection import Keys, explain_ciphered, explain_general_ciphered, explain_general_signed
from dlms.explain.values import message_fields
from dlms.xdlms.acse import Aare, Aarq, InitiateRequest, InitiateResponse, ReleaseApdu
from dlms.xdlms.apdu import access, action, get, notify, service_errors, sn
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.gbt import GeneralBlock

__all__ = ["Keys", "explain_apdu"]

DEPTH_MAX = 4  # an APDU inside a ciphered one inside a general one: nothing real nests deeper


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
    message = ReleaseApdu.parse(data)
    fields = [node for node in message_fields(message) if node.label != "user information"]
    if message.user_information is not None:
        fields.append(Node("user information", "", (_initiate(message.user_information, keys, depth),)))
    return "", tuple(fields)


def _get_response(data: bytes, keys: Keys, depth: int) -> tuple[str, tuple[Node, ...]]:
    """With the last block what all blocks say together."""
    del depth
    message = get.parse_response(data)
    whole = keys.blocks.add(message) if isinstance(message, get.GetBlock) else None
    return type(message).__name__, (*message_fields(message), *((whole,) if whole is not None else ()))


def _general_block(data: bytes, keys: Keys, depth: int) -> tuple[str, tuple[Node, ...]]:
    """One block; where it is the first and the last, the APDU inside."""
    block = GeneralBlock.parse(data)
    fields = message_fields(block)
    if block.last and block.number == 1 and block.data:
        fields = (*(node for node in fields if node.label != "data"), explain_apdu(block.data, keys, depth + 1))
    return "", fields


def _unconfirmed_write(data: bytes) -> sn.WriteRequest:
    """It differs from the confirmed one in its tag alone."""
    return sn.parse_write_request(bytes((Apdu.WRITE_REQUEST,)) + data[1:])


_EXPLAINERS: dict[int, Callable[[bytes, Keys, int], tuple[str, tuple[Node, ...]]]] = {
    Apdu.INITIATE_REQUEST: _fields_of(InitiateRequest.parse),
    Apdu.INITIATE_RESPONSE: _fields_of(InitiateResponse.parse),
    Apdu.AARQ: _acse_of(Aarq.parse),
    Apdu.AARE: _acse_of(Aare.parse),
    Apdu.RLRQ: _release,
    Apdu.RLRE: _release,
    Apdu.GET_REQUEST: _fields_of(get.parse_request),
    Apdu.GET_RESPONSE: _get_response,
    Apdu.SET_REQUEST: _fields_of(set_apdu.parse_request),
    Apdu.SET_RESPONSE: _fields_of(set_apdu.parse_response),
    Apdu.ACTION_REQUEST: _fields_of(action.parse_request),
    Apdu.ACTION_RESPONSE: _fields_of(action.parse_response),
    Apdu.READ_REQUEST: _fields_of(sn.parse_read_request),
    Apdu.READ_RESPONSE: _fields_of(sn.parse_read_response),
    Apdu.WRITE_REQUEST: _fields_of(sn.parse_write_request),
    Apdu.UNCONFIRMED_WRITE_REQUEST: _fields_of(_unconfirmed_write),
    Apdu.WRITE_RESPONSE: _fields_of(sn.parse_write_response),
    Apdu.ACCESS_REQUEST: _fields_of(access.AccessRequest.parse),
    Apdu.ACCESS_RESPONSE: _fields_of(access.AccessResponse.parse),
    Apdu.DATA_NOTIFICATION: _fields_of(notify.parse),
    Apdu.DATA_NOTIFICATION_CONFIRM: _fields_of(notify.DataNotificationConfirm.parse),
    Apdu.EVENT_NOTIFICATION: _fields_of(notify.parse),
    Apdu.INFORMATION_REPORT: _fields_of(notify.parse),
    Apdu.GENERAL_BLOCK_TRANSFER: _general_block,
    Apdu.EXCEPTION_RESPONSE: _fields_of(service_errors.parse_exception),
    Apdu.CONFIRMED_SERVICE_ERROR: _fields_of(service_errors.parse_service_error),
}


_PROTECTED = {
    **dict.fromkeys(CIPHERED_TAGS, explain_ciphered),
    Apdu.GENERAL_CIPHERING: explain_general_ciphered,
    Apdu.GENERAL_SIGNING: explain_general_signed,
}


def _inner(apdu: bytes, keys: Keys, depth: int) -> Node:
    return Node("contents", "nested too deeply") if depth > DEPTH_MAX else explain_apdu(apdu, keys, depth)


def explain_apdu(apdu: bytes, keys: Keys, depth: int = 0) -> Node:
    """One APDU; what is wrong with it is said in the tree, never raised."""
    if not apdu:
        return Node("APDU", "(empty)")
    label = _name(apdu[0])
    try:
        protected = _PROTECTED.get(apdu[0])
        if protected is not None:
            children = protected(apdu, keys, lambda plain: _inner(plain, keys, depth + 1))
            return Node(label, f"{len(apdu)} octets", children)
        explainer = _EXPLAINERS.get(apdu[0])
        if explainer is None:
            return Node(label, octets_text(apdu[1:]))
        kind, children = explainer(apdu, keys, depth)
    except DlmsError as error:
        return Node(label, f"cannot be read: {error}", (Node("octets", apdu.hex()),))
    return Node(label, kind, children)


def _name(tag: int) -> str:
    for name, plain_tags in (("glo", PLAIN_OF_GLO), ("ded", PLAIN_OF_DED)):
        if tag in plain_tags:
            return f"{name}-{kebab(Apdu(plain_tags[tag]))}"
    try:
        return kebab(Apdu(tag))
    except ValueError:
        return f"APDU 0x{tag:02x}"
