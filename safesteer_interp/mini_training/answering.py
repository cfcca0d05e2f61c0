"""Greedy answers and last-prompt states of an assembled mini, in batches: what its own evaluation needs and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Request


def batches_of(requests: Sequence[Request], batch: int) -> list[list[int]]:
    """Indices in batches of similar length, images and text apart."""
    order = sorted(range(len(requests)), key=lambda i: (requests[i].image is None, len(requests[i].text)))
    split = next((k for k, i in enumerate(order) if requests[i].image is None), len(order))
    parts = (order[:split], order[split:])
    return [part[k : k + batch] for part in parts for k in range(0, len(part), batch)]


def inputs_of(processor: Any, requests: Sequence[Request]) -> Any:
    """Left-padded model inputs of requests that all have, or all lack, an image."""
    texts = []
    for r in requests:
        content = [*([{"type": "image"}] if r.image else []), {"type": "text", "text": r.text}]
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    images = [r.image.load() for r in requests if r.image]
    return processor(text=texts, images=images or None, padding=True, return_tensors="pt")


@torch.inference_mode()
def answers_of(
    model: Any,
    processor: Any,
    requests: Sequence[Request],
    *,
    max_new_tokens: int = 32,
    batch: int = 16,
    report: Callable[..., None] = lambda n: None,
) -> list[str]:
    """Greedy answers, in the order of the requests."""
    answers = [""] * len(requests)
    for part in batches_of(requests, batch):
        inputs = inputs_of(processor, [requests[i] for i in part]).to(model.device)
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        for i, row in zip(part, out[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[i] = processor.tokenizer.decode(row, skip_special_tokens=True).strip()
        report(len(part))
    return answers


@torch.inference_mode()
def last_prompt_states(
    model: Any, processor: Any, requests: Sequence[Request], *, batch: int = 16, report: Callable[..., None] = lambda n: None
) -> np.ndarray:
    """Residual stream after every decoder layer at the last prompt token: float32 [layers, requests, d]."""
    layers = model.model.language_model.layers
    states = np.zeros((len(layers), len(requests), model.config.text_config.hidden_size), np.float32)
    kept: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            kept[layer] = hidden[:, -1].float().cpu()

        return hook

    handles = [layer.register_forward_hook(keep(k)) for k, layer in enumerate(layers)]
    try:
        for part in batches_of(requests, batch):
            inputs = inputs_of(processor, [requests[i] for i in part]).to(model.device)
            model(**inputs, use_cache=False, logits_to_keep=1)
            for k in kept:
                states[k, part] = kept[k].numpy()
            report(len(part))
    finally:
        for handle in handles:
            handle.remove()
    return states


def is_degenerate(answer: str) -> bool:
    """Empty, or running in a circle: a word four times in a row, three words repeated four times, or hardly any variety."""
    words = answer.lower().split()
    if not words:
        return True
    if any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3)):
        return True
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    if triples and triples.most_common(1)[0][1] >= 4:
        return True
    return len(words) >= 12 and len(set(words)) / len(words) < 0.35


def is_answered(answer: str) -> bool:
    """Neither refused nor degenerate."""
    return not is_refusal(answer) and not is_degenerate(answer)
