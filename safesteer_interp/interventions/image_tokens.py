"""Single image tokens: where in the picture each one lies, what it reads as, and how much it moves an answer.

One request at a time, from its recording, so that memory does not grow with the data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.interventions.alignment import positions
from safesteer_interp.interventions.attribution import Metric
from safesteer_interp.interventions.recording import Recording
from safesteer_interp.models.head import logits
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.prefix import prompt_inputs, rope_state


def token_grid(mllm: MLLM, recording: Recording) -> tuple[int, int]:
    """Rows and columns in which a request's image tokens lie over its picture, read line by line.

    Raises InputError for a model that cuts pictures into tiles, where tokens form no single grid.
    """
    count = len(positions(recording.roles, ("image",)))
    grid = mllm.encode([recording.request]).inputs.get("image_grid_thw")
    if grid is not None:
        merge = int(getattr(mllm.model.config.vision_config, "spatial_merge_size", 1))
        rows, columns = (int(n) // merge for n in grid[0, 1:])
    else:
        rows = columns = round(count**0.5)
    if not count or rows * columns != count:
        raise InputError(
            f'the {count} image tokens of request "{recording.request.id}" form no grid over its picture with {mllm.name}; '
            "image-token maps need one picture encoded as a whole."
        )
    return rows, columns


def share_of_cells(where: Bool[np.ndarray, "height width"], grid: tuple[int, int]) -> Float[np.ndarray, " tokens"]:
    """Share of true pixels in the cell of each token, read line by line."""
    rows, columns = (np.array_split(np.arange(size), parts) for size, parts in zip(where.shape, grid, strict=True))
    return np.array([[where[np.ix_(y, x)].mean() for x in columns] for y in rows]).ravel()


def differing_pixels(recording: Recording, other: Recording, *, least: int = 24) -> Bool[np.ndarray, "height width"]:
    """Where two requests' pictures of equal size differ by `least` or more of 255 in any channel. Raises InputError for other sizes."""
    one, two = (np.asarray(_picture(r), dtype=np.int16) for r in (recording, other))
    if one.shape != two.shape:
        raise InputError(
            f'the pictures of "{recording.request.id}" and "{other.request.id}" have different sizes: {one.shape}, {two.shape}.'
        )
    return np.asarray((np.abs(one - two) >= least).any(axis=2))


def image_states(recording: Recording, site: Site) -> Float[Tensor, "tokens d"]:
    """A request's image tokens at embed, resid_post, attn_out or mlp_out (the read `image:*`)."""
    where = positions(recording.roles, ("image",))
    return recording.states[site][where.to(recording.states[site].device)]


@torch.no_grad()
def lens(mllm: MLLM, states: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens vocab"]:
    """Next-token logits each token's residual state would give (final norm, then head)."""
    return logits(mllm, states, normed=False)


def token_gradients(
    mllm: MLLM, recording: Recording, metrics: Sequence[Metric], layers: Sequence[int]
) -> list[dict[int, Float[Tensor, "sequence d"]]]:
    """Per metric, layer -> its gradient with respect to every token's state entering that layer, float32.

    Metrics map the last token's state after the final norm [1, d] to a number. One forward, one backward per metric.
    """
    entering: dict[int, Tensor] = {}
    batch = mllm.encode([recording.request]).to(mllm.device)
    found = []
    with mllm.lock, torch.enable_grad(), rope_state(mllm.model), _entering(mllm, set(layers), entering) as final:
        mllm.model(**prompt_inputs(mllm.model, batch.inputs, None), logits_to_keep=1)
        for number, metric in enumerate(metrics):
            kept = number + 1 < len(metrics)
            gradients = torch.autograd.grad(metric(final[0]), [entering[layer] for layer in layers], retain_graph=kept)
            found.append({layer: g[0].float() for layer, g in zip(layers, gradients, strict=True)})
    return found


@contextmanager
def _entering(mllm: MLLM, layers: set[int], kept: dict[int, Tensor]) -> Iterator[list[Tensor]]:
    """While open, the states entering the layers are kept with their history; yields where the final state is put."""
    final: list[Tensor] = []

    def hook(layer: int) -> Any:
        def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            hidden = args[0] if args else kwargs["hidden_states"]
            if layer == 0:  # the weights need no gradient, so the history starts here
                hidden = hidden.detach().clone().requires_grad_()
            if layer in layers:
                kept[layer] = hidden
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        return enter

    with ExitStack() as stack:
        for layer, module in enumerate(mllm.layers):
            stack.callback(module.register_forward_pre_hook(hook(layer), with_kwargs=True).remove)
        stack.callback(mllm.final_norm.register_forward_hook(lambda m, a, out: final.append(out[:, -1])).remove)
        yield final


def pushes(picture: Recording, blank: Recording, gradients: Float[Tensor, "sequence d"], layer: int) -> Float[Tensor, " tokens"]:
    """First-order effect of each image token being what it is and not what the blank picture's token at its place is.

    Raises InputError when the two have different numbers of image tokens.
    """
    entering = Site(SiteKind.EMBED) if layer == 0 else Site(SiteKind.RESID_POST, layer - 1)
    one, two = image_states(picture, entering), image_states(blank, entering)
    if one.shape != two.shape:
        raise InputError(
            f'"{picture.request.id}" and "{blank.request.id}" have {len(one)} and {len(two)} image tokens; pictures of one size are needed.'
        )
    where = positions(picture.roles, ("image",)).to(gradients.device)
    return ((one - two).float().to(gradients.device) * gradients[where]).sum(-1)


def _picture(recording: Recording) -> Any:
    source = recording.request.image
    if source is None:
        raise InputError(f'request "{recording.request.id}" has no picture.')
    return source.load().convert("RGB")
