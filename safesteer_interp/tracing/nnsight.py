"""The nnsight tracer, in this process or on NDIF. The only file that names nnsight.

In this process it runs the shared decoding loop over a twin of the model (same weights, own module tree, since nnsight leaves a
wrapper on every module it serves). Remotely a whole batch is ONE job: `generate` on the server, with the same reads and edits at
every step. What travels is this file's source of the block, the inputs and the edits; the weights are the server's.

Importing nnsight reads `-v` from the command line, patches torch and adds `.save` to every Python object; `_import` keeps the
first and the last from happening. The NDIF key is read from the environment, handed to nnsight and never printed or stored.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.described import is_described
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.sites import Read, ReadKind, Role, Site, forward_order
from safesteer_interp.tracing.engines import KEY_VARIABLE, check_remote
from safesteer_interp.tracing.hooks import path_of, seen
from safesteer_interp.tracing.steps import MEAN_ROLE, Pass, SteppedTracer, pad_id, reaches_back, stop_ids, twin
from safesteer_interp.tracing.tracer import GREEDY, Captured, Edit, Sampling
from safesteer_interp.types import Logits


@cache
def _import() -> ModuleType:
    """nnsight, without its reading of the command line and without `.save` on every object."""
    fresh = "nnsight" not in sys.modules
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        import nnsight
        from nnsight._c import unmount
    finally:
        sys.argv = arguments
    if fresh and unmount is not None and hasattr(object, "save"):
        unmount("save")
    return nnsight


class NnsightTracer(SteppedTracer):
    """nnsight traces, one per forward; with `remote`, one NDIF job per batch.

    `remote`: False, True (NDIF, or the host in NDIF_HOST), a host's URL, or "local" (the remote path without a server, for tests).
    Raises UsageError when the key is missing, InputError when the job fails.
    """

    name = "nnsight"

    def __init__(self, mllm: MLLM, *, remote: bool | str = False) -> None:
        super().__init__(mllm)
        self.nnsight = _import()
        self.remote = remote
        self._envoy = self._remote_envoy() if remote else self.nnsight.NNsight(twin(mllm.model))

    @property
    def model(self) -> PreTrainedModel:
        return self.mllm.model

    def forward(self, run: Pass) -> Logits:
        root, save = self._envoy, self.nnsight.save
        places = [(site, self._module(site)) for site in run.places]
        with root.trace(**run.inputs):
            for site, module in places:
                if site.is_input:
                    changed = run.visit(site, module.input)
                    if changed is not None:
                        module.input = changed
                    continue
                output = module.output
                changed = seen(site, output[0] if isinstance(output, tuple) else output, run.visit)
                if changed is not None:
                    module.output = (changed, *output[1:]) if isinstance(output, tuple) else changed
            scores = save(root.output.logits[:, -1])
        return scores  # noqa: RET504 (a traced block cannot return)

    def capture(
        self,
        batch: Encoded,
        sites: Sequence[Site],
        reads: Sequence[Read],
        *,
        sampling: Sampling = GREEDY,
        edits: Sequence[Edit] = (),
        logits: bool = False,
    ) -> Captured:
        """As `SteppedTracer.capture`; a remote batch is one job, greedy only, and its edits see a plain record with At's fields."""
        if not self.remote:
            return super().capture(batch, sites, reads, sampling=sampling, edits=edits, logits=logits)
        if sampling.temperature > 0:
            raise UsageError("remote traces choose tokens greedily; set the temperature to 0, or trace without --remote.")
        on = tuple(sorted(set(sites), key=forward_order))
        everywhere = (*on, *(site for edit in edits for site in edit.sites))
        self.check_sites(everywhere)
        if blind := [str(site) for site in everywhere if site.in_eyes]:
            raise UsageError(f"remote traces do not reach into the eyes ({', '.join(blind)}); trace these sites without --remote.")
        with self.lock, torch.no_grad():
            return self._job(batch, on, tuple(reads), tuple(edits), sampling.max_new_tokens, logits=logits)

    def _module(self, site: Site) -> Any:
        return reduce(_child, path_of(self.model, self.mllm.layout, site).split("."), self._envoy)

    def _remote_envoy(self) -> Any:
        """A wrapper that names the server's model by hub id and revision; the weights used are the server's."""
        task = "image-text-to-text" if self.mllm.takes_images else "text-generation"
        own = copy.deepcopy(self.mllm.processor)  # nnsight writes attributes of its own into what it sends
        helpers: dict[str, Any] = {"processor": own} if self.mllm.takes_images else {"tokenizer": getattr(own, "tokenizer", own)}
        if self.remote != "local":
            check_remote(None)
            key = os.environ[KEY_VARIABLE]
            config = self.nnsight.schema.config.CONFIG
            config.API.APIKEY = key
            config.APP.REMOTE_LOGGING = False
        if is_described(self.mllm):
            helpers["device"] = torch.device("meta")  # there are no weights that a pipeline could move
        envoy = self.nnsight.TransformersModel(twin(self.model), task=task, **helpers)
        self.nnsight.register("safesteer_interp")  # what an edit uses of this package travels with it: the server has none
        if self.remote != "local":
            named = re.fullmatch(r"hub (\S+), revision (\S+)", self.mllm.source)
            if named is None:
                raise UsageError(f"NDIF knows models by hub id, and {self.mllm.name} was not loaded by one; trace it without --remote.")
            envoy.repo_id, revision = named.groups()
            if self.mllm.name.startswith(f"{envoy.repo_id}+"):
                raise UsageError(f"NDIF has {envoy.repo_id} without the adapter of {self.mllm.name}; trace it without --remote.")
            envoy.revision = None if revision == "main" else revision
        return envoy

    def _failed(self, cause: Exception) -> InputError:
        """The sentence for a job that failed; the key is cut out should a server's answer repeat it."""
        said = " ".join(str(cause).split()) or type(cause).__name__
        said = said.replace(os.environ.get(KEY_VARIABLE) or "\0", "***")
        return InputError(
            f"the NDIF job for {self.mllm.name} failed: {said}; check the network, the key and https://nnsight.net/status, "
            "then run the same command again: finished shards are kept."
        )

    def _job(
        self, batch: Encoded, sites: tuple[Site, ...], reads: tuple[Read, ...], edits: tuple[Edit, ...], tokens: int, *, logits: bool
    ) -> Captured:
        from nnsight.intervention.backends.remote import RemoteError
        from websocket import WebSocketException

        root, save, remote = self._envoy, self.nnsight.save, self.remote
        last_step = max([tokens - 1, *(read.step or 0 for read in reads)], default=0)
        wanted = max([tokens, *(read.step or 0 for read in reads)], default=0)
        changing = [(tuple(str(site) for site in edit.sites), edit.function) for edit in edits]
        places = sorted({*sites, *(site for edit in edits for site in edit.sites)}, key=forward_order)
        plain = [(str(site), SimpleNamespace(kind=str(site.kind), layer=site.layer), site in sites, site.is_input, self._module(site))
                 for site in places]  # fmt: skip
        prompt_reads = {str(read): (None if read.kind is ReadKind.LAST_PROMPT else int(MEAN_ROLE[read.kind]), read.back)
                        for read in reads if read.step is None}  # fmt: skip
        steps = {read.step: str(read) for read in reads if read.step is not None}
        roles, width = batch.roles, batch.input_ids.shape[1]
        generated_role, pad_role = int(Role.GENERATED), int(Role.PAD)
        stops = sorted(stop_ids(self.mllm))
        plan = GenerationConfig(max_new_tokens=last_step + 1, do_sample=False, num_beams=1, use_cache=True, repetition_penalty=1.0,
                                eos_token_id=stops, pad_token_id=pad_id(self.mllm))  # fmt: skip
        try:
            with _quiet(), root.generate(**batch.inputs, generation_config=plan, remote=remote) as tracer:
                passes = save([])
                chosen = save([])
                alive = torch.ones(roles.shape[0], dtype=torch.bool)
                for step in tracer.iter[: last_step + 1]:
                    now = roles if step == 0 else torch.where(alive, generated_role, pad_role).to(roles.dtype)[:, None]
                    first = 0 if step == 0 else width + step - 1
                    positions = torch.arange(first, first + now.shape[1]).expand(now.shape[0], -1)
                    last_prompt = torch.zeros_like(now, dtype=torch.bool)
                    last_prompt[:, -1] = step == 0
                    states = {}
                    for name, where, kept, is_input, module in plain:
                        value = module.input if is_input else module.output
                        hidden = value[0] if isinstance(value, tuple) else value
                        acting = [function for names, function in changing if name in names]
                        at: Any = SimpleNamespace(site=where, step=step, positions=positions.to(hidden.device), roles=now.to(hidden.device),
                                             last_prompt=last_prompt.to(hidden.device))  # fmt: skip
                        for function in acting:
                            hidden = function(hidden, at)
                        if acting and is_input:
                            module.input = hidden
                        elif acting:
                            module.output = (hidden, *value[1:]) if isinstance(value, tuple) else hidden
                        if kept and step == 0:
                            for read, (role, back) in prompt_reads.items():
                                if role is None:
                                    last = hidden[:, max(-1 - back, -hidden.shape[1])].clone()
                                    gone = (now[:, max(-1 - back, -width)] == pad_role) | (back >= width)
                                    states[name, read] = last.masked_fill(gone.to(last.device)[:, None], float("nan")).cpu()
                                else:
                                    mask = (now == role).to(hidden.device)
                                    wide = torch.promote_types(hidden.dtype, torch.float32)
                                    total = torch.where(mask[..., None], hidden, 0).sum(1, dtype=wide)
                                    states[name, read] = (total / mask.sum(1, keepdim=True)).to(hidden.dtype).cpu()
                        elif kept and step in steps:
                            gone = ~alive.to(hidden.device)[:, None]
                            states[name, steps[step]] = hidden[:, -1].clone().masked_fill(gone, float("nan")).cpu()
                    scores = root.output.logits[:, -1].float().cpu()
                    passes.append((states, alive.clone(), scores if step == 0 and logits else None))
                    token = scores.argmax(-1)
                    chosen.append(torch.where(alive, token, -1))
                    alive = alive & ~torch.isin(token, torch.tensor(stops))
        except (RemoteError, WebSocketException, OSError) as cause:
            raise self._failed(cause) from None
        return self._read_back(passes, chosen, batch, sites, reads, wanted)

    def _read_back(
        self, passes: list[Any], chosen: list[Any], batch: Encoded, sites: tuple[Site, ...], reads: tuple[Read, ...], wanted: int
    ) -> Captured:
        """The job's plain answer as a Captured; checks that every place was reached."""
        if not passes:
            raise InputError(f"the remote job for {self.mllm.name} returned nothing; check the model's deployment on NDIF.")
        found = Captured(logits=passes[0][2])
        columns = torch.stack(chosen[:wanted], 1).tolist() if wanted else [[] for _ in batch.requests]
        found.generated = [[token for token in row if token >= 0] for row in columns]
        for read in reads:
            number = read.step or 0
            if number < len(passes):
                states, alive, _ = passes[number]
                mean = MEAN_ROLE.get(read.kind)
                there = reaches_back(batch.roles.cpu(), read.back)
                found.present[read] = alive & there if mean is None else (batch.roles.cpu() == mean).any(1)
                found.states |= {(site, read): states[str(site), str(read)] for site in sites}
        self._fill_missing(found, sites, reads, len(batch.requests))
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without nnsight's warning about a loop that answers ended early cut short; `_read_back` fills the steps that never came."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        yield


def _child(envoy: Any, name: str) -> Any:
    return envoy[int(name)] if name.isdigit() else getattr(envoy, name)
