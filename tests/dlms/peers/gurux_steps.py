# mypy: ignore-errors

"""What gurux-dlms does in one session beside plain reading; see `gurux_client`. Each step is a name and its arguments,
and what comes of it is a value that JSON can hold, or `{"failed": ...}`.
"""

from datetime import datetime

from gurux_dlms import GXDateTime, GXDLMSAccessItem, GXWriteItem
from gurux_dlms.enums import AccessServiceCommandType, DataType, ObjectType
from gurux_dlms.objects import (
    GXDLMSAssociationLogicalName,
    GXDLMSClock,
    GXDLMSData,
    GXDLMSDisconnectControl,
    GXDLMSImageTransfer,
    GXDLMSObject,
    GXDLMSProfileGeneric,
    GXDLMSRegister,
)

KNOWN = {
    1: GXDLMSData,
    3: GXDLMSRegister,
    8: GXDLMSClock,
    15: GXDLMSAssociationLogicalName,
    70: GXDLMSDisconnectControl,
}


def made(class_id, code):
    kind = KNOWN.get(class_id)
    return kind(code) if kind else GXDLMSObject(ObjectType(class_id), code)


def read(session, class_id, code, attribute):
    item = made(class_id, code)
    reply = session.ask(session.client.read(item, attribute))
    return session.client.updateValue(item, attribute, reply.value) if class_id in KNOWN else reply.value


def write(session, code, octets):
    item = GXDLMSData(code)
    item.value = bytes.fromhex(octets)
    session.ask(session.client.write(item, 2))
    return read(session, 1, code, 2)


def get_list(session, *codes):
    values = []
    for request in session.client.readList([(GXDLMSRegister(code), 2) for code in codes]):
        values.extend(session.ask(request).value)
    return values


def set_list(session, *pairs):
    """Pairs of a code and octets."""
    items = []
    for code, octets in pairs:
        item = GXDLMSData(code)
        item.value = bytes.fromhex(octets)
        one = GXWriteItem()
        one.target, one.index, one.dataType = item, 2, DataType.OCTET_STRING
        one.getDataType = lambda: DataType.OCTET_STRING  # it calls a method that its own class does not have
        items.append(one)
    session.ask(session.client.writeList(items))
    return [read(session, 1, code, 2) for code, _octets in pairs]


def _profile(session, code):
    profile = GXDLMSProfileGeneric(code)
    session.read(profile, 3)
    return profile


def _column(profile, at):
    return [profile.captureObjects[at]]


def rows_by_entry(session, code, first, count, column=None):
    profile = _profile(session, code)
    columns = None if column is None else _column(profile, column)
    reply = session.ask(session.client.readRowsByEntry(profile, first, count, columns))
    return reply.value if column is not None else session.client.updateValue(profile, 2, reply.value)


def rows_by_range(session, code, first, last, column=None):
    profile = _profile(session, code)
    columns = None if column is None else _column(profile, column)
    times = [GXDateTime(datetime.fromisoformat(text)) for text in (first, last)]
    reply = session.ask(session.client.readRowsByRange(profile, *times, columns))
    return reply.value if column is not None else session.client.updateValue(profile, 2, reply.value)


def clock(session, to, shift):
    """The time read, after setting it and after shifting it."""
    item = GXDLMSClock()
    found = [session.read(item, 2).value.isoformat()]
    item.time = GXDateTime(datetime.fromisoformat(to))
    session.ask(session.client.write(item, 2))
    found.append(session.read(item, 2).value.isoformat())
    session.ask(item.shiftTime(session.client, shift))
    return [*found, session.read(item, 2).value.isoformat()]


def contactor(session, code):
    item = GXDLMSDisconnectControl(code)
    found = []
    for method in (item.remoteDisconnect, item.remoteReconnect):
        session.ask(method(session.client))
        found.append([session.read(item, attribute) for attribute in (2, 3, 4)])
    return found


def image(session, octets, name):
    item = GXDLMSImageTransfer()
    data = bytes.fromhex(octets)
    session.read(item, 2)
    session.ask(item.imageTransferInitiate(session.client, name, len(data)))
    for block in item.imageBlockTransfer(session.client, data, [0]):
        session.ask(block)
    blocks = session.read(item, 3)
    session.ask(item.imageVerify(session.client))
    session.read(item, 7)
    told = [[int(one.size), bytes(one.signature).hex()] for one in item.imageActivateInfo]
    session.ask(item.imageActivate(session.client))
    return [str(blocks), told, int(session.read(item, 6))]


def association(session):
    item = GXDLMSAssociationLogicalName()
    objects = {str(one.logicalName): int(one.objectType) for one in session.read(item, 2)}
    session.read(item, 5)
    info = item.xDLMSContextInfo
    session.read(item, 4)
    session.read(item, 6)
    return {
        "objects": objects,
        "sizes": [int(info.maxReceivePduSize), int(info.maxSendPduSize)],
        "context": int(item.applicationContextName.contextId),
        "mechanism": int(item.authenticationMechanismName.mechanismId),
        "status": int(session.read(item, 8)),
    }


def access(session, *codes):
    """GETs of registers in one request. (Its SETs fail in its own code: a data object has no "settings".)"""
    items = [GXDLMSAccessItem(AccessServiceCommandType.GET, GXDLMSRegister(code), 2) for code in codes]
    reply = session.ask(session.client.accessRequest(None, items))
    session.client.parseAccessResponse(items, reply.data)
    return [[one.value, int(one.error)] for one in items]


def push(session, code):
    """Have the meter push, and what came in between the answer to the next request and that answer."""
    session.ask(session.client.method(GXDLMSObject(ObjectType.PUSH_SETUP, "0.0.25.9.0.255"), 1, 0, DataType.INT8))
    read(session, 3, code, 2)
    read(session, 3, code, 2)
    return session.told


STEPS = {
    step.__name__: step
    for step in (
        read, write, get_list, set_list, rows_by_entry, rows_by_range, clock, contactor, image, association, access,
        push,
    )
}  # fmt: skip


def run(session, steps, plain):
    out = []
    for name, *arguments in steps:
        try:
            out.append(plain(STEPS[name](session, *arguments)))
        except Exception as error:
            out.append({"failed": f"{type(error).__name__}: {error}"})
    return out
