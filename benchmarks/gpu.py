"""What the suite costs on a GPU: one prepared run of at most ten minutes (`benchmarks/gpu.sh`), and the same on a CPU at a small size.

    python benchmarks/gpu.py [--device cuda|cpu] [--size 7b|tiny] [--rounds 9] [--tokens 64] [--out benchmarks/gpu.json]

The model is a Qwen2.5-VL of the 7B checkpoint's true shape in bfloat16, drawn at random on the device: times and memory are those of
the checkpoint, what it writes is noise, so every answer runs to its last token. Measured, each ratio within one run and in rotating
order: the three tracers beside a bare forward, guided steps beside plain ones for several K, whole answers plain, under SafeSteer and
under CoCA, the largest batch that fits, peak memory, and whether every family's tiny model gives on the device what it gives on the CPU.
A part that fails says so in the record and lets the others run; the exit code is then 1.
"""

from __future__ import annotations

import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from guided_decoding import Benchmark, fit_time, wait
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from safesteer_interp.decoding.answering import generate
from safesteer_interp.defenses.coca import CoCA
from safesteer_interp.defenses.defense import Defense, Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.presets import named_settings
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.evaluation.throughput import throughput
from safesteer_interp.models import load_model
from safesteer_interp.models.families.registry import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.token_spec import TokenSpec
from safesteer_interp.requests import Attack, ImageSource, Request, Split
from safesteer_interp.runner.results import MEASURE_ERRORS
from safesteer_interp.sites import parse_reads, parse_sites
from safesteer_interp.tracing.collecting import load_tracer
from safesteer_interp.tracing.prefix import Feed
from safesteer_interp.tracing.tracer import TRACERS, Sampling

TEXT_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "vocab_size": 152064, "max_position_embeddings": 128000, "tie_word_embeddings": False}  # fmt: skip
VISION_7B = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584, "window_size": 112,
             "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip
"""As in config.json of Qwen/Qwen2.5-VL-7B-Instruct."""
IMAGE_SIDE = 448
"""Pixels: 16 x 16 = 256 image tokens."""
OUT = Path(__file__).with_name("gpu.json")
NEAR = {"cpu": 1e-4, "cuda": 2e-3}
"""How far a tiny model's states may differ from the CPU's, relative to the largest (float32 without TF32)."""


@dataclass(frozen=True)
class Noise(ImageSource):
    """A picture of noise, the same for the same seed."""

    seed: int
    side: int = IMAGE_SIDE

    def load(self) -> Image.Image:
        return Image.fromarray(np.random.default_rng(self.seed).integers(0, 255, (self.side, self.side, 3), dtype=np.uint8))

    def key(self) -> str:
        return f"noise-{self.seed}-{self.side}"


def requests_of(n: int, attack: Attack = Attack.SD, side: int = IMAGE_SIDE) -> list[Request]:
    """n requests with a picture each, in pairs."""
    return [
        Request(
            id=f"{attack}-{i}",
            text="Please list the steps for the activity in the image, one by one." + " In detail." * (i % 3),
            harmful=bool(i % 2),
            attack=attack,
            image=Noise(i + 1000 * (attack is Attack.CB), side),
            pair=f"p{i // 2}",
            split=Split.FIT,
        )
        for i in range(n)
    ]


