"""The command line: `safesteer COMMAND ...`. One file per command, imported only when that command is asked for.

A command is a dataclass whose docstring and field strings are its help (tyro) and whose `run()` returns the exit code: 0 fine, 1 a
claim or number moved, 2 usage, 3 an input is missing or unreadable, 130 stopped. Data go to stdout, progress and sentences to stderr.
There is no `-v` flag, because nnsight reads it from argv.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from safesteer_interp.errors import SafeSteerError, SafeSteerWarning, UsageError, did_you_mean

COMMANDS: dict[str, tuple[str, str]] = {
    "list": ("listing", "what exists: models, tracers, data sets, analyses, defenses, ..."),
    "doctor": ("doctor", "versions, agreement of the tracers, disk, cache, data roots"),
    "trace": ("trace", "capture residual streams of a model on requests, in one resumable pass"),
    "export": ("export", "activations token by token, for training dictionaries with SAELens"),
    "run": ("run", "make figures, tables and claims of analyses (--all for every one)"),
    "submit": ("submit", "cut `run` or `trace` into jobs: SLURM, Ray, or local processes"),
    "sweep": ("sweep", "one analysis over a range of its parameters, on the stored trace"),
    "render": ("render", "redraw figures from their tables, without a model"),
    "verify": ("verify", "recompute and compare with what is stored"),
    "report": ("report", "the gallery figures/index.html"),
    "calibrate": ("calibrate", "choose SafeSteer's settings for a model on validation pairs"),
    "compare": ("compare", "defenses x benchmarks x seeds, judged by a panel: Table 1 of a model"),
    "deploy": ("deploy", "directions and probes as files for llama.cpp, EasySteer and vllm-lens"),
    "replicate": ("replicate", "everything SafeSteer printed, on your model: each number beside ours, on one page"),
    "chat": ("chat", "put a request to a model under a defense, and see what it decided"),
    "mini": ("mini", "build, train or evaluate the embedded model"),
}
"""Command -> (module in this package, one line of help)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a user's mistake is one sentence on stderr (SAFESTEER_DEBUG=1 adds the traceback)."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = os.environ.get("SAFESTEER_DEBUG", "") not in ("", "0")
    previous = _interrupt_on_sigterm()
    _print_anything()
    try:
        with _warnings_as_sentences():
            return _dispatch(argv)
    except SafeSteerError as error:
        if debug:
            raise
        print(f"safesteer: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        print("\nsafesteer: stopped. What was finished is kept, and the same command resumes there.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our stdout (head, less) has gone; nothing is left to say, and Python must not try to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"safesteer: {where}{error.strerror or error}; free space or correct the path, then repeat the command.", file=sys.stderr)
        return 3
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        from safesteer_interp import __version__

        print(f"safesteer {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise UsageError(f'there is no command "{name}".{did_you_mean(name, COMMANDS)} `safesteer --help` lists them all.')
    return int(import_module(f"{__name__}.{COMMANDS[name][0]}").main(rest))


def usage() -> str:
    """The text of `safesteer --help`."""
    lines = [f"  safesteer {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "Trace, probe and steer multimodal language models, and regenerate every finding.",
            "",
            *lines,
            "",
            "`safesteer COMMAND --help` says what each takes. Ctrl-C is safe: the same command resumes.",
            "Exit codes: 0 fine, 1 a claim or number moved, 2 usage, 3 an input is missing or unreadable, 130 stopped.",
        ]
    )


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """While open, the suite's own warnings are a sentence each on stderr, without file and line; others look as ever."""
    import warnings

    show = warnings.showwarning

    def sentence(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, SafeSteerWarning):
            print(f"safesteer: {message}", file=sys.stderr)
        else:
            show(message, category, *rest, **more)

    with warnings.catch_warnings():
        warnings.showwarning = sentence
        yield


def _print_anything() -> None:
    """What the console's code page lacks is written as \\u2192 or the like: no command dies of a letter (cp1252 where Windows pipes)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
        sys.stdin.reconfigure(errors="replace")


def _interrupt_on_sigterm() -> Any:
    """SIGTERM stops like Ctrl-C, so that a scheduler's kill keeps what was finished; None outside the main thread."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, stop)
