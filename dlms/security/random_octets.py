"""Where the octets of keys, challenges and transaction ids come from.

The cores take a `RandomOctets` or a key as an argument, so that tests control it. Only this module uses the system's
source.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve, EllipticCurvePrivateKey

RandomOctets = Callable[[int], bytes]
"""Returns the given number of unpredictable octets."""

system_random: RandomOctets = secrets.token_bytes


def new_key_pair(curve: EllipticCurve) -> EllipticCurvePrivateKey:
    """A fresh private key on this curve, drawn by the system."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(curve)
