"""Direction: a unit vector that knows its site, read, model, origin and the residual norm there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import read_tensors, write_tensors
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Read, Site
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.types import Vector

KIND = "safesteer-directions/1"


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector in the residual stream. Strength 1.0 means one median residual norm at its site."""

    vector: Vector
    """[d] float32, norm 1."""
    name: str
    """What it means, e.g. "refusal"; its positive side is the first word of what it was made of (harmful - harmless)."""
    origin: Origin
    residual_norm: float
    """Median norm of the states it was estimated from."""
    raw_norm: float
    """Norm of the mean difference before it was made a unit vector (same units as the states)."""
    n: int
    """Rows it was estimated from."""

    def __post_init__(self) -> None:
        norm = float(self.vector.norm())
        if not abs(norm - 1) < 1e-4:
            raise InputError(f'direction "{self.name}" at {self.origin.site or "?"} has norm {norm:.4g}, not 1; divide it by its norm.')

    @classmethod
    def from_difference(
        cls, difference: Float[np.ndarray, " d"], name: str, *, origin: Origin | None = None, residual_norm: float = 1.0, n: int = 0
    ) -> Direction:
        """The unit vector along a mean difference [d]. Raises InputError when the difference is 0 or not finite."""
        exact = np.asarray(difference, dtype=np.float64)
        norm = float(np.linalg.norm(exact))
        if not np.isfinite(norm) or norm == 0:
            where = f" at {origin.site}" if origin and origin.site else ""
            raise InputError(f'direction "{name}"{where} is {"zero" if norm == 0 else "not finite"}: both sides have the same mean state.')
        return cls(torch.from_numpy((exact / norm).astype(np.float32)), name, origin or Origin(), float(residual_norm), norm, int(n))

    @property
    def d(self) -> int:
        """Width of the residual stream it lives in."""
        return len(self.vector)

    def __repr__(self) -> str:
        where = f"{self.origin.site or 'no site'}, {self.origin.read or 'no read'}, {self.origin.model or 'no model'}"
        return f'Direction("{self.name}" at {where}; d = {self.d}, residual norm {self.residual_norm:.3g}, n = {self.n})'

    @property
    def site(self) -> Site:
        """The site it was estimated at. Raises UsageError when it is unknown."""
        if not self.origin.site:
            raise UsageError(
                f'direction "{self.name}" does not know its site; make it with origin=Origin.of_trace(trace, site, read), or at least '
                'origin=Origin(site="resid_post.12").'
            )
        return Site.parse(self.origin.site)

    def scaled(self, strength: float) -> Vector:
        """[d] float32 vector of `strength` median residual norms."""
        return self.vector * (strength * self.residual_norm)

    def cosine(self, other: Direction) -> float:
        """Cosine with another direction. Raises UsageError when the widths differ."""
        self._same_width(other.d)
        return float(self.vector.double() @ other.vector.double())

    def project(self, h: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape"]:
        """Signed length of states along the direction, float32, in the states' own units."""
        self._same_width(h.shape[-1])
        return h.float() @ self.vector.to(h.device)

    def reversed(self) -> Direction:
        """The opposite direction."""
        return Direction(-self.vector, f"-{self.name}", self.origin, self.residual_norm, self.raw_norm, self.n)

    def guard(self, mllm: MLLM | None = None, site: Site | str | None = None, read: Read | str | None = None) -> None:
        """Raise UsageError, naming both, when the direction belongs to another model, template, site or read, or has a wrong width."""
        self.origin.guard(f'direction "{self.name}"', mllm, site, read)
        if mllm is not None:
            self._same_width(mllm.width)

    def _same_width(self, d: int) -> None:
        if d != self.d:
            raise UsageError(f'direction "{self.name}" has width {self.d} but the states have width {d}; it belongs to another model.')

    def record(self) -> dict[str, Any]:
        """Everything but the vector, JSON-able."""
        return {
            "name": self.name,
            "residual_norm": self.residual_norm,
            "raw_norm": self.raw_norm,
            "n": self.n,
            "origin": self.origin.to_dict(),
        }

    def to_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The direction as tensors and a JSON-able record; `from_state` is the inverse."""
        return {"vector": self.vector.cpu().numpy()}, self.record()

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Direction:
        """The direction that `to_state` described."""
        vector, origin = torch.from_numpy(tensors["vector"]), Origin.from_dict(record["origin"])
        return cls(vector, record["name"], origin, record["residual_norm"], record["raw_norm"], record["n"])

    def save(self, path: Path | str) -> Path:
        """Write a safetensors file with metadata; returns its path."""
        return save_directions([self], path)

    @classmethod
    def load(cls, path: Path | str) -> Direction:
        """Read a file that holds one direction. Raises InputError when it holds none, several or something else."""
        found = load_directions(path)
        if len(found) != 1:
            raise InputError(f"{path} holds {len(found)} directions; use load_directions to read them all.")
        return found[0]


def save_directions(directions: Sequence[Direction], path: Path | str) -> Path:
    """Write directions (of any sites) to one safetensors file: tensors "0", "1", ..., everything else in its metadata.

    Raises InputError when there is nothing to write.
    """
    if not directions:
        raise InputError(f"there are no directions to write to {path}.")
    states = [direction.to_state() for direction in directions]
    return write_tensors(path, {str(i): x["vector"] for i, (x, _) in enumerate(states)}, [record for _, record in states], kind=KIND)


def load_directions(path: Path | str) -> list[Direction]:
    """Read what `save_directions` wrote, in the same order. Raises InputError for a missing, damaged or foreign file."""
    tensors, records = read_tensors(path, KIND)
    return [Direction.from_state({"vector": tensors[str(i)]}, record) for i, record in enumerate(records)]


def mean_difference(
    states: Float[np.ndarray, "n d"], first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " d"]:
    """Mean of the first rows minus mean of the second, accumulated in float64 (a small difference of two large means).

    Raises InputError when a side is empty or holds NaN.
    """
    sides = [np.asarray(states)[np.asarray(mask, dtype=bool)] for mask in (first, second)]
    if not all(len(side) for side in sides):
        raise InputError(f"a mean difference needs rows on both sides but got {len(sides[0])} and {len(sides[1])}.")
    means = [side.mean(axis=0, dtype=np.float64) for side in sides]
    if not all(np.isfinite(mean).all() for mean in means):
        raise InputError("a mean difference got states that are NaN or infinite; drop rows whose read does not exist.")
    return np.asarray(means[0] - means[1])


def median_norm(states: Float[np.ndarray, "n d"]) -> float:
    """Median norm of the states: the unit of steering strength at their site."""
    return float(np.median(np.linalg.norm(np.asarray(states, dtype=np.float64), axis=1)))


def random_direction(like: Direction, seed: int = 0) -> Direction:
    """A direction drawn uniformly from the sphere, with the site and residual norm of `like`: the smallest honest steering control."""
    draw = np.random.default_rng(np.random.SeedSequence([seed, like.d])).normal(size=like.d)
    vector = torch.from_numpy((draw / np.linalg.norm(draw)).astype(np.float32))
    return Direction(vector, f"random {seed}", like.origin, like.residual_norm, like.raw_norm, 0)
