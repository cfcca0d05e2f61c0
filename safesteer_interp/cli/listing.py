"""`safesteer list [KIND]`: what exists, and under which name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from safesteer_interp.cli.command import Positional, emit_json, emit_table, parse, say
from safesteer_interp.errors import UsageError, did_you_mean

Rows = list[dict[str, Any]]


def models() -> Rows:
    """What `load_model` and --model take."""
    from safesteer_interp.models.families.tested import how_tested
    from safesteer_interp.models.loading import available_models

    def tested(name: str) -> str:
        return how_tested(name.removeprefix("tiny:")) if name.startswith("tiny:") else ""

    return [{"name": name, "what": what, "tested": tested(name)} for name, what in available_models().items()]


def datasets() -> Rows:
    """What --requests and --data take (options: NAME:option), besides the path of a .jsonl file (`safesteer list fields`)."""
    from safesteer_interp.datasets import DATASETS
    from safesteer_interp.paths import data_root

    root = data_root()

    def place(folder: str | None) -> str:
        if folder is None:
            return "bundled"
        return "found" if root is not None and (root / folder).is_dir() else f"not found: put {folder}/ under $SAFESTEER_DATA"

    return [
        {
            "name": name,
            "what": entry.title + (" (known answers)" if entry.known_answer else ""),
            "data": place(entry.folder),
            "licence": entry.licence,
            "cite": entry.citation,
        }
        for name, entry in DATASETS.items()
    ]


def fields() -> Rows:
    """Fields of a row of your own .jsonl file, one JSON object a line."""
    from safesteer_interp.datasets.jsonl import FIELDS

    return [{"name": name, "what": what} for name, what in FIELDS.items()]


def tracers() -> Rows:
    """The engines that read and edit states; all give the same numbers."""
    what = {
        "nnsight": "local, or remote on NDIF with --remote",
        "transformer_lens": "the bridge: named hook points (no adapter for PaliGemma)",
        "hooks": "default; plain torch forward hooks: the yardstick",
    }
    from safesteer_interp.tracing.tracer import TRACERS

    return [{"name": name, "what": what.get(name, target)} for name, target in TRACERS.items()]


def sites() -> Rows:
    """Places in the decoder, and in the eyes before it, that can be read or edited."""
    what = {
        "vision": "state after a layer of the vision tower, read as image_mean: vision.3, vision.0-5, vision (all)",
        "projector": "what the projector hands to the decoder, read as image_mean",
        "embed": "what enters decoder layer 0, image features merged in",
        "resid_post": "residual stream after a layer: resid_post.12, resid_post.0-9, resid_post (all)",
        "attn_out": "what attention adds to the residual stream, per layer",
        "mlp_out": "what the MLP adds to the residual stream, per layer",
        "final_norm": "the state after the final norm, which the paper probes",
    }
    return [{"name": name, "what": text} for name, text in what.items()]


def reads() -> Rows:
    """Named positions."""
    what = {
        "last_prompt": "the last prompt token",
        "last_prompt:-K": "the prompt token K before the last one",
        "image_mean": "mean over the image's tokens",
        "user_mean": "mean over the user's tokens",
        "step:K": "the pass that consumed the K-th generated token; step:1-8 for a range",
    }
    return [{"name": name, "what": text} for name, text in what.items()]


def attacks() -> Rows:
    """Where the harm of a request sits, in the benchmarks' own names."""
    what = {
        "TEXT": "harmful text, no image",
        "CB": "harmful text beside a blank image",
        "SD": "harmless text beside a picture that carries the harm",
        "TYPO": "harmless text beside typography that carries the harm",
        "SD_TYPO": "harmless text beside a picture above typography",
        "none": "harmless, and no one's twin",
    }
    return [{"name": name, "what": text} for name, text in what.items()]


def analyses() -> Rows:
    """The findings: one file each, the shipped ones and those in ./analyses."""
    from safesteer_interp.runner.discovery import discover

    return [{"name": a.id, "replicates": a.replicates, "what": a.question} for a in discover().values()]


def unreadable_analyses() -> int:
    """Names the files in ./analyses that are no analysis; the largest of their exit codes."""
    from safesteer_interp.runner.discovery import discover

    broken = discover().broken.values()
    for cause in broken:
        say(f"safesteer: {cause}")
    return max((cause.exit_code for cause in broken), default=0)


def defenses() -> Rows:
    """Ways to answer safely, for `safesteer chat` and the evaluations, with their options."""
    from safesteer_interp.defenses.registry import DEFENSES, PRESETS, defense_class

    classes = {name: defense_class(name) for name in DEFENSES}
    rows: Rows = [{"name": name, "what": _first_line(cls), "options": _options(cls, cls.options())} for name, cls in classes.items()]
    return rows + [
        {"name": name, "what": f"{of} in one of its settings", "options": " ".join(f"{k}={v}" for k, v in options.items())}
        for name, (of, options) in PRESETS.items()
    ]


def judges() -> Rows:
    """Who says whether an answer is a refusal or harmful: NAME:option=value,..."""
    from safesteer_interp.evaluation.judge import JUDGES, judge_class
    from safesteer_interp.fields import option_types

    classes = {name: judge_class(name) for name in JUDGES}
    return [{"name": name, "what": _first_line(cls), "options": _options(cls, option_types(cls))} for name, cls in classes.items()]


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _options(cls: type, known: Iterable[str]) -> str:
    """ "k=5 gate=none": the options with their defaults, long texts cut."""
    given = [(name, str(getattr(cls, name, "..."))) for name in known]
    return " ".join(f"{name}={value if len(value) <= 24 else value[:20] + '...'}" for name, value in given)


KINDS: dict[str, Callable[[], Rows]] = {
    "models": models,
    "tracers": tracers,
    "sites": sites,
    "reads": reads,
    "attacks": attacks,
    "datasets": datasets,
    "fields": fields,
    "defenses": defenses,
    "judges": judges,
    "analyses": analyses,
}


@dataclass(frozen=True)
class List:
    """List what exists. Without a kind: the kinds themselves."""

    kind: Positional[str] = ""
    """models, tracers, sites, reads, attacks, datasets, analyses, ..."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the rows of one kind, or the kinds."""
        if not self.kind:
            rows = [{"kind": name, "what": (rows_of.__doc__ or "").strip()} for name, rows_of in KINDS.items()]
        elif self.kind in KINDS:
            rows = KINDS[self.kind]()
        else:
            raise UsageError(f'nothing of the kind "{self.kind}" is listed.{did_you_mean(self.kind, KINDS)}')
        if self.json:
            emit_json(rows)
        else:
            columns = list(rows[0]) if rows else ["name"]
            emit_table(columns, [[row.get(column, "") for column in columns] for row in rows])
        return unreadable_analyses() if self.kind == "analyses" else 0


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(List, "list", arguments).run()
