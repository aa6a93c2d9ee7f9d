"""Which boot loaders the Update Agent works with: the one table of `[bootenv] type` and `policy`.

The type says where the boot loader keeps its variables, the policy which variables it has and what they mean. Only the
pairs of the table exist; a pair is added by a row here and the modules that the row names. Imports nothing: `dcu-update
boot` looks at it before anything else is loaded.
"""

UBOOT, GRUB = "updateagent.boot.uboot.env:open_environment", "updateagent.boot.grub:open_block"

BOOT_LOADERS = {
    ("uboot", "rauc"): (UBOOT, "updateagent.boot.rauc:RaucPolicy"),
    ("uboot", "bootcount"): (UBOOT, "updateagent.boot.bootcount:BootcountPolicy"),
    ("uboot", "mender"): (UBOOT, "updateagent.boot.bootcount:MenderPolicy"),
    ("grub", "rauc-grub"): (GRUB, "updateagent.boot.grub:RaucGrubPolicy"),
}
"""(type, policy) -> (what opens the variables, the policy), each as "module:name": only what is configured is imported.

The first policy of a type is its default. What opens the variables is a function of a disk, the path of
`[bootenv] config`, and the path of the lock file or None.
"""


CANARY, CANARY_KEY = "dcu_boots", "dcu.boots"
"""The boot script counts this variable up in the save that it makes anyway, and passes what it has saved to the kernel
under this key. Never written from here, so that both must be equal all through the boot; see docs/decisions/0007."""


def types() -> list[str]:
    """The types there are."""
    return list(dict.fromkeys(kind for kind, _ in BOOT_LOADERS))


def policies(of_type: str) -> list[str]:
    """The policies of a type, its default first; empty for an unknown type."""
    return [policy for kind, policy in BOOT_LOADERS if kind == of_type]
