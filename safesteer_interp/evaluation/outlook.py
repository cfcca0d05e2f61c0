"""What a whole evaluation still takes: the answers in hand (`decoding.pace`), the reviews of those that end, and what begins later.

A defense may look at every answer and ask the model again (ECSO, MLLM-Protector), which may take longer than the answer did; one that asks
the model before it answers begins when the others have ended. Neither is known to the pace of the answers in hand.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from safesteer_interp.decoding.pace import Speed


@dataclass
class Outlook:
    """Told of reviews and of what begins later; says what all of it will take."""

    clock: Callable[[], float] = time.perf_counter
    unreviewed: Counter[Hashable] = field(default_factory=Counter)
    """Answers still to be reviewed, by defense."""
    later: Counter[str] = field(default_factory=Counter)
    """Answers that begin later, by kind."""
    ended: int = 0
    reviewing: defaultdict[Hashable, Speed] = field(default_factory=lambda: defaultdict(Speed))
    kinds: defaultdict[str, Speed] = field(default_factory=lambda: defaultdict(Speed))
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @contextmanager
    def reviews(self, defense: Hashable, answers: int) -> Iterator[None]:
        """While open, so many answers of a defense are reviewed."""
        begun = self.clock()
        yield
        self.reviewing[defense].add(self.clock() - begun, answers)
        self.unreviewed[defense] -= answers

    @contextmanager
    def group(self, kind: str, answers: int) -> Iterator[None]:
        """While open, so many of the answers that were to begin later are given."""
        self.later[kind] -= answers
        begun = self.clock()
        yield
        self.kinds[kind].add(self.clock() - begun, answers)

    def left(self, in_hand: float | None) -> float | None:
        """Seconds, where the answers in hand take `in_hand`; None where that is not known yet."""
        if in_hand is None:
            return None
        mean = (self.clock() - self.begun) / self.ended if self.ended else 0.0
        later = sum(n * (self.kinds[kind].each if self.kinds[kind].units else mean) for kind, n in self.later.items())
        return in_hand + later + sum(n * self.reviewing[defense].each for defense, n in self.unreviewed.items())
