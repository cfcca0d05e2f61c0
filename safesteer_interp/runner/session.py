"""Session: one model, its data sets and its trace library, shared by all analyses of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safesteer_interp.errors import BadRequestError, NotApplicableError
from safesteer_interp.files import digest
from safesteer_interp.paths import beside, store_dir
from safesteer_interp.requests import Request
from safesteer_interp.runner import remote
from safesteer_interp.runner.folders import folder_name, model_label, thinking_label
from safesteer_interp.tracing.demand import Demand, Want
from safesteer_interp.tracing.engines import DEFAULT_TRACER, check_remote, check_remote_loading
from safesteer_interp.tracing.spec import TraceSpec, pick

if TYPE_CHECKING:
    from safesteer_interp.tracing.library import TraceLibrary
    from safesteer_interp.tracing.view import TraceView

Found = TypeVar("Found")
LOADING = (
    "device", "dtype", "device_map", "max_memory", "offload", "quant", "attn_implementation", "max_pixels", "adapter",
    "trust_remote_code", "revision", "thinking",
)  # fmt: skip
"""The settings that `load_model` takes."""


@dataclass
class RunSettings:
    """Where a run gets its model and data from, and how it computes; what is not about any one analysis."""

    model: str = "mini"
    data: str = ""
    """A data set's name, or the path of a .jsonl file; empty: the model's own, which is the bundled benchmark for every real model."""
    data_root: Path | None = None
    store: Path | None = None
    """Folder of the traces; None: `traces` in the user cache."""
    device: str = "cpu"
    dtype: str = "float32"
    device_map: str | None = None
    max_memory: str | None = None
    offload: Path | None = None
    quant: str | None = None
    attn_implementation: str | None = None
    max_pixels: int | None = None
    adapter: str | None = None
    answer_dtype: str = "auto"
    """Number format that answers are written in: see `models.casting.answering_dtype`."""
    tracer: str = DEFAULT_TRACER
    remote: bool | str = False
    """True: states come from NDIF (or NDIF_HOST); a host's URL; nnsight only. What runs the model itself is skipped."""
    batch_size: int | str = 16
    trust_remote_code: bool = False
    revision: str | None = None
    thinking: bool | None = None
    """Whether a reasoning model's template asks it to think first; None leaves the template's own default."""
    progress: bool = True

    @property
    def traces(self) -> Path:
        return self.store if self.store is not None else store_dir("traces")

    @property
    def responses(self) -> Path:
        """Folder of the stored answers: beside the traces."""
        return beside(self.store, "responses") if self.store is not None else store_dir("responses")


