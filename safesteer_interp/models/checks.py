"""Load-time checks: a wrong layout entry, or files that do not belong together, fail here with the reason, and not in a figure.

The layout is learnt from one text-only forward of two equal rows, in which the first layer's output is edited in row 1 only. Whether
processor, pad and weights fit together shows in a second forward: the same text in company of a longer one, with a picture where the
model takes them (`check_company`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from safesteer_interp.errors import InputError
from safesteer_interp.images import PilImage
from safesteer_interp.models.anatomy import Anatomy
from safesteer_interp.models.encoding import PROCESSOR_ERRORS, Encoded
from safesteer_interp.models.head import soft_cap
from safesteer_interp.models.layout import submodule
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role
from safesteer_interp.types import Vector

_PROBE = Request("Describe a quiet morning, please.", id="layout check")
_PICTURE = PilImage(Image.linear_gradient("L").resize((96, 64)))


def check_layout(mllm: Anatomy) -> None:
    """Verify that the layout means what it says: paths, widths, causality, residual sums, final norm and head, image token, roles.

    Costs one forward of a short prompt and one of two prompts, one of them with a picture. Raises InputError naming the family, the
    field and what was found instead.
    """
    check_places(mllm)
    batch = mllm.encode([_PROBE, _PROBE])
    _check_user_text(mllm, batch)
    seen = _Seen(mllm)
    with torch.no_grad(), seen:
        logits = mllm.model(**batch.inputs, use_cache=False).logits[:, -1].float()
    if not torch.isfinite(logits).all():
        kind = str(mllm.dtype).removeprefix("torch.")
        raise InputError(f"{mllm.name} gives NaN or infinite logits in {kind}; load it in float32 or bfloat16.")
    _check_layers(mllm, seen, logits)
    _check_head(mllm, seen, logits)
    check_company(mllm, logits[0])


def check_places(mllm: Anatomy) -> None:
    """What of a layout can be verified without a number: paths, number of layers, widths, image token. Raises as `check_layout`."""
    layout = mllm.layout
    if not isinstance(submodule(mllm.model, layout.layers), nn.ModuleList):
        _refuse(mllm, "layers", f'"{layout.layers}" is not a list of layers')
    expected = mllm.model.config.get_text_config().num_hidden_layers
    if mllm.n_layers != expected:
        _refuse(mllm, "layers", f'"{layout.layers}" holds {mllm.n_layers} modules, but the decoder has {expected} layers')
    for path in (layout.final_norm, layout.lm_head, layout.embed_tokens, layout.vision_tower, layout.projector):
        if path is not None:
            submodule(mllm.model, path)
    _check_widths(mllm)
    _check_image_token(mllm)


def _refuse(mllm: Anatomy, field: str, reason: str) -> None:
    raise InputError(
        f'{mllm.name}: the layout entry "{mllm.layout.family}" does not fit this model, field "{field}": {reason}; '
        "correct the entry in safesteer_interp/models/families."
    )


class _Seen:
    """Hooks that keep what goes in and out of the layers, their blocks and the final norm; layer 0 is edited in row 1."""

    def __init__(self, mllm: Anatomy) -> None:
        self.mllm = mllm
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> _Seen:
        layout = self.mllm.layout
        modules = {"final_norm": self.mllm.final_norm, "lm_head": self.mllm.lm_head}
        for i, layer in enumerate(self.mllm.layers):
            modules[f"layer {i}"] = layer
            modules[f"attention {i}"] = submodule(layer, layout.attn_adds or layout.attention)
            modules[f"mlp {i}"] = submodule(layer, layout.mlp_adds or layout.mlp)
        for name, module in modules.items():  # only once every path is known to exist: a failure above must leave no hook
            self._watch(name, module, edit=name == "layer 0")
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str, module: nn.Module, edit: bool = False) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given = args[0] if args else kwargs.get("hidden_states")
            self.inputs[name] = given.detach().clone() if isinstance(given, Tensor) else given
            self.outputs[name] = output.detach().clone() if isinstance(output, Tensor) else output
            if edit and isinstance(output, Tensor) and output.ndim == 3:
                changed = output.clone()
                noise = torch.linspace(-1, 1, output.shape[-1], device=output.device, dtype=output.dtype)
                changed[1] += noise * output[1].float().norm(dim=-1).mean().to(output.dtype)
                self.outputs[name] = changed.detach().clone()
                return changed
            return None

        hooked: Callable[..., Any] = hook
        self._handles.append(module.register_forward_hook(hooked, with_kwargs=True))


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of the model's dtype, relative to the size of `b`."""
    tolerance = 1e-3 if a.dtype == torch.float32 else 5e-2
    return bool((a.float() - b.float()).norm() <= tolerance * b.float().norm() + 1e-6)


