"""Interventions: what changes made inside the prompt pass do to the first answer token.

`record(model, request)` keeps one prompt pass; `replay(model, receiver, patches, donor=donor)` asks many questions of it at a fraction
of a forward each; `patched(...)` asks them through any tracer, a whole forward each, and can write the answers too.

- `Patch`: the donor's states, or a function of both, at some places and token roles
- `Head`: what one attention head hands on
- `Knockout`: tokens that may not attend to others
- `ROLES`: the token roles there are
- `matched`: which donor token stands in for which receiver token
- `record`: one prompt pass, kept whole
- `Recording`: what was kept
- `replay`: many interventions on a recording, in few forwards
- `patched`: patches through hooks, nnsight or TransformerLens
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.interventions.alignment import ROLES, matched
    from safesteer_interp.interventions.by_tracer import patched
    from safesteer_interp.interventions.kinds import Head, Knockout, Patch
    from safesteer_interp.interventions.recording import Recording, record
    from safesteer_interp.interventions.replaying import replay

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "alignment": ("ROLES", "matched"),
        "by_tracer": ("patched",),
        "kinds": ("Head", "Knockout", "Patch"),
        "recording": ("Recording", "record"),
        "replaying": ("replay",),
    },
)
