"""The management objects of this device, and the registry that makes one tree of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agent.tree.alerts import GenericAlert
from agent.tree.schema import ExecCall, NodeSpec, Path, interior
from agent.tree.tree import Transaction
from agent.tree.uri import show
from omadm.codes import Code, Refusal


class ManagementObject(Protocol):
    """One subtree: its description and what its nodes do."""

    @property
    def root(self) -> Path:
        """Where the object hangs."""

    def spec(self) -> NodeSpec:
        """The description of the node at `root`."""


class Executable(Protocol):
    """An object with nodes that take Exec."""

    @property
    def root(self) -> Path: ...

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        """Within the transaction: record what is wanted, answer 202 or 200. Raises `Refusal`."""

    def written(self, changing: Transaction, path: Path) -> None:
        """A server has written a leaf of this object. Raises `Refusal` to have that undone."""

    def acknowledged(self, changing: Transaction, alert: GenericAlert) -> None:
        """The server has taken note of an alert whose source lies in this object."""


class Guard(Protocol):
    """Looks at what servers write into a part of the tree."""

    @property
    def root(self) -> Path: ...

    def written(self, changing: Transaction, path: Path) -> None:
        """A server has written a leaf at or below the root. Raises `Refusal` to have that undone."""


class Registry:
    """All objects. Roots are single names directly below the root of the tree."""

    def __init__(
        self,
        objects: Sequence[ManagementObject],
        executables: Sequence[Executable] = (),
        guards: Sequence[Guard] = (),
    ) -> None:
        self.schema = interior(".", *(each.spec() for each in objects))
        self._executables = tuple(executables)
        self._guards: tuple[Guard, ...] = (*executables, *guards)

    def execute(self, changing: Transaction, call: ExecCall) -> Code:
        for each in self._executables:
            if call.path[: len(each.root)] == each.root:
                return each.execute(changing, call)
        raise Refusal(Code.NOT_ALLOWED, f"Exec of {show(call.path)}")

    def written(self, changing: Transaction, path: Path) -> None:
        for each in self._guards:
            if path[: len(each.root)] == each.root:
                each.written(changing, path)

    def acknowledged(self, changing: Transaction, alert: GenericAlert) -> None:
        for each in self._executables:
            if alert.source.removeprefix("./").split("/")[: len(each.root)] == list(each.root):
                each.acknowledged(changing, alert)
