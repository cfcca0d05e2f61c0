"""Many interventions on one prompt pass in few forwards: nothing is computed that a recording already holds.

Every intervention is a row. A row enters at the first layer it changes, so that the batch grows from layer to layer; it computes only
the tokens from its first changed one on, reading the keys and values of those before from the recording (attention is causal; where it
is not, as among Gemma's image tokens, the row starts early enough). Where a donor's states replace a whole beginning of the prompt,
as its image tokens do, the tokens replaced behave in all later layers as they did in the donor's own pass, so that they need not be
computed either. The layers are the model's own modules, called as the model called them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.interventions.alignment import matched, positions
from safesteer_interp.interventions.kinds import Head, Intervention, Knockout, Patch, Place, check_layers
from safesteer_interp.interventions.recording import Recording, output_projection
from safesteer_interp.models.head import logits
from safesteer_interp.models.layout import submodule
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Role, Site, SiteKind
from safesteer_interp.tracing.hooks import module_path

Score = Callable[[Float[Tensor, "rows d"]], Float[Tensor, "rows *out"]]
"""What is measured, from the last prompt token's states after the final norm."""
MAX_TOKENS = 4096
"""Tokens computed at once in a layer: what bounds memory."""


@dataclass(frozen=True, eq=False)
class Row:
    """One intervention, and what of the prompt it makes the model compute."""

    number: int
    """Its place among those asked for."""
    doing: Intervention
    mine: Int[Tensor, " mine"]
    """Receiver tokens it changes: written, or blocked as targets."""
    theirs: Int[Tensor, " theirs"]
    """Donor tokens that stand in for them; for a knock-out the source tokens."""
    start: int
    """First token that is computed."""
    by_donor: bool
    """Whether the tokens before `start` are the donor's."""

    def forwards(self, n_layers: int, length: int) -> float:
        """What it costs, in whole prompt passes."""
        return (n_layers - self.doing.first_layer) * (length - self.start) / (n_layers * length)


def plan_rows(mllm: MLLM, receiver: Recording, interventions: Sequence[Intervention], donor: Recording | None = None) -> list[Row]:
    """What has to be computed for each intervention; those that change nothing, to the bit, are left out.

    Raises UsageError for a layer or head the model does not have, and for a patch without a donor that does not say what to write.
    """
    check_layers(interventions, mllm.n_layers, n_heads(mllm))
    reach = _Reach.of(receiver)
    same = _same_beginning(donor, receiver) if donor is not None else 0
    found = []
    for number, one in enumerate(interventions):
        row = _blocked(one, number, receiver, reach) if isinstance(one, Knockout) else _patched(one, number, donor, receiver, reach, same)
        if row is not None:
            found.append(row)
    return found


