"""Where the octets of keys, challenges and transaction ids come from.

The cores take a `RandomOctets` as an argument, so that a test knows what they draw. This module alone asks the system.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

RandomOctets = Callable[[int], bytes]
"""How many octets → that many, which nobody can predict."""

system_random: RandomOctets = secrets.token_bytes
