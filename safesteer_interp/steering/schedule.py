"""Schedule: at which sites, token roles and steps an edit acts. Binds a `Change` into an `Edit` that every tracer understands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Role, Site, SiteKind
from safesteer_interp.steering.edits import Change, align
from safesteer_interp.tracing.tracer import At, Edit
from safesteer_interp.types import Hidden
from safesteer_interp.vectors.alignment import CORRECTED_RULE, AlignmentVector, ApplicationRule

NOT_PADDING = frozenset(Role) - {Role.PAD}


@dataclass(frozen=True)
class Schedule:
    """Which states an edit touches. Padding is never touched."""

    sites: tuple[Site, ...]
    roles: frozenset[Role] = NOT_PADDING
    """Token roles, e.g. {Role.IMAGE}; all by default."""
    first_step: int = 0
    """0 = prompt pass; k = the pass that consumed the k-th generated token."""
    last_step: int | None = None
    """The last step touched (it is included); None: to the end of the answer."""
    last_prompt_only: bool = False
    """Only the last prompt token, which predicts the first answer token (implies step 0)."""

    def __post_init__(self) -> None:
        if not self.sites:
            raise UsageError("a steering schedule needs at least one site.")
        if blind := [site for site in self.sites if site.in_eyes]:
            raise UsageError(f"steering acts on tokens, and {blind[0]} holds none; name a site of the decoder, e.g. embed.")
        if self.first_step < 0 or (self.last_step is not None and self.last_step < self.first_step):
            raise UsageError(f"a steering schedule cannot run from step {self.first_step} to step {self.last_step}; steps count from 0.")
        if not self.roles - {Role.PAD}:
            raise UsageError("a steering schedule needs at least one token role other than PAD.")
        if self.last_prompt_only and self.first_step > 0:
            raise UsageError(f"the last prompt token is in the prompt pass (step 0), but the schedule starts at step {self.first_step}.")

    def runs_at(self, step: int) -> bool:
        """Whether anything can be touched at a step."""
        return self.first_step <= step <= (0 if self.last_prompt_only else step if self.last_step is None else self.last_step)

    def mask(self, at: At) -> Bool[Tensor, "batch chunk"]:
        """True at the tokens of this chunk that are touched."""
        if at.site not in self.sites or not self.runs_at(at.step):
            return torch.zeros_like(at.roles, dtype=torch.bool)
        wanted = torch.tensor(sorted(int(role) for role in self.roles - {Role.PAD}), device=at.roles.device)
        touched = torch.isin(at.roles.to(wanted.dtype), wanted)
        return touched & at.last_prompt if self.last_prompt_only else touched

    def edit(self, change: Change) -> Edit:
        """The change bound to this schedule: a pure function that leaves every other state as it is."""

        def function(h: Hidden, at: At) -> Hidden:
            if at.site not in self.sites or not self.runs_at(at.step):
                return h
            return torch.where(self.mask(at)[..., None].to(h.device), change(h), h)

        last = 0 if self.last_prompt_only else self.last_step
        late = self.last_prompt_only or self.first_step > 0
        return Edit(self.sites, function, change.name, self._key(change), last_step=last, late=late)

    def _key(self, change: Change) -> str:
        when = (
            [str(site) for site in self.sites],
            sorted(int(role) for role in self.roles),
            self.first_step,
            self.last_step,
            self.last_prompt_only,
        )
        return hashlib.sha256(f"{change.key}\0{when}".encode()).hexdigest()[:32]


def at_sites(sites: Site | str | Iterable[Site | str]) -> tuple[Site, ...]:
    """Sites from objects or names. Raises UsageError for an unknown name."""
    several = [sites] if isinstance(sites, (Site, str)) else list(sites)
    return tuple(dict.fromkeys(s if isinstance(s, Site) else Site.parse(s) for s in several))


def every_write(mllm: MLLM) -> tuple[Site, ...]:
    """Every place the residual stream is written or read: `embed`, and attention, MLP and block outputs of all layers.

    Ablating a direction here keeps it out of the stream for the whole forward (arXiv 2406.11717 section 2.4).
    """
    kinds = (SiteKind.ATTN_OUT, SiteKind.MLP_OUT, SiteKind.RESID_POST)
    return (Site(SiteKind.EMBED), *(Site(kind, layer) for layer in range(mllm.n_layers) for kind in kinds))


def alignment_edit(
    vector: AlignmentVector, rule: ApplicationRule = CORRECTED_RULE, scale: float = 1.0, site: Site | str | None = None
) -> Edit:
    """MSAV where the paper applies it: at the last prompt token of the prompt pass, at the vector's own site.

    `site` may name another one only to be refused: a vector belongs to the site it was fitted at. Raises UsageError then.
    """
    vector.guard(site=site)
    where = site if site is not None else vector.origin.site
    if not where:
        raise UsageError("the alignment vector does not say which site it was fitted at; give `site`.")
    return Schedule(at_sites(where), last_prompt_only=True).edit(align(vector, rule, scale))
