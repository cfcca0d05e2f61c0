"""llama.cpp control vectors: a GGUF file with one tensor "direction.L" per layer, so that a direction steers a GGUF model.

llama.cpp adds tensor "direction.L" to the output of 0-based layer L, i.e. at our site resid_post.L, for L >= 1 (its layer 0 cannot be
steered). Tensors are written at strength 1.0 (one median residual norm), so `--control-vector-scaled FILE S` is our strength S.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import write_bytes
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import SiteKind
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.vectors.direction import Direction

ARCHITECTURE = "controlvector"
_RECORD = "safesteer.directions"


def export_control_vector(
    directions: Sequence[Direction], path: Path | str, *, model_hint: str, mllm: MLLM | None = None, first: int = 1
) -> Path:
    """Write directions, at most one per layer, as a llama.cpp control vector.

    `model_hint` is the GGUF architecture of the model to be steered (e.g. "llama"), `first` the first layer that can be steered (0 for
    EasySteer, which reads the same files). With `mllm` the width, model and layers are checked. Raises UsageError for directions of
    differing or wrong width, of sites other than resid_post from `first` on, or two for one layer.
    """
    layers = by_layer(directions, path, mllm, first=first)
    with TemporaryDirectory() as folder:
        temporary = Path(folder, "vector.gguf")
        writer = GGUFWriter(temporary, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(layers))
        records = {str(layer): direction.record() for layer, direction in layers.items()}
        writer.add_string(_RECORD, json.dumps(records, sort_keys=True))
        for layer, direction in layers.items():
            writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(direction.scaled(1.0).numpy(), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_bytes(Path(path), temporary.read_bytes())
    return Path(path)


def by_layer(directions: Sequence[Direction], path: Path | str, mllm: MLLM | None, *, first: int) -> dict[int, Direction]:
    """Directions by layer, shallowest first. Raises UsageError for what a file of one vector per layer cannot hold."""
    if not directions:
        raise UsageError(f"there are no directions to export to {path}.")
    found: dict[int, Direction] = {}
    for direction in directions:
        site, width = direction.site, mllm.width if mllm is not None else directions[0].d
        if direction.d != width:
            raise UsageError(f'direction "{direction.name}" at {site} has width {direction.d} but width {width} is expected.')
        if site.kind is not SiteKind.RESID_POST or site.layer is None or site.layer < first:
            raise UsageError(
                f'direction "{direction.name}" is at {site}, but a control vector can only act at resid_post.{first} and deeper.'
            )
        if site.layer in found:
            raise UsageError(f"two directions were given for {site}; a control vector holds one per layer.")
        if mllm is not None:
            direction.guard(mllm)
            if site.layer >= mllm.n_layers:
                raise UsageError(f'direction at {site} is deeper than the {mllm.n_layers} layers of "{mllm.name}".')
        found[site.layer] = direction
    return dict(sorted(found.items()))


def import_control_vector(path: Path | str) -> list[Direction]:
    """Read a control vector, ours or another tool's, as directions in layer order.

    A file of another tool says nothing about residual norms: its tensors' own norms then stand for strength 1.0.
    Raises InputError for a missing or foreign file.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"control vector {path} does not exist.")
    try:
        reader = GGUFReader(source)
    except (ValueError, OSError, IndexError) as cause:
        raise InputError(f"{path} cannot be read as GGUF ({cause}).") from None
    architecture = reader.get_field("general.architecture")
    if architecture is None or architecture.contents() != ARCHITECTURE:
        raise InputError(f'{path} is not a control vector: its architecture is not "{ARCHITECTURE}".')
    field = reader.get_field(_RECORD)
    records = json.loads(field.contents()) if field is not None else {}
    found: dict[int, Direction] = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"direction\.(\d+)", tensor.name)
        if match is None:
            continue
        layer, data = int(match[1]), np.array(tensor.data, dtype=np.float64)
        norm = float(np.linalg.norm(data))
        if norm == 0:
            continue
        record = records.get(match[1], {"name": source.stem, "residual_norm": norm, "raw_norm": norm, "n": 0})
        vector = torch.from_numpy((data / norm).astype(np.float32))
        origin = Origin.from_dict(record["origin"]) if "origin" in record else Origin(site=f"resid_post.{layer}")
        found[layer] = Direction(vector, record["name"], origin, record["residual_norm"], record["raw_norm"], record["n"])
    return [found[layer] for layer in sorted(found)]
