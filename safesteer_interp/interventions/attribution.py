"""Attribution patching: what patching each head and each MLP would do, to first order, from one backward pass instead of one pass each.

effect of a component ~ sum over tokens of (donor's output - receiver's output) . gradient of the metric (arXiv 2310.10348). Averaged over
several inputs between receiver and donor the gradient takes the curve between them into account (integrated gradients over the inputs,
arXiv 2403.17806). `replay` of the same patches is the exact answer it is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.interventions.alignment import ROLES, matched
from safesteer_interp.interventions.kinds import Head, Place
from safesteer_interp.interventions.recording import Recording, output_projection
from safesteer_interp.interventions.replaying import n_heads
from safesteer_interp.models.layout import submodule
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.hooks import module_path
from safesteer_interp.tracing.prefix import prompt_inputs, rope_state

Metric = Callable[[Float[Tensor, "1 d"]], Float[Tensor, ""]]
"""The last prompt token's state after the final norm -> one number, differentiable."""


@dataclass
class Attribution:
    """First-order effects of patching components one at a time, in the metric's unit, towards the donor."""

    heads: Float[Tensor, "layers heads"]
    mlps: Float[Tensor, " layers"]

    def ranked(self) -> list[tuple[Place, float]]:
        """All components, the one with the largest effect towards the donor first."""
        found: list[tuple[Place, float]] = [
            (Head(layer, head), float(x)) for layer, row in enumerate(self.heads.tolist()) for head, x in enumerate(row)
        ]
        found += [(Site(SiteKind.MLP_OUT, layer), float(x)) for layer, x in enumerate(self.mlps.tolist())]
        return sorted(found, key=lambda item: (-item[1], str(item[0])))


def components(mllm: MLLM) -> list[Place]:
    """Every head and every MLP, layer by layer."""
    heads = n_heads(mllm)
    found: list[Place] = []
    for layer in range(mllm.n_layers):
        found += [*(Head(layer, head) for head in range(heads)), Site(SiteKind.MLP_OUT, layer)]
    return found


def attribute(
    mllm: MLLM, receiver: Recording, donor: Recording, metric: Metric, *, roles: Sequence[str] = ROLES, steps: int = 1
) -> Attribution:
    """What patching each component at the tokens of some roles would do to the metric of the receiver's pass.

    steps 1: the gradient at the receiver. More: its mean at `steps` midpoints of the way from the receiver's embedded prompt to
    the donor's (tokens matched by role). Cost: a forward and a backward pass a step. Raises UsageError for fewer than one step.
    """
    if steps < 1:
        raise UsageError(f"attribution needs at least one step, got {steps}.")
    embed = Site(SiteKind.EMBED)
    mine, theirs = matched(donor.roles, receiver.roles, ROLES)
    way = torch.zeros_like(receiver.states[embed])
    way[mine] = donor.states[embed][theirs] - receiver.states[embed][mine]
    shares = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    sums: list[Tensor] | None = None
    for part in shares:
        found = _gradients(mllm, receiver, receiver.states[embed] + part * way, metric)
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    assert sums is not None
    return _joined(mllm, receiver, donor, [total / len(shares) for total in sums], roles)


def _joined(mllm: MLLM, receiver: Recording, donor: Recording, gradients: list[Tensor], roles: Sequence[str]) -> Attribution:
    """Differences between donor and receiver times gradients, summed over the tokens of the roles and each component's channels."""
    mine, theirs = matched(donor.roles, receiver.roles, roles)
    heads, mlps, count = [], [], n_heads(mllm)
    for layer in range(mllm.n_layers):
        of_heads, of_mlp = gradients[2 * layer], gradients[2 * layer + 1]
        z = (donor.heads[layer][theirs] - receiver.heads[layer][mine]).float() * of_heads[mine]
        heads.append(z.sum(0).reshape(count, -1).sum(-1).cpu())
        place = Site(SiteKind.MLP_OUT, layer)
        mlps.append(((donor.states[place][theirs] - receiver.states[place][mine]).float() * of_mlp[mine]).sum().cpu())
    return Attribution(torch.stack(heads), torch.stack(mlps))


@dataclass
class _Tape:
    """What one differentiable pass leaves: the components' outputs in forward order, and the last token's final state."""

    outputs: list[Tensor] = field(default_factory=list)
    final: Tensor = field(default_factory=lambda: torch.empty(0))


def _gradients(mllm: MLLM, receiver: Recording, embedded: Tensor, metric: Metric) -> list[Tensor]:
    """Gradient of the metric with respect to each layer's joined heads and MLP output [sequence, width], float32, at an embedded prompt."""
    tape = _Tape()
    batch = mllm.encode([receiver.request]).to(mllm.device)
    with mllm.lock, torch.enable_grad(), rope_state(mllm.model), _taped(mllm, tape, embedded.detach().clone().requires_grad_()):
        mllm.model(**prompt_inputs(mllm.model, batch.inputs, None), logits_to_keep=1)
        value = metric(tape.final)
        found = torch.autograd.grad(value, tape.outputs, allow_unused=True, materialize_grads=True)
    return [gradient[0].float() for gradient in found]


@contextmanager
def _taped(mllm: MLLM, tape: _Tape, embedded: Tensor) -> Iterator[None]:
    """While open, a forward starts from `embedded` [sequence, d] and its components are kept with their history."""

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((embedded[None], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": embedded[None]})

    def heads(module: Any, args: tuple[Any, ...]) -> None:
        tape.outputs.append(args[0])

    def mlp(module: Any, args: Any, output: Any) -> None:
        tape.outputs.append(output[0] if isinstance(output, tuple) else output)

    def final(module: Any, args: Any, output: Tensor) -> None:
        tape.final = output[:, -1]

    with ExitStack() as stack:
        stack.callback(mllm.layers[0].register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(mllm.final_norm.register_forward_hook(final).remove)
        for layer in range(mllm.n_layers):
            stack.callback(output_projection(mllm, layer).register_forward_pre_hook(heads).remove)
            module = submodule(mllm.model, module_path(mllm.layout, Site(SiteKind.MLP_OUT, layer)))
            stack.callback(module.register_forward_hook(mlp).remove)
        yield
