"""A pipe that ties processes to the one that started them: when that one dies, however it dies, they end too and compute for nobody."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext


def lifeline(context: BaseContext) -> tuple[Connection, Connection]:
    """(the end that goes to the processes, for `tie`; the end that their starter holds and may close to end them)."""
    return context.Pipe(duplex=False)


def tie(theirs: Connection) -> None:
    """In a process that was started: ends it once nobody holds the other end. Ctrl-C, which reaches every process, is left to the starter.

    What is written is to be written whole, so that nothing is lost but the work in hand.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(theirs,), daemon=True).start()


def _end_with(theirs: Connection) -> None:
    wait([theirs])
    os._exit(1)
