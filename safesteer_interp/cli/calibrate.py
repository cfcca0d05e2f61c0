"""`safesteer calibrate`: choose SafeSteer's settings for a model on validation pairs, once; `chat` and the findings then know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safesteer_interp.cli.command import emit_json, emit_table, parse, say
from safesteer_interp.cli.inputs import choose_requests
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.errors import UsageError


@dataclass(frozen=True)
class Calibrate:
    """Try a grid of settings on validation pairs and keep the best: the preset `calibrated` of this model.

    The objective is the share of harmful requests complied with + the share of harmless ones refused + the shares of both whose answer
    degenerated + the nats per token that answers to harmless requests lose under the undefended model (those that gain lose 0). Probe and
    vector are fitted on the fit split, thresholds and everything else are chosen on the validation split; test pairs are never read. The
    whole grid is written beside the result. Stopped, the same command goes on where it was.
    """

    model: str = "mini"
    """"mini", "planted", a folder or a hub id."""
    data: str = ""
    """Data set with fit and validation splits; default: the bundled benchmark, or "planted" for the planted model."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    out: Path | None = None
    """Folder for the result; default: in the user cache, where `chat` and `run` look for it."""
    fits: tuple[str, ...] = ("token", "contrastive")
    """Fits of the probe: prompt, token, contrastive. One that fails its sign test is left out and named."""
    betas: tuple[float, ...] = (1.0, 2.0)
    """Weights of the score in softmax(log p + beta z)."""
    steps: tuple[int, ...] = (2, 5)
    """Numbers of guided tokens; 0 alone leaves the probe out."""
    over_refusals: tuple[float, ...] = (0.1, 0.2)
    """Shares of harmless validation requests that the gate may call harmful; they set its thresholds."""
    rules: tuple[str, ...] = ("none", "toward_text/unit")
    """How MSAV is applied (sign/norm), or "none"."""
    k: int = 5
    """Candidates a step."""
    fit_pairs: int = 32
    """Pairs that probe and vector are fitted on; 0: all."""
    pairs: int = 40
    """Validation pairs that the finalists answer; 0: all."""
    first_pairs: int = 10
    """Validation pairs that every setting answers first."""
    finalists: int = 4
    """Settings that go on to all validation pairs."""
    max_new_tokens: int = 24
    """Longest answer, in tokens."""
    batch_size: int = 96
    """Answers per batch; changes no number."""
    seed: int = 0
    """Of the samples."""
    json: bool = False
    """Print what was chosen as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Calibrates, writes and says what was chosen."""
        from safesteer_interp.defenses.presets import calibration_folder
        from safesteer_interp.evaluation.calibration import Effort, Grid, calibrate

        grid = Grid(self.fits, self.betas, self.steps, self.over_refusals, self.rules, self.k)
        effort = Effort(
            self.fit_pairs or None, self.pairs or None, self.first_pairs, self.finalists, self.max_new_tokens, self.seed, self.batch_size
        )
        self._check()
        requests = choose_requests(self.data or ("planted" if self.model == "planted" else "bundled"), data_root=self.data_root)
        mllm = self.loading.load(self.model)
        found = calibrate(mllm, requests, grid, effort)
        folder = found.save(self.out or calibration_folder(mllm))
        for fit, why in found.record["left_out"].items():
            say(f"left out: the {fit} fit ({why})")
        if self.json:
            emit_json({**found.record, "folder": folder})
        else:
            self._show(found)
        say(f"chosen: {found.record['chosen']['name']}; the whole grid is in {folder / 'grid.csv'}")
        return 0

    def _check(self) -> None:
        for name in ("first_pairs", "finalists", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} leaves nothing to do; give 1 or more.")
        for name in ("fit_pairs", "pairs"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} is not possible; give a number of pairs, or 0 for all.")
        if max(self.steps, default=0) > self.max_new_tokens:
            raise UsageError(f"--steps {max(self.steps)} are more than the {self.max_new_tokens} tokens of an answer.")

    @staticmethod
    def _show(found: Any) -> None:
        last = found.table[found.table["round"] == found.table["round"].max()].sort_values("objective")
        columns = ("setting", "objective", "not refused", "over-refusal", "nats lost per token", "degenerate")
        keys = ("objective", "not_refused", "over_refusal", "nats_lost", "degenerate")
        emit_table(columns, [(row["setting"], *(f"{row[key]:.3f}" for key in keys)) for _, row in last.iterrows()])


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Calibrate, "calibrate", arguments).run()
