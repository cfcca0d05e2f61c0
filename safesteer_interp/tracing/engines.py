"""Which tracers there are, which one is used unless another is named, and how one is built for a model."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from safesteer_interp.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from safesteer_interp.models.mllm import MLLM
    from safesteer_interp.tracing.tracer import Tracer

TracerName = Literal["nnsight", "transformer_lens", "hooks"]
TRACERS: Mapping[str, str] = {
    "nnsight": "safesteer_interp.tracing.nnsight:NnsightTracer",
    "transformer_lens": "safesteer_interp.tracing.transformer_lens:TransformerLensTracer",
    "hooks": "safesteer_interp.tracing.hooks:HooksTracer",
}
"""Name -> "module:class", imported only when asked for (nnsight reads argv and patches `object` on import)."""
KEY_VARIABLE = "NDIF_API_KEY"
"""Environment variable with the key of NDIF; its value is never printed or stored."""
TAKEN_REMOTELY = ("revision", "thinking", "system_prompt")
"""What of `load_model` a remote run heeds: which of the server's weights are meant, and the prompt, which is made here."""
DEFAULT_TRACER: TracerName = "hooks"
"""The one default of Python, every command and every analysis: the published figures were made with it."""


def chosen(name: str | None, *, remote: bool | str = False) -> str:
    """The tracer that is meant where none need be named: the default one, or the only one that runs remotely."""
    return name or ("nnsight" if remote else DEFAULT_TRACER)


def load_tracer(name: str, model: MLLM, *, remote: bool | str = False) -> Tracer:
    """The tracer called `name` on this model; built once per model and kept, since two of them copy the module tree.

    `remote` (nnsight only): True runs on NDIF, "local" runs the remote path in this process. Raises UsageError for an unknown name,
    for `remote` with another tracer, and for a family the tracer cannot run.
    """
    check_tracer(model, name, remote=remote)
    kept: dict[tuple[str, bool | str], Tracer] = model.tracers
    if (name, remote) not in kept:
        module, _, cls = TRACERS[name].partition(":")
        factory = getattr(importlib.import_module(module), cls)
        kept[name, remote] = factory(model, remote=remote) if name == "nnsight" else factory(model)
    return kept[name, remote]


def check_remote(name: str | None) -> None:
    """Refuse, before anything is fetched, a remote run by another engine, or without a key. Raises UsageError."""
    if name not in (None, "nnsight"):
        raise UsageError(f'--remote needs the nnsight tracer; "{name}" runs in this process only.')
    if not os.environ.get(KEY_VARIABLE):
        raise UsageError(f"--remote needs an NDIF key: set the environment variable {KEY_VARIABLE} (https://login.ndif.us).")


def check_remote_loading(arguments: Mapping[str, Any]) -> None:
    """Refuse the first of these keyword arguments of `load_model` that says how to load a model which a remote run does not load.

    Raises UsageError, which names its flag.
    """
    from safesteer_interp.models import load_model

    usual = inspect.signature(load_model).parameters
    for name, value in arguments.items():
        if name not in TAKEN_REMOTELY and value != usual[name].default:
            flag = f"--{name.removesuffix('_implementation').replace('_', '-')}"
            raise UsageError(f"--remote reads the model as the server has it, and {flag} does not reach it; leave out {flag} or --remote.")


def check_tracer(model: MLLM, name: str, *, remote: bool | str = False, temperature: float = 0.0) -> None:
    """Refuse, before an engine is built or a plan is shown, an engine that cannot do what is asked. Raises UsageError."""
    if name not in TRACERS:
        raise UsageError(f'no tracer is called "{name}".{did_you_mean(name, TRACERS)}')
    if remote and name != "nnsight":
        raise UsageError(f'--remote needs the nnsight tracer; "{name}" runs in this process only.')
    if remote and temperature > 0:
        raise UsageError("remote traces choose tokens greedily; set the temperature to 0, or trace without --remote.")
    places = set(getattr(model.model, "hf_device_map", {}).values())
    if name == "transformer_lens" and len(places) > 1:
        raise UsageError(
            f"TransformerLens rebuilds a model on one device, and {model.name} is spread over {len(places)}; trace it with --tracer hooks "
            "or --tracer nnsight."
        )
    if name == "transformer_lens" and not model.layout.bridge:
        raise UsageError(
            f'TransformerLens has no adapter for the family "{model.layout.family}"; trace it with --tracer nnsight or --tracer hooks.'
        )
