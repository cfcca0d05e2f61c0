"""Activations token by token, in the form that SAELens trains dictionaries on.

SAELens (`use_cached_activations`) reads a `datasets` folder with one column named for a TransformerLens hook point, each row the states
of `context_size` tokens [context_size, d_in], and a column `token_ids`. Two more columns say of every token which request it belongs to
(`request`, a row of `index.csv`) and what it is (`role`), so that features can be held against labels; SAELens passes over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import write_json, write_text
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.progress import progress_bar
from safesteer_interp.requests import Request, index_of
from safesteer_interp.sites import Read, ReadKind, Role, Site, parse_sites
from safesteer_interp.tracing.engines import DEFAULT_TRACER, load_tracer
from safesteer_interp.tracing.tracer import At, Edit
from safesteer_interp.tracing.transformer_lens import hook_name
from safesteer_interp.types import Hidden

RECORD, INDEX = "safesteer.json", "index.csv"
TOKEN_ROLES = tuple(role.name.lower() for role in (Role.SYSTEM, Role.IMAGE, Role.USER, Role.TEMPLATE))
"""Roles whose tokens can be exported."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    hook_name: str
    """Column of the states, and SAELens' `hook_name`."""
    context_size: int
    d_in: int
    rows: int
    tokens: int
    left_over: int
    """Tokens at the end that filled no row and were left out."""


def export_activations(
    model: MLLM,
    requests: Sequence[Request],
    site: Site | str,
    folder: Path | str,
    *,
    roles: Sequence[str] = ("image", "user", "template"),
    context_size: int = 32,
    batch_size: int = 16,
    tracer: str = DEFAULT_TRACER,
    progress: bool = True,
) -> Exported:
    """States of all prompt tokens of some roles at one site of the decoder, request after request, as a dataset for SAELens; float32.

    One prompt pass a batch; memory holds one batch. Tokens are laid end to end and cut into rows of `context_size`, which means nothing
    to a dictionary. Raises UsageError for a site of the eyes, an unknown role, a batch of none or fewer tokens than fill a row,
    InputError for a folder that is not empty.
    """
    place, into = _checked(model, site, roles, context_size, batch_size), Path(folder)
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InputError(f"{into} is not an empty folder; name another.")
    engine = load_tracer(tracer, model)
    kept = [int(Role[role.upper()]) for role in roles]
    rest: list[int] = []
    name = hook_name(place)
    tokens = _tokens(engine.capture, model, requests, place, kept, batch_size, progress=progress)
    written = _written(_rows(tokens, context_size, rest), into, name, (context_size, model.width))
    if not written:
        raise UsageError(f"the requests have too few tokens to fill one row of {context_size}; ask for a smaller context size.")
    write_text(into / INDEX, index_of(list(requests)).to_csv(index_label="row"))
    record = {"model": model.name, "fingerprint": model.fingerprint, "site": str(place), "hook_name": name, "roles": list(roles)}
    found = Exported(into, name, context_size, model.width, written, written * context_size, sum(rest))
    write_json(into / RECORD, record | {"context_size": context_size, "d_in": model.width, "tokens": found.tokens, "tracer": tracer})
    return found


def planned(
    model: MLLM, requests: Sequence[Request], site: Site | str, *, roles: Sequence[str], context_size: int, batch_size: int = 64
) -> dict[str, int]:
    """What `export_activations` would write: requests, tokens, rows, d_in, bytes. Encodes, runs no forward. Raises as it does."""
    _checked(model, site, roles, context_size, batch_size)
    kept = torch.tensor([int(Role[role.upper()]) for role in roles])
    encoded = (model.encode(requests[start : start + batch_size]).roles for start in range(0, len(requests), batch_size))
    rows = sum(int(torch.isin(of.cpu().long(), kept).sum()) for of in encoded) // context_size
    tokens = rows * context_size
    return {
        "requests": len(requests), "tokens": tokens, "rows": rows, "d_in": model.width, "bytes": tokens * (model.width * 4 + 3 * 4)
    }  # fmt: skip


def _checked(model: MLLM, site: Site | str, roles: Sequence[str], context_size: int, batch_size: int) -> Site:
    place = parse_sites(str(site), model.n_layers, model.n_vision_layers)
    if len(place) != 1 or place[0].in_eyes:
        raise UsageError(f'one site of the decoder is exported, e.g. resid_post.12, or embed for what the projector gives; got "{site}".')
    if not roles or context_size < 1 or any(role not in TOKEN_ROLES for role in roles):
        raise UsageError(f"tokens of the roles {', '.join(TOKEN_ROLES)} can be exported, in rows of one or more; got {list(roles)}.")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is not a positive whole number; give how many requests share a pass.")
    return place[0]


Tokens = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""States [n, d] float32, ids, requests and roles [n] of some tokens."""


def _tokens(
    capture: Callable[..., Any], model: MLLM, requests: Sequence[Request], site: Site, roles: list[int], size: int, *, progress: bool
) -> Iterator[Tokens]:
    """The tokens of one batch after the other."""
    with progress_bar(f"exporting {model.name}", len(requests), enabled=progress) as advance:
        for start in range(0, len(requests), size):
            batch = model.encode(requests[start : start + size])
            seen: list[Hidden] = []

            def keep(hidden: Hidden, at: At, seen: list[Hidden] = seen) -> Hidden:
                seen.append(hidden.detach())
                return hidden

            capture(batch, (), (Read(ReadKind.LAST_PROMPT),), edits=(Edit((site,), keep, "keep"),))
            of = batch.roles.cpu()
            wanted = torch.isin(of, torch.tensor(roles, dtype=of.dtype))
            row = torch.arange(start, start + len(batch.requests))[:, None].expand_as(wanted)
            ids, at, what = (values[wanted].numpy().astype(np.int32) for values in (batch.input_ids.cpu(), row, of))
            yield seen[0].float().cpu()[wanted].numpy(), ids, at, what
            advance(len(batch.requests))


def _rows(tokens: Iterator[Tokens], size: int, rest: list[int]) -> Iterator[dict[str, Any]]:
    """Rows of `size` tokens; how many fill none is put into `rest`."""
    pending: Tokens | None = None
    for some in tokens:
        pending = some if pending is None else tuple(np.concatenate(both) for both in zip(pending, some, strict=True))  # type: ignore[assignment]
        assert pending is not None
        full = len(pending[0]) // size
        for number in range(full):
            states, ids, of, roles = (part[number * size : (number + 1) * size] for part in pending)
            yield {"states": states, "token_ids": ids, "request": of, "role": roles}
        pending = tuple(part[full * size :] for part in pending)  # type: ignore[assignment]
    rest.append(len(pending[0]) if pending is not None else 0)


def _written(rows: Iterator[dict[str, Any]], folder: Path, name: str, shape: tuple[int, int]) -> int:
    """Writes the rows as a dataset, streaming; returns how many there are."""
    from datasets import Array2D, Dataset, Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    whole = {column: Sequence(Value("int32"), length=shape[0]) for column in ("token_ids", "request", "role")}
    features = Features({name: Array2D(shape=shape, dtype="float32"), **whole})
    with TemporaryDirectory() as scratch:
        streamed, count = Path(scratch, "rows.arrow"), 0
        with ArrowWriter(features=features, path=str(streamed), writer_batch_size=64) as writer:
            for row in rows:
                writer.write({name if column == "states" else column: values for column, values in row.items()})
                count += 1
            if count:
                writer.finalize()
        if count:
            Dataset.from_file(str(streamed)).save_to_disk(str(folder))
        return count
