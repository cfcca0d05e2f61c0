"""Session: one model, its data sets and its stored traces, shared by all analyses of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from safesteer_interp.errors import BadRequestError, NotApplicableError
from safesteer_interp.files import digest
from safesteer_interp.paths import cache_dir
from safesteer_interp.requests import Request
from safesteer_interp.runner.folders import USUAL, folder_name, model_label
from safesteer_interp.sites import ReadKind
from safesteer_interp.tracing.demand import Catalogue, Demand, Group, unite
from safesteer_interp.tracing.spec import TraceSpec, pick
from safesteer_interp.tracing.view import Part, TraceView


@dataclass
class Settings:
    """Where a run gets its model and data from, and how it computes; what is not about any one analysis."""

    model: str = "mini"
    data: str = ""
    """A data set's name, or the path of a .jsonl file; empty: the model's own, which is the bundled benchmark for every real model."""
    data_root: Path | None = None
    store: Path | None = None
    """Folder of the traces; None: `traces` in the user cache."""
    device: str = "cpu"
    dtype: str = "float32"
    tracer: str = "hooks"
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
    """Loads the model and data sets when first needed, and answers demands from the store or by tracing."""

    settings: Settings
    loaded_model: Any = None
    """An MLLM to use instead of loading `settings.model` (tests, notebooks)."""
    loaded_requests: dict[str, list[Request]] = field(default_factory=dict)
    """Data sets by name, filled as they are loaded; tests and notebooks may hand in their own."""
    bad: list[BadRequestError] = field(default_factory=list)
    """Requests that cannot be used, and why; the others go on without them."""

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
    def known_answer(self) -> bool:
        """True for a model whose right answers are known."""
        return bool(self.model.known_answer)

    @property
    def usual_dataset(self) -> str:
        """The data set that is meant where none is named: the closed world of a model with known answers, else the bundled benchmark."""
        return str(self.model.name) if self.known_answer else USUAL

    @property
    def dataset(self) -> str:
        """Name of the run's data set."""
        return self.settings.data or self.usual_dataset

    @property
    def dataset_name(self) -> str:
        """The run's data set in a sentence: a file by the last part of its path."""
        return Path(self.dataset).name

    @property
    def place(self) -> str:
        """Name of this model's and data set's result folders."""
        m = self.model
        return folder_name(model_label(str(m.name), str(m.source), str(m.fingerprint)), self.dataset, usual=self.usual_dataset)

    def all_requests(self, dataset: str = "") -> list[Request]:
        """Every request of a data set (default: the run's) that the model can take: those with images only if it takes images, and
        none of those that turned out to be unusable (`bad`)."""
        name = dataset or self.dataset
        if name not in self.loaded_requests:
            self.loaded_requests[name] = self._load(name)
        left_out = {error.request_id for error in self.bad}
        takes_images = self.model.takes_images
        return [r for r in self.loaded_requests[name] if (takes_images or r.image is None) and r.id not in left_out]

    def _load(self, name: str) -> list[Request]:
        from safesteer_interp.datasets.registry import load_sound

        good, bad = load_sound(name, data_root=self.settings.data_root)
        self.bad += bad
        return good

    def leave_out(self, error: BadRequestError) -> None:
        """Goes on without the request that an error names. Raises the error where it names none that is still there."""
        if not any(error.request_id == r.id for name in list(self.loaded_requests) for r in self.all_requests(name)):
            raise error
        self.bad.append(error)

    @cached_property
    def _keys(self) -> dict[int, str]:
        return {}

    def key_of(self, request: Request) -> str:
        """The request's content key, computed once."""
        known = self._keys
        if id(request) not in known:
            known[id(request)] = request.key()
        return known[id(request)]

    def requests_for(self, spec: TraceSpec) -> list[Request]:
        """The requests a spec picks. Raises NotApplicableError when there is none."""
        found = pick(self.all_requests(spec.dataset), spec)
        if not found:
            conditions = {k: v for k, v in spec.__dict__.items() if k in ("attacks", "split", "harmful") and v is not None}
            asked = ", ".join(f"{k} {_words(v)}" for k, v in conditions.items()) or "this model"
            where = Path(spec.dataset).name or self.dataset_name
            other = ", ".join(sorted({str(r.split) for r in self.all_requests(spec.dataset)} - {str(spec.split)}))
            advice = f" Its requests are of split {other}; say which is which in the field `split`." if spec.split and other else ""
            raise NotApplicableError(f'the data set "{where}" has no request that "{self.model.name}" takes for {asked}.{advice}')
        return found

    def demand_of(self, spec: TraceSpec) -> Demand:
        return Demand.of(spec, self.dataset, int(self.model.n_layers))

    def data_key(self, spec: TraceSpec) -> str:
        """Hash of everything about a spec's requests that can reach a table: content, ids, labels, pairs and splits."""
        requests = self.requests_for(spec)
        return digest([(r.id, self.key_of(r), r.harmful, str(r.attack), r.scenario, r.pair, str(r.split), r.intent) for r in requests])

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.settings.traces, digest([self.model.fingerprint, self.settings.dtype]))

    def _answering(self, demand: Demand) -> list[Group]:
        current = {r.id: self.key_of(r) for r in self.all_requests(demand.dataset)}
        return self.catalogue.answering(demand, current)

    def missing(self, specs: Sequence[TraceSpec]) -> list[Group]:
        """The groups still to be traced before these specs can be answered."""
        wanted = []
        for spec in specs:
            demand = self.demand_of(spec)
            stored = {item for group in self._answering(demand) for item in group.requests.items()}
            keyed = [(r.id, self.key_of(r)) for r in self.requests_for(spec)]
            wanted.append((demand, [item for item in keyed if item not in stored]))
        return unite(wanted, int(self.model.width))

    def make(self, group: Group) -> None:
        """Traces a group, or finds it in the store, where a damaged shard is made again."""
        from safesteer_interp.tracing.collect import collect
        from safesteer_interp.tracing.tracer import Sampling

        by_id = {r.id: r for r in self.all_requests(group.demand.dataset)}
        demand, s = group.demand, self.settings
        # Without any image there are no image tokens to read; the view answers such a read with NaN, as it does row by row elsewhere.
        pictured = any(by_id[i].image is not None for i in group.requests)
        group.trace = collect(
            self.model,
            [by_id[i] for i in group.requests],
            sites=demand.sites,
            reads=[r for r in demand.reads if pictured or r != ReadKind.IMAGE_MEAN],
            tracer=s.tracer,
            sampling=Sampling(demand.max_new_tokens, demand.temperature, demand.seed),
            batch_size=s.batch_size,
            store=s.traces,
            progress=s.progress,
            logits=demand.logits,
        )
        self.catalogue.add(group)

    def view(self, spec: TraceSpec) -> TraceView:
        """The states a spec asked for; traced on the spot where the store lacks them."""
        for group in self.missing([spec]):
            self.make(group)
        demand, requests = self.demand_of(spec), self.requests_for(spec)
        usable = self._answering(demand)
        places: dict[int, list[int]] = {}
        for at, request in enumerate(requests):
            item = (request.id, self.key_of(request))
            places.setdefault(next(i for i, g in enumerate(usable) if item in g.requests.items()), []).append(at)
        parts = []
        for number, rows in places.items():
            if usable[number].trace is None:
                self.make(usable[number])
            trace = usable[number].trace
            position = {name: row for row, name in enumerate(trace.index["request"])}
            parts.append(Part(trace, np.array([position[requests[row].id] for row in rows]), np.array(rows)))
        return TraceView(
            parts,
            requests,
            sites=demand.sites,
            reads=demand.reads,
            max_new_tokens=demand.max_new_tokens,
            decode=self._decode,
        )

    def _decode(self, tokens: list[int]) -> str:
        return str(self.model.tokenizer.decode(tokens, skip_special_tokens=True))


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
