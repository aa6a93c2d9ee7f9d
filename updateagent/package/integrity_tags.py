"""Recognises bytes that were verified a moment ago, for a fraction of what verifying them again costs.

A package is verified whole before a slot is touched, and every block again when it is written, because the file may
have changed in between. On a CPU without SHA instructions hashing is most of what an install costs. So the first pass
keeps an authentication tag of each run that it found good, and the second compares tags: a run with the same tag has
the same bytes, since nobody outside this process knows the key. Poly1305 costs a fifth to a tenth of SHA-256 there.

Poly1305 (RFC 8439, section 2.5) wants a key for each message; keyed BLAKE2b makes it from the place of the run and a
secret that is drawn for each witness. Where there is no tag, or another one, the hash tree decides: a witness can save
work, never accept anything. Nothing of it is ever stored.

Memory: 16 bytes a run of 64 KiB, 1/4096 of the image.
"""

from __future__ import annotations

import hmac
import os
from hashlib import blake2b

from cryptography.hazmat.primitives.poly1305 import Poly1305

TAG_BYTES = 16
KEY_BYTES = 32
IMAGES_MAX = 64  # of a package (`updateagent.package.description`)


class Witness:
    """What one process has verified. `image` is the name of the payload in its package, `run` counts from 0."""

    def __init__(self) -> None:
        self._secret = os.urandom(KEY_BYTES)
        self._images: dict[str, tuple[int, bytearray]] = {}

    def note(self, image: str, run: int, data: bytes) -> None:
        """Remember a run that was just verified. Runs come in order from 0; the others are left to the hash tree."""
        number, tags = self._images.setdefault(image, (len(self._images), bytearray()))
        if run * TAG_BYTES == len(tags) and number < IMAGES_MAX:
            tags += self._tag(number, run, data)

    def knows(self, image: str, run: int, data: bytes) -> bool:
        """Whether these are the bytes that were noted for this run."""
        number, tags = self._images.get(image, (0, b""))
        noted = tags[run * TAG_BYTES : (run + 1) * TAG_BYTES]
        return len(noted) == TAG_BYTES and hmac.compare_digest(noted, self._tag(number, run, data))

    def has_all(self, image: str, runs: int) -> bool:
        """Whether each of the `runs` runs of an image was noted."""
        return len(self._images.get(image, (0, b""))[1]) == runs * TAG_BYTES

    def _tag(self, number: int, run: int, data: bytes) -> bytes:
        place = number.to_bytes(4, "little") + run.to_bytes(8, "little")
        return Poly1305.generate_tag(blake2b(place, key=self._secret, digest_size=KEY_BYTES).digest(), data)
