"""Progress with an ETA on stderr: one look for every long job, silent where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")
EVERY = 10.0
"""Seconds between two lines where nobody watches a bar."""


def notice(text: str) -> None:
    """One line on stderr, for what makes a job wait."""
    Console(file=sys.stderr, emoji=False).print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(description: str, total: int | None, *, enabled: bool = True, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar with count, elapsed time and ETA; yields `advance(n=1, description=None, left=None)`.

    `done` units count as finished already (a resumed run), so the ETA is that of the rest. Where units differ in cost, whoever advances
    says in `left` how many seconds the rest takes. Without a terminal on stderr a line is printed every `EVERY` seconds and when the
    job ends, so that a log stays readable.
    """
    console = Console(file=sys.stderr, emoji=False)  # "tiny:llama:" would become a picture of a llama
    if not enabled:
        yield lambda n=1, description=None, left=None: None
        return
    if not console.is_terminal:
        counted, started = done, time.monotonic()
        said = started

        def tell(end: str) -> None:
            console.print(
                f"{description}: {counted}{'' if total is None else f'/{total}'} {end}", highlight=False, markup=False, soft_wrap=True
            )

        def count(n: int = 1, description: str | None = None, left: float | None = None) -> None:
            nonlocal counted, said
            counted += n
            now = time.monotonic()
            if now - said >= EVERY:
                said = now
                if left is None and total is not None and counted > done:
                    left = (now - started) / (counted - done) * (total - counted)
                tell(f"after {span(now - started)}{'' if left is None else f', {span(left)} left'}")

        yield count
        tell("done")
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        _Left(),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task(description, total=total, completed=done)

        def advance(n: int = 1, description: str | None = None, left: float | None = None) -> None:
            bar.update(task, advance=n, left=left)
            if description is not None:
                bar.update(task, description=description)

        yield advance


class _Left(TimeRemainingColumn):
    """What was said to be left, else what the count so far makes of it."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return super().render(task) if left is None or task.finished else Text(span(left), style="progress.remaining")


def track(items: Iterable[Item], description: str, *, total: int | None = None, enabled: bool = True) -> Iterator[Item]:
    """The items, with a progress bar around them. `total` is needed only where `len(items)` is not known."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    with progress_bar(description, total, enabled=enabled) as advance:
        for item in items:
            yield item
            advance()


def span(seconds: float) -> str:
    """A time for people: "45 s", "12 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
