"""The device's side of SSMP over HTTPS: drives the core of `omadm.ssmp.client_core` through its three exchanges."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

from omadm.ssmp import wire
from omadm.ssmp.client_core import ClientEvent, Registered, RegistrationFailed, SsmpClient, State
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUsageError, SsmpWireError

if TYPE_CHECKING:
    from agent.https import HttpsClient
    from agent.settings.device import DeviceInfo

log = logging.getLogger("agent.ssmp")

EXCHANGES_MAX = 3


def register(https: HttpsClient, url: str, device: DeviceInfo, key: bytes, push_url: str) -> bytes:
    """Register with the security server at `url` and return the bootstrap document (a WBXML DM profile message).

    `key` is the device key, 32 bytes; `push_url` is where this device listens for notifications, empty for nowhere.
    Raises `SsmpRefused` when the server says no, `SsmpError` for everything else that the peer or the network does,
    `SsmpUsageError` for values that cannot be sent.
    """
    info = wire.RegistrationInfo(
        man=device.man,
        mod=device.mod,
        hw=device.hw_version,
        fw=device.fw_version,
        sw=device.sw_version,
        push_url=push_url,
    )
    core = SsmpClient(device.device_id, key, info, secrets.token_bytes(wire.NONCE_BYTES))
    core.start(time.monotonic())
    for _ in range(EXCHANGES_MAX):
        core.receive(_exchange(https, url, core.take_output()), time.monotonic())
        core.on_deadline(time.monotonic())
        match core.next_event():
            case Registered(document):
                log.info("registered with the security server", extra={"event": "ssmp.registered"})
                return document
            case RegistrationFailed(error):
                log.warning("registration failed: %s", error, extra={"event": "ssmp.failed"})
                raise error
            case None:
                continue
    raise SsmpError("the security server asked for more messages than the protocol has")


def _exchange(https: HttpsClient, url: str, message: bytes) -> bytes:
    from agent.https import HttpsError

    try:
        answer = https.request("POST", url, body=message, headers={"Content-Type": wire.CONTENT_TYPE})
    except HttpsError as error:
        raise SsmpError(str(error)) from error
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != wire.CONTENT_TYPE:
        raise SsmpError(f"the security server answered HTTP {answer.status} with {kind or 'no content type'}")
    return answer.body


__all__ = [
    "ClientEvent",
    "Registered",
    "RegistrationFailed",
    "SsmpClient",
    "SsmpError",
    "SsmpRefused",
    "SsmpUsageError",
    "SsmpWireError",
    "State",
    "register",
]
