"""`safesteer deploy`: directions and probes as files that steering servers read: llama.cpp, EasySteer and vllm-lens (both on vLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safesteer_interp.cli.command import Positional, emit_json, parse, say
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import with_ending

if TYPE_CHECKING:
    from safesteer_interp.models.mllm import MLLM
    from safesteer_interp.probes.decoding_probe import DecodingProbe
    from safesteer_interp.vectors.direction import Direction

REFUSAL = "refusal"


@dataclass(frozen=True)
class Deploy:
    """Write a direction, or a probe, for a server that steers or captures: safesteer deploy refusal --model M --sites resid_post.12.

    What was saved from Python (`save_directions`, `DecodingProbe.save`) is written as it is;
    "refusal" is estimated here, on the split fit.
    """

    source: Positional[str]
    """"refusal", or a .safetensors file of directions or of a probe that this suite saved."""
    to: Literal["llama.cpp", "easysteer", "vllm-lens"] = "vllm-lens"
    """llama.cpp: a GGUF control vector; easysteer: the same and a JSON request; vllm-lens: the JSON of a request. A probe: the JSON of a
    read-out of captured states, for either server."""
    out: Path = Path("steering")
    """The file; its ending is added."""
    strength: float = 1.0
    """In median residual norms; negative: away from refusal. llama.cpp is told it when it loads the file."""
    sites: str = ""
    """Only these, e.g. resid_post.12 (one layer steers there alone); default: every one there is."""
    model: str = ""
    """The model that is to be steered: needed for "refusal", and to check a file against."""
    data: str = "bundled"
    """Requests that "refusal" is estimated on."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    model_hint: str = "llama"
    """Architecture of the GGUF model, as llama.cpp calls it."""
    json: bool = False
    """Print what was written as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Writes the files and says how they are used."""
        from safesteer_interp.probes.decoding_probe import DecodingProbe

        mllm = self.loading.load(self.model) if self.model else None
        found = self._found(mllm)
        if isinstance(found, DecodingProbe):
            written, advice = self._probe(found, mllm)
        else:
            written, advice = self._directions([d for d in found if not self.sites or d.site in self._asked(mllm)], mllm)
        if self.json:
            emit_json({"files": written, "to": self.to, "use": advice})
        else:
            for path in written:
                print(path)
            say(advice)
        return 0

    def _asked(self, mllm: MLLM | None) -> tuple[object, ...]:
        from safesteer_interp.sites import parse_sites

        return parse_sites(self.sites, mllm.n_layers if mllm is not None else 1000)

    def _found(self, mllm: MLLM | None) -> Sequence[Direction] | DecodingProbe:
        """What is to be exported. Raises InputError for a file that is neither, UsageError for "refusal" without a model."""
        from safesteer_interp.probes.decoding_probe import DecodingProbe
        from safesteer_interp.vectors.direction import load_directions

        if self.source == REFUSAL:
            if mllm is None:
                raise UsageError('"refusal" is estimated on a model: give it with --model, or give a file of directions.')
            return self._refusal(mllm)
        try:
            return load_directions(self.source)
        except InputError as cause:
            if "safesteer-probe" not in str(cause):
                raise
        return DecodingProbe.load(self.source)

    def _refusal(self, mllm: MLLM) -> list[Direction]:
        from safesteer_interp.cli.inputs import choose_requests
        from safesteer_interp.requests import Split, select
        from safesteer_interp.tracing.collecting import collect
        from safesteer_interp.vectors.refusal import TEXT_ATTACKS, refusal_directions

        requests = select(choose_requests(self.data, data_root=self.data_root), attacks=TEXT_ATTACKS, split=Split.FIT)
        kept = [r for r in requests if mllm.takes_images or r.image is None]
        first = 1 if self.to == "llama.cpp" else 0
        sites = self.sites or f"resid_post.{first}-{mllm.n_layers - 1}"
        return refusal_directions(collect(mllm, kept, sites=sites, reads="last_prompt"))

    def _directions(self, directions: Sequence[Direction], mllm: MLLM | None) -> tuple[list[Path], str]:
        from safesteer_interp.vectors.control_vector import export_control_vector
        from safesteer_interp.vectors.served import export_easysteer, export_vllm_lens

        if self.to == "llama.cpp":
            path = export_control_vector(directions, with_ending(self.out, ".gguf"), model_hint=self.model_hint, mllm=mllm)
            return [path], f"llama-server -m MODEL.gguf --control-vector-scaled {path}:{self.strength:g}"
        if self.to == "easysteer":
            paths = export_easysteer(directions, self.out, model_hint=self.model_hint, strength=self.strength, mllm=mllm)
            return list(paths), f'put the field "steering" of {paths[1]} into the body of a request'
        path = export_vllm_lens(directions, with_ending(self.out, ".json"), strength=self.strength, mllm=mllm)
        return [path], f'give "apply_steering_vectors" of {path}, as a JSON text, in the vllm_xargs of a request'

    def _probe(self, probe: DecodingProbe, mllm: MLLM | None) -> tuple[list[Path], str]:
        from safesteer_interp.vectors.served import export_probe

        if self.to == "llama.cpp":
            raise UsageError("llama.cpp gives out no states for a probe to read; export it to vllm-lens or easysteer.")
        path = export_probe(probe, with_ending(self.out, ".json"), mllm=mllm)
        return [path], "score(h) = h . weight + bias on states captured after the layer it names; above 0: harmful"


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Deploy, "deploy", arguments).run()
