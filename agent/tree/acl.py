"""The ACL property of a node (OMA-TS-DM_TND 1.2, section 7.7.1): who may use which command.

    Add=serverA&Get=*&Replace=serverA+serverB

A node without a value inherits that of its nearest ancestor that has one, whole: values are never combined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

COMMANDS = ("Add", "Delete", "Exec", "Get", "Replace")
ANYONE = "*"
TEXT_CHARS_MAX = 1024  # some tens of servers; a concentrator has one or two
_RESERVED = frozenset("=&+*")


@dataclass(frozen=True, slots=True)
class Acl:
    """Command → server identifiers. Raises `ValueError` on construction for what the property cannot hold."""

    entries: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for command, servers in self.entries:
            if command not in COMMANDS:
                raise ValueError(f"ACL: no such command: {command[:16]!r}")
            if command in seen:
                raise ValueError(f"ACL: {command} is there twice")
            seen.add(command)
            if not servers:
                raise ValueError(f"ACL: {command} names no server")
            for server in servers:
                if server != ANYONE and (not server or _RESERVED & set(server) or not server.isprintable()):
                    raise ValueError(f"ACL: {command}: not a server identifier: {server[:32]!r}")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The value of the property; `None` for the empty one, which means "inherited". Raises `ValueError`."""
        if not text:
            return None
        if len(text) > TEXT_CHARS_MAX:
            raise ValueError(f"ACL: {len(text)} characters, more than {TEXT_CHARS_MAX}")
        entries: list[tuple[str, tuple[str, ...]]] = []
        for part in text.split("&"):
            command, equals, servers = part.partition("=")
            if not equals:
                raise ValueError(f"ACL: not Command=server: {part[:32]!r}")
            entries.append((command, tuple(servers.split("+"))))
        return cls(tuple(entries))

    @classmethod
    def granting(cls, grants: Mapping[str, Iterable[str]]) -> Self:
        return cls(tuple((command, tuple(servers)) for command, servers in grants.items()))

    @classmethod
    def everything_for(cls, server: str) -> Self:
        return cls(tuple((command, (server,)) for command in COMMANDS))

    def emit(self) -> str:
        return "&".join(f"{command}={'+'.join(servers)}" for command, servers in self.entries)

    def allows(self, command: str, server: str) -> bool:
        return any(name == command and (server in servers or ANYONE in servers) for name, servers in self.entries)


def identifier(server_id: str) -> str:
    """A server identifier as it stands in an ACL, where `+` and `&` separate (TND 1.2, section 7.7.1.6)."""
    return server_id.replace("+", "%2B").replace("&", "%26")


ROOT = Acl((("Add", (ANYONE,)), ("Get", (ANYONE,))))  # the default that TND 1.2 section 7.7.1.2 recommends
