"""Directions and probes in the formats of servers built on vLLM: vllm-lens (JSON of a request) and EasySteer (GGUF and a JSON request).

Both add a vector to what decoder layer L gives out, our site resid_post.L, at every token. A file holds each direction at strength 1.0 (one
median residual norm) and the wanted strength as its `scale`, which can be changed by hand. Read back here, and by the loaders of the
targets: `vllm_lens._helpers.types.SteeringVector` (its README and `_serialize.py`), EasySteer's `read_gguf_directions` and `SteeringSpec`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import read_json, with_ending, write_json
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.vectors.control_vector import by_layer, export_control_vector
from safesteer_interp.vectors.direction import Direction

VLLM_LENS, EASYSTEER, READOUT = "apply_steering_vectors", "steering", "readout"
"""Names of the field that each kind of file is about: the argument of vllm-lens, the one of EasySteer, and ours for a probe."""
_RECORD = "safesteer"
MOST = 1 << 30
"""Bytes that a compressed tensor may unpack to."""


def export_vllm_lens(directions: Sequence[Direction], path: Path | str, *, strength: float = 1.0, mllm: MLLM | None = None) -> Path:
    """Writes directions, at most one per layer, as the `vllm_xargs` of a vllm-lens request.

    With `mllm` the width, model and layers are checked. Raises UsageError as `export_control_vector` does.
    """
    layers = by_layer(directions, path, mllm, first=0)
    stacked = np.stack([d.scaled(1.0).numpy() for d in layers.values()])
    vector = {"activations": encoded(stacked), "layer_indices": list(layers), "scale": _finite(strength), "norm_match": False,
              "position_indices": None}  # fmt: skip
    write_json(Path(path), {VLLM_LENS: [vector], _RECORD: {str(layer): d.record() for layer, d in layers.items()}})
    return Path(path)


def import_vllm_lens(path: Path | str) -> tuple[list[Direction], float]:
    """Directions of such a file in layer order, and their strength. Raises InputError for a missing or foreign file.

    A file of another tool says nothing of residual norms: the norms of its own vectors then stand for strength 1.0.
    """
    record = read_json(Path(path))
    try:
        (vector,) = record[VLLM_LENS]
        rows, layers = decoded(vector["activations"]), [int(layer) for layer in vector["layer_indices"]]
        if rows.ndim != 2 or len(rows) != len(layers):
            raise ValueError("activations and layer_indices differ in length")
        known = record.get(_RECORD, {})
        found = [_direction(row, layer, known.get(str(layer)), Path(path).stem) for row, layer in zip(rows, layers, strict=True)]
        return found, float(vector.get("scale", 1.0))
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise InputError(f'{path} is not what vllm-lens takes as "{VLLM_LENS}" ({cause}).') from None


def export_easysteer(
    directions: Sequence[Direction], path: Path | str, *, model_hint: str, strength: float = 1.0, mllm: MLLM | None = None
) -> tuple[Path, Path]:
    """Writes directions as EasySteer's GGUF, and beside it the `steering` of a request that applies them; returns both paths.

    The request names the file where it was written: the server must see it there. Raises UsageError as `export_control_vector` does.
    """
    gguf, request = with_ending(path, ".gguf"), with_ending(path, ".json")
    export_control_vector(directions, gguf, model_hint=model_hint, mllm=mllm, first=0)
    layers = sorted(int(d.site.layer or 0) for d in directions)
    vector = {"source": str(gguf.resolve()), "algorithm": "direct", "scale": _finite(strength), "layers": layers,
              "apply": {"phases": ["prompt", "generation"]}}  # fmt: skip
    write_json(request, {EASYSTEER: {"vectors": [vector]}})
    return gguf, request


def probe_direction(probe: DecodingProbe, residual_norm: float = 1.0) -> Direction:
    """The direction along which a probe reads, harmful side positive, at its own site: to steer by what the probe sees.

    `residual_norm`: median norm of the states there, the unit of strength. Raises InputError where the probe reads nothing.
    """
    return Direction.from_difference(probe.weight_, "probe", origin=probe.origin_, residual_norm=residual_norm)


def export_probe(probe: DecodingProbe, path: Path | str, *, mllm: MLLM | None = None) -> Path:
    """Writes a probe as what reads captured states: score(h) = h . weight + bias, the log-odds of harmful, for h after layer `layer`.

    Servers capture what layers give out, so that only a probe of a site resid_post.L can be served; of `final_norm` it raises UsageError.
    """
    site = Site.parse(probe.origin_.site) if probe.origin_.site else None
    if site is None or site.kind is not SiteKind.RESID_POST:
        raise UsageError(
            f"the probe reads at {site or 'an unknown site'}, and servers capture what decoder layers give out; fit it at resid_post.L."
        )
    if mllm is not None:
        probe.guard(mllm, site)
    weight = probe.weight_.astype(np.float32)
    bias = float(probe.intercept_[0] - probe.mean_ @ probe.weight_)
    write_json(Path(path), {READOUT: {"layer": site.layer, "weight": encoded(weight), "bias": bias, "positive": "harmful"},
                            _RECORD: {"origin": probe.origin_.to_dict(), "fit": probe.fit_}})  # fmt: skip
    return Path(path)


def import_probe(path: Path | str) -> tuple[int, np.ndarray, float]:
    """(layer, weight [d] float32, bias) of such a file. Raises InputError for a missing or foreign file."""
    record = read_json(Path(path))
    try:
        found = record[READOUT]
        return int(found["layer"]), decoded(found["weight"]), float(found["bias"])
    except (KeyError, TypeError, ValueError) as cause:
        raise InputError(f"{path} is no exported probe ({cause}).") from None


def encoded(values: np.ndarray) -> dict[str, Any]:
    """A tensor as vllm-lens' `deserialize_tensor` reads it: base64 of its bytes, not compressed, with dtype and shape."""
    array = np.ascontiguousarray(values, dtype=np.float32)
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"data": data, "dtype": "float32", "original_dtype": "torch.float32", "shape": list(array.shape)}


def decoded(record: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `encoded`, and of vllm-lens' own `serialize_tensor` (zstd, bfloat16 as bits).
    Raises ValueError for anything else."""
    data = base64.b64decode(record["data"], validate=True)
    if (packed := record.get("compression")) is not None:
        if packed != "zstd":
            raise ValueError(f"the tensor is compressed as {packed}, which is not known here")
        import zstandard

        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=MOST)
        except zstandard.ZstdError as cause:
            raise ValueError(str(cause)) from None
    raw = torch.from_numpy(np.frombuffer(data, dtype=np.dtype(str(record["dtype"]))).reshape([int(n) for n in record["shape"]]).copy())
    found = raw.view(torch.bfloat16) if record.get("original_dtype") == "torch.bfloat16" else raw
    return found.float().numpy()


def _direction(row: np.ndarray, layer: int, record: Mapping[str, Any] | None, name: str) -> Direction:
    """One row [d] as a direction; with its record as it was exported."""
    norm = float(np.linalg.norm(row.astype(np.float64)))
    if record is None:
        return Direction.from_difference(row, name, origin=Origin(site=f"resid_post.{layer}"), residual_norm=norm)
    made = Direction(torch.from_numpy((row / norm).astype(np.float32)), record["name"], Origin.from_dict(record["origin"]), norm,
                     record["raw_norm"], record["n"])  # fmt: skip
    return replace(made, residual_norm=record["residual_norm"])


def _finite(strength: float) -> float:
    if not np.isfinite(strength):
        raise UsageError(f"a strength of {strength} cannot be written; give a number of median residual norms.")
    return float(strength)
