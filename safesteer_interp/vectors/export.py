"""Directions and alignment vectors on disk: safetensors with metadata; never pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.files import write_bytes
from safesteer_interp.statistics import Estimate
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.vectors.alignment import AlignmentVector
from safesteer_interp.vectors.direction import Direction

DIRECTIONS, ALIGNMENT = "safesteer-directions/1", "safesteer-alignment/1"


def save_directions(directions: Sequence[Direction], path: Path | str) -> Path:
    """Write directions (of any sites) to one safetensors file: tensors "0", "1", ..., everything else in its metadata.

    Raises InputError when there is nothing to write.
    """
    if not directions:
        raise InputError(f"there are no directions to write to {path}.")
    records = [
        {"name": x.name, "residual_norm": x.residual_norm, "raw_norm": x.raw_norm, "n": x.n, "origin": x.origin.to_dict()}
        for x in directions
    ]
    tensors = {str(i): x.vector.contiguous() for i, x in enumerate(directions)}
    return _write(path, tensors, {"format": DIRECTIONS, "directions": json.dumps(records, sort_keys=True)})


def load_directions(path: Path | str) -> list[Direction]:
    """Read what `save_directions` wrote, in the same order. Raises InputError for a missing, damaged or foreign file."""
    tensors, metadata = _read(path, DIRECTIONS)
    records = json.loads(metadata["directions"])
    return [
        Direction(tensors[str(i)], r["name"], Origin.from_dict(r["origin"]), r["residual_norm"], r["raw_norm"], r["n"])
        for i, r in enumerate(records)
    ]


def save_alignment(vector: AlignmentVector, path: Path | str) -> Path:
    """Write an alignment vector to one safetensors file: tensors "mu" and "mean_text", everything else in its metadata."""
    record = {
        "origin": vector.origin.to_dict(),
        "residual_norm": vector.residual_norm,
        "n_image": vector.n_image,
        "n_text": vector.n_text,
        "paired": vector.paired,
        "norm": asdict(vector.norm),
        "consistency": asdict(vector.consistency) if vector.consistency else None,
    }
    tensors = {"mu": vector.mu.contiguous(), "mean_text": vector.mean_text.contiguous()}
    return _write(path, tensors, {"format": ALIGNMENT, "alignment": json.dumps(record, sort_keys=True)})


def load_alignment(path: Path | str) -> AlignmentVector:
    """Read what `save_alignment` wrote. Raises InputError for a missing, damaged or foreign file."""
    tensors, metadata = _read(path, ALIGNMENT)
    record: dict[str, Any] = json.loads(metadata["alignment"])
    record["origin"] = Origin.from_dict(record["origin"])
    record["norm"] = Estimate(**record["norm"])
    record["consistency"] = Estimate(**record["consistency"]) if record["consistency"] else None
    return AlignmentVector(tensors["mu"], tensors["mean_text"], **record)


def _write(path: Path | str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, save({name: x.to(torch.float32).cpu() for name, x in tensors.items()}, metadata))
    return target


def _read(path: Path | str, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a mapping)
    except FileNotFoundError:
        raise InputError(f"vector file {path} does not exist.") from None
    except (OSError, SafetensorError) as cause:
        raise InputError(f"{path} cannot be read as safetensors ({cause}); save the vector again.") from None
    if metadata.get("format") != expected:
        raise InputError(f'{path} holds "{metadata.get("format", "unknown")}", expected "{expected}"; it was not written by this suite.')
    return tensors, metadata
