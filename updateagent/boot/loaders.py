"""The boot loaders that the Update Agent works with: the one table of `[bootenv] type` and `policy`.

The type says where the boot loader keeps its variables; the policy says which variables there are and what they mean.
Only the pairs in the table exist; adding a pair takes a row here and the modules that the row names. This module
imports nothing when it is loaded, because `dcu-update boot` looks at it before anything else.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the idle start of `dcu-update boot` does without `typing`
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from updateagent.boot.policy import BootEnv, Variables
    from updateagent.disk import Storage

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


def types() -> list[str]:
    """Every type, in the order of the table."""
    return list(dict.fromkeys(known for known, _ in BOOT_LOADERS))


def policies(of_type: str) -> list[str]:
    """The policies of a type, its default first; empty for an unknown type."""
    return [policy for known, policy in BOOT_LOADERS if known == of_type]


def open_variables(of_type: str, policy: str, disk: Storage, config: Path, lock: Path | None) -> Variables:
    """Open the variables that the boot loader shares with us. Raises `RequestError` (configuration)."""
    found: Variables = _load(_row(of_type, policy)[0])(disk, config, lock)
    return found


def policy_class(of_type: str, policy: str) -> type[BootEnv]:
    """The policy of this pair. Raises `NoSuchBootLoader`."""
    found: type[BootEnv] = _load(_row(of_type, policy)[1])
    return found


def _row(of_type: str, policy: str) -> tuple[str, str]:
    from updateagent.boot.policy import NoSuchBootLoader

    try:
        return BOOT_LOADERS[of_type, policy]
    except KeyError:
        raise NoSuchBootLoader(of_type, policy) from None


def _load(name: str) -> Any:
    from importlib import import_module

    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
