"""Flags that `run` and `sweep` share: where the model and data come from, and how to compute."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.errors import UsageError
from safesteer_interp.tracing.engines import TracerName, chosen

SETTINGS = ("model", "data", "data_root", "store", "answer_dtype", "batch_size", "remote")


@dataclass(frozen=True)
class RunFlags:
    """Where a run gets its model and data from."""

    model: str = "mini"
    """"mini", "planted", a folder or a hub id."""
    data: str = ""
    """The requests: a data set (`safesteer list datasets`) or a .jsonl file; default: bundled (planted for the planted model)."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    profile: Literal["quick", "full"] = "quick"
    """Sizes: quick for minutes, full for the numbers of a paper."""
    out: Path = Path("figures")
    """Folder of the results."""
    analyses: Path | None = None
    """Folder with analyses of your own, besides the shipped ones and those in ./analyses."""
    store: Path | None = None
    """Folder of traces; answers and candidates go beside it; default: "traces" in the user cache."""
    answer_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format that answers are written in; auto: bfloat16 where the processor multiplies it, else as loaded. States: --dtype."""
    tracer: TracerName | None = None
    """The engine; all three give the same numbers. Default: hooks, or nnsight with --remote."""
    remote: bool = False
    """Read states on NDIF (nnsight only; the key is read from the environment, no weights are fetched). What runs the model itself is
    skipped, with the reason."""
    batch_size: str = "16"
    """Requests per pass, or auto: the largest that fits, remembered per model. Changes no number."""
    fresh: bool = False
    """Compute again even what is finished and unchanged."""
    dry_run: bool = False
    """Print which traces are missing and how many bytes they take, and stop."""
    json: bool = False
    """Print the outcome as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def for_runner(self) -> dict[str, Any]:
        """The keyword arguments of `runner.run` and `plan`."""
        return {
            "profile": self.profile,
            "out": self.out,
            "folder": self.analyses,
            **self.loading.arguments(),
            "tracer": chosen(self.tracer, remote=self.remote),
            **{name: getattr(self, name) for name in SETTINGS},
        }


def overrides(settings: tuple[str, ...]) -> dict[str, str]:
    """{"layer_choice.pairs": "20"} from NAME=VALUE words. Raises UsageError for a word without "="."""
    found = {}
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f'--set "{word}" is not NAME=VALUE; write for example --set layer_choice.pairs=20.')
        found[name.strip()] = value.strip()
    return found
