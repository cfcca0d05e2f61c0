"""Mechanistic interpretability of safety in multimodal language models, built around SafeSteer (arXiv 2605.11716).

A day's work is at the top; each stage has more of its own (`safesteer_interp.probes`, `.vectors`, `.steering`, ...). All names are loaded
when first used, so that importing the package costs nothing.

- `Request`: one text (and image) asked of a model, with its labels
- `Attack`: where the harm of a request sits
- `Split`: the part of a data set a pair belongs to
- `load_requests`: the requests of a data set, by name or from a file of JSON lines
- `load_bundled`: the bundled benchmark
- `load_model`: a model by name, folder or hub id
- `MLLM`: a model with its processor; `MLLM.of` for one that is loaded already
- `Site`: a place in the decoder
- `Read`: a position in prompt or answer
- `Role`: what a token is
- `collect`: states of requests at sites and reads: a trace
- `Sampling`: how answers are generated: length, temperature, seed
- `DecodingProbe`: SafeSteer's probe, a scikit-learn estimator
- `fit_probe`: the probe of a trace, ready to guide
- `alignment_vectors`: MSAV at every site of a trace
- `refusal_directions`: difference in means of harmful and harmless, at every site of a trace
- `generate`: answers under a policy and edits
- `steer`: answers under one direction
- `SafeSteer`: the defense of the paper
- `evaluate`: a table of judged answers: defenses x requests x seeds
- `Estimate`: a number with its interval and n
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.datasets import load_bundled, load_requests
    from safesteer_interp.decoding import generate
    from safesteer_interp.defenses import SafeSteer, steer
    from safesteer_interp.evaluation import evaluate
    from safesteer_interp.models import MLLM, load_model
    from safesteer_interp.probes import DecodingProbe, fit_probe
    from safesteer_interp.requests import Attack, Request, Split
    from safesteer_interp.sites import Read, Role, Site
    from safesteer_interp.statistics import Estimate
    from safesteer_interp.tracing import Sampling, collect
    from safesteer_interp.vectors import alignment_vectors, refusal_directions

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "requests": ("Request", "Attack", "Split"),
        "datasets": ("load_requests", "load_bundled"),
        "models": ("load_model", "MLLM"),
        "sites": ("Site", "Read", "Role"),
        "tracing": ("collect", "Sampling"),
        "probes": ("DecodingProbe", "fit_probe"),
        "vectors": ("alignment_vectors", "refusal_directions"),
        "decoding": ("generate",),
        "defenses": ("steer", "SafeSteer"),
        "evaluation": ("evaluate",),
        "statistics": ("Estimate",),
    },
)
