"""What the conversations of one port tell about its line: wrong speed or parity, two meters at one address.

A conversation is one visit, or one question of a scan. Four kinds of trouble are told apart:

- Octets come and never a frame, whoever is asked: the line is set up wrongly. Said once, until a frame comes.
- What is sent comes back and nothing else, whoever is asked: an adapter that echoes, and nobody behind it; or the two
  directions of the line are joined. Said once, until something else comes.
- Octets come and no frame at one address, while others answer well: two meters that speak at the same time, or a line
  that is damaged on the way to this one.
- Two answers to one question, or two names that take turns: two meters at one address.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dlms.link.datalink import LineHeard

LOG = logging.getLogger("agent.metering.port")

GARBAGE = "bytes are heard that are no {} frames: baud rate or parity?"
ECHO = "what is sent comes back, and nothing else is heard: an adapter that echoes, with no meter behind it?"
GARBAGE_OCTETS_MIN = 4  # fewer are glitches of a driver that is switched on
GARBAGE_CONVERSATIONS = 3  # in a row; a single one may be a disturbance
ECHO_CONVERSATIONS = 3  # in a row; a single meter may be without power
SUSPECT_CONVERSATIONS = 2  # in a row at one address
KEPT_CONVERSATIONS = 8
ONLY_STATION = -1  # a base node
STAYED_VISITS = 3  # a name that was given so often in a row is the only one there


def _two_at(address: int) -> str:
    return f"two meters answer at address {address}"


@dataclass(slots=True)
class _Address:
    """What was noticed at one address. `garbled`, `doubled`: conversations in a row. `name` is the last one that was
    given, `times` in a row; `pair` the names between which it changed last."""

    garbled: int = 0
    doubled: int = 0
    suspicion: str = ""
    name: str = ""
    times: int = 0
    pair: frozenset[str] = frozenset()
    pair_said: bool = False


class LineWatch:
    """The watch over one port. `port` is its name, `frames` what its frames are called."""

    def __init__(self, port: str, frames: str) -> None:
        self._port = port
        self._frames = frames
        self._garbled: list[int] = []  # addresses of the last conversations, while all of them were garbled
        self._garbage_said = False
        self._echoed: set[int] = set()  # addresses that gave nothing but the echo, while all did
        self._echo_times = 0
        self._echo_said = False
        self._well: set[int] = set()  # addresses that have ever answered in frames
        self._addresses: dict[int, _Address] = {}

    @property
    def garbage(self) -> str:
        """What is wrong with the whole line; empty when nothing is known to be."""
        places = set(self._garbled)
        # At one address alone, while others have been heard well, it is that address and not the line.
        whole = len(self._garbled) >= GARBAGE_CONVERSATIONS and (len(places) > 1 or self._well <= places)
        return GARBAGE.format(self._frames) if whole else ""

    @property
    def echo(self) -> str:
        """That the whole line gives nothing but echoes; empty when that is not so."""
        # Where one meter is without power on a line of two wires, the others have been heard.
        whole = self._echo_times >= ECHO_CONVERSATIONS and self._well <= self._echoed
        return ECHO if whole else ""

    @property
    def trouble(self) -> str:
        """What is wrong with the whole line, `garbage` or `echo`; empty when nothing is known to be."""
        return self.garbage or self.echo

    def suspicion(self, address: int) -> str:
        """What the last conversations say is wrong at one address; empty when nothing is known to be."""
        place = self._addresses.get(address)
        return place.suspicion if place else ""

    def shared(self, address: int) -> str:
        """That two meters answer at one address, as the last conversations prove; empty when they do not."""
        place = self._addresses.get(address)
        return _two_at(address) if place and place.doubled >= SUSPECT_CONVERSATIONS else ""

    def conversation(self, address: int, heard: LineHeard) -> None:
        """A conversation with this address is over."""
        place = self._addresses.setdefault(address, _Address())
        if heard.frames or heard.others:
            self.frame()
        if heard.frames:
            self._well.add(address)
            place.garbled = 0
            place.doubled = place.doubled + 1 if heard.doubles else 0
        elif heard.octets >= GARBAGE_OCTETS_MIN and not heard.others:
            place.garbled += 1
            self._note_noise(address)
        elif heard.echoes and not heard.others:
            self._note_echo(address)
        if place.doubled >= SUSPECT_CONVERSATIONS:
            self._suspect(place, _two_at(address))
        elif place.garbled >= SUSPECT_CONVERSATIONS and self._well - {address} and not self.garbage:
            self._suspect(place, f"what answers at address {address} is garbled: two meters there, or a damaged line?")
        elif heard.frames:
            place.suspicion = ""

    def noise(self, octets: int) -> None:
        """Octets that are no frames came in answer to a question to the only station of a line."""
        if octets >= GARBAGE_OCTETS_MIN:
            self._note_noise(ONLY_STATION)

    def frame(self) -> None:
        """A whole frame came, from whomever."""
        self._garbled.clear()
        self._garbage_said = False
        self._forget_echo()

    def named(self, address: int, name: str) -> None:
        """The meter at this address gave its name."""
        place = self._addresses.setdefault(address, _Address())
        place.times = place.times + 1 if name == place.name else 1
        place.name = name

    def renamed(self, address: int, before: str, now: str) -> str:
        """The meter at this address, known as `before`, has just said that it is `now`.

        Returns what that means when two names take turns; empty for a meter that was exchanged.
        """
        place = self._addresses.setdefault(address, _Address())
        pair = frozenset((before, now))
        if pair != place.pair:
            place.pair, place.pair_said = pair, False
            return ""
        if place.times >= STAYED_VISITS:
            place.pair = frozenset()  # the other one is gone
            return ""
        text = f"two meters answer at address {address}: {' and '.join(sorted(pair))}"
        if not place.pair_said:
            place.pair_said = True
            self._warn(text)
        return text

    def _note_noise(self, address: int) -> None:
        self._forget_echo()
        self._garbled = [*self._garbled[1 - KEPT_CONVERSATIONS :], address]
        if self.garbage and not self._garbage_said:
            self._garbage_said = True
            LOG.warning("port %s: %s", self._port, self.garbage, extra={"event": "port.garbage"})

    def _note_echo(self, address: int) -> None:
        self._echoed.add(address)
        self._echo_times += 1
        if self.echo and not self._echo_said:
            self._echo_said = True
            LOG.warning("port %s: %s", self._port, ECHO, extra={"event": "port.echo"})

    def _forget_echo(self) -> None:
        self._echoed.clear()
        self._echo_times = 0
        self._echo_said = False

    def _suspect(self, place: _Address, text: str) -> None:
        if place.suspicion != text:
            place.suspicion = text
            self._warn(text)

    def _warn(self, text: str) -> None:
        LOG.warning("port %s: %s", self._port, text, extra={"event": "port.address.shared"})
