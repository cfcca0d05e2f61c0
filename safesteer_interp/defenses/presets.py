"""Presets: settings of SafeSteer that tables, figures and the command line know by name.

- `paper`: as printed (arXiv 2605.11716): the prompt fit, softmax(s) among the candidates, every request guided, MSAV with the printed
  sign and raw norm. K, the number of steps and the temperature of the choice are not printed; 5, 5 and 1 are ours.
- `corrected`: the same with MSAV towards text at unit norm, which is what the paper's own text asks of it.
- `untuned`: softmax(log p + z) by the token fit, only where the probe calls the request harmful: where a calibration starts, and what is
  used on a model that has none.
- `calibrated`: what `safesteer calibrate` chose on validation pairs of this model. mini's is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.files import read_json, read_tensors, safe_name
from safesteer_interp.models.fingerprint import template_fingerprint, weights_digest
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.paths import cache_dir

KIND, FILE = "safesteer-defense/2", "safesteer.safetensors"
"""How a fitted SafeSteer is kept: the kind of file, and its name in its folder."""
RECORD = "calibration.json"
"""What a calibration says of itself, beside the file."""
_PAPER: dict[str, Any] = {"fit": "prompt", "beta": 1.0, "score_only": True, "scaled": False, "gate": "none"}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {**_PAPER, "sign": "printed", "norm": "raw"},
    "corrected": {**_PAPER, "sign": "toward_text", "norm": "unit"},
    "untuned": {"fit": "token"},
}
"""Name -> options of `SafeSteer.fit`; what is not named has its default."""
CALIBRATED, CUSTOM = "calibrated", "custom"
NAMES = (*PRESETS, CALIBRATED)
SHIPPED = Path(__file__).parent / "data" / "calibrated"


def preset(name: str) -> dict[str, Any]:
    """The options that a preset stands for, its name among them. Raises UsageError for an unknown one."""
    if name not in PRESETS:
        raise UsageError(f'SafeSteer has no preset "{name}" with settings of its own.{did_you_mean(name, NAMES)}')
    return {**PRESETS[name], "preset": name}


def named_settings(name: str) -> dict[str, Any]:
    """The options of a preset; empty: of `untuned`."""
    return preset(name or "untuned")


def check_preset(name: str) -> None:
    """Raise UsageError unless the name is empty or that of a preset."""
    if name and name not in NAMES:
        raise UsageError(f'SafeSteer has no preset "{name}".{did_you_mean(name, NAMES)}')


def calibration_folder(mllm: MLLM) -> Path:
    """Where `safesteer calibrate` keeps what it chose for this model."""
    return cache_dir() / "calibrated" / f"{safe_name(mllm.name)}-{mllm.fingerprint[:12]}"


def find_calibration(mllm: MLLM) -> Path | None:
    """The folder of this model's calibration: the user's own, else a shipped one; None where there is none."""
    shipped = sorted(SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    for folder in (calibration_folder(mllm), *(f for f in shipped if f.is_dir())):
        if (folder / FILE).exists() and _belongs(folder / FILE, mllm):
            return folder
    return None


def _belongs(path: Path, mllm: MLLM) -> bool:
    """Whether what was fitted belongs to this very model under this template: by its fingerprint, or (a shipped one, whose model was
    assembled elsewhere) by its weights in float32. A damaged file is no reason to stop: it is fitted anew."""
    try:
        _, record = read_tensors(path, KIND)
    except InputError:
        return False
    origin = record["prompt_probe"]["origin"]
    if origin["template"] != template_fingerprint(mllm.processor, mllm.system_prompt, mllm.thinking):
        return False
    if origin["fingerprint"] == mllm.fingerprint:
        return True
    beside = path.with_name(RECORD)
    weights = read_json(beside).get("weights") if beside.exists() else None
    return bool(weights) and str(mllm.dtype) == "torch.float32" and weights == weights_digest(mllm.source)


def calibration_of(mllm: MLLM) -> Path:
    """The folder of this model's calibration. Raises InputError where it has none."""
    folder = find_calibration(mllm)
    if folder is None:
        raise InputError(
            f'"{mllm.name}" has not been calibrated; `safesteer calibrate --model {mllm.name}` does it once, or choose another preset '
            f"({', '.join(PRESETS)})."
        )
    return folder
