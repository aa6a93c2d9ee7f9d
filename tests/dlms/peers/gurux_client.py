# mypy: ignore-errors
# ruff: noqa: FBT003 - gurux's names
"""gurux-dlms as a client, for the tests: does a session with a meter on a TCP port and prints what it got as JSON.

    python gurux_client.py '{"port": 4059, "link": "hdlc", "auth": "low", ...}'

Runs in an environment that has gurux-dlms; nothing here imports this project.
"""

import json
import socket
import sys
from pathlib import Path

from gurux_dlms import GXByteBuffer, GXDateTime, GXReplyData
from gurux_dlms.ecdsa.GXPrivateKey import GXPrivateKey
from gurux_dlms.ecdsa.GXPublicKey import GXPublicKey
from gurux_dlms.enums import Authentication, Conformance, InterfaceType, ObjectType, Security
from gurux_dlms.objects import GXDLMSData, GXDLMSObject, GXDLMSProfileGeneric, GXDLMSRegister
from gurux_dlms.secure import GXDLMSSecureClient

sys.path.insert(0, str(Path(__file__).parent))
import gurux_steps

AUTHENTICATION = {
    "none": Authentication.NONE,
    "low": Authentication.LOW,
    "md5": Authentication.HIGH_MD5,
    "sha1": Authentication.HIGH_SHA1,
    "sha256": Authentication.HIGH_SHA256,
    "gmac": Authentication.HIGH_GMAC,
    "ecdsa": Authentication.HIGH_ECDSA,
    "high": Authentication.HIGH,
}


class Session:
    def __init__(self, options):
        interface = InterfaceType.HDLC if options["link"] == "hdlc" else InterfaceType.WRAPPER
        self.client = GXDLMSSecureClient(
            options.get("ln", True), 16, 1, AUTHENTICATION[options["auth"]], options.get("secret", ""), interface
        )
        if options.get("pdu_size"):
            self.client.maxReceivePDUSize = options["pdu_size"]
        if "ek" in options:
            self.client.ciphering.systemTitle = bytes.fromhex(options["title"])
            self.client.ciphering.blockCipherKey = bytes.fromhex(options["ek"])
            self.client.ciphering.authenticationKey = bytes.fromhex(options["ak"])
            self.client.ciphering.security = Security(options["policy"])
            if options.get("dedicated"):
                self.client.ciphering.dedicatedKey = bytes(range(0x20, 0x30))
        if "private_key" in options:
            self.client.ciphering.systemTitle = bytes.fromhex(options["title"])
            ours = GXPrivateKey.fromRawBytes(bytes.fromhex(options["private_key"]))
            theirs = GXPublicKey.fromRawBytes(bytes.fromhex(options["peer_key"]))
            self.client.ciphering.signingKeyPair = (theirs, ours)
        for name in options.get("also", []):
            self.client.proposedConformance |= Conformance[name]
        self.told = []
        self.received, self.wrapper = b"", options["link"] == "wrapper"
        self.socket = socket.create_connection(("127.0.0.1", options["port"]), 10)

    def packet(self, data, reply):
        reply.error = 0
        self.socket.sendall(bytes(data))
        received = GXByteBuffer()
        notify = GXReplyData()
        while not self.client.getData(received, reply, notify):
            if notify.data.size and not notify.isMoreData():
                self.told.append(self.client.parseReport(notify, []))
                received, notify = GXByteBuffer(), GXReplyData()
                reply.clear()
            received.set(self.frame())
        if reply.error:
            raise RuntimeError(f"error {reply.error}")

    def frame(self):
        """What came; of wrapper frames one at a time, since gurux takes all that it is given for one."""
        while True:
            size = 8 + int.from_bytes(self.received[6:8], "big") if self.wrapper else len(self.received)
            if self.received and len(self.received) >= size >= self.wrapper * 8:
                found, self.received = self.received[:size], self.received[size:]
                return found
            got = self.socket.recv(4096)
            if not got:
                raise EOFError
            self.received += got

    def ask(self, data):
        """One request in as many frames as it took; the reply."""
        reply = GXReplyData()
        for each in data if isinstance(data, list) else [data]:
            reply.clear()
            self.packet(each, reply)
            while reply.isMoreData():
                self.packet(self.client.receiverReady(reply), reply)
        return reply

    def open(self):
        snrm = self.client.snrmRequest()
        if snrm:
            self.client.parseUAResponse(self.ask(snrm).data)
        self.client.parseAareResponse(self.ask(self.client.aarqRequest()).data)
        if self.client.authentication > Authentication.LOW:
            for data in self.client.getApplicationAssociationRequest():
                self.client.parseApplicationAssociationResponse(self.ask(data).data)

    def close(self):
        self.ask(self.client.releaseRequest())
        data = self.client.disconnectRequest()
        if data:
            self.ask(data)
        self.socket.close()

    def read(self, item, attribute):
        reply = self.ask(self.client.read(item, attribute))
        return self.client.updateValue(item, attribute, reply.value)


def plain(value):
    """Something JSON can hold."""
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, GXDateTime):
        return value.value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def by_short_names(session, options):
    """Registers and a profile of a meter with short names, whose names come from its object list."""
    reply = session.ask(session.client.getObjectsRequest())
    objects = {str(one.logicalName): one for one in session.client.parseObjects(reply.data, False, False)}
    profile = objects[options["profile"]]
    session.read(profile, 3)
    first, count = options["entries"]
    reply = session.ask(session.client.readRowsByEntry(profile, first, count))
    return {
        "names": {code: one.shortName for code, one in objects.items()},
        "values": {code: plain(session.read(objects[code], 2)) for code in options["registers"]},
        "rows": plain(session.client.updateValue(profile, 2, reply.value)),
    }


def run(options):
    session = Session(options)
    session.open()
    if not options.get("ln", True):
        found = by_short_names(session, options)
        session.close()
        return found
    if "steps" in options:
        found = {"steps": gurux_steps.run(session, options["steps"], plain)}
        session.close()
        return found
    out = {"values": {}}
    for class_id, code, attribute in options.get("read", []):
        item = {1: GXDLMSData, 3: GXDLMSRegister}.get(class_id, GXDLMSObject)
        item = item(code) if item is not GXDLMSObject else GXDLMSObject(ObjectType(class_id), code)
        try:
            value = (
                session.read(item, attribute)
                if class_id in (1, 3)
                else session.ask(session.client.read(item, attribute)).value
            )
            out["values"][f"{class_id}/{code}/{attribute}"] = plain(value)
        except RuntimeError as error:
            out["values"][f"{class_id}/{code}/{attribute}"] = str(error)
    if "list" in options:
        items = [(GXDLMSData(code), 2) for code in options["list"]]
        values = []
        for request in session.client.readList(items):
            reply = session.ask(request)
            values.extend(reply.value)
        out["list"] = plain(values)
    if "objects" in options:
        reply = session.ask(session.client.getObjectsRequest())
        out["objects"] = sorted(str(each.logicalName) for each in session.client.parseObjects(reply.data, False, False))
    if "profile" in options:
        profile = GXDLMSProfileGeneric(options["profile"])
        session.read(profile, 3)
        first, count = options["entries"]
        reply = session.ask(session.client.readRowsByEntry(profile, first, count))
        out["rows"] = plain(session.client.updateValue(profile, 2, reply.value))
    if "write" in options:
        code, octets = options["write"]
        item = GXDLMSData(code)
        item.value = bytes.fromhex(octets)
        session.ask(session.client.write(item, 2))
        out["written"] = plain(session.read(item, 2))
    session.close()
    return out


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
