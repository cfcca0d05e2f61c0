"""Files as the first version of this suite wrote them: probes as numbers with a JSON beside, vectors under keys of their own, no hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.vectors.alignment import AlignmentVector
from safesteer_interp.vectors.direction import Direction


def earlier_probe(probe: DecodingProbe, stem: Path) -> Path:
    """`stem`.safetensors and `stem`.json; returns the JSON's path."""
    tensors, record = probe.to_state()
    data = save({name: np.ascontiguousarray(x) for name, x in tensors.items()})
    Path(f"{stem}.safetensors").write_bytes(data)
    Path(f"{stem}.json").write_text(json.dumps({**record, "format": "safesteer-probe/1", "sha256": hashlib.sha256(data).hexdigest()}))
    return Path(f"{stem}.json")


def earlier_vector(vector: AlignmentVector | Direction, path: Path) -> Path:
    """One safetensors file whose metadata names the kind of thing and describes it."""
    tensors, record = vector.to_state()
    if isinstance(vector, Direction):
        path.write_bytes(save({"0": tensors["vector"]}, {"format": "safesteer-directions/1", "directions": json.dumps([record])}))
    else:
        path.write_bytes(save(tensors, {"format": "safesteer-alignment/1", "alignment": json.dumps(record)}))
    return path


def earlier_defense(defense: SafeSteer, folder: Path) -> Path:
    """A folder of four files."""
    folder.mkdir()
    earlier_probe(defense.probe, folder / "probe")
    earlier_probe(defense.prompt_probe, folder / "prompt_probe")
    if defense.vector is not None:
        earlier_vector(defense.vector, folder / "vector.safetensors")
    record = {"format": "safesteer-defense/1", "vector": defense.vector is not None, "parameters": defense.parameters()}
    (folder / "safesteer.json").write_text(json.dumps(record))
    return folder
