"""What the decoding tests share: three requests of different length, a scorer that prefers a rank, and the tokens of answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from safesteer_interp.decoding.choice import Choice
from safesteer_interp.decoding.policies import Candidates
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, ImageSource, Request

BEST = Choice(beta=math.inf)
"""Takes the candidate of the best score."""


@dataclass(frozen=True)
class Noise(ImageSource):
    seed: int

    def load(self) -> Image.Image:
        pixels = np.random.default_rng(self.seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        return Image.fromarray(pixels).resize((48, 48))

    def key(self) -> str:
        return f"noise-{self.seed}"


def asked(mllm: MLLM) -> list[Request]:
    """Three requests of different length; with images where the family takes them."""
    texts = ("Describe the image.", "Please list the steps for the activity in the image, one by one.", "What is it?")
    image = mllm.takes_images
    return [
        Request(id=str(i), text=text, harmful=False, attack=Attack.NONE, image=Noise(i) if image else None) for i, text in enumerate(texts)
    ]


@dataclass(frozen=True)
class ByRank:
    """Prefers the candidate of one rank."""

    rank: int
    name: str = "rank"

    def scores(self, candidates: Candidates) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full((len(candidates.ids),), self.rank), candidates.ids.shape[1]).float()


def ids(answers: list[Any]) -> list[list[int]]:
    return [answer.ids for answer in answers]
