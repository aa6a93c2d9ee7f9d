"""Sizes that whoever keeps a device's identity needs to know, also without registering it (docs/ssmp.md)."""

from __future__ import annotations

DEVICE_KEY_BYTES = 32
DEVICE_ID_BYTES_MAX = 128
FINGERPRINT_BYTES = 16  # of an account
TEXT_BYTES_MAX = 256  # each text of the registration information
