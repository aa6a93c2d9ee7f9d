"""The numbered errors of the Update Agent, and what each one is called in FUMO and SCOMO.

A number, once published, keeps its meaning: field tools and the head-end's statistics depend on it. The number is
also the exit status of `dcu-update`; 0 is success; 10 and 11 tell init what to do and are not errors.

FUMO results are those of OMA-TS-DM-FUMO 1.0 (section 5.4), SCOMO results those of OMA-TS-DM-SCOMO 1.0 (section 8.7).
Anything that makes a package differ from what was signed is 404: "failed validation". 402 ("corrupted") is kept for
packages that cannot be read at all. 450 and 451 are in the range that FUMO leaves to vendors: they tell a server that a
package with whole images would work where the delta did not (docs/decisions/0009-never-a-full-image-unasked.md).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

OK_FUMO = 200
OK_SCOMO = 1200

EXIT_OK = 0
EXIT_REBOOT_WANTED = 10
EXIT_GUARD_WANTED = 11


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of error. `number` is stable, `name` is what logs and `result.json` carry."""

    number: int
    name: str
    fumo: int
    scomo: int


INTERNAL = Code(1, "internal", 409, 1412)  # Python's exit status after an uncaught exception; never raised
CONFIGURATION = Code(2, "configuration", 409, 1412)

# 20-59: the package, or its fit to this device.
FORMAT = Code(20, "format", 402, 1405)  # not the container, or a member where none may be
TRUNCATED = Code(21, "truncated", 402, 1405)
DESCRIPTION = Code(22, "description", 402, 1405)  # sw-description is not the JSON we define
LIMIT = Code(23, "limit", 402, 1405)  # a length, count or depth above its named limit
SIGNATURE_MISSING = Code(24, "signature-missing", 404, 1407)
SIGNATURE = Code(25, "signature", 404, 1407)
SIGNATURE_PROFILE = Code(26, "signature-profile", 404, 1407)  # CMS outside the restricted profile
CERTIFICATE_CHAIN = Code(27, "certificate-chain", 404, 1407)
CERTIFICATE_TIME = Code(28, "certificate-time", 404, 1407)
CERTIFICATE_PURPOSE = Code(29, "certificate-purpose", 404, 1407)
CERTIFICATE_REVOKED = Code(30, "certificate-revoked", 404, 1407)
ROOTS = Code(31, "roots", 404, 1407)  # a root rotation that is not signed by enough of the old and new roots
COMPATIBLE = Code(32, "compatible", 403, 1413)
DOWNGRADE = Code(33, "downgrade", 405, 1413)  # security_version below the floor
PAYLOAD = Code(34, "payload", 404, 1407)  # a block, a tree or a checksum differs from what was signed
IMAGE_MISSING = Code(35, "image-missing", 405, 1405)  # not raised any more; a published number is not reused
VERSION_REQUIRED = Code(36, "version-required", 405, 1413)
AGENT_VERSION = Code(37, "agent-version", 405, 1413)
DELTA_SOURCE = Code(38, "delta-source", 450, 1413)  # the system that runs is not what the patch was made from
IMAGE_SIZE = Code(39, "image-size", 502, 1406)  # the image does not fit the slot
KIND = Code(40, "kind", 405, 1405)  # a software package where firmware is wanted, or the reverse
HOOK = Code(41, "hook", 410, 1405)
COMPRESSION = Code(42, "compression", 402, 1405)
PATCH = Code(43, "patch", 402, 1405)
IMAGE_ROLE = Code(44, "image-role", 403, 1413)  # no slot, or no place, for an image of this name
PACKAGE_MISSING = Code(45, "package-missing", 402, 1405)
FULL_REFUSED = Code(46, "full-refused", 451, 1413)  # the delta is unusable; the settings forbid the full package

DELTA_UNUSABLE = frozenset({DELTA_SOURCE, PATCH})
"""The delta is at fault, or was made for another system: the same release with whole images may work."""

# 60-89: the device.
STORAGE = Code(60, "storage", 410, 1405)
STORAGE_FULL = Code(61, "storage-full", 502, 1406)
SLOT = Code(62, "slot", 410, 1405)  # no such slot, not usable as one, or mounted
READ_BACK = Code(63, "read-back", 410, 1405)  # the slot does not return what was written
ENVIRONMENT = Code(64, "environment", 410, 1405)  # the boot environment cannot be read
ENVIRONMENT_WRITE = Code(65, "environment-write", 410, 1405)
ENVIRONMENT_FULL = Code(66, "environment-full", 410, 1405)
ENVIRONMENT_LOCKED = Code(67, "environment-locked", 410, 1405)
ENVIRONMENT_NOT_SHARED = Code(68, "environment-not-shared", 410, 1405)  # the boot loader reads another one
JOURNAL = Code(69, "journal", 410, 1405)
BOOTED_SLOT = Code(70, "booted-slot", 410, 1405)  # which slot runs cannot be told, or the mounted root is another's
LOOP = Code(71, "loop", 410, 1405)  # the same step was started too often
TRIAL_FAILED = Code(72, "trial-failed", 410, 1405)  # the new system ran, and its health check failed
TRIAL_SILENT = Code(73, "trial-silent", 410, 1405)  # the boot loader fell back; the new system left no word
KERNEL_FEATURE = Code(74, "kernel-feature", 410, 1405)
BUSY = Code(75, "busy", 409, 1405)
SOFTWARE_REMOVE = Code(80, "software-remove", 409, 1408)
SOFTWARE_ACTIVATE = Code(81, "software-activate", 409, 1409)
SOFTWARE_DEACTIVATE = Code(82, "software-deactivate", 409, 1410)

# 90-99: the caller.
STATE = Code(90, "state", 409, 1400)  # not now: the machine is in another state
REQUEST = Code(91, "request", 400, 1400)
NOT_FOUND = Code(92, "not-found", 409, 1400)
CANCELLED = Code(93, "cancelled", 401, 1401)


class UpdateError(Exception):
    """Base class of every deliberate error of this package. `message` is a sentence for a person."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.name} ({code.number}): {message}")
        self.code = code
        self.message = message

    @property
    def number(self) -> int:
        return self.code.number

    @property
    def name(self) -> str:
        return self.code.name

    @property
    def fumo(self) -> int:
        return self.code.fumo

    @property
    def scomo(self) -> int:
        return self.code.scomo


class PackageError(UpdateError):
    """The package is at fault, or does not fit this device. Nothing was written because of it."""


class DeviceError(UpdateError):
    """The device is at fault: storage, slots, boot environment, journal."""


class RequestError(UpdateError):
    """The caller asked for something that cannot be done now, or at all."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def storage_error(error: OSError, what: str) -> DeviceError:
    """Returns the system's error as one of ours: storage-full where room is what is missing, else storage."""
    code = STORAGE_FULL if error.errno in _FULL else STORAGE
    return DeviceError(code, f"{what}: {error.strerror or error}")
