# mypy: ignore-errors
# ruff: noqa: N802, N803, N815 - gurux's names
"""gurux-dlms as a meter, for the tests: listens on a TCP port of 127.0.0.1, prints its number, serves until ended.

    python gurux_server.py '{"auth": "low", "secret": "..."}'

Runs in an environment that has gurux-dlms; nothing here imports this project. The framing of gurux's server class does
not work in Python (it calls methods that do not exist), so its application layer is used directly here: APDUs come in
COSEM wrapper frames, and go to the handlers that the server class would have called.
"""

import json
import socket
import sys
from datetime import UTC, datetime, timedelta

from gurux_dlms import GXByteBuffer, GXDateTime
from gurux_dlms.enums import AccessMode, Authentication, DataType, InterfaceType, MethodAccessMode, SourceDiagnostic
from gurux_dlms.GXDLMSLNCommandHandler import GXDLMSLNCommandHandler
from gurux_dlms.GXDLMSLNParameters import GXDLMSLNParameters
from gurux_dlms.objects import (
    GXDLMSAssociationLogicalName,
    GXDLMSCaptureObject,
    GXDLMSClock,
    GXDLMSData,
    GXDLMSDisconnectControl,
    GXDLMSImageTransfer,
    GXDLMSProfileGeneric,
    GXDLMSRegister,
)
from gurux_dlms.objects.enums import SortMethod
from gurux_dlms.secure import GXDLMSSecureServer
from gurux_dlms.ValueEventArgs import ValueEventArgs

# Names that gurux's own handlers and objects call, and its classes have under another name or not at all.
ValueEventArgs.isSkipMaxPduSize = False
ValueEventArgs.__iter__ = lambda self: iter([self])
ValueEventArgs.getRowEndIndex = lambda self: self.rowEndIndex
GXDLMSLNParameters.isMultipleBlocks = lambda self: self.multipleBlocks
GXDLMSLNParameters.setStatus = lambda self, value: setattr(self, "status", value)

AUTHENTICATION = {
    "none": Authentication.NONE,
    "low": Authentication.LOW,
    "md5": Authentication.HIGH_MD5,
    "sha1": Authentication.HIGH_SHA1,
    "sha256": Authentication.HIGH_SHA256,
    "gmac": Authentication.HIGH_GMAC,
}
REGISTERS = 30
ROWS = 40
HEADER = 8
AARQ = 0x60


class Server(GXDLMSSecureServer):
    def __init__(self, options):
        association = GXDLMSAssociationLogicalName()
        super().__init__(association, InterfaceType.WRAPPER)
        self.options = options
        self.settings.clientAddress, self.settings.serverAddress = 16, 1
        self.settings.password = options.get("secret", "").encode()
        association.secret = options.get("secret", "").encode()
        name = GXDLMSData("0.0.42.0.0.255")
        name.value = "GRX0000000123456"
        name.setDataType(2, DataType.STRING)
        self.items.append(association)
        self.items.append(name)
        for at in range(REGISTERS):
            register = GXDLMSRegister(f"1.0.{at + 1}.8.0.255")
            register.value = 1000 + at
            register.setDataType(2, DataType.UINT32)
            register.scaler = 0.1
            register.unit = 30
            self.items.append(register)
        self.add_living()
        association.objectList.extend(self.items)
        self.initialized = True

    def add_living(self):
        """A clock, a store, a profile with rows, a contactor and an image transfer."""
        clock = GXDLMSClock()
        clock.time = GXDateTime(datetime(2026, 3, 1, 12, tzinfo=UTC))
        store = GXDLMSData("0.0.96.1.0.255")
        store.value = b""
        store.setDataType(2, DataType.OCTET_STRING)
        profile = GXDLMSProfileGeneric("1.0.99.1.0.255")
        profile.capturePeriod = 900
        profile.sortObject = clock
        profile.sortMethod = SortMethod.FIFO
        energy = next(item for item in self.items if str(item.logicalName) == "1.0.1.8.0.255")
        profile.captureObjects.append((clock, GXDLMSCaptureObject(2, 0)))
        profile.captureObjects.append((energy, GXDLMSCaptureObject(2, 0)))
        for at in range(ROWS):
            when = GXDateTime(datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=15 * at))
            profile.buffer.append([when, 1000 + at])
        profile.entriesInUse = profile.profileEntries = ROWS
        image = GXDLMSImageTransfer()
        image.imageBlockSize = 64
        image.imageTransferEnabled = True
        for item in (clock, store, profile, GXDLMSDisconnectControl("0.0.96.3.10.255"), image):
            self.items.append(item)

    def handle(self, apdu):
        self.replyData.clear()
        data = GXByteBuffer(apdu)
        handlers = GXDLMSLNCommandHandler
        if apdu[0] == AARQ:
            self.handleAarqRequest(data, None)
        elif apdu[0] == 0x62:
            return bytes.fromhex("6303800100")
        else:
            data.getUInt8()
            if apdu[0] == 0xC0:
                handlers.handleGetRequest(self.settings, self, data, self.replyData, None)
            elif apdu[0] == 0xC1:
                handlers.handleSetRequest(self.settings, self, data, self.replyData, None)
            elif apdu[0] == 0xC3:
                handlers.handleMethodRequest(self.settings, self, data, None, self.replyData, None)
        return bytes(self.replyData.array())

    def isTarget(self, serverAddress, clientAddress):
        return True

    def onValidateAuthentication(self, authentication, password):
        if authentication != AUTHENTICATION[self.options["auth"]]:
            return SourceDiagnostic.AUTHENTICATION_REQUIRED
        if authentication == Authentication.LOW and bytes(password) != self.options["secret"].encode():
            return SourceDiagnostic.AUTHENTICATION_FAILURE
        return SourceDiagnostic.NONE

    def onFindObject(self, objectType, sn, ln):
        return None

    def getTransaction(self):
        return self.transaction

    def setTransaction(self, value):
        self.transaction = value

    def onGetAttributeAccess(self, arg):
        return AccessMode.READ_WRITE

    def onGetMethodAccess(self, arg):
        return MethodAccessMode.ACCESS

    def _nothing(self, *_args):
        pass

    # the names that the handlers call, which the server class does not have
    notifyRead = notifyPostRead = notifyWrite = notifyPostWrite = notifyAction = notifyPostAction = _nothing
    notifyGetAttributeAccess = onGetAttributeAccess
    notifyGetMethodAccess = onGetMethodAccess
    notifyFindObject = onFindObject

    onPreGet = onPostGet = onPreRead = onPostRead = onPreWrite = onPostWrite = _nothing
    onConnected = onInvalidConnection = onDisconnected = onPreAction = onPostAction = _nothing


def exactly(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return data


def repaired(answer):
    """An AARE with a challenge: its length leaves out the tag and length of what is inside."""
    for size in range(8, 65):
        answer = answer.replace(bytes((0xAA, size, 0x80, size)), bytes((0xAA, size + 2, 0x80, size)))
    return answer


def serve(connection, server):
    """Until the client goes, or gurux fails in its own code: then the connection is closed."""
    while True:
        header = exactly(connection, HEADER)
        if header is None:
            return
        apdu = exactly(connection, int.from_bytes(header[6:8], "big"))
        try:
            answer = server.handle(apdu)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return
        if apdu[0] == AARQ:
            answer = repaired(answer)
        head = header[:2] + header[4:6] + header[2:4] + len(answer).to_bytes(2, "big")
        connection.sendall(head + answer)


def main():
    options = json.loads(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _address = listener.accept()
        server = Server(options)
        serve(connection, server)
        connection.close()


if __name__ == "__main__":
    main()
