# mypy: ignore-errors
"""dlms-cosem as a client, for the tests: does a session with a meter on a TCP port and prints what it got as JSON.

Runs in an environment that has dlms-cosem; nothing here imports this project.
"""

import json
import logging
import sys

import structlog
from dlms_cosem import cosem, enumerations
from dlms_cosem.client import DlmsClient
from dlms_cosem.io import BlockingTcpIO, HdlcTransport, TcpTransport
from dlms_cosem.security import (
    HighLevelSecurityGmacAuthentication,
    LowLevelSecurityAuthentication,
    NoSecurityAuthentication,
)

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def run(options):
    io = BlockingTcpIO("127.0.0.1", options["port"])
    kind = HdlcTransport if options["link"] == "hdlc" else TcpTransport
    transport = kind(client_logical_address=16, server_logical_address=1, io=io)
    auth = {
        "none": NoSecurityAuthentication,
        "low": lambda: LowLevelSecurityAuthentication(secret=options["secret"].encode()),
        "gmac": lambda: HighLevelSecurityGmacAuthentication(challenge_length=16),
    }[options["auth"]]()
    extra = {}
    if "ek" in options:
        extra = {
            "encryption_key": bytes.fromhex(options["ek"]),
            "authentication_key": bytes.fromhex(options["ak"]),
            "client_system_title": bytes.fromhex(options["title"]),
            "client_initial_invocation_counter": 10,
        }
    client = DlmsClient(transport, auth, max_pdu_size=options.get("pdu_size", 1024), block_transfer=True, **extra)
    values = {}
    with client.session():
        for class_id, code, attribute in options["read"]:
            where = cosem.CosemAttribute(
                enumerations.CosemInterface(class_id), cosem.Obis(*map(int, code.split("."))), attribute
            )
            values[f"{class_id}/{code}/{attribute}"] = client.get(where).hex()
    return {"values": values}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
