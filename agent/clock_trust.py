"""What civil time is worth, by the evidence for it. Sans-IO: time is an argument of all that is done here.

Civil time is believed because something trusted has said it, never because it looks plausible (decision 11). What said
it is *evidence*: the offset between civil and monotonic time that a source vouches for, with its uncertainty, which
grows with its age by the drift of the device's oscillator. A clock that steps away from the evidence is no longer
believed, until there is new evidence or it steps back. Sources that contradict each other prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE_S = 30.0  # civil time within this of the evidence is believed: servers keep time by the second, not better
DRIFT_PER_S = 100e-6  # of a bad uncompensated oscillator between -40 and 70 °C
UNCERTAINTY_MAX_S = 60.0  # evidence that has become vaguer than this proves nothing: 6.9 days after a perfect one
CONFLICT_S = 3600.0  # evidence that is so much older than another one that contradicts it is dropped


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one source knows: civil time is monotonic time plus `offset`, give or take `uncertainty_s`. `at`: when it
    said so, monotonic seconds. `independent`: it brought a time of its own; otherwise it vouched for the machine's
    clock as that stood then."""

    source: str
    at: float
    offset: float
    uncertainty_s: float
    independent: bool = False

    def vagueness(self, monotonic: float) -> float:
        """The uncertainty now, in seconds: it grows with the age of the evidence."""
        return self.uncertainty_s + max(0.0, monotonic - self.at) * DRIFT_PER_S


@dataclass(frozen=True, slots=True)
class Judgement:
    """Civil time and what it is worth. `source`: whose evidence it rests on, empty for none, `age_s` seconds old.
    `why`: why civil time is not trusted, empty when it is. `ahead_s`: by how much the machine's clock is ahead of
    `wall`. `alone`: no source that may be right takes the machine's clock's side."""

    wall: float
    trusted: bool
    source: str = ""
    age_s: float = 0.0
    why: str = ""
    ahead_s: float = 0.0
    alone: bool = True


class ClockTrust:
    """Decides what the machine's civil time is worth from the evidence that it was offered."""

    def __init__(self) -> None:
        self._held: dict[str, Evidence] = {}

    def offer(self, evidence: Evidence) -> None:
        """Take evidence. It replaces what the same source said before, unless that is confirmed and still sharper."""
        held = self._held.get(evidence.source)
        if held is not None and held.independent and not _contradict(evidence, held, evidence.at):
            if held.vagueness(evidence.at) <= evidence.uncertainty_s:
                return
        self._held[evidence.source] = evidence
        for other in list(self._held.values()):
            if _contradict(evidence, other, evidence.at) and evidence.at - other.at > CONFLICT_S:
                del self._held[other.source]

    def against(self, evidence: Evidence, source: str) -> str:
        """Return why evidence is not to be taken, since a better `source` says otherwise; empty where it does not, or
        is too vague itself."""
        better = self._held.get(source)
        if better is None or evidence.source == source or better.vagueness(evidence.at) > UNCERTAINTY_MAX_S:
            return ""
        return f"that contradicts what {source} said" if _contradict(evidence, better, evidence.at) else ""

    def judge(self, monotonic: float, system: float, built: float = 0.0) -> Judgement:
        """Say what to take for civil time while the machine's own clock says `system`.

        While evidence stands against the machine's clock, civil time follows the evidence, so that a step of the
        machine's clock moves no reading into another interval; but it is not trusted, because one of the two is wrong.
        A machine's clock that is before the image was `built` is the one of the two that is wrong, whoever vouches for
        it.
        """
        behind = system < built - TOLERANCE_S
        live = [held for held in self._held.values() if held.vagueness(monotonic) <= UNCERTAINTY_MAX_S]
        if not live:
            why = "the evidence is too old" if self._held else "nothing has vouched for the time yet"
            return Judgement(system, trusted=False, why=why)
        agreeing = [held for held in live if _off_s(held, monotonic, system) <= 0]
        opposed = [held for held in live if held.independent and held not in agreeing]
        # Evidence that is not independent spoke for the machine's clock as it was set then. If the clock has been set
        # since, that evidence says nothing against the present setting, so it is not among `opposed`.
        best = min(opposed or agreeing or live, key=lambda held: (held.vagueness(monotonic), -held.at))
        proven, age_s = monotonic + best.offset, monotonic - best.at
        if best in agreeing:
            why = "the clock is before the image was built" if behind else ""
            return Judgement(system, trusted=not behind, source=best.source, age_s=age_s, why=why)
        if behind and opposed:  # by what cannot be before the build itself: such a statement is not taken
            return Judgement(
                proven, trusted=True, source=best.source, age_s=age_s, ahead_s=system - proven, alone=not agreeing
            )
        why = f"{abs(system - proven):.0f} s {'ahead of' if system > proven else 'behind'} what {best.source} said"
        if agreeing:
            why += f"; {agreeing[0].source} says otherwise"
        return Judgement(
            proven, trusted=False, source=best.source, age_s=age_s, why=why, ahead_s=system - proven, alone=not agreeing
        )


def _off_s(held: Evidence, monotonic: float, system: float) -> float:
    """By how many seconds the machine's clock is further off than this evidence allows; 0 and less: it agrees."""
    return abs(system - monotonic - held.offset) - TOLERANCE_S - held.vagueness(monotonic)


def _contradict(one: Evidence, other: Evidence, monotonic: float) -> bool:
    vague = one.vagueness(monotonic) + other.vagueness(monotonic)
    return abs(one.offset - other.offset) > TOLERANCE_S + vague
