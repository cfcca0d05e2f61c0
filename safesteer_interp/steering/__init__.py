"""Steering: edits of states as pure functions, when they act, and which refusal direction to take.

A schedule makes of them what `collect` and `generate` take: `Schedule(at_sites("resid_post.12")).edit(add(direction, 1.0))`.

- `Change`: a pure map of states
- `add`: some residual norms along a direction
- `ablate`: the component along it taken out
- `clamp`: that component kept between bounds
- `shift`: the state moved toward a mean state
- `align`: MSAV
- `Schedule`: at which sites, roles and steps a change acts
- `at_sites`: sites from names
- `every_write`: every place the residual stream is written or read
- `alignment_edit`: MSAV where the paper applies it
- `select_refusal_direction`: the candidate that bypasses and induces refusal at least cost (arXiv 2406.11717)
- `Selection`: what was measured and chosen
- `answered_as_labelled`: which requests its published filter keeps
- `refusal_score`: log-odds of a refusal as first token
- `first_token_divergence`: what an edit changes there, in nats
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.steering.edits import Change, ablate, add, align, clamp, shift
    from safesteer_interp.steering.schedule import Schedule, alignment_edit, at_sites, every_write
    from safesteer_interp.steering.selection import (
        Selection,
        answered_as_labelled,
        first_token_divergence,
        refusal_score,
        select_refusal_direction,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "edits": ("Change", "add", "ablate", "clamp", "shift", "align"),
        "schedule": ("Schedule", "at_sites", "every_write", "alignment_edit"),
        "selection": ("select_refusal_direction", "Selection", "answered_as_labelled", "refusal_score", "first_token_divergence"),
    },
)
