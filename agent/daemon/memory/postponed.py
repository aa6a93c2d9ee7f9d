"""Modules of the standard library that are imported and hardly ever called: loaded when something of them is used.

`importlib.util.LazyLoader` would do the same, but before Python 3.12.3 two threads that use a module first at the same
time may find it half loaded.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from types import ModuleType

POSTPONED = {
    "calendar": "imported by email.utils, for dates in the headers of mail",
    "email.header": "imported by email.message, for headers that are not ASCII",
    "inspect": "imported by dataclasses, for the texts of classes without one; brings ast, dis and tokenize",
    "locale": "imported by subprocess and calendar, for texts in the user's language",
    "stringprep": "imported by encodings.idna, for names that are not ASCII",
    "subprocess": "imported by parts of ours, for the commands that few configurations and orders bring",
}
"""1.1 MB in all, and 12 ms of the start."""

_LOADING = threading.RLock()  # again by the same thread: what is loaded may import another module of the table


class _Postponed(ModuleType):
    """Stands for a module, also where that was imported before it was loaded."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # asked for by the import system
            raise AttributeError(name)
        with _LOADING:
            module = self.__name__
            if sys.modules.get(module) is self:
                del sys.modules[module]
            return getattr(import_module(module), name)


def postpone() -> None:
    """Call it before anything else is imported: what is loaded already stays."""
    for name in POSTPONED:
        sys.modules.setdefault(name, _Postponed(name))
