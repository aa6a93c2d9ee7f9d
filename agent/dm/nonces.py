"""What changes with every message to or from the server, and must not be lost: nonces, and the push counter.

Kept beside the tree because it changes far more often. It belongs to one account: another account, or new initial
nonces in it, starts it afresh. Thread-safe: the push listener and the DM thread share it.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

from agent.tree.persistence import JsonFile
from omadm.bootstrap import Account
from updateagent.disk import Disk


class NonceStore:
    """Methods that change something raise `OSError` when it cannot be stored; the old values then stand."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._file = JsonFile(disk, folder, "link")
        self._lock = threading.Lock()
        self._values = self._file.load()

    def nonces(self, account: Account) -> tuple[bytes, bytes]:
        """Return the nonces for the next message of the client, and of the server."""
        with self._lock:
            values = self._of(account)
            try:
                return bytes.fromhex(values["client_nonce"]), bytes.fromhex(values["server_nonce"])
            except (KeyError, ValueError, TypeError):
                return account.client_nonce, account.server_nonce

    def set_nonces(self, account: Account, client: bytes, server: bytes) -> None:
        with self._lock:
            self._save({**self._of(account), "client_nonce": client.hex(), "server_nonce": server.hex()})

    def counter(self, account: Account) -> int | None:
        """Return the counter of the last accepted notification."""
        with self._lock:
            found = self._of(account).get("counter")
            return found if isinstance(found, int) else None

    def set_counter(self, account: Account, counter: int) -> None:
        with self._lock:
            self._save({**self._of(account), "counter": counter})

    def _of(self, account: Account) -> dict[str, Any]:
        mark = _mark(account)
        return self._values if self._values.get("account") == mark else {"account": mark}

    def _save(self, values: dict[str, Any]) -> None:
        self._file.save(values)
        self._values = values


def _mark(account: Account) -> str:
    """Recognises the account without holding its secrets."""
    parts = (
        account.server_id.encode(),
        account.client_name.encode(),
        account.server_name.encode(),
        hashlib.sha256(account.client_secret.encode()).digest(),
        hashlib.sha256(account.server_secret.encode()).digest(),
        account.client_nonce,
        account.server_nonce,
    )
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()
