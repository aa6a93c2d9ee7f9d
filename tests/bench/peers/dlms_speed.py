# mypy: ignore-errors
# ruff: noqa: FBT003 - gurux's arguments

"""gurux-dlms and dlms-cosem doing what `tests.bench.dlms` measures; prints one JSON object.

Runs in an environment that has them; nothing here imports this project. The argument is a JSON object with the inputs.
"""

import json
import subprocess
import sys
import time

SLICES = 24


def rate(work, seconds=1.2):
    """Calls per second of CPU, the best of many short runs, so that other work on the machine does not count."""
    count, used = 1, 0.0
    while used < seconds / SLICES / 2:  # so many calls in a run that looking at the clock costs nothing beside them
        count *= 2
        used = cpu_s(work, count)
    return count / min(cpu_s(work, count) for _ in range(SLICES))


def cpu_s(work, count):
    begin = time.process_time()
    for _ in range(count):
        work()
    return time.process_time() - begin


def gurux_hdlc(info):
    from gurux_dlms import GXByteBuffer, GXDLMSClient, GXReplyData
    from gurux_dlms.enums import Authentication, InterfaceType
    from gurux_dlms.GXDLMS import GXDLMS

    client = GXDLMSClient(True, 16, 1, Authentication.NONE, None, InterfaceType.HDLC)
    frame = bytes(GXDLMS.getHdlcFrame(client.settings, 0x13, GXByteBuffer(info)))
    meter = GXDLMSClient(True, 16, 1, Authentication.NONE, None, InterfaceType.HDLC)
    meter.settings.isServer = True

    def encode():
        GXDLMS.getHdlcFrame(client.settings, 0x13, GXByteBuffer(info))

    def decode():
        GXDLMS.getHdlcData(True, meter.settings, GXByteBuffer(frame), GXReplyData(), None)

    return rate(encode), rate(decode)


def cosem_profile(buffer, columns):
    from dlms_cosem import cosem, enumerations
    from dlms_cosem.parsers import ProfileGenericBufferParser

    captures = [
        cosem.CosemAttribute(enumerations.CosemInterface(class_id), cosem.Obis(*obis), attribute)
        for class_id, obis, attribute in columns
    ]
    parser = ProfileGenericBufferParser(captures, 15)
    return rate(lambda: parser.parse_bytes(buffer), 2.0)


def cosem_gcm(plain, ek, ak, title):
    from dlms_cosem.security import SecurityControlField, decrypt, encrypt

    control = SecurityControlField(security_suite=0, authenticated=True, encrypted=True)
    arguments = {"security_control": control, "system_title": title, "invocation_counter": 5, "key": ek, "auth_key": ak}
    sealed = encrypt(plain_text=plain, **arguments)
    return (
        rate(lambda: encrypt(plain_text=plain, **arguments)),
        rate(lambda: decrypt(cipher_text=sealed, **arguments)),
    )


def imported(module):
    """CPU seconds to import, and the peak of memory in KiB."""
    code = (
        f"import time; t = time.process_time(); import {module}; t = time.process_time() - t; "
        "print(t, next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    return min(float(run[0]) for run in runs), min(int(run[1]) for run in runs)


def main():
    options = json.loads(sys.argv[1])
    encode, decode = gurux_hdlc(bytes.fromhex(options["info"]))
    seal, opened = cosem_gcm(*(bytes.fromhex(options[name]) for name in ("plain", "ek", "ak", "title")))
    out = {
        "gurux_hdlc_encode": encode,
        "gurux_hdlc_decode": decode,
        "cosem_profile": cosem_profile(bytes.fromhex(options["buffer"]), options["columns"]),
        "cosem_seal": seal,
        "cosem_open": opened,
        "gurux_import": imported("gurux_dlms"),
        "cosem_import": imported("dlms_cosem.client"),
    }
    print(json.dumps(out))


def session(options):
    """gurux reading objects one by one over HDLC, one meter after another: CPU seconds, exchanges, octets."""
    import socket

    from gurux_dlms import GXByteBuffer, GXReplyData
    from gurux_dlms.enums import Authentication, InterfaceType, ObjectType
    from gurux_dlms.GXDLMSClient import GXDLMSClient
    from gurux_dlms.objects import GXDLMSObject

    counted = [0, 0]
    connection = socket.create_connection(("127.0.0.1", options["port"]), 10)

    def ask(data):
        reply = GXReplyData()
        for each in data if isinstance(data, list) else [data]:
            reply.clear()
            packet(each, reply)
            while reply.isMoreData():
                packet(client.receiverReady(reply), reply)
        return reply

    def packet(data, reply):
        connection.sendall(bytes(data))
        counted[0] += 1
        counted[1] += len(bytes(data))
        received, notify = GXByteBuffer(), GXReplyData()
        while not client.getData(received, reply, notify):
            got = connection.recv(4096)
            counted[1] += len(got)
            received.set(got)

    begin = time.process_time()
    for server in options.get("servers", [1]):
        client = GXDLMSClient(True, 16, server, Authentication.LOW, options["secret"], InterfaceType.HDLC)
        client.parseUAResponse(ask(client.snrmRequest()).data)
        client.parseAareResponse(ask(client.aarqRequest()).data)
        for class_id, code, attribute in options["read"]:
            ask(client.read(GXDLMSObject(ObjectType(class_id), code), attribute))
        ask(client.disconnectRequest())
    cpu = time.process_time() - begin
    print(json.dumps({"cpu_s": cpu, "exchanges": counted[0], "octets": counted[1]}))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if "port" in given:
        session(given)
    else:
        main()
