"""Edits at work while answers are written: each way's edits act on its own rows, and are told at which step each row stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

from safesteer_interp.decoding.loop import Row
from safesteer_interp.decoding.sharing import Way
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.sites import Role, Site, forward_order
from safesteer_interp.tracing.hooks import visiting
from safesteer_interp.tracing.steps import Pass, check_edits
from safesteer_interp.types import Hidden, Roles, States


class Editing:
    """The edits of several ways. Hooks are on the model only while one of its forwards runs.

    Raises UsageError for an edit of the eyes, which hold no token of an answer.
    """

    def __init__(self, mllm: MLLM, ways: Sequence[Way]) -> None:
        self.mllm, self.ways = mllm, ways
        for way in ways:
            check_edits(way.edits, eyes=False)

    @contextmanager
    def reading(self, batch: Encoded, member: Int[Tensor, " prompts"]) -> Iterator[None]:
        """While open, the prompt pass over a batch runs under the edits of each prompt's way.

        Raises UsageError when an edit was never reached, so that no edit silently does nothing.
        """
        columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(len(batch.requests), -1)
        parts = self._parts(member.tolist(), [0] * len(member), columns, batch.roles)
        with self._acting(parts):
            yield
        for _, run in parts:
            run.check()

    @contextmanager
    def rereading(self, batch: Encoded, rows: Int[Tensor, " answers"], member: Int[Tensor, " answers"]) -> Iterator[None]:
        """While open, a forward over the last prompt token of each answer (`rows`: whose prompt it has) runs under the edits of its way."""
        at = rows.to(batch.roles.device)
        positions = torch.full((len(rows), 1), batch.input_ids.shape[1] - 1, dtype=torch.long, device=batch.roles.device)
        parts = self._parts(member.tolist(), [0] * len(rows), positions, batch.roles[at, -1:])
        with self._acting(parts):
            yield
        for _, run in parts:
            run.check()

    @contextmanager
    def writing(self, branch: int, rows: Sequence[Row], steps: Sequence[int], width: int) -> Iterator[None]:
        """While open, a forward over `width` tokens of each row runs under the edits of the row's way, at the row's own step."""
        first = torch.tensor([row.widths[branch] + step - 1 for row, step in zip(rows, steps, strict=True)], device=self.mllm.device)
        positions = first[:, None].expand(-1, width)
        roles = torch.full((len(rows), width), int(Role.GENERATED), dtype=torch.int8, device=self.mllm.device)
        with self._acting(self._parts([row.way for row in rows], steps, positions, roles)):
            yield

    def last_prompt(self, states: States, batch: Encoded, rows: Int[Tensor, " answers"], member: Int[Tensor, " answers"]) -> States:
        """States at the last prompt token after the edits of the final norm, of prompts that were read without them.

        `states` [answers, d]; `rows` says which prompt of the batch each answer has.
        """
        width = batch.input_ids.shape[1]
        positions = torch.full((len(rows), 1), width - 1, dtype=torch.long, device=batch.roles.device)
        parts = self._parts(member.tolist(), [0] * len(rows), positions, batch.roles[rows.to(batch.roles.device), -1:])
        edited = states[:, None]
        for site in _places(parts):
            edited = _visit(parts, site, edited)
        return edited[:, 0]

    def _parts(self, member: Sequence[int], steps: Sequence[int], positions: Tensor, roles: Roles) -> list[tuple[Tensor | None, Pass]]:
        """One pass for all rows of a way at a step, and which rows they are (None: all); rows without edits are left out."""
        together: dict[tuple[int, int], list[int]] = {}
        for row, key in enumerate(zip(member, steps, strict=True)):
            if any(edit.last_step is None or key[1] <= edit.last_step for edit in self.ways[key[0]].edits):
                together.setdefault(key, []).append(row)
        parts: list[tuple[Tensor | None, Pass]] = []
        for (way, step), found in together.items():
            rows = None if len(found) == len(member) else torch.tensor(found, device=roles.device)
            own = (positions, roles) if rows is None else (positions[rows], roles[rows])
            alive = torch.ones(len(found), dtype=torch.bool, device=roles.device)
            parts.append((rows, Pass({}, step, *own, alive, edits=self.ways[way].edits)))
        return parts

    @contextmanager
    def _acting(self, parts: Sequence[tuple[Tensor | None, Pass]]) -> Iterator[None]:
        def visit(site: Site, hidden: Hidden) -> Hidden:
            return _visit(parts, site, hidden)

        with visiting(self.mllm.model, self.mllm.layout, _places(parts), visit):
            yield


def _places(parts: Sequence[tuple[Tensor | None, Pass]]) -> tuple[Site, ...]:
    """Sites that are edited, in the order a forward reaches them."""
    return tuple(sorted({site for _, run in parts for site in run.places}, key=forward_order))


def _visit(parts: Sequence[tuple[Tensor | None, Pass]], site: Site, hidden: Hidden) -> Hidden:
    """The states after every part's edits of its own rows."""
    out = hidden
    for rows, run in parts:
        if site not in run.places:
            continue
        if rows is None:
            edited = run.visit(site, out)
            out = out if edited is None else edited
            continue
        at = rows.to(out.device)
        edited = run.visit(site, out[at])
        if edited is not None:
            out = out.clone() if out is hidden else out
            out[at] = edited
    return out
