"""Small faults in a Python module, one at a time: a comparison that is off by one, a statement that is not there.

What is not changed: texts and messages (no test should hold them), annotations, decorators, base classes, asserts,
logging. Everything else is, also outside functions: a state table is data, and the heart of a core.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.Pow: ast.Mult,
}  # fmt: skip
LOGGERS = {"log", "LOG", "logger", "_log"}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault. `place` is the function's qualified name, `before` and `after` the source of what is changed."""

    number: int
    line: int
    place: str
    before: str
    after: str
    occurrence: int
    """Which one of the same kind in the same place this is, from 1."""

    @property
    def name(self) -> str:
        """The same as long as the code around it is, wherever in the file it is."""
        which = f" ({self.occurrence})" if self.occurrence > 1 else ""
        return f"{self.place}: {self.before} -> {self.after}{which}"


def mutations(source: str) -> list[Mutation]:
    """Every fault that can be put into `source`."""
    walk = _Walk(None)
    walk.visit(ast.parse(source))
    return walk.found


def mutated(source: str, number: int) -> ast.Module:
    """The module with that fault in it."""
    tree = ast.parse(source)
    _Walk(number).visit(tree)
    return ast.fix_missing_locations(tree)


class _Walk(ast.NodeTransformer):
    """Numbers the faults in the order of the walk, and makes the one with the number `target`."""

    def __init__(self, target: int | None) -> None:
        self.target = target
        self.found: list[Mutation] = []
        self._places: list[str] = []
        self._same: Counter[tuple[str, str, str]] = Counter()

    def _offer(self, node: ast.AST, other: ast.AST) -> bool:
        """Note that `node` could become `other`; whether it is to."""
        before, after = ast.unparse(node), ast.unparse(other)
        place = ".".join(self._places) or "module"
        self._same[place, before, after] += 1
        occurrence = self._same[place, before, after]
        number = len(self.found)
        self.found.append(Mutation(number, getattr(node, "lineno", 0), place, before, after, occurrence))
        return number == self.target

    def visit(self, node: ast.AST) -> Any:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                return self._inside(node)
            case ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom():
                return node
            case ast.If() | ast.While():
                return self._condition(node)
            case ast.AugAssign() | ast.Raise() | ast.Delete():
                return self._removed(node)
        return super().visit(node)

    # -- what is entered

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        self._places.append(node.name)
        node.body = [self.visit(statement) for statement in node.body]
        if not isinstance(node, ast.ClassDef):
            arguments = node.args
            arguments.defaults = [self.visit(default) for default in arguments.defaults]
            arguments.kw_defaults = [default and self.visit(default) for default in arguments.kw_defaults]
        self._places.pop()
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.value = node.value and self.visit(node.value)
        return node

    # -- expressions

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for index, operator in enumerate(node.ops):
            other = copy.deepcopy(node)
            other.ops[index] = COMPARISONS[type(operator)]()
            if self._offer(node, other):
                return other
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        operator = OPERATORS.get(type(node.op))
        text = any(
            isinstance(side, ast.JoinedStr | ast.Constant) and _is_text(side) for side in (node.left, node.right)
        )
        if operator is not None and not text:
            other = ast.BinOp(copy.deepcopy(node.left), operator(), copy.deepcopy(node.right))
            if self._offer(node, ast.copy_location(other, node)):
                return other
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        other = copy.deepcopy(node)
        other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return other if self._offer(node, other) else self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert) and self._offer(node, node.operand):
            return node.operand
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool):
            other: ast.Constant = ast.Constant(not value)
        elif isinstance(value, int | float):
            other = ast.Constant(value + 1)
        elif isinstance(value, bytes):
            other = ast.Constant(value + b"!")
        else:
            return node
        return other if self._offer(node, ast.copy_location(other, node)) else node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        """A row of a table leads to where another row leads: `{…: State.A, …: State.B}`."""
        members = {ast.unparse(value): value for value in node.values if isinstance(value, ast.Attribute)}
        for index, value in enumerate(node.values):
            others = [other for text, other in members.items() if text != ast.unparse(value)]
            if not isinstance(value, ast.Attribute) or not others:
                continue
            key = node.keys[index]
            row = ast.Dict([key], [value])
            if self._offer(ast.copy_location(row, key or value), ast.Dict([key], [others[index % len(others)]])):
                node.values[index] = copy.deepcopy(others[index % len(others)])
                return node
        return self.generic_visit(node)

    # -- statements

    def _condition(self, node: ast.If | ast.While) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node
        if isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            other = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
            if self._offer(node.test, other):
                node.test = other
                return node
        return self.generic_visit(node)

    def _removed(self, node: ast.stmt) -> ast.AST:
        gone = ast.copy_location(ast.Pass(), node)
        if self._offer(node, gone):
            return gone
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if not isinstance(node.value, ast.Call | ast.Yield | ast.YieldFrom) or _is_logging(node.value):
            return node
        return self._removed(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            return self._removed(node)
        return self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> ast.AST:
        other = ast.copy_location(ast.Continue(), node)
        return other if self._offer(node, other) else node

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        other = ast.copy_location(ast.Break(), node)
        return other if self._offer(node, other) else node


def _is_text(node: ast.JoinedStr | ast.Constant) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(node.value, str)


def _is_logging(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
            return name in LOGGERS
    return False