@torch.no_grad()
def replay(
    mllm: MLLM,
    receiver: Recording,
    interventions: Sequence[Intervention],
    *,
    donor: Recording | None = None,
    score: Score | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Float[Tensor, n * out]:
    """What `score` gives of the last prompt token's final state (None: the first answer token's logits [n, vocab], float32) under each
    intervention on the receiver's pass.

    Raises UsageError as `plan_rows` does, and for an attention kernel other than sdpa or eager.
    """
    score = score or partial(logits, mllm)
    plain = score(receiver.final)
    out = plain.expand(len(interventions), *plain.shape[1:]).clone()
    groups: dict[tuple[int, bool], list[Row]] = {}
    for row in plan_rows(mllm, receiver, interventions, donor):
        groups.setdefault((row.start, row.by_donor), []).append(row)
    with mllm.lock:
        for (start, _), rows in groups.items():
            rows.sort(key=lambda row: row.doing.first_layer)
            at_once = max(1, max_tokens // (receiver.length - start))
            for first in range(0, len(rows), at_once):
                part = rows[first : first + at_once]
                out[[row.number for row in part]] = score(_Ladder(mllm, receiver, donor, part).run()).to(out)
    return out


def n_heads(mllm: MLLM) -> int:
    """Attention heads of a layer."""
    return int(mllm.model.config.get_text_config().num_attention_heads)


class _Ladder:
    """Rows with the same beginning, climbing the layers together."""

    def __init__(self, mllm: MLLM, receiver: Recording, donor: Recording | None, rows: list[Row]) -> None:
        self.mllm, self.receiver, self.donor, self.rows = mllm, receiver, donor, rows
        self.start = rows[0].start
        self.before = donor if rows[0].by_donor and donor is not None else receiver

    def run(self) -> Float[Tensor, "rows d"]:
        """Final states of the rows, in their order."""
        hidden: Tensor | None = None
        n_layers = self.mllm.n_layers
        for layer in range(n_layers + 1):
            entering = [row for row in self.rows if row.doing.first_layer == layer]
            if entering:
                fresh = torch.stack([self._entering(row, layer) for row in entering])
                hidden = fresh if hidden is None else torch.cat([hidden, fresh.to(hidden.device)])
            if hidden is not None and layer < n_layers:
                hidden = self._layer(layer, hidden)
        assert hidden is not None
        return self.mllm.final_norm(hidden[:, -1])

    def _entering(self, row: Row, layer: int) -> Tensor:
        """What a row gives its first computed layer [tokens, d]."""
        place = Site(SiteKind.EMBED) if layer == 0 else Site(SiteKind.RESID_POST, layer - 1)
        plain = self.receiver.states[place][self.start :]
        if isinstance(row.doing, Patch) and place in row.doing.places:
            return self._added(layer - 1, self._rewritten(row, place, plain)) if layer else self._rewritten(row, place, plain)
        return self.receiver.entering[layer][self.start :]

    def _layer(self, layer: int, hidden: Tensor) -> Tensor:
        active = self.rows[: len(hidden)]
        with self._inside(layer, active):
            out = self.mllm.layers[layer](hidden, **self._call(layer, active))
        out = out[0] if isinstance(out, tuple) else out
        place = Site(SiteKind.RESID_POST, layer)
        out = self._write(out, place, active)
        return self._added(layer, out)

    def _added(self, layer: int, hidden: Tensor) -> Tensor:
        extra = self.receiver.added_after[layer]
        return hidden if extra is None else hidden + extra[self.start :].to(hidden)

    def _write(self, hidden: Tensor, place: Place, active: Sequence[Row]) -> Tensor:
        """hidden [rows, tokens, d] with the rows that patch this place rewritten."""
        touched = [i for i, row in enumerate(active) if isinstance(row.doing, Patch) and place in row.doing.places]
        if not touched:
            return hidden
        hidden = hidden.clone()
        for i in touched:
            hidden[i] = self._rewritten(active[i], place, hidden[i])
        return hidden

    def _rewritten(self, row: Row, place: Place, hidden: Tensor) -> Tensor:
        """One row's states [tokens, d] at a place, patched."""
        assert isinstance(row.doing, Patch)
        kept = row.mine >= self.start
        mine, theirs = (row.mine[kept] - self.start).to(hidden.device), row.theirs[kept]
        new = None if self.donor is None else source(self.donor, place, self.mllm)[theirs].to(hidden.device)
        whole = hidden.clone()
        part = part_at(whole, place, self.mllm)
        if row.doing.rewrite is not None:
            new = row.doing.rewrite(part[mine], new).to(hidden.dtype)
        assert new is not None  # a patch without a rewrite has a donor
        part[mine] = new
        return whole

    @contextmanager
    def _inside(self, layer: int, active: Sequence[Row]) -> Iterator[None]:
        """While open, the patches inside a layer are made: attention, MLP, heads."""
        places = {place for row in active if isinstance(row.doing, Patch) for place in row.doing.places if place.layer == layer}
        with ExitStack() as stack:
            for place in sorted((p for p in places if isinstance(p, Head)), key=lambda p: p.head):
                module = output_projection(self.mllm, layer)

                def before(module: Any, args: tuple[Any, ...], place: Place = place) -> tuple[Any, ...]:
                    return (self._write(args[0], place, active), *args[1:])

                stack.callback(module.register_forward_pre_hook(before).remove)
            for site in (p for p in places if isinstance(p, Site)):
                if site.kind in (SiteKind.ATTN_OUT, SiteKind.MLP_OUT):
                    module = submodule(self.mllm.model, module_path(self.mllm.layout, site))

                    def after(module: Any, args: Any, output: Any, place: Place = site) -> Any:
                        if isinstance(output, tuple):
                            return (self._write(output[0], place, active), *output[1:])
                        return self._write(output, place, active)

                    stack.callback(module.register_forward_hook(after).remove)
            yield

    def _call(self, layer: int, active: Sequence[Row]) -> dict[str, Any]:
        """How the model called this layer, cut down to the tokens computed."""
        call = dict(self.receiver.calls[layer])
        call["position_embeddings"] = tuple(x[..., self.start :, :] for x in call["position_embeddings"])
        for name in ("position_ids", "cache_position"):
            if call.get(name) is not None:
                call[name] = call[name][..., self.start :]
        call["attention_mask"] = self._mask(layer, active)
        before = self.before
        return call | {"past_key_values": _Before(before.keys[layer][:, :, : self.start], before.values[layer][:, :, : self.start])}

    def _mask(self, layer: int, active: Sequence[Row]) -> Tensor:
        """[1 or rows, 1, tokens, sequence] additive."""
        whole = additive(self.receiver, layer)
        mask = whole[:, :, self.start :]
        blocked = [i for i, row in enumerate(active) if isinstance(row.doing, Knockout) and layer in row.doing.layers]
        if not blocked:
            return mask
        mask = mask.repeat(len(active), 1, 1, 1)
        for i in blocked:
            targets, sources = (active[i].mine - self.start).to(mask.device), active[i].theirs.to(mask.device)
            kept = mask[i, 0, targets, targets + self.start].clone()
            mask[i, 0, targets[:, None], sources[None]] = torch.finfo(mask.dtype).min
            mask[i, 0, targets, targets + self.start] = kept
        return mask


@dataclass(frozen=True, eq=False)
class _Before:
    """Stands where a layer expects its cache: puts the keys and values of earlier tokens before those of the rows."""

    keys: Tensor
    values: Tensor

    def update(self, keys: Tensor, values: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, kv_heads, sequence, head] that the rows attend to."""
        joined = [torch.cat([old.expand(len(new), -1, -1, -1), new], dim=2) for old, new in ((self.keys, keys), (self.values, values))]
        return joined[0], joined[1]


def source(recording: Recording, place: Place, mllm: MLLM) -> Tensor:
    """A recording's states [sequence, width] at a place."""
    if isinstance(place, Head):
        return part_at(recording.heads[place.layer], place, mllm)
    return recording.states[place]


def part_at(whole: Tensor, place: Place, mllm: MLLM) -> Tensor:
    """The columns of a state that a place is: a head's own ones of the heads' joined output, else all."""
    if not isinstance(place, Head):
        return whole
    width = whole.shape[-1] // n_heads(mllm)
    return whole[..., place.head * width : (place.head + 1) * width]


def additive(recording: Recording, layer: int) -> Tensor:
    """The mask [1, 1, sequence, sequence] of a layer as numbers added to attention scores; eager attention takes no other."""
    mask, dtype = recording.mask(layer), recording.entering[layer].dtype
    if mask is None:
        n, device = recording.length, recording.entering[layer].device
        mask = torch.ones(n, n, dtype=torch.bool, device=device).tril()[None, None]
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


@dataclass(frozen=True, eq=False)
class _Reach:
    """Which tokens see which, in any layer: how far a change reaches back."""

    sees: Tensor
    """[sequence, sequence] bool, rows look at columns."""

    @classmethod
    def of(cls, recording: Recording) -> _Reach:
        n = recording.length
        sees = torch.ones(n, n, dtype=torch.bool).tril()
        for mask in {id(mask): mask for layer in range(len(recording.calls)) if (mask := recording.mask(layer)) is not None}.values():
            sees |= (mask[0, 0] if mask.dtype is torch.bool else mask[0, 0] > torch.finfo(mask.dtype).min / 2).cpu()
        return cls(sees)

    def back(self, first: int) -> int:
        """The first token that sees a change of token `first` or later, however many layers lie between."""
        while first and (seen := self.sees[:first, first:].any(1)).any():
            first = int(seen.nonzero()[0])
        return first


def _blocked(one: Knockout, number: int, receiver: Recording, reach: _Reach) -> Row | None:
    targets, sources = positions(receiver.roles, one.target), positions(receiver.roles, one.source)
    targets = targets[reach.sees[targets][:, sources].any(1)]  # the others do not see a source as it is
    if not len(targets) or not len(sources):
        return None
    return Row(number, one, targets, sources, reach.back(int(targets[0])), by_donor=False)


def _patched(one: Patch, number: int, donor: Recording | None, receiver: Recording, reach: _Reach, same: int) -> Row | None:
    if donor is None:
        if one.rewrite is None:
            raise UsageError("a patch without `rewrite` writes a donor's states: name the donor.")
        mine = positions(receiver.roles, one.roles)
        theirs = mine
    else:
        mine, theirs = matched(donor.roles, receiver.roles, one.roles)
        if one.rewrite is None:
            kept = (mine >= same) | (theirs != mine)  # both passes are one and the same up to there
            mine, theirs = mine[kept], theirs[kept]
            if _changes_nothing(one, donor, receiver, mine, theirs):
                return None
    if not len(mine):
        return None
    start = reach.back(int(mine[0]))
    if donor is None or one.rewrite is not None or not one.after_layers or start != same or start != int(mine[0]):
        return Row(number, one, mine, theirs, start, by_donor=False)
    there = dict(zip(mine.tolist(), theirs.tolist(), strict=True))
    end = start
    while end < receiver.length - 1 and there.get(end) == end:
        end += 1
    deep = any(extra is not None for record in (donor, receiver) for extra in record.added_after)
    if end == start or deep or reach.back(end) != end or _Reach.of(donor).back(end) != end or not _same_places(donor, receiver, end):
        return Row(number, one, mine, theirs, start, by_donor=False)
    return Row(number, one, mine, theirs, end, by_donor=True)


def _changes_nothing(one: Patch, donor: Recording, receiver: Recording, mine: Tensor, theirs: Tensor) -> bool:
    """Whether the donor's states equal those they would replace, to the bit."""

    def equal(place: Place) -> bool:
        states = (record.heads[place.layer] if isinstance(place, Head) else record.states[place] for record in (donor, receiver))
        a, b = states
        return torch.equal(a[theirs], b[mine])

    return all(equal(place) for place in one.places)


def _same_beginning(donor: Recording, receiver: Recording) -> int:
    """How many tokens both prompts share at their start, before any image."""
    n = min(donor.length, receiver.length)
    differ = (donor.ids[:n] != receiver.ids[:n]) | (receiver.roles[:n] == int(Role.IMAGE)) | (donor.roles[:n] == int(Role.IMAGE))
    same = int(differ.nonzero()[0]) if differ.any() else n
    return same if _same_places(donor, receiver, same) else 0


def _same_places(donor: Recording, receiver: Recording, end: int) -> bool:
    """Whether the first tokens stand at the same rotary positions in both."""
    return all(
        torch.equal(a[..., :end, :], b[..., :end, :])
        for one, other in zip(donor.calls, receiver.calls, strict=True)
        for a, b in zip(one["position_embeddings"], other["position_embeddings"], strict=True)
    )
