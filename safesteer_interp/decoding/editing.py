"""Edits at work while a batch is answered: each way's edits act on its own rows, and are told where every forward stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from safesteer_interp.decoding.sharing import Way
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.sites import Role, Site
from safesteer_interp.tracing.hooks import visiting
from safesteer_interp.tracing.steps import Pass
from safesteer_interp.tracing.tracer import At, Edit
from safesteer_interp.types import Hidden, States


class CurrentRows:
    """The way of every row that is in the batch now."""

    def __init__(self, member: Int[Tensor, " rows"]) -> None:
        self.member = member


def only_for(edit: Edit, way: int, current: CurrentRows) -> Edit:
    """The edit for the rows of one way; all others keep their states."""

    def function(h: Hidden, at: At) -> Hidden:
        rows = (current.member == way).nonzero().squeeze(1).to(h.device)
        if not len(rows):
            return h
        part = At(at.site, at.step, at.positions[rows], at.roles[rows], at.last_prompt[rows])
        out = h.clone()
        out[rows] = edit.function(h[rows], part)
        return out

    return Edit(edit.sites, function, edit.name, edit.key)


@dataclass
class Editing:
    """Edits at work while a batch is answered: first the distinct prompts are read, then the rows of the answers are written."""

    run: Pass
    member: Int[Tensor, " asks"]
    """Way of each answer."""
    rows: Int[Tensor, " asks"]
    """Prompt of each answer."""
    current: CurrentRows

    def answering(self) -> None:
        """The prompts have been read: from here on the batch holds one row per answer."""
        run, rows = self.run, self.rows.to(self.run.positions.device)
        run.positions, run.roles, self.current.member = run.positions[rows], run.roles[rows], self.member

    def watch(self, step: int, positions: Tensor, rows: Tensor) -> None:
        """Must be told of each forward after the prompt's: its step, its positions and the rows still alive."""
        run = self.run
        run.step, run.positions = step, positions.to(run.positions.device)
        run.roles = torch.full_like(run.positions, int(Role.GENERATED), dtype=run.roles.dtype)
        run.alive = torch.ones(len(rows), dtype=torch.bool)
        self.current.member = self.member[rows]

    def last_prompt(self, states: States) -> States:
        """The states [batch, d] at the last prompt token after the edits of the final norm, of a prompt that was read without them."""
        run = self.run
        run.positions, run.roles = run.positions[:, -1:], run.roles[:, -1:]
        for site in run.places:
            edited = run.visit(site, states[:, None])
            states = states if edited is None else edited[:, 0]
        return states


@contextmanager
def editing(
    mllm: MLLM, batch: Encoded, ways: Sequence[Way], member: Int[Tensor, " asks"], rows: Int[Tensor, " asks"]
) -> Iterator[Editing | None]:
    """While open, the edits of every way act on its rows in every forward (None where no way has any).

    Raises UsageError when an edit was never reached, so that no edit silently does nothing.
    """
    if not any(way.edits for way in ways):
        yield None
        return
    prompts = torch.zeros(len(batch.requests), dtype=torch.long)
    prompts[rows] = member
    current = CurrentRows(prompts)
    edits = ways[0].edits if len(ways) == 1 else tuple(only_for(edit, n, current) for n, way in enumerate(ways) for edit in way.edits)
    everything = torch.ones(len(batch.requests), dtype=torch.bool)
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(len(batch.requests), -1)
    run = Pass({}, 0, columns, batch.roles, everything, edits=edits)

    def visit(site: Site, hidden: Hidden) -> Hidden | None:
        return run.visit(site, hidden)

    with visiting(mllm.model, mllm.layout, run.places, visit):
        yield Editing(run, member, rows, current)
    run.check()
