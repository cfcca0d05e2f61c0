"""`safesteer export`: activations of a model on requests, token by token, as a dataset that SAELens trains dictionaries on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safesteer_interp.cli.command import emit_json, parse, say
from safesteer_interp.cli.inputs import load_inputs
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.cli.words import words
from safesteer_interp.errors import BadRequestError


@dataclass(frozen=True)
class Export:
    """Write the states of all prompt tokens at one site for SAELens: train with use_cached_activations and cached_activations_path.

    Beside the states lie token ids and, for reading features later, each token's role and request (index.csv).
    """

    out: Path
    """Folder to write; new or empty."""
    site: str
    """A site of the decoder, e.g. resid_post.15."""
    model: str = "mini"
    """"mini", "planted", a folder or a hub id."""
    requests: str = "bundled"
    """A data set by name (`safesteer list datasets`), or a path."""
    roles: str = "image,user,template"
    """Tokens of these roles: system, image, user, template."""
    context_size: int = 32
    """Tokens a row; SAELens is told the same number."""
    attacks: str = ""
    """Only these attacks, e.g. "CB,TYPO"; empty: all."""
    split: str = ""
    """Only this split: align, fit, validation or test; empty: all."""
    limit: int | None = None
    """At most this many requests."""
    batch_size: int = 16
    """Requests per pass. Changes no number beyond rounding."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    dry_run: bool = False
    """Print requests, tokens and bytes, and stop."""
    json: bool = False
    """Print the result as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Writes the dataset, or says what it would take; exit code 3 when a request that cannot be used was left out."""
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
        )
        from safesteer_interp.tracing.activations import export_activations, planned

        roles = words(self.roles)
        if self.dry_run:
            plan = planned(model, requests, self.site, roles=roles, context_size=self.context_size, batch_size=self.batch_size)
            if self.json:
                emit_json(plan)
            else:
                print(f"{plan['requests']} prompt passes, {plan['tokens']} tokens of width {plan['d_in']}: {plan['bytes'] / 1e6:.1f} MB")
            return BadRequestError.exit_code if bad else 0
        made = export_activations(
            model, requests, self.site, self.out, roles=roles, context_size=self.context_size, batch_size=self.batch_size
        )
        if self.json:
            emit_json(asdict(made))
        else:
            print(f"{made.tokens} tokens in {made.rows} rows of {made.context_size} in {made.folder}")
            say(f'In SAELens: hook_name="{made.hook_name}", d_in={made.d_in}, context_size={made.context_size}, '
                "use_cached_activations=True, "
                f'cached_activations_path="{made.folder}".')  # fmt: skip
        return BadRequestError.exit_code if bad else 0


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Export, "export", arguments).run()
