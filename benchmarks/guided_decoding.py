"""What guided decoding costs: one guided step against one plain step, whole answers, and the probe's fit.

    python benchmarks/guided_decoding.py                 # CPU, a random decoder of the embedded model's size (135M)
    python benchmarks/guided_decoding.py --device cuda   # GPU, a random decoder of 7B size in bfloat16

Weights are random: speed does not depend on them. All variants of one comparison take turns within every repeat, the first repeat is
thrown away, and ratios are medians of per-repeat ratios, so that a busy minute hits all alike. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from safesteer_interp.decoding.candidates import chosen_states, keep_candidate, score_candidates
from safesteer_interp.decoding.loop import decode
from safesteer_interp.decoding.policies import PLAIN, Candidates, Guided, Policy, ProbeScorer
from safesteer_interp.decoding.prefix import Prefix, advance, prefill
from safesteer_interp.models.head import output_logits
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.tracing.sampling import draw

SIZES = {
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "vocab_size": 49152, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "vocab_size": 152064, "tie_word_embeddings": False},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "vocab_size": 500, "tie_word_embeddings": True},
}  # fmt: skip
"""SmolLM2-135M, Qwen2.5-7B, and one for smoke tests."""


@dataclass(frozen=True)
class Benchmark:
    """Times guided decoding on random weights."""

    device: str = "cpu"
    """"cpu" or "cuda"."""
    size: str = ""
    """135m, 7b or tiny; default: 135m on the CPU, 7b on a GPU."""
    k: int = 5
    """Candidates a step."""
    steps: int = 5
    """Guided steps of a whole answer."""
    tokens: int = 128
    """Tokens of a whole answer."""
    prefix: int = 64
    """Prompt length in tokens; an MLLM's image alone has several hundred."""
    batch: int = 1
    """Rows."""
    repeats: int = 30
    """Timed repeats of a step; whole answers are timed a sixth as often."""
    threads: int = 0
    """CPU threads; 0: torch's own choice."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> int:
        """Measures everything, prints it and compares with the targets."""
        if self.threads:
            torch.set_num_threads(self.threads)
        size = self.size or ("135m" if self.device == "cpu" else "7b")
        model = random_decoder(size, self.device)
        width = int(model.config.hidden_size)
        fit_seconds, probe = fit_time(width)
        found = {
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(),
            "size": size,
            "threads": torch.get_num_threads(),
            **{name: getattr(self, name) for name in ("k", "steps", "tokens", "prefix", "batch")},
            "step": self.step_times(model, probe),
            "answer": self.answer_times(model, probe),
            "probe_fit_seconds": fit_seconds,
        }
        targets = {
            "guided step / plain step": (found["step"]["guided_ratio"], 1.6 if self.device == "cpu" else 1.15, "<="),
            "guided / undefended tokens per second": (found["answer"]["ratio"], 0.96, ">="),
            "probe fit, 400 stored states (s)": (fit_seconds, 1.0, "<="),
        }
        met = {name: value <= limit if sense == "<=" else value >= limit for name, (value, limit, sense) in targets.items()}
        if self.json:
            print(
                json.dumps({**found, "targets": {n: {"value": v, "limit": x, "met": met[n]} for n, (v, x, _) in targets.items()}}, indent=2)
            )
        else:
            print(f"{found['device']}, {size} decoder, {found['threads']} threads, prefix {self.prefix}, batch {self.batch}, K = {self.k}")
            for name, value in {**found["step"], **found["answer"]}.items():
                print(f"  {name:<28} {value:8.3f}")
            for name, (value, limit, sense) in targets.items():
                print(f"{'met   ' if met[name] else 'MISSED'} {name}: {value:.3f} (target {sense} {limit})")
        return 0 if all(met.values()) else 1

    def prompt(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """A random prompt batch [batch, prefix]."""
        ids = torch.randint(10, int(model.config.vocab_size), (self.batch, self.prefix), generator=torch.Generator().manual_seed(0))
        return {"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids).to(model.device)}

    def step_times(self, model: PreTrainedModel, probe: DecodingProbe) -> dict[str, float]:
        """Median milliseconds of one step of each kind, and ratios to the plain one."""
        prefix, states = prefill(model, self.prompt(model))
        logits = output_logits(model, states)
        policy = Guided(ProbeScorer(probe), self.k, self.steps)
        uniform = torch.rand(self.batch, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def plain() -> None:
            output_logits(model, advance(model, prefix, draw(logits, uniform, 1.0)))
            rewind(prefix)

        def guided() -> None:
            log_probs, ids = torch.log_softmax(logits, -1).topk(self.k)
            hidden = score_candidates(model, prefix, ids)
            choice, _ = policy.choose(Candidates(ids, log_probs, hidden.float(), 0, [[]] * self.batch), uniform)
            keep_candidate(prefix, choice, self.k)
            output_logits(model, chosen_states(hidden, choice))
            rewind(prefix)

        def separate() -> None:
            log_probs, ids = torch.log_softmax(logits, -1).topk(self.k)
            hidden = []
            for column in ids.T:
                hidden.append(advance(model, prefix, column))
                rewind(prefix)
            offered = Candidates(ids, log_probs, torch.stack(hidden, 1).float(), 0, [[]] * self.batch)
            choice, _ = policy.choose(offered, uniform)
            output_logits(model, advance(model, prefix, ids.gather(1, choice[:, None]).squeeze(1)))
            rewind(prefix)

        times = interleaved({"plain": plain, "guided": guided, "separate": separate}, self.repeats, self.device)
        return {
            **{f"{name}_ms": 1e3 * statistics.median(seconds) for name, seconds in times.items()},
            **{f"{name}_ratio": ratio(times[name], times["plain"]) for name in ("guided", "separate")},
        }

    def answer_times(self, model: PreTrainedModel, probe: DecodingProbe) -> dict[str, float]:
        """Tokens per second of whole answers, prompt pass included, undefended and guided, and their ratio."""
        inputs = self.prompt(model)
        uniform = torch.rand(self.batch, self.tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

        def answer(policy: Policy) -> Callable[[], None]:
            def run() -> None:
                with torch.no_grad():
                    prefix, states = prefill(model, inputs)
                    answers = decode(model, prefix, states, policy, uniform, frozenset())
                assert all(len(a.ids) == self.tokens for a in answers)

            return run

        variants = {"undefended": answer(PLAIN), "guided": answer(Guided(ProbeScorer(probe), self.k, self.steps))}
        times = interleaved(variants, max(3, self.repeats // 6), self.device)
        written = self.batch * self.tokens
        return {
            **{f"{name}_tokens_per_second": written / statistics.median(seconds) for name, seconds in times.items()},
            "ratio": ratio(times["undefended"], times["guided"]),
        }


def random_decoder(size: str, device: str) -> PreTrainedModel:
    """A Llama-type decoder with random weights: float32 on the CPU, bfloat16 on a GPU."""
    if size not in SIZES:
        raise SystemExit(f'--size "{size}" is unknown; expected one of {", ".join(SIZES)}.')
    config = LlamaConfig(**SIZES[size], max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval()


def fit_time(width: int, rows: int = 400) -> tuple[float, DecodingProbe]:
    """Median seconds of fitting the probe on `rows` states of a stored trace, over three fits, and the probe."""
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % 2
    states = (rng.normal(size=(rows, width)) + 0.5 * labels[:, None]).astype(np.float32)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        probe = DecodingProbe().fit(states, labels)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), probe


def rewind(prefix: Prefix) -> None:
    """Drop the last token again, so that every timed step starts from the same prefix."""
    prefix.cache.crop(-1)
    prefix.mask = prefix.mask[:, :-1]
    prefix.position = prefix.position - 1


def interleaved(variants: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of every variant in every repeat; turns rotate, one untimed round comes first."""
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for turn in range(len(names)):
            name = names[(repeat + turn) % len(names)]
            wait(device)
            started = time.perf_counter()
            with torch.no_grad():
                variants[name]()
            wait(device)
            if repeat:
                times[name].append(time.perf_counter() - started)
    return times


def wait(device: str) -> None:
    """Kernels on a GPU run asynchronously: wait for them, or the clock lies."""
    if device != "cpu":
        torch.cuda.synchronize()


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the per-repeat ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(tyro.cli(Benchmark).run())
