"""MSAV, the modal semantic alignment vector (arXiv 2605.11716 eq. 7-10), as printed and corrected.

mu = mean h0 over picture attacks (SD) - mean h0 over the same requests as text (CB). The paper adds alpha * mu with
alpha = |h0 - mean(CB)| to the prefill state, although its purpose is to bring image-borne harm to where text-borne harm is refused: as
printed the sign points away from there and the step is |mu| times too long. Both choices are parameters and all four are reported.
alpha also counts what sets a request apart from others, not only how far it lies along mu: a request in words, which needs no shift, is
pushed as far as it differs from other requests. The fifth rule, `projection`, takes the step that the state's part along mu asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.files import read_tensors, write_tensors
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack
from safesteer_interp.sites import Read, Site
from safesteer_interp.statistics import Estimate
from safesteer_interp.tracing.origin import Origin, known_origin
from safesteer_interp.tracing.trace import FIT_SPLIT, Traced, fitting_rows
from safesteer_interp.types import Vector
from safesteer_interp.vectors.direction import Direction, median_norm
from safesteer_interp.vectors.resampling import DifferenceBootstrap, pairwise_cosine

SIGNS = ("printed", "toward_text")
NORMS = ("raw", "unit", "projection")
KIND = "safesteer-alignment/1"


@dataclass(frozen=True)
class ApplicationRule:
    """How mu is applied: h0 + s * alpha * u with alpha = |h0 - mean(CB)|, or along mu only as far as h0 lies along it."""

    sign: str = "toward_text"
    """"printed": s = +1, from text towards image, as in the paper. "toward_text": s = -1."""
    norm: str = "unit"
    """"raw": u = mu, as in the paper. "unit": u = mu / |mu|, so that mean(SD) lands exactly on mean(CB) (single states overshoot).
    "projection": alpha = (h0 - mean(CB)) . mu / |mu| and u = mu / |mu|, so that every state ends level with mean(CB) along mu."""

    def __post_init__(self) -> None:
        for field, value, known in (("sign", self.sign, SIGNS), ("norm", self.norm, NORMS)):
            if value not in known:
                raise UsageError(f'alignment {field} "{value}" is unknown.{did_you_mean(value, known)}')

    def __str__(self) -> str:
        return f"{self.sign}/{self.norm}"

    @classmethod
    def parse(cls, text: str) -> ApplicationRule:
        """A rule from "toward_text/unit". Raises UsageError for an unknown one."""
        sign, _, norm = text.partition("/")
        return cls(sign, norm)


PROJECTION_RULE = ApplicationRule("toward_text", "projection")
RULES: tuple[ApplicationRule, ...] = (*(ApplicationRule(sign, norm) for sign in SIGNS for norm in NORMS[:2]), PROJECTION_RULE)
"""The paper's (printed/raw) first, then its corrections in sign and norm, then the projection."""
PAPER_RULE, CORRECTED_RULE = RULES[0], ApplicationRule()


