"""The frame of a journal copy, which shows whether its payload is whole.

    magic "DCUJ" | u16 version | u16 reserved 0 | u32 sequence | u32 length | u32 crc | payload[length]

Little-endian; `crc` is the CRC-32 of the 16 bytes before it and the payload. Imports next to nothing, for `fast_path`.
"""

import struct
import zlib

MAGIC = b"DCUJ"
VERSION = 1
PAYLOAD_BYTES_MAX = 64 << 10  # a record with 20 lines of log has 4 KiB

_HEAD = struct.Struct("<4sHHII")
_CRC = struct.Struct("<I")
FRAME_BYTES = _HEAD.size + _CRC.size  # of a copy, before its payload


def seal(payload: bytes, sequence: int) -> bytes:
    """Frame `payload` as one copy of the journal."""
    head = _HEAD.pack(MAGIC, VERSION, 0, sequence, len(payload))
    return head + _CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


def unseal(raw: bytes) -> tuple[int, int, bytes] | None:
    """Version, sequence and payload; None for anything that is not a whole copy of the journal."""
    if len(raw) < FRAME_BYTES or len(raw) > FRAME_BYTES + PAYLOAD_BYTES_MAX:
        return None
    magic, version, _, sequence, length = _HEAD.unpack_from(raw)
    payload = raw[FRAME_BYTES:]
    if magic != MAGIC or length != len(payload):
        return None
    if zlib.crc32(payload, zlib.crc32(raw[: _HEAD.size])) != _CRC.unpack_from(raw, _HEAD.size)[0]:
        return None
    return version, sequence, payload
