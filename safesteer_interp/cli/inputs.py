"""The model and the requests a command works on, from its flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safesteer_interp.cli.command import say
from safesteer_interp.cli.loading import Loading
from safesteer_interp.errors import BadRequestError, InputError, UsageError, did_you_mean
from safesteer_interp.requests import Attack, Request, Split, select

if TYPE_CHECKING:
    from safesteer_interp.models.mllm import MLLM

DEFAULT = Loading()


def load_inputs(
    model: str,
    requests: str,
    *,
    data_root: Path | None = None,
    attacks: Sequence[str] = (),
    split: str | None = None,
    limit: int | None = None,
    loading: Loading = DEFAULT,
    bad: list[BadRequestError] | None = None,
    remote: bool = False,
) -> tuple[MLLM, list[Request]]:
    """The model (`remote`: without its weights), and the requests that meet every condition; flags and data are checked first.

    Raises UsageError for an unknown attack or split, and for a loading flag that a remote run cannot heed, and InputError when nothing is
    left; `bad` as for `choose_requests`.
    """
    if remote:
        from safesteer_interp.tracing.engines import check_remote_loading

        check_remote_loading(loading.arguments())
    found = choose_requests(requests, data_root=data_root, attacks=attacks, split=split, limit=limit, bad=bad)
    if remote:
        from safesteer_interp.models.described import describe_model

        return describe_model(model, revision=loading.revision, thinking=loading.arguments()["thinking"]), found
    return loading.load(model), found


def choose_requests(
    name: str,
    *,
    data_root: Path | None = None,
    attacks: Sequence[str] = (),
    split: str | None = None,
    limit: int | None = None,
    bad: list[BadRequestError] | None = None,
) -> list[Request]:
    """Requests of a data set (a name or a path) that meet every condition, at most `limit` of them.

    A request that cannot be used is named on stderr, put into `bad`, and left out.
    """
    wanted = [Attack(_known(a, [str(x) for x in Attack], "attack", "--attacks")) for a in attacks]
    part = Split(_known(split, [str(x) for x in Split], "split", "--split")) if split else None
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves nothing; give a number of requests, 1 or more.")
    from safesteer_interp.datasets.registry import load_sound

    sound, unusable = load_sound(name, data_root=data_root)
    for error in unusable:
        say(f"left out: {error}")
    if bad is not None:
        bad += unusable
    found = select(sound, attacks=wanted or None, split=part)
    if not found:
        raise InputError(f'data set "{name}" has no request that meets --attacks and --split; loosen them.')
    return found[:limit]


def _known(word: str, known: list[str], what: str, flag: str) -> str:
    by_lower = {k.lower(): k for k in known}
    if word.lower() not in by_lower:
        raise UsageError(f'{flag}: no {what} is called "{word}".{did_you_mean(word, known)}')
    return by_lower[word.lower()]
