"""Errors that are sentences for the user.

Every error a user can cause is a `SafeSteerError`: its message names the file, field or flag, says what was expected and what
to do. The command line prints the message alone (no traceback) and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SafeSteerError(Exception):
    """Base of all user-facing errors. `exit_code`: 1 a claim or number moved, 2 usage, 3 an input is missing or unreadable."""

    exit_code = 3


class UsageError(SafeSteerError):
    """A flag, name or argument that means nothing here."""

    exit_code = 2


class InputError(SafeSteerError):
    """A file, image, model or data set that is missing or unreadable."""

    exit_code = 3


class BadRequestError(InputError):
    """One request that cannot be used (its image is unreadable, its row malformed); whoever has others goes on without it."""

    def __init__(self, message: str, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id
        """Id of the request; "line 7" when its row could not be read so far."""


class MovedError(SafeSteerError):
    """A recomputed number or claim differs from the stored one."""

    exit_code = 1


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """' Did you mean "x" or "y"?' for the nearest known names, or ' Known: ...' when none is near (or the word is no text)."""
    known = sorted(known)
    near = get_close_matches(str(word)[:200], known, n=3, cutoff=0.5)
    if near:
        return " Did you mean " + " or ".join(f'"{n}"' for n in near) + "?"
    return " Known: " + ", ".join(known) + "."


def nearest(word: object, known: Iterable[str]) -> str:
    """The known name most like `word`, however unlike."""
    return get_close_matches(str(word)[:200], sorted(known), n=1, cutoff=0.0)[0]


class NotApplicableError(SafeSteerError):
    """Raised by `table` when the question has no meaning here (say, the model never refuses): skipped with the reason, not failed."""


class SafeSteerWarning(UserWarning):
    """Something a user should know of, though the work goes on; given with `warnings.warn`, so once for each sentence."""
