"""Context: what `table(ctx, p)` may ask for, and the record of what it did ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from safesteer_interp.progress import track
from safesteer_interp.requests import Request
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.session import Session
from safesteer_interp.tracing.spec import TraceSpec

if TYPE_CHECKING:
    from safesteer_interp.tracing.view import TraceView

Item = TypeVar("Item")


class Context:
    """Handed to one analysis of one run. Random streams depend on the analysis, its `seed` parameter and a name, on nothing else."""

    def __init__(self, session: Session, analysis: Analysis, p: Any, work_dir: Path) -> None:
        self.session = session
        self.analysis = analysis
        self.p = p
        self.work_dir = work_dir
        """Kept between runs with the same inputs: for checkpoints of long evaluations."""
        self.trace_keys: set[str] = set()
        """Keys of the traces read so far, for the provenance."""
        self.seeds: dict[str, int] = {}
        self.answered_in = ""
        """Number format of the answers, once one was asked for; for the provenance."""

    @property
    def model(self) -> Any:
        """The MLLM, loaded when first used."""
        return self.session.model

    @property
    def answerer(self) -> Any:
        """The model in the number format that answers are written in; states are read from `model`."""
        self.answered_in = self.session.answer_dtype
        return self.session.answerer

    @property
    def model_name(self) -> str:
        return str(self.model.name)

    @property
    def n_layers(self) -> int:
        return int(self.model.n_layers)

    @property
    def dataset(self) -> str:
        """Name of the run's data set."""
        return self.session.dataset

    @property
    def known_answer(self) -> bool:
        """True on a model whose right answers are known: its results prove machinery and are no findings."""
        return self.session.known_answer

    def trace(self, spec: TraceSpec) -> TraceView:
        """States of the requests a spec picks; `needs` should have named it, else it is traced on the spot."""
        view = self.session.view(spec)
        self.trace_keys.update(view.keys)
        return view

    def requests(self, spec: TraceSpec) -> list[Request]:
        """The requests a spec picks, in the order of `trace(spec).index`."""
        return self.session.requests_for(spec)

    def collect(self, requests: Sequence[Request], **ask: Any) -> TraceView:
        """`tracing.collecting.collect` on the run's model, store and tracer, for traces with edits; sites, reads, edits, ... as there."""
        view = self.session.library.collect(list(requests), **ask)
        self.trace_keys.update(view.keys)
        return view

    def head(self, states: np.ndarray, *, normed: bool = False, batch_size: int = 64) -> np.ndarray:
        """Next-token logits [n, vocab] float32 that states [n, d] would give: final norm (unless `normed`), then the LM head.

        The logit lens with the final norm applied (arXiv 2502.14744 section 3). Give `normed=True` for states of site final_norm.
        """
        import torch

        from safesteer_interp.models.head import logits

        model = self.model
        blocks = []
        with torch.inference_mode():
            for start in range(0, len(states), batch_size):
                h = torch.from_numpy(np.ascontiguousarray(states[start : start + batch_size]))
                blocks.append(logits(model, h.to(device=model.device, dtype=model.dtype), normed=normed).cpu().numpy())
        return np.concatenate(blocks).astype(np.float32)

    def seed(self, name: str) -> int:
        """A seed for one named purpose, from the analysis id, the `seed` parameter and the name."""
        base = f"{self.analysis.id}\0{getattr(self.p, 'seed', 0)}\0{name}"
        self.seeds[name] = int.from_bytes(sha256(base.encode()).digest()[:4], "big")
        return self.seeds[name]

    def rng(self, name: str) -> np.random.Generator:
        """A random generator for one named purpose."""
        return np.random.default_rng(np.random.SeedSequence(self.seed(name)))

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """The items, with progress and ETA on stderr."""
        return track(items, f"{self.analysis.id}: {label}", total=total, enabled=self.session.settings.progress)
