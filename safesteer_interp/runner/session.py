"""Session: one model, its data sets and its trace library, shared by all analyses of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safesteer_interp.errors import NotApplicableError
from safesteer_interp.files import digest
from safesteer_interp.paths import cache_dir
from safesteer_interp.requests import Request
from safesteer_interp.tracing.demand import Demand, Want
from safesteer_interp.tracing.engines import DEFAULT_TRACER
from safesteer_interp.tracing.spec import TraceSpec, pick

if TYPE_CHECKING:
    from safesteer_interp.tracing.library import TraceLibrary
    from safesteer_interp.tracing.view import TraceView


@dataclass
class Settings:
    """Where a run gets its model and data from, and how it computes; what is not about any one analysis."""

    model: str = "mini"
    data: str = "bundled"
    data_root: Path | None = None
    store: Path | None = None
    """Folder of the traces; None: `traces` in the user cache."""
    device: str = "cpu"
    dtype: str = "float32"
    tracer: str = DEFAULT_TRACER
    batch_size: int = 16
    trust_remote_code: bool = False
    revision: str | None = None
    progress: bool = True

    @property
    def traces(self) -> Path:
        return self.store if self.store is not None else cache_dir() / "traces"

    @property
    def responses(self) -> Path:
        """Folder of the stored answers: beside the traces."""
        return self.traces.with_name("responses" if self.store is None else f"{self.traces.name}-responses")


@dataclass
class Session:
    """Loads the model and data sets when first needed; the states of their requests come from the trace library."""

    settings: Settings
    loaded_model: Any = None
    """An MLLM to use instead of loading `settings.model` (tests, notebooks)."""
    loaded_requests: dict[str, list[Request]] = field(default_factory=dict)
    """Data sets by name, filled as they are loaded; tests and notebooks may hand in their own."""

    @cached_property
    def model(self) -> Any:
        """The MLLM. Raises InputError or UsageError when it cannot be loaded."""
        if self.loaded_model is not None:
            return self.loaded_model
        from safesteer_interp.models import load_model

        s = self.settings
        return load_model(s.model, device=s.device, dtype=s.dtype, trust_remote_code=s.trust_remote_code, revision=s.revision)

    def sharing_prompts(self) -> AbstractContextManager[None]:
        """While open, analyses that answer the same requests read each prompt once (`decoding/prompt_cache.py`)."""
        from safesteer_interp.decoding.prompt_cache import remembering_prompts

        return remembering_prompts(self.model)

    @property
    def dataset(self) -> str:
        """Name of the run's data set; the planted model has its own and no other."""
        return "planted" if self.settings.model == "planted" and self.settings.data == "bundled" else self.settings.data

    def all_requests(self, dataset: str = "") -> list[Request]:
        """Every request of a data set (default: the run's) that the model can take: those with images only if it takes images."""
        name = dataset or self.dataset
        if name not in self.loaded_requests:
            self.loaded_requests[name] = self._load(name)
        requests = self.loaded_requests[name]
        return requests if self.model.takes_images else [r for r in requests if r.image is None]

    def _load(self, name: str) -> list[Request]:
        if name == "planted":
            from safesteer_interp.models.planted import planted_requests

            return list(planted_requests())
        from safesteer_interp.datasets import load_requests

        return list(load_requests(name, data_root=self.settings.data_root))

    def requests_for(self, spec: TraceSpec) -> list[Request]:
        """The requests a spec picks. Raises NotApplicableError when there is none."""
        found = pick(self.all_requests(spec.dataset), spec)
        if not found:
            conditions = {k: v for k, v in spec.__dict__.items() if k in ("attacks", "split", "harmful") and v is not None}
            asked = ", ".join(f"{k} {_words(v)}" for k, v in conditions.items()) or "this model"
            where = spec.dataset or self.dataset
            raise NotApplicableError(f'the data set "{where}" has no request that "{self.model.name}" takes for {asked}.')
        return found

    def want(self, spec: TraceSpec) -> Want:
        """What a spec asks of this run's requests. Raises as `requests_for` does, and UsageError for a site the model lacks."""
        return Want(Demand.of(spec, self.dataset, int(self.model.n_layers)), tuple(self.requests_for(spec)))

    def data_key(self, spec: TraceSpec) -> str:
        """Hash of everything about a spec's requests that can reach a table: what the model is given, ids, labels, pairs and splits."""
        requests = self.requests_for(spec)
        contents = self.library.contents.of(requests)
        labels = [(r.id, r.harmful, str(r.attack), r.scenario, r.pair, str(r.split), r.intent) for r in requests]
        return digest(list(zip(contents, labels, strict=True)))

    @cached_property
    def library(self) -> TraceLibrary:
        """The traces of this run's model."""
        from safesteer_interp.tracing.library import TraceLibrary
        from safesteer_interp.tracing.store import Store

        s = self.settings
        return TraceLibrary(self.model, Store(s.traces), tracer=s.tracer, batch_size=s.batch_size, progress=s.progress)

    def missing(self, specs: Sequence[TraceSpec]) -> list[Want]:
        """The traces still to be made before these specs can be answered."""
        return self.library.missing(map(self.want, specs))

    def view(self, spec: TraceSpec) -> TraceView:
        """The states a spec asked for; traced on the spot where the store lacks them."""
        return self.library.view(self.want(spec))


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
