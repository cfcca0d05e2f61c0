"""How long answers still take, from what has been measured of them so far: prompts, guided openings, tokens, and lengths by method.

Counting answers misleads: the first to end are the short ones, methods differ in length and in what a token costs, and prompts are read
once at the beginning. Here each part has its own speed. Lengths are estimated from finished and running answers together: tokens written
by answers ended, the maximum-likelihood mean of a constant chance of ending, so that answers still running are not forgotten.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

SOME = 30
"""Answers of mean length that every method is taken to have given before its own count: its first answers are begun together and tell
little until some have had time to be long."""


@dataclass
class Speed:
    """Seconds that so many units of one kind of work took."""

    seconds: float = 0.0
    units: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        self.seconds, self.units = self.seconds + seconds, self.units + units

    @property
    def each(self) -> float:
        return self.seconds / self.units if self.units else 0.0


@dataclass
class Pace:
    """Told of every part of the work as it is done; says what the rest will take."""

    limit: int
    """Most tokens of an answer."""
    clock: Callable[[], float] = time.perf_counter
    unread: set[Hashable] = field(default_factory=set)
    """Prompts that nobody has read yet."""
    waiting: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Answers whose prompt waits, by (candidates, guided steps)."""
    open: Counter[Hashable] = field(default_factory=Counter)
    """Answers that have not ended, by method."""
    written: Counter[Hashable] = field(default_factory=Counter)
    """Tokens, by method."""
    ended: Counter[Hashable] = field(default_factory=Counter)
    """Answers that have ended, by method."""
    reading: Speed = field(default_factory=Speed)
    stepping: Speed = field(default_factory=Speed)
    opening: defaultdict[tuple[int, int], Speed] = field(default_factory=lambda: defaultdict(Speed))

    def expect(self, prompts: Iterable[Hashable], methods: Sequence[Hashable], guided: Sequence[tuple[int, int]]) -> None:
        """More work: prompts to read, and for every answer its method and its (candidates, guided steps)."""
        self.unread |= set(prompts)
        self.open.update(methods)
        self.waiting.update(guided)

    @contextmanager
    def reads(self, prompts: Sequence[Hashable], guided: tuple[int, int]) -> Iterator[None]:
        """While open, these prompts are read, or found in memory, for answers that are guided so."""
        fresh, begun = len(self.unread & set(prompts)), self.clock()
        yield
        (self.reading if fresh else self.opening[guided]).add(self.clock() - begun, fresh)
        self.unread -= set(prompts)

    @contextmanager
    def opens(self, guided: tuple[int, int], answers: int) -> Iterator[None]:
        """While open, so many answers are begun: their guided tokens."""
        begun = self.clock()
        yield
        self.opening[guided].add(self.clock() - begun, answers)
        self.waiting[guided] -= answers

    @contextmanager
    def steps(self, methods: Sequence[Hashable]) -> Iterator[None]:
        """While open, one token is written for each of these answers."""
        begun = self.clock()
        yield
        self.stepping.add(self.clock() - begun, len(methods))
        self.written.update(methods)

    def end(self, methods: Iterable[Hashable]) -> None:
        """These answers have ended."""
        for method in methods:
            self.ended[method] += 1
            self.open[method] -= 1

    @property
    def left(self) -> float | None:
        """Seconds; None before any answer has ended."""
        if not self.ended.total():
            return None
        tokens = sum(n * self._length(method) for method, n in self.open.items())
        openings = sum(n * self._opening(guided) for guided, n in self.waiting.items())
        return len(self.unread) * self.reading.each + openings + tokens * self.stepping.each

    def _length(self, method: Hashable) -> float:
        """Tokens that an answer still has before it: a constant chance of ending knows no age."""
        usual = self.written.total() / self.ended.total()
        return min((self.written[method] + SOME * usual) / (self.ended[method] + SOME), self.limit)

    def _opening(self, guided: tuple[int, int]) -> float:
        known = self.opening.get(guided)
        return known.each if known is not None and known.units else guided[0] * guided[1] * self.stepping.each
