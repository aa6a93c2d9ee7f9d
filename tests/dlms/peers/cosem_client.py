# mypy: ignore-errors
"""dlms-cosem as a client, for the tests: does a session with a meter on a TCP port and prints what it got as JSON.

Runs in an environment that has dlms-cosem; nothing here imports this project.
"""

import itertools
import json
import logging
import sys
from datetime import datetime

import structlog
from dlms_cosem import cosem, enumerations
from dlms_cosem.client import DlmsClient
from dlms_cosem.cosem.capture_object import CaptureObject
from dlms_cosem.cosem.selective_access import EntryDescriptor, RangeDescriptor
from dlms_cosem.io import BlockingTcpIO, HdlcTransport, TcpTransport
from dlms_cosem.security import (
    HighLevelSecurityGmacAuthentication,
    LowLevelSecurityAuthentication,
    NoSecurityAuthentication,
)

COUNTERS = itertools.count(10, 100)  # each session begins above what the ones before it used

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def attribute(class_id, code, number):
    return cosem.CosemAttribute(enumerations.CosemInterface(class_id), cosem.Obis(*map(int, code.split("."))), number)


def get(client, class_id, code, number):
    return client.get(attribute(class_id, code, number)).hex()


def set_value(client, class_id, code, number, octets):
    return client.set(attribute(class_id, code, number), bytes.fromhex(octets)).result.name


def act(client, class_id, code, number, octets):
    name = cosem.Obis(*map(int, code.split(".")))
    done = client.action(cosem.CosemMethod(enumerations.CosemInterface(class_id), name, number), bytes.fromhex(octets))
    return None if done is None else bytes(done).hex()


def by_range(client, code, first, last):
    clock = CaptureObject(attribute(8, "0.0.1.0.0.255", 2), 0)
    times = [datetime.fromisoformat(text) for text in (first, last)]
    return client.get(attribute(7, code, 2), RangeDescriptor(clock, *times)).hex()


def by_entry(client, code, *numbers):
    return client.get(attribute(7, code, 2), EntryDescriptor(*numbers)).hex()


def get_list(client, *refs):
    items = [cosem.CosemAttributeWithSelection(attribute(*ref), None) for ref in refs]
    return [str(one) for one in client.get_many(items).response_data]


STEPS = {step.__name__: step for step in (get, set_value, act, by_range, by_entry, get_list)}


def attempt(options, name, *arguments):
    """One step in a session of its own, because a client whose step failed cannot even release."""
    client = opened(options)
    try:
        client.connect()
        client.associate()
        outcome = STEPS[name](client, *arguments)
        client.release_association()
    except Exception as error:
        outcome = {"failed": f"{type(error).__name__}: {error}"}
    finally:
        client.disconnect()
    return outcome


def opened(options):
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
            "client_initial_invocation_counter": next(COUNTERS),
        }
    return DlmsClient(transport, auth, max_pdu_size=options.get("pdu_size", 1024), block_transfer=True, **extra)


def run(options):
    client = opened(options)
    values = {}
    with client.session():
        for class_id, code, attribute in options["read"]:
            where = cosem.CosemAttribute(
                enumerations.CosemInterface(class_id), cosem.Obis(*map(int, code.split("."))), attribute
            )
            values[f"{class_id}/{code}/{attribute}"] = client.get(where).hex()
    steps = [attempt(options, *step) for step in options.get("steps", [])]
    return {"values": values, "steps": steps}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
