"""The client's side of a DM session as a table (OMA-TS-DM_Protocol 1.2, sections 6 and 8).

A session is a strict alternation over HTTP: the client posts a message, the server answers with one. What varies is
whose package is complete:

* `WAIT_PACKAGE`: the client closed its package (Final); the server's package is due;
* `WAIT_NEXT`: the client's package did not fit one message; the server must ask for more (Alert 1222);
* `WAIT_REST`: the server has not closed its package (a large object is on its way); the client asked for more.

Between a message received and the next one sent the session is `ANSWERING`. A challenge, in either direction, is
answered from any waiting state and changes nothing else. Only a server message that is Final and asks for nothing ends
the session well; but in `WAIT_REST` the client still owes the Final of its own package.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from omadm.transitions import Transitions


class State(Enum):
    """Where a session stands."""

    READY = auto()
    ANSWERING = auto()
    WAIT_PACKAGE = auto()
    WAIT_NEXT = auto()
    WAIT_REST = auto()
    ENDED = auto()
    FAILED = auto()


class Input(Enum):
    """What moves a session on."""

    START = auto()
    SENT_WHOLE = auto()  # our package is complete
    SENT_PART = auto()  # our package goes on
    SENT_ASK = auto()  # we asked for the rest of the server's package
    FINAL_EMPTY = auto()  # Final, and nothing that wants an answer
    FINAL_WORK = auto()  # Final, with commands
    PARTIAL = auto()  # no Final
    NEXT = auto()  # Alert 1222 from the server
    CHALLENGED = auto()  # the server wants other credentials
    UNPROVEN = auto()  # the server did not prove itself; it is challenged
    ABORT = auto()  # Alert 1223, from either side
    BROKEN = auto()  # the line, the message or the credentials are beyond repair


class SessionUsageError(Exception):
    """A verb was called in a state that does not have it (our mistake). Nothing was changed."""


_WAITING = (State.WAIT_PACKAGE, State.WAIT_NEXT, State.WAIT_REST)

TRANSITIONS: Final = Transitions(
    {
        (State.READY, Input.START): State.ANSWERING,
        (State.ANSWERING, Input.SENT_WHOLE): State.WAIT_PACKAGE,
        (State.ANSWERING, Input.SENT_PART): State.WAIT_NEXT,
        (State.ANSWERING, Input.SENT_ASK): State.WAIT_REST,
        (State.WAIT_PACKAGE, Input.FINAL_EMPTY): State.ENDED,
        (State.WAIT_PACKAGE, Input.FINAL_WORK): State.ANSWERING,
        (State.WAIT_PACKAGE, Input.PARTIAL): State.ANSWERING,
        (State.WAIT_NEXT, Input.NEXT): State.ANSWERING,
        # A server that answers our part with an empty Final wants no more of it; it gets the rest all the same, because
        # only our Final closes the package.
        (State.WAIT_NEXT, Input.FINAL_EMPTY): State.ANSWERING,
        (State.WAIT_REST, Input.FINAL_EMPTY): State.ANSWERING,
        (State.WAIT_REST, Input.FINAL_WORK): State.ANSWERING,
        (State.WAIT_REST, Input.PARTIAL): State.ANSWERING,
        **{(state, Input.CHALLENGED): State.ANSWERING for state in _WAITING},
        **{(state, Input.UNPROVEN): State.ANSWERING for state in _WAITING},
        **{(state, Input.ABORT): State.FAILED for state in (State.ANSWERING, *_WAITING)},
        **{(state, Input.BROKEN): State.FAILED for state in (State.READY, State.ANSWERING, *_WAITING)},
    },
    SessionUsageError,
)