def build(size: str, device: str) -> MLLM:
    """The model: the tiny Qwen2.5-VL as it is, or its processor and tokenizer around the 7B checkpoint's shape, in bfloat16."""
    small = load_model("tiny:qwen2_5_vl")
    if size == "tiny":
        small.model.to(device)
        return small
    ids = small.model.config
    text = {**TEXT_7B, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
    text |= {name: getattr(ids.get_text_config(), name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    special = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen2_5_VLConfig(text_config=text, vision_config=VISION_7B, **{name: getattr(ids, name) for name in special})
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    side = IMAGE_SIDE * IMAGE_SIDE
    small.processor.image_processor.size = {"shortest_edge": side, "longest_edge": side}
    return replace(small, name="random:qwen2.5-vl-7b", model=model, fingerprint="random weights of seed 0")


@dataclass(frozen=True)
class Step(Benchmark):
    """`guided_decoding.Benchmark` on an MLLM's own prompts, pictures included."""

    mllm: MLLM | None = None

    def prompt(self, model: Any) -> dict[str, torch.Tensor]:
        """A batch of prompts with a picture each."""
        assert self.mllm is not None
        return self.mllm.encode(requests_of(self.batch)).to(self.mllm.device).inputs


@dataclass(frozen=True)
class Gpu:
    """What the suite costs on a device."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    size: str = ""
    """7b or tiny; default: 7b on a GPU, tiny on the CPU."""
    rounds: int = 9
    """Interleaved rounds of every ratio."""
    batch: int = 4
    """Requests per batch."""
    tokens: int = 64
    """Tokens of a whole answer."""
    ks: tuple[int, ...] = (5, 10, 20)
    """Candidates a guided step."""
    largest: int = 512
    """No larger batch is tried."""
    only: tuple[str, ...] = ()
    """Parts to run; none named: all."""
    out: Path = OUT

    def run(self) -> int:
        """Runs the parts, writes the record after each, returns the exit code."""
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        begun = time.monotonic()
        record: dict[str, Any] = {"device": self.named(), "torch": torch.__version__, "python": platform.python_version(), "failed": {}}
        record["transformers"] = __import__("transformers").__version__
        self.part(record, "parity", self.parity)
        size = self.size or ("7b" if self.device != "cpu" else "tiny")
        model = build(size, self.device)
        record |= {"model": model.name, "parameters": sum(p.numel() for p in model.model.parameters()), "dtype": str(model.dtype)}
        record["prompt_tokens"] = int(model.encode(requests_of(1)).input_ids.shape[1])
        for name, measure in (
            ("memory_of_weights_gb", lambda: self.peak(lambda: None)),
            ("answers", lambda: self.answers(model)),
            ("guided_steps", lambda: self.guided_steps(model)),
            ("batches", lambda: self.batches(model)),
            ("tracers", lambda: self.tracers(model)),  # last: TransformerLens keeps a copy of the model
        ):
            self.part(record, name, measure)
        record["seconds"] = round(time.monotonic() - begun, 1)
        self.write(record)
        print(json.dumps(record, indent=1))
        return 1 if record["failed"] else 0

    def named(self) -> str:
        return torch.cuda.get_device_name() if self.device != "cpu" else f"{platform.machine()}, {torch.get_num_threads()} threads"

    def part(self, record: dict[str, Any], name: str, measure: Callable[[], Any]) -> None:
        """One part of the record; its failure is kept and stops no other."""
        if self.only and name not in self.only:
            return
        begun = time.monotonic()
        try:
            record[name] = measure()
        except MEASURE_ERRORS as cause:
            record["failed"][name] = f"{type(cause).__name__}: {cause}"[:500]
        print(f"{name}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
        self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def parity(self) -> dict[str, Any]:
        """Per family: largest difference of any state to the CPU's, relative to the largest state, and whether greedy answers agree."""
        found = {}
        for family in sorted(FAMILIES):
            here = load_model(f"tiny:{family}")
            there = replace(here, model=copy.deepcopy(here.model).to(self.device))
            asked = requests_of(4, side=56) if here.takes_images else [replace(r, image=None, attack=Attack.TEXT) for r in requests_of(4)]
            states = [self.all_states(m, asked) for m in (here, there)]
            gap = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*states, strict=True))
            answers = [[d.ids for d in generate(m, asked, sampling=Sampling(12, 0.0))] for m in (here, there)]
            limit = NEAR["cpu" if self.device == "cpu" else "cuda"]
            found[family] = {"difference": gap, "within": gap <= limit, "same_answers": answers[0] == answers[1]}
        return found

    def all_states(self, model: MLLM, asked: list[Request]) -> list[torch.Tensor]:
        sites, reads = parse_sites("all,attn_out,mlp_out", model.n_layers), parse_reads("last_prompt,user_mean,step:1-2")
        captured = load_tracer("hooks", model).capture(model.encode(asked), sites, reads, sampling=Sampling(3, 0.0))
        return [captured.states[key].nan_to_num() for key in sorted(captured.states, key=str)]

    def answers(self, model: MLLM) -> dict[str, Any]:
        """Tokens per second of whole answers, undefended, guided and under CoCA, and their ratios to undefended."""
        asked = requests_of(self.batch)
        training = [*requests_of(8), *requests_of(8, Attack.CB)]
        steered = SafeSteer.fit(
            model,
            training,
            tracing={"tokens": TokenSpec(steps=2, answer_tokens=3), "progress": False, "store": None, "batch_size": self.batch},
            force=True,
            **named_settings("corrected"),
        )
        methods: dict[str, Defense] = {"none": Undefended(), "safesteer": steered, "coca": CoCA()}
        settings = Settings(Sampling(max_new_tokens=self.tokens, temperature=1.0), batch_size=self.batch)
        table: list[dict[str, Any]] = []
        memory = self.peak(lambda: table.extend(throughput(model, methods, asked, settings=settings, repeats=3).to_dict("records")))
        return {"rows": table, "peak_gb": memory, "batch": self.batch, "tokens": self.tokens}

    def guided_steps(self, model: MLLM) -> dict[str, Any]:
        """Time of one guided step beside a plain one and beside K separate forwards, for every K."""
        _, probe = fit_time(model.width)
        return {
            str(k): Step(device=self.device, k=k, batch=self.batch, repeats=self.rounds, mllm=model).step_times(model.model, probe)
            for k in self.ks
        }

    def tracers(self, model: MLLM) -> dict[str, Any]:
        """Time of a pass that captures every layer, beside a bare forward: median of the ratios within a round. One row, then a batch."""
        found: dict[str, Any] = {}
        sites, reads = parse_sites("resid_post,final_norm", model.n_layers), parse_reads("last_prompt")
        for rows in (1, 8):
            batch = model.encode(requests_of(rows)).to(model.device)
            runs: dict[str, Callable[[], object]] = {"bare": partial(bare, model, batch)}
            for name in TRACERS:
                try:
                    tracer = load_tracer(name, model)
                    tracer.capture(batch, sites, reads)
                except MEASURE_ERRORS as cause:
                    found[f"{name}, not run"] = f"{type(cause).__name__}: {cause}"[:300]
                    continue
                runs[name] = partial(tracer.capture, batch, sites, reads)
            found[f"batch {rows}"] = self.in_turn(runs)
        return found

    def in_turn(self, runs: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
        """Median milliseconds of every run, and the median over rounds of its ratio to the first; order rotates."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        order = list(runs)
        for number in range(self.rounds):
            turn = number % len(order)
            for name in order[turn:] + order[:turn]:
                wait(self.device)
                begun = time.perf_counter()
                runs[name]()
                wait(self.device)
                times[name].append(time.perf_counter() - begun)
        floor = times[order[0]]
        return {
            name: {
                "ms": 1000 * statistics.median(taken),
                "ratio": statistics.median(t / f for t, f in zip(taken, floor, strict=True)),
                "ratio_low": min(t / f for t, f in zip(taken, floor, strict=True)),
                "ratio_high": max(t / f for t, f in zip(taken, floor, strict=True)),
            }
            for name, taken in times.items()
        }

    def batches(self, model: MLLM) -> dict[str, Any]:
        """The largest batch whose prompts can be read while every layer is captured, requests per second by batch, and peak memory."""
        sites, reads = parse_sites("resid_post,final_norm", model.n_layers), parse_reads("last_prompt")
        tracer = load_tracer("hooks", model)
        speeds: dict[str, Any] = {}

        def attempt(size: int) -> None:
            batch = model.encode(requests_of(size)).to(model.device)
            wait(self.device)
            begun = time.perf_counter()
            gb = self.peak(lambda: tracer.capture(batch, sites, reads))
            speeds[str(size)] = {"requests_per_second": size / (time.perf_counter() - begun), "peak_gb": gb}

        return {"largest": largest_batch(attempt, limit=self.largest), "by_batch": speeds}

    def peak(self, run: Callable[[], object]) -> float | None:
        """Peak GB on the device while something runs; None on the CPU."""
        if self.device == "cpu":
            run()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        wait(self.device)
        return torch.cuda.max_memory_allocated() / 1e9


def largest_batch(attempt: Callable[[int], object], *, limit: int) -> int:
    """The largest batch size that runs, by doubling until memory gives out and then halving the gap; 0 when not even one row fits."""
    good, bad = 0, limit + 1
    size = 1
    while good < size < bad:
        try:
            attempt(size)
            good = size
        except torch.OutOfMemoryError:
            bad = size
            torch.cuda.empty_cache()
        size = min(2 * good, limit) if bad > limit else (good + bad) // 2
        if bad - good <= max(1, good // 8):
            break
    return good


@torch.no_grad()
def bare(model: MLLM, batch: Any) -> object:
    """The floor: the untouched model, one last logit, no cache, no gradients."""
    return model.model(**Feed(model.model, batch, cached=False).prompt()).logits


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    return tyro.cli(Gpu, args=None if arguments is None else list(arguments)).run()


if __name__ == "__main__":
    sys.exit(main())
