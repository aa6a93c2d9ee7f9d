"""Where the octets of keys, challenges and transaction ids come from.

The cores take a `RandomOctets` as an argument, so that tests control it. Only this module uses the system's source.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

RandomOctets = Callable[[int], bytes]
"""Returns the given number of unpredictable octets."""

system_random: RandomOctets = secrets.token_bytes
