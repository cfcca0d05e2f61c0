"""A probe on disk: numbers in safetensors, everything else in JSON beside it; never pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sklearn.utils.validation import check_is_fitted

from safesteer_interp.errors import InputError
from safesteer_interp.files import write_bytes
from safesteer_interp.probes.centring import StepCentring
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.sign_test import SignTest
from safesteer_interp.tracing.origin import Origin

FORMAT = "safesteer-probe/1"


def _files(path: Path | str) -> tuple[Path, Path]:
    stem = str(path)
    for suffix in (".safetensors", ".json"):
        stem = stem.removesuffix(suffix)
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")


def save_probe(probe: DecodingProbe, path: Path | str) -> Path:
    """Write `path`.safetensors and `path`.json, each whole or not at all; returns the JSON's path."""
    check_is_fitted(probe)
    tensors: dict[str, np.ndarray] = {
        "mean": probe.mean_,
        "coef": probe.coef_,
        "intercept": probe.intercept_,
        "loss_curve": np.asarray(probe.loss_curve_, dtype=np.float64),
    }
    if probe.components_ is not None:
        tensors["components"] = probe.components_
    if probe.centring_ is not None:
        tensors |= {
            "centring.steps": probe.centring_.steps_.astype(np.int64),
            "centring.means": probe.centring_.means_,
            "centring.counts": probe.centring_.counts_.astype(np.int64),
        }
    data = save({name: np.ascontiguousarray(x) for name, x in tensors.items()})
    record: dict[str, Any] = {
        "format": FORMAT,
        "parameters": probe.get_params(),
        "classes": probe.classes_.tolist(),
        "fit": probe.fit_,
        "origin": probe.origin_.to_dict(),
        "sign_test": probe.sign_test_.to_dict() if probe.sign_test_ else None,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    numbers, text = _files(path)
    numbers.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(numbers, data)
    write_bytes(text, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    return text


def load_probe(path: Path | str) -> DecodingProbe:
    """The probe that `save_probe` wrote. Raises InputError, naming the file, when one is missing, damaged or another format."""
    numbers, text = _files(path)
    try:
        record = json.loads(text.read_text())
        data = numbers.read_bytes()
    except FileNotFoundError as cause:
        raise InputError(f"probe file {cause.filename} does not exist; a probe is a .safetensors and a .json of one name.") from None
    except (OSError, ValueError) as cause:
        raise InputError(f"probe {text} cannot be read ({cause}); fit and save the probe again.") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{text} is not a probe of format {FORMAT}; fit and save the probe again.")
    if record["sha256"] != hashlib.sha256(data).hexdigest():
        raise InputError(f"{numbers} does not match the hash in {text.name}: one of them was changed; fit and save the probe again.")
    try:
        tensors = load(data)
    except SafetensorError as cause:
        raise InputError(f"{numbers} cannot be read as safetensors ({cause}); fit and save the probe again.") from None
    return _restore(record, tensors)


def _restore(record: dict[str, Any], tensors: dict[str, np.ndarray]) -> DecodingProbe:
    probe = DecodingProbe(**record["parameters"])
    probe.mean_, probe.coef_, probe.intercept_ = tensors["mean"], tensors["coef"], tensors["intercept"]
    probe.components_ = tensors.get("components")
    probe.loss_curve_ = tensors["loss_curve"]
    probe.classes_ = np.asarray(record["classes"])
    probe.n_features_in_ = len(probe.mean_)
    weight = probe.coef_[0]
    probe.weight_ = weight if probe.components_ is None else weight @ probe.components_
    norm = np.linalg.norm(probe.weight_)
    probe.direction_ = probe.weight_ / norm if norm > 0 else probe.weight_
    probe.fit_ = record["fit"]
    probe.origin_ = Origin.from_dict(record["origin"])
    probe.sign_test_ = SignTest.from_dict(record["sign_test"]) if record["sign_test"] else None
    probe.centring_ = None
    if "centring.steps" in tensors:
        centring = StepCentring()
        centring.steps_, centring.means_ = tensors["centring.steps"], tensors["centring.means"]
        centring.counts_, centring.n_features_in_ = tensors["centring.counts"], len(probe.mean_)
        probe.centring_ = centring
    return probe
