"""The boot loaders that the Update Agent works with: the one table of `[bootenv] type` and `policy`.

The type says where the boot loader keeps its variables; the policy says which variables there are and what they mean.
Only the pairs in the table exist; adding a pair takes a row here and the modules that the row names. This module
imports nothing, because `dcu-update boot` looks at it before anything else is loaded.
"""

UBOOT, GRUB = "updateagent.boot.uboot.env:open_environment", "updateagent.boot.grub:open_block"

BOOT_LOADERS = {
    ("uboot", "rauc"): (UBOOT, "updateagent.boot.rauc:RaucPolicy"),
    ("uboot", "bootcount"): (UBOOT, "updateagent.boot.bootcount:BootcountPolicy"),
    ("uboot", "mender"): (UBOOT, "updateagent.boot.bootcount:MenderPolicy"),
    ("grub", "rauc-grub"): (GRUB, "updateagent.boot.grub:RaucGrubPolicy"),
}
"""(type, policy) -> (function that opens the variables, class of the policy), each as "module:name".

They are names so that only what is configured is imported. The first policy of a type is its default. The function
takes a disk, the path of `[bootenv] config`, and the path of the lock file or None.
"""

LOCKED_TYPES = frozenset({"uboot"})
"""Types whose own tools take a lock file before they touch the variables. grub-editenv takes none."""

CANARY, CANARY_KEY = "dcu_boots", "dcu.boots"
"""The boot script increments this variable in the save that it makes anyway, and passes the saved value to the kernel
under this key. We never write it, so both must be equal all through the boot; see docs/decisions/0007."""


def types() -> list[str]:
    """Every type, in the order of the table."""
    return list(dict.fromkeys(known for known, _ in BOOT_LOADERS))


def policies(of_type: str) -> list[str]:
    """The policies of a type, its default first; empty for an unknown type."""
    return [policy for known, policy in BOOT_LOADERS if known == of_type]
