"""`safesteer trace`: capture states of a model on requests into the store, or say beforehand what that would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safesteer_interp.cli.command import emit_json, parse, say
from safesteer_interp.cli.inputs import load_inputs
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.cli.words import words
from safesteer_interp.errors import BadRequestError
from safesteer_interp.tracing.engines import TracerName

if TYPE_CHECKING:
    from safesteer_interp.models.mllm import MLLM
    from safesteer_interp.requests import Request
    from safesteer_interp.tracing.store import Store
    from safesteer_interp.tracing.view import TraceView

ROLE_STYLES = {
    "PAD": "dim",
    "SYSTEM": "yellow",
    "IMAGE": "magenta",
    "USER": "bold green",
    "TEMPLATE": "cyan",
    "GENERATED": "bold red",
}


@dataclass(frozen=True)
class Trace:
    """Capture residual streams: every asked site and read in one pass per batch, streamed to the store, resumable.

    Repeat the same command after Ctrl-C, a kill or a full disk: it goes on where it stopped.
    """

    model: str = "mini"
    """"mini", "planted", a folder or a hub id."""
    requests: str = "bundled"
    """A data set by name (`safesteer list datasets`), "planted", or a path."""
    sites: str = "all"
    """"all", or e.g. "resid_post.0-9,final_norm" (`safesteer list sites`)."""
    reads: str = "last_prompt"
    """E.g. "last_prompt,image_mean,step:1-8" (`safesteer list reads`)."""
    tracer: TracerName | None = None
    """The engine; all three give the same numbers. Default: hooks, or nnsight with --remote."""
    attacks: str = ""
    """Only these attacks, e.g. "CB,TYPO"; empty: all."""
    split: str = ""
    """Only this split: align, fit, validation or test; empty: all."""
    limit: int | None = None
    """At most this many requests."""
    max_new_tokens: int = 0
    """Answer tokens to generate; at least the largest step in --reads."""
    temperature: float = 0.0
    """0: greedy."""
    seed: int = 0
    """Of sampled answers; each request has a generator of its own."""
    logits: bool = False
    """Also keep the next-token logits at the last prompt token."""
    batch_size: str = "16"
    """Requests per pass, or auto: the largest that fits, remembered per model. Changes no number."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    store: Path | None = None
    """Folder of traces; default: "traces" in the user cache."""
    remote: bool = False
    """Run on NDIF (nnsight only); the key is read from the environment, and no weights are fetched."""
    part: str = ""
    """Make only this part of the trace, e.g. 2/8, and stop: for several processes or machines that share --store. The same command
    without --part then takes over what they made."""
    dry_run: bool = False
    """Print passes, bytes and free disk, and stop."""
    show_roles: bool = False
    """Print the first request as coloured text by token role, and stop."""
    json: bool = False
    """Print the result as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Traces, or prints the plan or the roles; exit code 3 when a request that cannot be used was left out."""
        from safesteer_interp.sites import parse_reads
        from safesteer_interp.tracing.tracer import Sampling

        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed)
        if self.remote:
            from safesteer_interp.tracing.engines import check_remote

            check_remote(self.tracer)
        parse_reads(self.reads)  # what needs no model is refused before a large one is loaded
        bad: list[BadRequestError] = []
        model, requests = load_inputs(
            self.model,
            self.requests,
            data_root=self.data_root,
            attacks=words(self.attacks),
            split=self.split or None,
            limit=self.limit,
            loading=self.loading,
            bad=bad,
            remote=self.remote,
        )
        code = BadRequestError.exit_code if bad else 0
        if self.show_roles:
            show_roles(model, requests[0], as_json=self.json)
            return code
        from safesteer_interp.tracing.engines import load_tracer
        from safesteer_interp.tracing.library import TraceLibrary
        from safesteer_interp.tracing.parts import Share
        from safesteer_interp.tracing.store import Store

        if self.part:
            Share.parse(self.part)
        store = Store(self.store)
        library = TraceLibrary(model, store, tracer=self.tracer, batch_size=self.batch_size, remote=self.remote)
        want = library.want(requests, sites=self.sites, reads=self.reads, sampling=sampling, logits=self.logits)
        planned = library.plan(want)
        if self.dry_run:
            emit_json(planned.as_dict()) if self.json else print(planned)
            return code
        if planned.batches:
            load_tracer(
                library.maker.tracer, model, remote=self.remote
            )  # refuses a missing key, say, before the plan is shown as if it could run
        if self.part:
            made = library.make_share(want, Share.parse(self.part))
            emit_json({"part": self.part, "shards": made}) if self.json else say(f"part {self.part}: {made} shards made.")
            return code
        say(str(planned))
        self._show(library.view(want), store, model)
        return code

    def _show(self, view: TraceView, store: Store, model: MLLM) -> None:
        """Where the states lie: in a trace of their own, or in larger ones that were found."""
        if self.json:
            emit_json(
                {
                    "key": view.key,
                    "keys": list(view.keys),
                    "folder": store.path(view.keys[0]),
                    "folders": [store.path(key) for key in view.keys],
                    "model": model.name,
                    "requests": len(view),
                    "sites": list(map(str, view.sites)),
                    "reads": list(map(str, view.reads)),
                }
            )
            return
        for key in view.keys:
            print(f"trace {key} in {store.path(key)}")
            say(f'Open it with: from safesteer_interp.tracing.store import Store; trace = Store("{store.root}").open("{key}")')
        if len(view.keys) > 1 or len(view.parts[0].trace) > len(view):
            say("More than was asked for lies there; `safesteer_interp.collect` with the same arguments shows these requests alone.")


def role_runs(model: MLLM, request: Request) -> list[tuple[str, int, str]]:
    """Neighbouring tokens of one role together: (role, number of tokens, their text), in order."""
    from itertools import groupby

    from safesteer_interp.sites import Role

    batch = model.encode([request])
    tokens = list(zip(batch.input_ids[0].tolist(), batch.roles[0].tolist(), strict=True))
    runs = [(Role(role).name, [token for token, _ in run]) for role, run in groupby(tokens, key=lambda pair: pair[1])]
    return [(role, len(ids), model.tokenizer.decode(ids)) for role, ids in runs]


def show_roles(model: MLLM, request: Request, *, as_json: bool = False) -> None:
    """Prints one encoded request, coloured by what each token is, with a legend; an image's many tokens are shown as one word."""
    from rich.console import Console
    from rich.text import Text

    runs = role_runs(model, request)
    if as_json:
        emit_json({"request": request.id, "runs": [{"role": role, "tokens": n, "text": text} for role, n, text in runs]})
        return
    console = Console()
    legend, shown = Text("roles: "), Text()
    for role in dict.fromkeys(role for role, _, _ in runs):
        total = sum(n for known, n, _ in runs if known == role)
        legend.append(f" {role} ({total}) ", style=ROLE_STYLES[role]).append(" ")
    coloured = console.is_terminal and not console.no_color
    for role, n, text in runs:
        mark = "" if coloured else f"<<{role}>>"  # piped or without colour, the roles are written out
        shown.append(mark + (f"[image: {n} tokens]" if role == "IMAGE" else text), style=ROLE_STYLES[role])
    console.print(Text(f"{model.name}, request {request.id}, {sum(n for _, n, _ in runs)} tokens", style="bold"))
    console.print(legend)
    console.print(shown, soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Trace, "trace", arguments).run()
