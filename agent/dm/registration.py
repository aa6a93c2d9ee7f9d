"""Where the DM account comes from: SSMP over HTTPS, or a file.

`register` drives the core of `omadm.ssmp.client_core` through its round trips.
"""

from __future__ import annotations

import logging
import secrets
import time

from agent.https import HttpsClient, HttpsError
from agent.settings.config import AccountConfig
from agent.settings.device import DeviceInfo
from agent.settings.identity import SecretError, read_password, read_private
from omadm.bootstrap import BootstrapError
from omadm.client_provisioning import DOCUMENT_BYTES_MAX, check_mac
from omadm.ssmp import wire
from omadm.ssmp.client_core import Registered, RegistrationFailed, SsmpClient
from omadm.ssmp.errors import SsmpError

LOG = logging.getLogger("agent.ssmp")

ROUND_TRIPS_MAX = 4  # three, and one more with a server that speaks version 1 only


def register(https: HttpsClient, url: str, device: DeviceInfo, key: bytes, push_url: str, held: bytes) -> bytes:
    """Register with the security server at `url` and return the bootstrap document (an OMA DM profile in WBXML).

    `key` is the device key, 32 bytes; `push_url` is where this device listens for notifications, empty for nowhere;
    `held` is the fingerprint of the account that it has (`Account.fingerprint`), empty for none.
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
    core = SsmpClient(device.device_id, key, info, secrets.token_bytes(wire.NONCE_BYTES), held)
    core.start(time.monotonic())
    for _ in range(ROUND_TRIPS_MAX):
        core.receive(_round_trip(https, url, core.take_output()), time.monotonic())
        core.on_deadline(time.monotonic())
        match core.next_event():
            case Registered(document):
                LOG.info("registered with the security server", extra={"event": "ssmp.registered"})
                return document
            case RegistrationFailed(error):
                LOG.warning("registration failed: %s", error, extra={"event": "ssmp.failed"})
                raise error
            case None:
                continue
    raise SsmpError("the security server asked for more messages than the protocol has")


def account_document(config: AccountConfig) -> bytes:
    """Return the bootstrap document in the configured file: a DM profile, or one of client provisioning.

    Raises `BootstrapError` for a file that cannot be read, that others may use, or whose MAC is wrong.
    """
    try:
        document = read_private(config.file, DOCUMENT_BYTES_MAX + 1)
        if config.secret_file is not None:
            check_mac(document, config.security, read_password(config.secret_file), config.mac)
    except SecretError as error:
        raise BootstrapError(str(error)) from error
    LOG.info("account read from %s", config.file, extra={"event": "dm.account"})
    return document


def _round_trip(https: HttpsClient, url: str, message: bytes) -> bytes:
    try:
        answer = https.request("POST", url, body=message, headers={"Content-Type": wire.CONTENT_TYPE})
    except HttpsError as error:
        raise SsmpError(str(error)) from error
    content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != wire.CONTENT_TYPE:
        raise SsmpError(f"the security server answered HTTP {answer.status} with {content_type or 'no content type'}")
    return answer.body
