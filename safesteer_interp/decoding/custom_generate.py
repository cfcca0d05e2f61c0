"""The same guided decoding inside transformers: `model.generate(**inputs, custom_generate=...)` on a plain, untouched model.

transformers prepares the prompt (cache, M-RoPE, images), the stopping criteria and the logits processors; the first `steps` tokens
are chosen by the policy, the rest by ordinary sampling as the generation config says. A `streamer` is not fed: transformers
does not hand it to custom generation.

    policy = Guided(ProbeScorer(probe), k=5, steps=5)
    model.generate(**inputs, custom_generate=functools.partial(guided_generate, policy))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from safesteer_interp.decoding.cache import growing_cache
from safesteer_interp.decoding.candidates import check_maskable, chosen_states, keep_candidate, score_candidates
from safesteer_interp.decoding.policies import Candidates, Policy, check_budget
from safesteer_interp.decoding.prefix import advance, check_head, read_prompt
from safesteer_interp.errors import UsageError
from safesteer_interp.models.head import output_logits


@torch.no_grad()
def guided_generate(
    policy: Policy,
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """What `generate` calls: input_ids [batch, S] to sequences [batch, S + new], finished rows filled with the pad token.

    Candidates are the top K of the model's own distribution, before any logits processor; random numbers come from torch's global
    generator, as in transformers. Raises UsageError for beam search, a prompt cache, or a model that cannot be guided.
    """
    if generation_config.num_beams not in (None, 1):
        raise UsageError(f"guided decoding samples one token at a time; num_beams is {generation_config.num_beams}, set it to 1.")
    new_tokens = (generation_config.max_length or input_ids.shape[1]) - input_ids.shape[1]
    check_budget(policy.k, policy.steps, new_tokens)
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise UsageError("guided decoding starts from a whole prompt; call generate without past_key_values.")
    if cache is None:  # a generation config may say `use_cache: false`, and candidates need one
        cache = growing_cache(model.config.get_text_config())
        model_kwargs |= {"past_key_values": cache, "use_cache": True}
    check_maskable(model, cache)
    check_head(model)
    mask = model_kwargs.get("attention_mask")
    helper: Any = model
    prepared = helper.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
    if prepared.get("position_ids") is None:
        raise UsageError(f"{type(model).__name__} takes no position_ids, which guided decoding needs; it cannot be used here.")
    prefix, states = read_prompt(model, prepared, torch.ones_like(input_ids) if mask is None else mask)
    opening = policy.begin(states)
    prompt = input_ids.shape[1]
    pad = getattr(generation_config, "_pad_token_tensor", None)
    going = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    logits, step = output_logits(model, opening.states), 0
    temperature = float(generation_config.temperature or 1.0) if generation_config.do_sample else 0.0
    while True:
        if step < policy.steps and bool((opening.guided & going).any()):
            log_probs, ids = torch.log_softmax(logits, -1).topk(min(policy.k, logits.shape[-1]))
            if not bool(opening.guided.all()):
                plain = _sample(logits_processor(input_ids, logits), bool(generation_config.do_sample))
                ids = torch.where(opening.guided[:, None], ids, plain[:, None])
            hidden = score_candidates(model, prefix, ids)
            uniform = torch.rand(len(ids), dtype=torch.float64, device=ids.device)
            emitted = input_ids[:, prompt:].tolist()
            offered = Candidates(ids, log_probs, hidden.float(), step, emitted, temperature=temperature)
            choice, _ = policy.choose(offered, uniform)
            choice = choice.to(ids.device)
            keep_candidate(prefix, choice, ids.shape[1])
            tokens, state = ids.gather(1, choice[:, None]).squeeze(1), chosen_states(hidden, choice)
        else:
            tokens, state = _sample(logits_processor(input_ids, logits), bool(generation_config.do_sample)), None
        if pad is not None:
            tokens = torch.where(going, tokens, pad.to(tokens.device))
        input_ids = torch.cat([input_ids, tokens[:, None].to(input_ids.device)], dim=-1)
        going = going & ~stopping_criteria(input_ids, logits)
        if not bool(going.any()):
            break
        logits = output_logits(model, advance(model, prefix, tokens) if state is None else state)
        step += 1
    if generation_config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=input_ids, past_key_values=prefix.cache)
    return input_ids


def _sample(logits: Tensor, sample: bool) -> Tensor:
    """One token per row: drawn from softmax(logits), or the largest."""
    if not sample:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits, -1), 1).squeeze(-1)
