"""What the tracing tests share: requests of unequal length with noise images, an edit, and how close is close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, ImageSource, Request
from safesteer_interp.sites import Read, Role, Site, parse_reads, parse_sites
from safesteer_interp.tracing.tracer import At, Captured, Edit
from safesteer_interp.types import Hidden

RELATIVE = 1e-5
WITHOUT_IMAGE = ("paligemma",)
"""Families whose tiny model is asked with images only."""


@dataclass(frozen=True)
class NoiseImage(ImageSource):
    """A picture of noise, the same for the same seed."""

    seed: int

    def load(self) -> Image.Image:
        return Image.fromarray(np.random.default_rng(self.seed).integers(0, 255, (40, 52, 3), dtype=np.uint8))

    def key(self) -> str:
        return f"noise-{self.seed}"


def requests_for(mllm: MLLM, n: int = 4, *, images: bool = True) -> list[Request]:
    """n requests of unequal length, every other one with an image where the model takes images."""
    always = mllm.layout.family in WITHOUT_IMAGE
    return [
        Request(
            id=f"r{i}",
            text="how do I renew a passport " * (1 + i % 3) + f"number {i}",
            harmful=bool(i % 2),
            attack=Attack.SD if i % 2 else Attack.TEXT,
            image=NoiseImage(i) if mllm.takes_images and images and (always or i % 2) else None,
            pair=f"p{i // 2}",
        )
        for i in range(n)
    ]


def all_sites(mllm: MLLM) -> tuple[Site, ...]:
    return parse_sites("all,attn_out,mlp_out", mllm.n_layers)


def all_reads(mllm: MLLM) -> tuple[Read, ...]:
    return parse_reads("last_prompt,last_prompt:-2,user_mean,step:1-3" + (",image_mean" if mllm.takes_images else ""))


def push(mllm: MLLM, sites: str = "embed,attn_out.2,mlp_out.0,resid_post.1,final_norm") -> Edit:
    """An edit that adds one fixed vector to template and generated tokens, at every kind of site."""
    vector = 3.0 * torch.randn(mllm.width, generator=torch.Generator().manual_seed(0))

    def add(hidden: Hidden, at: At) -> Hidden:
        chosen = (at.roles == int(Role.TEMPLATE)) | (at.roles == int(Role.GENERATED))
        return hidden + vector.to(hidden) * chosen[..., None]

    return Edit(parse_sites(sites, mllm.n_layers), add, name="push", key="push-3-seed0")


def assert_same(one: Captured, other: Captured, *, exact: bool = False) -> None:
    """Both hold the same reads of the same rows, equal to RELATIVE in the norm of each row (or to the bit)."""
    assert one.states.keys() == other.states.keys()
    assert one.generated == other.generated
    for key, states in one.states.items():
        present = one.present[key[1]]
        assert torch.equal(present, other.present[key[1]]), key
        assert torch.isnan(states[~present]).all() and torch.isnan(other.states[key][~present]).all(), key
        a, b = states[present], other.states[key][present]
        if exact:
            assert torch.equal(a, b), key
        else:
            assert close(a, b), f"{key[0]} {key[1]}: {((a - b).norm(dim=-1) / a.norm(dim=-1)).max():.1e}"


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether every row of b is a's to RELATIVE of its norm."""
    return bool(((a - b).norm(dim=-1) <= RELATIVE * a.norm(dim=-1)).all())