@dataclass(frozen=True, eq=False)
class AlignmentVector:
    """mu and the mean of the text form, at one site and read."""

    mu: Vector
    """[d] float32: mean(SD) - mean(CB), subtracted in float64 (a small difference of two large means)."""
    mean_text: Vector
    """[d] float32: mean state over the text form, mean(CB)."""
    origin: Origin
    residual_norm: float
    """Median norm of all states used."""
    n_image: int
    n_text: int
    paired: bool
    """True when both means are over the same pairs."""
    norm: Estimate
    """|mu| with its interval over pairs."""
    consistency: Estimate | None
    """Mean pairwise cosine of the pairs' differences (SAS); None when not paired."""

    def __repr__(self) -> str:
        where = f"{self.origin.site or 'no site'}, {self.origin.read or 'no read'}, {self.origin.model or 'no model'}"
        counts = f"{self.n_image} pictures, {self.n_text} texts{', paired' if self.paired else ''}"
        return f"AlignmentVector(at {where}; d = {self.d}, |mu| = {self.norm.format()}, {counts})"

    @property
    def mean_image(self) -> Vector:
        """[d] float32: mean state over picture attacks, mean(SD)."""
        return self.mean_text + self.mu

    @property
    def d(self) -> int:
        """Width of the residual stream it lives in."""
        return len(self.mean_text)

    def direction(self) -> Direction:
        """The unit vector from text towards image. Raises InputError when mu is zero."""
        return Direction.from_difference(
            self.mu.double().numpy(), "alignment", origin=self.origin, residual_norm=self.residual_norm, n=self.n_image + self.n_text
        )

    def random(self, seed: int = 0) -> AlignmentVector:
        """Control: the same vector in a direction drawn uniformly, with the same length and the same step of every state."""
        drawn = torch.randn(self.d, generator=torch.Generator().manual_seed(seed))
        return replace(self, mu=drawn / drawn.norm() * self.mu.norm())

    def apply(self, h: Float[Tensor, "*shape d"], rule: ApplicationRule = CORRECTED_RULE, scale: float = 1.0) -> Float[Tensor, "*shape d"]:
        """The aligned states; each row has its own alpha, times `scale` (1 = the paper's strength rule). Never mutates h.

        Raises UsageError when the width differs, InputError when mu is zero under a norm that divides by its length.
        """
        if h.shape[-1] != self.d:
            raise UsageError(f"the alignment vector has width {self.d} but the states have width {h.shape[-1]}; fit one on this model.")
        exact, mean_text, step = h.float(), self.mean_text.to(h.device), self.mu.to(h.device)
        if rule.norm != "raw":
            length = step.norm()
            if length == 0:
                raise InputError(f"the alignment vector at {self.origin.site or '?'} is zero, so it has no direction; use another site.")
            step = step / length
        beyond = exact - mean_text
        alpha = (beyond @ step)[..., None] if rule.norm == "projection" else beyond.norm(dim=-1, keepdim=True)
        sign = 1.0 if rule.sign == "printed" else -1.0
        return (exact + sign * scale * alpha * step).to(h.dtype)

    def guard(self, mllm: MLLM | None = None, site: Site | str | None = None, read: Read | str | None = None) -> None:
        """Raise UsageError, naming both, when it belongs to another model, template, site or read, or has a wrong width."""
        self.origin.guard("alignment vector", mllm, site, read)
        if mllm is not None and mllm.width != self.d:
            raise UsageError(f'the alignment vector has width {self.d} but "{mllm.name}" has width {mllm.width}; fit one on this model.')

    def to_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The vector as tensors "mu" and "mean_text" and a JSON-able record; `from_state` is the inverse."""
        return {"mu": self.mu.cpu().numpy(), "mean_text": self.mean_text.cpu().numpy()}, {
            "origin": self.origin.to_dict(),
            "residual_norm": self.residual_norm,
            "n_image": self.n_image,
            "n_text": self.n_text,
            "paired": self.paired,
            "norm": asdict(self.norm),
            "consistency": asdict(self.consistency) if self.consistency else None,
        }

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> AlignmentVector:
        """The vector that `to_state` described."""
        fields = {
            **record,
            "origin": Origin.from_dict(record["origin"]),
            "norm": Estimate(**record["norm"]),
            "consistency": Estimate(**record["consistency"]) if record["consistency"] else None,
        }
        return cls(torch.from_numpy(tensors["mu"]), torch.from_numpy(tensors["mean_text"]), **fields)

    def save(self, path: Path | str) -> Path:
        """Write a safetensors file with metadata; returns its path."""
        tensors, record = self.to_state()
        return write_tensors(path, tensors, record, kind=KIND)

    @classmethod
    def load(cls, path: Path | str) -> AlignmentVector:
        """Read what `save` wrote. Raises InputError when the file is missing, damaged or of another kind."""
        return cls.from_state(*read_tensors(path, KIND))


def alignment_vector(
    image_states: Float[np.ndarray, "n d"],
    text_states: Float[np.ndarray, "m d"],
    *,
    image_pairs: np.ndarray | None = None,
    text_pairs: np.ndarray | None = None,
    origin: Origin | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> AlignmentVector:
    """mu = mean(image states) - mean(text states), in float64 (arXiv 2605.11716 eq. 7-8).

    Where the same pairs exist in both forms only those are used, each once per form, so that mu is a mean of paired differences;
    else all rows are. Without `origin` nothing can hold the vector to its model and site, and a warning says so.
    Raises InputError when a form has no states or NaN ones.
    """
    origin = known_origin(origin, "alignment vector")
    sides = [np.asarray(x, dtype=np.float64) for x in (image_states, text_states)]
    for name, side in zip(("picture (SD)", "text (CB)"), sides, strict=True):
        if not len(side):
            raise InputError(f"the alignment vector needs {name} prompts to fit on but there are none; give requests in both forms.")
        if not np.isfinite(side).all():
            raise InputError(f"the alignment vector got {name} states that are NaN or infinite; drop requests that lack the read.")
    # Rows without a pair id are their own cluster; the prefix keeps them apart from each other's form and from real ids.
    ids = [
        np.asarray(pairs).astype(str) if pairs is not None else np.array([f"{form} row {i}" for i in range(len(side))])
        for pairs, side, form in zip((image_pairs, text_pairs), sides, ("image", "text"), strict=True)
    ]
    shared = sorted(set(ids[0]) & set(ids[1]))
    consistency = None
    if shared:
        sides = [_by_pair(side, pairs, shared) for side, pairs in zip(sides, ids, strict=True)]
        ids = [np.array(shared), np.array(shared)]
        consistency = pairwise_cosine(sides[0] - sides[1], replicates=replicates, seed=seed, level=level)
    stacked, is_image = np.concatenate(sides), np.repeat([True, False], [len(s) for s in sides])
    bootstrap = DifferenceBootstrap(stacked, is_image, np.concatenate(ids), replicates=replicates, seed=seed, level=level)
    means = [side.mean(axis=0) for side in sides]
    mu, mean_text = (torch.from_numpy(x.astype(np.float32)) for x in (means[0] - means[1], means[1]))
    return AlignmentVector(
        mu, mean_text, origin, median_norm(stacked), len(sides[0]), len(sides[1]), bool(shared), bootstrap.norm(), consistency
    )  # fmt: skip


def alignment_vectors(
    trace: Traced,
    *,
    sites: Iterable[Site | str] | None = None,
    read: Read | str = "last_prompt",
    image: Attack | str = Attack.SD,
    text: Attack | str = Attack.CB,
    split: str | None = FIT_SPLIT,
    harmful: bool | None = True,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, AlignmentVector]:
    """MSAV at every captured site (or those given) of a trace, from the harmful requests of `split` in both forms.

    `split=None` takes all but the test split, `harmful=None` harmless twins too. Raises InputError when a form is missing, naming what
    the trace holds, UsageError for the test split.
    """
    labels = trace.labels
    keep = np.asarray(trace.present(read)) & fitting_rows(trace.index, split)
    if harmful is not None:
        keep = keep & (labels.harmful == harmful)
    attacks, pairs = labels.attacks, labels.pairs
    masks = [keep & (attacks == str(form)) for form in (image, text)]
    for form, mask in zip((image, text), masks, strict=True):
        if not mask.any():
            held = ", ".join(f"{name}: {count}" for name, count in sorted(zip(*np.unique(attacks[keep], return_counts=True), strict=True)))
            raise InputError(
                f'no "{form}" request in the {split or "whole"} split to fit the alignment vector on (the trace holds {held or "none"}); '
                "trace a data set with both forms, or fit on the image form there is (`image`; of SafeSteer the option image_form)."
            )
    found = {}
    for site in [s for s in trace.sites if not s.in_eyes] if sites is None else sites:
        states = trace.rows(site, read)
        found[str(site)] = alignment_vector(
            states[masks[0]], states[masks[1]], image_pairs=pairs[masks[0]], text_pairs=pairs[masks[1]],
            origin=Origin.of_trace(trace, site, read), replicates=replicates, seed=seed,
        )  # fmt: skip
    return found


def check_image_form(form: Attack | str) -> None:
    """Raise UsageError for a form whose harm is not in an image: there would be no shift from text to image to fit."""
    pictured = [str(attack) for attack in (Attack.SD, Attack.TYPO, Attack.SD_TYPO)]
    if str(form) not in pictured:
        raise UsageError(f'"{form}" is no form with the harm in the image, which MSAV is fitted on.{did_you_mean(str(form), pictured)}')


def _by_pair(states: np.ndarray, pairs: np.ndarray, wanted: list[str]) -> np.ndarray:
    """Mean state of each wanted pair, in order."""
    return np.stack([states[pairs == pair].mean(axis=0) for pair in wanted])
