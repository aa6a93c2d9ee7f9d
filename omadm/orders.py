"""Orders to meters and to networks, and for the log: bounds and names that both ends know (docs/orders.md).
Sans-IO, and no code at all.

The device enforces them, and the head-end checks them before it sends an order.
"""

from __future__ import annotations

METERS_MAX = 256  # of one order
PARAMETERS_CHARS_MAX = 8192  # of the parameters, as JSON
PRIORITY_MAX = 9  # 0 is the lowest
DEADLINE_S_MAX = 7 * 86_400  # from when the device takes the order up

NETWORK_ORDERS = ("get", "set", "promote", "demote", "allow", "deny")  # to the base node of a port

# What is asked of `./DiagMon/Log`.
LEVELS = ("debug", "info", "warning", "error")
SECONDS_MAX = 2**31 - 1  # of a time: nodes with numbers are 32 bit values (TND 1.2, 9.3.4)
