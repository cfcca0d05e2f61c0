"""From requests to the tensors of one shard: encode a batch, run the tracer, refuse what is not finite, join the batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, Site, forward_order
from safesteer_interp.tracing.batching import BatchSize
from safesteer_interp.tracing.demand import Demand
from safesteer_interp.tracing.shards import MemoryShard
from safesteer_interp.tracing.trace import state_name
from safesteer_interp.tracing.tracer import Captured, Edit, Sampling, Tracer


@dataclass(frozen=True)
class Capture:
    """A demand, ready to run on a model by one tracer."""

    engine: Tracer
    model: MLLM
    sites: tuple[Site, ...]
    reads: tuple[Read, ...]
    sampling: Sampling
    edits: tuple[Edit, ...]
    logits: bool
    size: BatchSize

    @classmethod
    def of(cls, engine: Tracer, model: MLLM, demand: Demand, reads: Sequence[str], edits: tuple[Edit, ...], size: BatchSize) -> Capture:
        """`reads` are those of the demand that the requests have."""
        sampling = Sampling(demand.max_new_tokens, demand.temperature, demand.seed)
        sites = tuple(Site.parse(site) for site in demand.sites)
        return cls(engine, model, sites, tuple(Read.parse(read) for read in reads), sampling, edits, demand.logits, size)

    def shard(self, requests: Sequence[Request], chunk: Sequence[int], advance: Callable[[int], object]) -> MemoryShard:
        """One shard's requests (`chunk`: their positions), in batches; `advance` is told how many rows each batch gave."""
        parts, tokens = [], list[list[int]]()
        for tensors, answers in self.size.batches([requests[row] for row in chunk], self.batch):
            parts.append(tensors)
            tokens += answers
            advance(len(answers))
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        joined["row"] = torch.tensor(chunk, dtype=torch.int64)
        joined["generated"] = torch.tensor([token for answer in tokens for token in answer], dtype=torch.int64)
        joined["generated_length"] = torch.tensor([len(answer) for answer in tokens], dtype=torch.int64)
        return MemoryShard(joined, [self.model.tokenizer.decode(answer, skip_special_tokens=True) for answer in tokens])

    def batch(self, requests: Sequence[Request]) -> tuple[dict[str, Tensor], list[list[int]]]:
        """Tensors and generated ids of one batch."""
        batch = self.model.encode(requests)
        captured = self.engine.capture(batch, self.sites, self.reads, sampling=self.sampling, edits=self.edits, logits=self.logits)
        check_finite(captured, batch.requests, self.model)
        return _tensors(captured, batch), captured.generated


def check_finite(captured: Captured, batch: Sequence[Request], model: MLLM) -> None:
    """Raises InputError naming model, site, read and request when a state or logit that exists is NaN or infinite."""
    advice = "load the model in float32 or bfloat16, or drop the request; finished shards are kept."
    for site, read in sorted(captured.states, key=lambda pair: (*forward_order(pair[0]), str(pair[1]))):
        bad = ~torch.isfinite(captured.states[site, read]).all(1) & captured.present[read]
        if bad.any():
            request = batch[int(bad.nonzero()[0])]
            raise InputError(f'{model.name} gave NaN or infinite activations at {site} ({read}) for request "{request.id}"; {advice}')
    if captured.logits is not None and not torch.isfinite(captured.logits).all():
        row = int((~torch.isfinite(captured.logits).all(1)).nonzero()[0])
        raise InputError(f'{model.name} gave NaN or infinite logits for request "{batch[row].id}"; {advice}')


def _tensors(captured: Captured, batch: Encoded) -> dict[str, Tensor]:
    out = {state_name(site, read): states for (site, read), states in captured.states.items()}
    out |= {f"present/{read}": present for read, present in captured.present.items()}
    out["prompt_length"] = batch.attention_mask.sum(1).cpu().to(torch.int64)
    if captured.logits is not None:
        out["logits"] = captured.logits
    return out