def _check_widths(mllm: Anatomy) -> None:
    for field, path in (("embed_tokens", mllm.layout.embed_tokens), ("lm_head", mllm.layout.lm_head)):
        weight = getattr(submodule(mllm.model, path), "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != mllm.width:
            found = tuple(weight.shape) if isinstance(weight, Tensor) else "no weight"
            _refuse(mllm, field, f'"{path}" has {found}, but [vocabulary, {mllm.width}] was expected')


def _check_image_token(mllm: Anatomy) -> None:
    if not mllm.takes_images:
        return
    if mllm.layout.image_token is None:
        _refuse(mllm, "image_token", "the family has a vision tower but no image token")
        return
    token = mllm.layout.image_token(mllm.model.config, mllm.processor)
    if not (0 <= token < len(mllm.tokenizer)) or mllm.tokenizer.convert_ids_to_tokens(token) is None:
        _refuse(mllm, "image_token", f"id {token} is not in the tokenizer's vocabulary of {len(mllm.tokenizer)} tokens")


def _check_user_text(mllm: Anatomy, batch: Encoded) -> None:
    """The tokens taken for the user's text must be it: no token less, and none more than what merges with a mark beside it."""

    def words(ids: Any) -> str:
        return " ".join(str(mllm.tokenizer.decode(ids)).split())

    ids = batch.input_ids[0][batch.roles[0] == int(Role.USER)]
    found, expected = words(ids), words(mllm.tokenizer(_PROBE.text, add_special_tokens=False)["input_ids"])
    tight = expected in found and expected not in words(ids[1:]) and expected not in words(ids[:-1])
    if found != expected and not tight:
        raise InputError(
            f'{mllm.name}: the tokens taken for the user\'s text read "{found}" instead of "{expected}"; correct its chat template, or the '
            f'entry "{mllm.layout.family}" in safesteer_interp/models/families.'
        )


def check_company(mllm: Anatomy, alone: Vector) -> None:
    """Verify that a prompt gives the same logits [vocabulary] beside a longer one as `alone`, and that a picture can be taken.

    Raises InputError, saying what to look at, when the processor writes another number of image tokens than the model has features,
    and when padding is not without effect.
    """
    image = _PICTURE if mllm.takes_images else None
    longer = Request(" ".join([_PROBE.text] * 3), image, id="layout check, longer")
    what = "a picture" if image else "prompts of unequal length"
    inner: Any = mllm.model.base_model
    had, inner_state = hasattr(inner, "rope_deltas"), getattr(inner, "rope_deltas", None)
    try:
        batch = mllm.encode([_PROBE, longer])
        with torch.no_grad():
            logits = mllm.model(**batch.inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
    except InputError as cause:
        raise InputError(f"{mllm.name} cannot take {what}: {cause}") from None
    except PROCESSOR_ERRORS as cause:
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
        advice = _advice(mllm, batch) if image else "check the pad token in tokenizer_config.json."
        raise InputError(f"{mllm.name} cannot take {what} ({reason}); {advice}") from None
    finally:
        if had:  # Qwen-VL's forward writes its rope shift onto the module
            inner.rope_deltas = inner_state
    if not torch.isfinite(logits).all():
        raise InputError(f"{mllm.name} gives NaN or infinite logits for {what}; load it in float32 or bfloat16.")
    gap = float((logits[0] - alone).norm() / alone.norm())
    if gap > (1e-3 if mllm.dtype == torch.float32 else 0.1):
        raise InputError(
            f"{mllm.name} gives other logits for a prompt that is padded beside a longer one (relative difference {gap:.1g}); check the "
            "pad token in tokenizer_config.json, or use another attention kernel (attn_implementation)."
        )


def _advice(mllm: Anatomy, batch: Encoded) -> str:
    """What to look at when a picture's tokens and features disagree."""
    tokens = int((batch.roles == int(Role.IMAGE)).sum())
    settings = ", ".join(fact.field for fact in mllm.layout.facts) or "the number of image tokens"
    return (
        f"its processor writes {tokens} image tokens for a picture of {'x'.join(map(str, _PICTURE.image.size))} pixels: check that "
        f"{settings} in processor_config.json or preprocessor_config.json belong to config.json."
    )


def _check_layers(mllm: Anatomy, seen: _Seen, logits: Tensor) -> None:
    for i in range(mllm.n_layers):
        output = seen.outputs.get(f"layer {i}")
        if output is None:
            _refuse(mllm, "layers", f"layer {i} was never called in a text-only forward")
        if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[-1] != mllm.width:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            _refuse(mllm, "layers", f"layer {i} returns {found}, but a tensor [batch, tokens, {mllm.width}] was expected")
        if i and not _close(seen.inputs[f"layer {i}"], seen.outputs[f"layer {i - 1}"]):
            _refuse(mllm, "layers", f"layer {i} does not receive what layer {i - 1} returns")
    for i in range(1, mllm.n_layers):  # layer 0's output was edited, so its sum cannot be checked in row 1
        added = seen.inputs[f"layer {i}"]
        for field in ("attention", "mlp"):
            part = seen.outputs.get(f"{field} {i}")
            part = part[0] if isinstance(part, tuple) else part
            if not isinstance(part, Tensor) or part.shape != added.shape:
                _refuse(mllm, field, f"its output in layer {i} is not a tensor of the residual stream's shape")
            added = added + part
        if not _close(added, seen.outputs[f"layer {i}"]):
            _refuse(mllm, "attention or mlp", f"in layer {i}, input + attention + MLP is not the layer's output")
    if _close(logits[0], logits[1]):
        _refuse(mllm, "layers", "editing the output of layer 0 does not change the logits")


def _check_head(mllm: Anatomy, seen: _Seen, logits: Tensor) -> None:
    state = seen.outputs.get("final_norm")
    if not isinstance(state, Tensor):
        _refuse(mllm, "final_norm", f'"{mllm.layout.final_norm}" was never called in a text-only forward')
        return
    if not _close(seen.inputs["final_norm"], seen.outputs[f"layer {mllm.n_layers - 1}"]):
        _refuse(mllm, "final_norm", f'"{mllm.layout.final_norm}" does not receive what the last layer returns')
    given = seen.inputs.get("lm_head")
    if not isinstance(given, Tensor) or given.shape != state.shape or not _close(given, state):
        _refuse(mllm, "lm_head", f'"{mllm.layout.lm_head}" does not receive what the final norm returns')
    own = soft_cap(mllm.model, seen.outputs["lm_head"][:, -1].float())
    tolerance = 1e-3 if mllm.dtype == torch.float32 else 5e-2
    if own.shape != logits.shape or bool((own - logits).norm() > tolerance * logits.norm()):
        _refuse(mllm, "final_norm or lm_head", "the head's output is not the model's logits")
