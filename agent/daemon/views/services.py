"""What the control socket answers about programs of software packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from agent.daemon.control import ControlError, Handler
from agent.status import StatusBoard

LINES_SHOWN = 50  # unless more are asked for
LINES_MAX = 500


class ServiceViews:
    """The handlers, by command name. All of them run on the control thread and read what others own."""

    def __init__(self, board: StatusBoard, log: Callable[[str, int], list[str]]) -> None:
        """`log(id, lines)`: what a service printed last."""
        self._board = board
        self._log = log

    def handlers(self) -> dict[str, Handler]:
        return {"services": self.services, "service-log": self.log}

    def services(self, _: Mapping[str, object]) -> object:
        return [asdict(one) for one in self._board.current.services]

    def log(self, request: Mapping[str, object]) -> object:
        """The last lines of the log of a `service`, at most `limit` of them."""
        wanted, limit = request.get("service"), request.get("limit", LINES_SHOWN)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LINES_MAX:
            raise ControlError(f"limit is 1 to {LINES_MAX}")
        known = [one.id for one in self._board.current.services]
        if not isinstance(wanted, str) or wanted not in known:
            raise ControlError(f"no such service is active; there are: {', '.join(known) or 'none'}")
        return {"service": wanted, "lines": self._log(wanted, limit)}
