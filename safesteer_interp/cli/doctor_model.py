"""`safesteer doctor --model F`: a checkpoint of the user's own, looked at before anything long is run on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from safesteer_interp.cli.checks import Check, Status
from safesteer_interp.errors import SafeSteerError

if TYPE_CHECKING:
    from safesteer_interp.cli.loading import Loading
    from safesteer_interp.models.mllm import MLLM

SIDE = 512
"""Pixels of the side of the picture that image tokens are counted on."""


def own_model(name: str, loading: Loading) -> Iterator[Check]:
    """Loading (with its two checking forwards), ids that decoding depends on, image tokens, and what a batch may take."""
    try:
        mllm = loading.load(name)
    except SafeSteerError as cause:
        yield _check("loads", Status.FAILED, str(cause))
        return
    size = sum(parameter.numel() for parameter in mllm.model.parameters())
    yield _check("loads", Status.OK, f"{mllm.layout.family}, {mllm.n_layers} layers of width {mllm.width}, {size / 1e6:,.0f} M parameters; "
                 "layers, head, roles and a picture were checked by two forwards")  # fmt: skip
    yield from _ids(mllm)
    yield from _refusals(mllm)
    yield from _pictures(mllm)
    yield from _tracers(mllm)


def _check(name: str, status: Status, detail: str, value: float | None = None) -> Check:
    return Check("model", name, status, detail, value)


def _named(mllm: MLLM, ids: Any) -> str:
    return ", ".join(f"{i} {mllm.tokenizer.convert_ids_to_tokens(int(i))!r}" for i in sorted(ids))


def _ids(mllm: MLLM) -> Iterator[Check]:
    """Where answers end, and whether config, processor and tokenizer mean the same special tokens."""
    from safesteer_interp.models.context_length import context_length
    from safesteer_interp.models.special_tokens import stop_ids

    known = len(mllm.tokenizer)
    stops = stop_ids(mllm)
    unknown = [i for i in stops if not 0 <= i < known]
    if unknown or not stops:
        wrong = f"{unknown} are not in the vocabulary of {known} tokens" if unknown else "none is set"
        yield _check("stop ids", Status.FAILED, f"{wrong}; answers would not end: correct generation_config.json")
    else:
        yield _check("stop ids", Status.OK, _named(mllm, stops))
    tokenizer, config = mllm.tokenizer, mllm.model.config.get_text_config()
    for field in ("bos_token_id", "eos_token_id"):
        stated = getattr(config, field, None)
        own, stated = getattr(tokenizer, field, None), stated if isinstance(stated, list) else [stated]
        if own is not None and stated != [None] and own not in stated and own not in stops:
            detail = f"config.json says {stated}, the tokenizer {own} ({tokenizer.convert_ids_to_tokens(own)!r})"
            yield _check(field, Status.NOTE, f"{detail}; a tokenizer.json that was made anew may have moved the ids")
    marker = getattr(mllm.processor, "image_token_id", None)
    if mllm.image_token is not None and marker is not None and int(marker) != mllm.image_token:
        detail = f"the config says {mllm.image_token}, the processor {marker}"
        yield _check("image token", Status.FAILED, f"{detail}; fetch config.json and the processor from one checkpoint")
    limit = context_length(mllm.model)
    yield _check("context", Status.OK if limit else Status.NOTE, f"{limit:,} tokens" if limit else "the config states no limit", limit)


def _refusals(mllm: MLLM) -> Iterator[Check]:
    """The first tokens of refusal openings under this template: what lens, steering and string controls measure."""
    from safesteer_interp.models.openings import refusal_token_ids

    ids = refusal_token_ids(mllm)
    yield _check("refusal tokens", Status.OK if ids else Status.FAILED, _named(mllm, ids) or "no opening could be tokenized")


def _pictures(mllm: MLLM) -> Iterator[Check]:
    """How many tokens a picture takes; processors differ by a factor of a hundred."""
    if not mllm.takes_images:
        yield _check("pictures", Status.NOTE, "a text-only decoder: findings about images are skipped")
        return
    from PIL import Image

    from safesteer_interp.images import PilImage
    from safesteer_interp.requests import Request
    from safesteer_interp.sites import Role

    picture = PilImage(Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB"))
    batch = mllm.encode([Request("What is it?", picture, id="doctor")])
    tokens = int((batch.roles == int(Role.IMAGE)).sum())
    advice = "; --max-pixels caps it" if mllm.layout.image_size != "fixed" else ""
    yield _check("pictures", Status.OK, f"{SIDE} x {SIDE} pixels become {tokens:,} tokens{advice}", tokens)


def _tracers(mllm: MLLM) -> Iterator[Check]:
    """Which engines can read it."""
    from safesteer_interp.errors import UsageError
    from safesteer_interp.tracing.engines import TRACERS, check_tracer

    for tracer in TRACERS:
        try:
            check_tracer(mllm, tracer)
        except UsageError as cause:
            yield _check(f"tracer {tracer}", Status.NOTE, str(cause))
        else:
            yield _check(f"tracer {tracer}", Status.OK, "can read it")
