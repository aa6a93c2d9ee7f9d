"""All interface classes that the table has, for tests that walk them."""

from __future__ import annotations

from dlms.cosem.classes import InterfaceClass, interface_class

CLASS_IDS = range(256)
VERSIONS = range(8)


def every_class() -> list[InterfaceClass]:
    """Every class and version, each once: a version that the table does not have is answered with an older one."""
    found = {}
    for class_id in CLASS_IDS:
        for version in VERSIONS:
            known = interface_class(class_id, version)
            if known is not None:
                found[class_id, known.version] = known
    return list(found.values())
