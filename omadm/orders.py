"""Bounds of an order to meters, which the device enforces and the head-end checks before it sends one (docs/orders.md).

sans-IO, and no code at all.
"""

from __future__ import annotations

METERS_MAX = 256  # of one order
PARAMETERS_CHARS_MAX = 8192  # of the parameters, as JSON
PRIORITY_MAX = 9  # 0 is the lowest
DEADLINE_S_MAX = 7 * 86_400  # from when the device takes the order up
