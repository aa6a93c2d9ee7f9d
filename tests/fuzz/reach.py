"""Which functions of a package take something in, and which of them the seeds of the fuzz targets enter."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from types import FrameType

from tests.fuzz.guided import REPO, Target

OCTETS = {"bytes", "bytes | None", "bytes | bytearray", "bytes | memoryview"}
DECODER_NAMES = ("parse", "decode", "load", "read", "open", "unwrap", "unprotect", "explain", "receive")


def decoders(package: str, others: Collection[str] = ()) -> set[str]:
    """Public functions and methods of a package whose name says that they take something in, or is one of `others`."""
    folder = REPO / package
    found: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                if not node.name.startswith("_"):
                    names = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
                    found |= {f"{module}.{node.name}.{name}" for name in names if _takes_in(name, others)}
            elif isinstance(node, ast.FunctionDef) and _takes_in(node.name, others):
                found.add(f"{module}.{node.name}")
    return found


def _takes_in(name: str, others: Collection[str]) -> bool:
    return (name.split("_", maxsplit=1)[0] in DECODER_NAMES or name in others) and name != "receive_eof"


def takers(package: str) -> set[str]:
    """Public functions and methods of a package that have an argument of type `bytes`, whatever their name is."""
    folder = REPO / package
    found: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
                found |= {f"{module}.{node.name}.{each.name}" for each in methods if _takes_octets(each)}
            elif isinstance(node, ast.FunctionDef) and _takes_octets(node):
                found.add(f"{module}.{node.name}")
    return found


def _takes_octets(function: ast.FunctionDef) -> bool:
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    types = {ast.unparse(each.annotation) for each in arguments if each.annotation is not None}
    return not function.name.startswith(("_", "emit")) and bool(types & OCTETS)


def reached(package: str, targets: Iterable[Target]) -> set[str]:
    """Functions of the package that the seeds of these targets enter."""
    seen: set[str] = set()
    folder = REPO / package

    def enter(frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{folder}/"):
            module = ".".join(Path(path).relative_to(folder).with_suffix("").parts)
            seen.add(f"{module}.{frame.f_code.co_qualname}")

    for target in targets:
        seeds = target.seeds()
        outer = sys.getprofile()
        sys.setprofile(enter)
        try:
            for seed in seeds:
                target.outcome(seed)
        finally:
            sys.setprofile(outer)
    return seen
