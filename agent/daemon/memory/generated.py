"""What `dataclass` generates for each class, made when it is first used, or shared by all: of 2,000 functions that it
would compile at the start, a third of the start's time, the daemon calls some hundred.

    install()            # before the first dataclass is made
    replace_generated()  # after the start, where `install` did not know the interpreter's dataclasses

`install` takes the place of functions of the module `dataclasses` (CPython 3.11 and 3.12) and changes nothing where
they are others. What is made late is made by the very functions that would have made it at once.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from functools import partial
from reprlib import recursive_repr
from types import FunctionType
from typing import Any

_MODULE: Any = dataclasses  # its functions have no types, and are not for others
_KNOWN = {
    "_init_fn": (
        "fields", "std_fields", "kw_only_fields", "frozen", "has_post_init", "self_name", "globals", "slots",
    ),
    "_repr_fn": ("fields", "globals"),
    "_frozen_get_del_attr": ("cls", "fields", "globals"),
    "_cmp_fn": ("name", "op", "self_tuple", "other_tuple", "globals"),
    "_hash_fn": ("fields", "globals"),
}  # fmt: skip
"""The functions whose place is taken, and their parameters."""


def install() -> bool:
    """Have classes made so from now on. Returns whether this interpreter's dataclasses are known."""
    if any(_parameters(getattr(_MODULE, name, None)) != expected for name, expected in _KNOWN.items()):
        return False
    make_init, make_compare, make_hash = _MODULE._init_fn, _MODULE._cmp_fn, _MODULE._hash_fn

    def compare(name: str, *about: object, **more: object) -> object:
        return _late(name, partial(make_compare, name, *about, **more))

    _MODULE._init_fn = lambda *about: _late("__init__", partial(make_init, *about))
    _MODULE._cmp_fn = compare
    _MODULE._hash_fn = lambda *about: _late("__hash__", partial(make_hash, *about))
    _MODULE._repr_fn = lambda *_about: _repr
    _MODULE._frozen_get_del_attr = lambda *_about: (_refuse_to_set, _refuse_to_delete)
    return True


def replace_generated() -> None:
    """Let all dataclasses share the functions that differ only in the names of fields."""
    for found in gc.get_objects():
        if isinstance(found, type) and "__dataclass_fields__" in vars(found):
            for name, shared in _SHARED.items():
                if _is_generated(vars(found).get(name)):
                    setattr(found, name, shared)


def _parameters(function: object) -> tuple[str, ...]:
    if not isinstance(function, FunctionType):
        return ()
    return function.__code__.co_varnames[: function.__code__.co_argcount]


def _late(name: str, make: Callable[[], Callable[..., object]]) -> Callable[..., object]:
    """Return a method that makes the real one and calls it, which takes its place for whoever comes next."""

    def first(self: object, /, *args: object, **kwargs: object) -> object:
        made = make()
        made.__qualname__ = first.__qualname__  # which `dataclass` has set, and error messages show
        # Not the class for which it was made: with slots `dataclass` makes the class anew, of the same functions.
        for owner in type(self).__mro__:
            if vars(owner).get(name) is first:
                setattr(owner, name, made)
        return made(self, *args, **kwargs)

    first.__name__ = name
    return first


def _is_generated(function: object) -> bool:
    """Whether `dataclass` has made it, from a text."""
    function = getattr(function, "__wrapped__", function)
    return isinstance(function, FunctionType) and function.__code__.co_filename == "<string>"


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse_to_set(self: Any, name: str, value: object) -> None:
    if _is_frozen(type(self), name):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def _refuse_to_delete(self: Any, name: str) -> None:
    if _is_frozen(type(self), name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


def _is_frozen(of: type, name: str) -> bool:
    """Whether instances refuse it: a class that is no dataclass, but inherits from one, may have attributes of its
    own."""
    return "__dataclass_fields__" in vars(of) or name in of.__dataclass_fields__  # type: ignore[attr-defined]


_SHARED: dict[str, Callable[..., object]] = {
    "__repr__": _repr,
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
}
for _name, _function in _SHARED.items():
    _function.__name__ = _name  # under which `dataclass` puts them into classes
