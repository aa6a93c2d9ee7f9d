"""What the Update Agent shares with the boot loader. The table of boot loaders is in `updateagent.boot.loaders`."""

LOCKED_TYPES = frozenset({"uboot"})
"""Types whose own tools take a lock file before they touch the variables. grub-editenv takes none."""

CANARY, CANARY_KEY = "dcu_boots", "dcu.boots"
"""The boot script increments this variable in the save that it makes anyway, and passes the saved value to the kernel
under this key. We never write it, so both must be equal all through the boot; see docs/decisions/0007."""
