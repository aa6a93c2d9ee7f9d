"""Package #0, the notification that asks a device to start a session (OMA-TS-DM_Notification 1.2, section 6).

    digest[16] | trigger
    trigger = version:10 | ui-mode:2 | initiator:1 | future:27 (0) | session id:16 | length:8 | server id | vendor tail
    digest  = MD5(B64(MD5(server id ":" secret)) ":" nonce ":" B64(MD5(trigger)))            big endian throughout

MD5 is too weak to rely on, and the digest does not protect from replay. Between this project's ends the vendor tail
does both (docs/dm.md):

    tail = "DCU" | 1:8 | counter:64 | MAC[32]
    MAC  = HMAC-SHA-256(K, trigger up to and with the counter), K = HMAC-SHA-256(secret, "dcu notification 1")

A notification is accepted only if its counter is greater than that of every one accepted before. It has no address: all
that it can do is start a session with the server that is configured already.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MIME: Final = "application/vnd.syncml.notification"
PUSH_URL: Final = "./DevInfo/Ext/PushURL"  # where a device says to which address notifications go
VERSION_1_2: Final = 11  # "1.1" in tenths: DM 1.2 still says 0000001011
DIGEST_BYTES: Final = 16
HEADER_BYTES: Final = 8
SERVER_ID_BYTES_MAX: Final = 255
TAIL_MAGIC: Final = b"DCU\x01"
COUNTER_MAX: Final = (1 << 64) - 1
TAIL_BYTES: Final = len(TAIL_MAGIC) + 8 + 32
BYTES_MAX: Final = DIGEST_BYTES + HEADER_BYTES + SERVER_ID_BYTES_MAX + 1024
_KEY_LABEL: Final = b"dcu notification 1"

# For sides that have lost the nonce. The standard says 0x00000000 and leaves the form open; all three are in use.
RESYNC_NONCE: Final = b"\0\0\0\0"
RESYNC_NONCES: Final = (RESYNC_NONCE, b"AAAAAA==", b"0x00000000")


class UiMode(IntEnum):
    """How visible the session should be to a user (6.2.2.2)."""

    UNSPECIFIED = 0
    BACKGROUND = 1
    INFORMATIVE = 2
    INTERACTION = 3


class NotificationError(Exception):
    """Not a notification, or one that must be ignored. The text is for the log."""


@dataclass(frozen=True, slots=True)
class Notification:
    """The content of Package #0. `counter` is None when the vendor tail is not this project's."""

    session_id: int
    server_id: str
    ui_mode: UiMode = UiMode.BACKGROUND
    server_initiated: bool = True
    version: int = VERSION_1_2
    vendor: bytes = b""

    @property
    def counter(self) -> int | None:
        if len(self.vendor) != TAIL_BYTES or not self.vendor.startswith(TAIL_MAGIC):
            return None
        return int.from_bytes(self.vendor[4:12], "big")

    @property
    def session_text(self) -> str:
        """The session id as in SyncHdr: upper-case hexadecimal without leading zeros."""
        return f"{self.session_id:X}"


def trigger(notification: Notification) -> bytes:
    """The bytes that the digest covers. Raises `ValueError` for a field out of range (our mistake)."""
    name = notification.server_id.encode("utf-8")
    if not 1 <= len(name) <= SERVER_ID_BYTES_MAX:
        raise ValueError(f"notification: a server id has 1 to 255 bytes, not {len(name)}")
    if not 0 <= notification.session_id <= 0xFFFF or not 0 <= notification.version < 1 << 10:
        raise ValueError("notification: session id or version out of range")
    first = notification.version << 30 | notification.ui_mode << 28 | int(notification.server_initiated) << 27
    head = first.to_bytes(5, "big") + struct.pack(">HB", notification.session_id, len(name))
    return head + name + notification.vendor


def _digest(trigger_bytes: bytes, server_id: str, secret: str, nonce: bytes) -> bytes:
    def md5(data: bytes) -> bytes:
        return hashlib.md5(data, usedforsecurity=False).digest()

    identity = base64.b64encode(md5(f"{server_id}:{secret}".encode()))
    return md5(identity + b":" + nonce + b":" + base64.b64encode(md5(trigger_bytes)))


def _tail_mac(signed: bytes, secret: str) -> bytes:
    key = hmac.digest(secret.encode(), _KEY_LABEL, "sha256")
    return hmac.digest(key, signed, "sha256")


def emit(notification: Notification, secret: str, nonce: bytes, *, counter: int | None = None) -> bytes:
    """Encode a notification. With `counter` the vendor tail is made here; otherwise `notification.vendor` is sent.

    `secret` and `nonce` are the server's (SRVCRED of the device's account). Raises `ValueError` like `trigger`.
    """
    content = trigger(notification)
    if counter is not None:
        if notification.vendor or not 0 <= counter <= COUNTER_MAX:
            raise ValueError("notification: a counter needs an empty vendor field and 64 bits")
        content += TAIL_MAGIC + counter.to_bytes(8, "big")
        content += _tail_mac(content, secret)
    return _digest(content, notification.server_id, secret, nonce) + content


def parse(data: bytes) -> Notification:
    """Parse without verifying anything. Raises `NotificationError`."""
    if len(data) > BYTES_MAX:
        raise NotificationError(f"{len(data)} bytes are too many for a notification")
    if len(data) < DIGEST_BYTES + HEADER_BYTES:
        raise NotificationError(f"{len(data)} bytes are too few for a notification")
    first = int.from_bytes(data[16:21], "big")
    session_id, length = struct.unpack(">HB", data[21:24])
    version = first >> 30
    if version != VERSION_1_2:
        raise NotificationError(f"version {version} is not that of DM 1.2")
    if first & (1 << 27) - 1:
        raise NotificationError("reserved bits are set")
    raw = data[24 : 24 + length]
    if not length or len(raw) < length:
        raise NotificationError("the server id is missing or cut")
    try:
        server_id = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise NotificationError("the server id is not UTF-8") from None
    return Notification(
        session_id=session_id,
        server_id=server_id,
        ui_mode=UiMode(first >> 28 & 3),
        server_initiated=bool(first >> 27 & 1),
        version=version,
        vendor=data[24 + length :],
    )


def verify(
    data: bytes, *, server_id: str, secret: str, nonce: bytes, last_counter: int | None, standard: bool = False
) -> Notification:
    """Parse, and accept only a new notification of the configured server. Raises `NotificationError`.

    The digest must be right for `nonce` or one of the resync nonces. The vendor tail must be this project's, with a
    right MAC and a counter above `last_counter` (None: nothing accepted yet); the caller must store the counter before
    it acts. `standard=True` accepts a notification without our tail (a server of another make, if configured).
    """
    notification = parse(data)
    if not hmac.compare_digest(notification.server_id.encode(), server_id.encode()):
        raise NotificationError("it names a server that is not configured")
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    candidates = (nonce, *RESYNC_NONCES)
    if not any(hmac.compare_digest(digest, _digest(content, server_id, secret, n)) for n in candidates):
        raise NotificationError("the digest does not hold")
    counter = notification.counter
    if counter is None:
        if standard and not notification.vendor.startswith(TAIL_MAGIC):
            return notification
        raise NotificationError("the vendor tail is missing or not ours")
    if not hmac.compare_digest(content[-32:], _tail_mac(content[:-32], secret)):
        raise NotificationError("the MAC of the vendor tail does not hold")
    if last_counter is not None and counter <= last_counter:
        raise NotificationError(f"counter {counter} is not newer than {last_counter}")
    return notification