@dataclass
class Session:
    """Loads the model and data sets when first needed; the states of their requests come from the trace library."""

    settings: RunSettings
    loaded_model: Any = None
    """An MLLM to use instead of loading `settings.model` (tests, notebooks)."""
    loaded_requests: dict[str, list[Request]] = field(default_factory=dict)
    """Data sets by name, filled as they are loaded; tests and notebooks may hand in their own."""
    bad: list[BadRequestError] = field(default_factory=list)
    """Requests that cannot be used, and why; the others go on without them."""
    sharing: ExitStack | None = field(default=None, init=False, repr=False)
    """Open while prompts are shared; closes what remembers them."""

    @cached_property
    def model(self) -> Any:
        """The MLLM. Raises InputError or UsageError when it cannot be loaded."""
        if self.loaded_model is not None:
            return self.loaded_model
        if self.settings.remote:
            from safesteer_interp.models.described import describe_model

            check_remote(self.settings.tracer)
            check_remote_loading({name: getattr(self.settings, name) for name in LOADING})
            return describe_model(self.settings.model, revision=self.settings.revision, thinking=self.settings.thinking)
        from safesteer_interp.models import load_model

        return load_model(self.settings.model, **{name: getattr(self.settings, name) for name in LOADING})

    @property
    def dtype(self) -> str:
        """The number format the model is in, whatever it was asked for by ("auto")."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def stops(self) -> list[int]:
        """Tokens that end its answers beyond its tokenizer's own: no fingerprint covers them, so a result's identity names them."""
        from safesteer_interp.models.special_tokens import further_stops

        return further_stops(self.model)

    @property
    def answer_dtype(self) -> str:
        """The number format that answers are written in. Raises UsageError for an unknown one."""
        from safesteer_interp.models.casting import answering_dtype

        return answering_dtype(self.model, self.settings.answer_dtype)

    @cached_property
    def answerer(self) -> Any:
        """The model that writes answers: the same one, in the number format meant for that. Raises NotApplicableError in a remote run."""
        from safesteer_interp.models.casting import in_dtype

        if self.settings.remote:
            raise NotApplicableError(remote.ANSWERS)
        answerer = in_dtype(self.model, self.answer_dtype)
        self._share(answerer)
        return answerer

    @contextmanager
    def sharing_prompts(self) -> Iterator[None]:
        """While open, analyses that answer the same requests read each prompt once (`decoding/prompt_cache.py`)."""
        with ExitStack() as self.sharing:
            if "answerer" in self.__dict__:
                self._share(self.answerer)
            yield
        self.sharing = None

    def _share(self, answerer: Any) -> None:
        from safesteer_interp.decoding.prompt_cache import remembering_prompts

        if self.sharing is not None:
            self.sharing.enter_context(remembering_prompts(answerer))

    @property
    def known_answer(self) -> bool:
        """True for a model whose right answers are known."""
        return bool(self.model.known_answer)

    @property
    def usual_dataset(self) -> str:
        """The data set that is meant where none is named: the closed world of a model with known answers, else the bundled benchmark."""
        return str(self.model.usual_dataset)

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
        label = model_label(str(m.name), str(m.source), str(m.fingerprint))
        return folder_name(label + thinking_label(m.thinking), self.dataset, usual=self.usual_dataset)

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
        """What a spec asks of each request. Raises UsageError for a site or read the model lacks."""
        return Demand.of(spec, self.dataset, int(self.model.n_layers), int(self.model.n_vision_layers))

    def want(self, spec: TraceSpec) -> Want:
        """What a spec asks of this run's requests. Raises as `demand_of` and `requests_for` do."""
        return Want(self.demand_of(spec), tuple(self.requests_for(spec)))

    def data_key(self, spec: TraceSpec) -> str:
        """Hash of everything about a spec's requests that can reach a table: what the model is given, ids, labels, pairs and splits."""
        return self._of_sound(lambda: self._data_key(self.requests_for(spec)))

    def _data_key(self, requests: Sequence[Request]) -> str:
        labels = [(r.id, r.harmful, str(r.attack), r.scenario, r.pair, str(r.split), r.intent) for r in requests]
        return digest(list(zip(self.library.contents.of(requests), labels, strict=True)))

    @cached_property
    def library(self) -> TraceLibrary:
        """The traces of this run's model."""
        from safesteer_interp.tracing.library import TraceLibrary
        from safesteer_interp.tracing.store import Store

        s = self.settings
        return TraceLibrary(self.model, Store(s.traces), tracer=s.tracer, batch_size=s.batch_size, progress=s.progress, remote=s.remote)

    def missing(self, specs: Sequence[TraceSpec]) -> list[Want]:
        """The traces still to be made before these specs can be answered."""
        return self._of_sound(lambda: self.library.missing(map(self.want, specs)))

    def view(self, spec: TraceSpec) -> TraceView:
        """The states a spec asked for; traced on the spot where the store lacks them."""
        return self.library.view(self.want(spec))

    def _of_sound(self, work: Callable[[], Found]) -> Found:
        """What some work gives on the requests that can be encoded; the others are left out, each with its reason."""
        while True:
            try:
                return work()
            except BadRequestError as cause:
                self.leave_out(cause)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def __getattr__(name: str) -> Any:
    """`Settings`, as `RunSettings` was called, until 0.2."""
    if name == "Settings":
        warnings.warn("runner.session.Settings is called RunSettings now.", DeprecationWarning, stacklevel=2)
        return RunSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
