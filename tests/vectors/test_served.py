"""Files for vLLM-side steering, read by readers written as their targets' sources read them, and back by our own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.vectors import (
    Direction,
    export_easysteer,
    export_probe,
    export_vllm_lens,
    import_probe,
    import_vllm_lens,
    probe_direction,
    save_directions,
)

D = 16
Run = Callable[..., tuple[int, str, str]]


def direction(layer: int, seed: int = 0) -> Direction:
    drawn = np.random.default_rng(seed + layer).normal(size=D)
    origin = Origin(site=f"resid_post.{layer}", read="last_prompt", model="mini", fingerprint="f" * 64)
    return Direction.from_difference(drawn, "refusal", origin=origin, residual_norm=3.0 + layer, n=9)


def as_vllm_lens_reads(vector: dict[str, Any]) -> torch.Tensor:
    """vllm_lens/_helpers/_serialize.py: `tensor_from_bytes(base64.b64decode(d["data"]), d)`, which decompresses only where
    `meta.get("compression") == "zstd"` and views `np.frombuffer(raw, dtype=np.dtype(meta["dtype"])).reshape(meta["shape"])`;
    types.py then asks for 2 or 3 dimensions and as many rows as `layer_indices`."""
    d = vector["activations"]
    assert d.get("compression") != "zstd" and d["original_dtype"] == "torch.float32"
    found = torch.from_numpy(np.frombuffer(base64.b64decode(d["data"]), dtype=np.dtype(d["dtype"])).reshape(d["shape"]).copy())
    assert found.dim() in (2, 3) and found.shape[0] == len(vector["layer_indices"])
    assert set(vector) <= {"activations", "layer_indices", "scale", "norm_match", "position_indices"}
    return found


def as_easysteer_reads(path: Path) -> dict[int, np.ndarray]:
    """vllm/steer_vectors/algorithms/loading.py `read_gguf_directions`: tensors named `direction.<layer>`, the number by split(".")[1]."""
    return {int(t.name.split(".")[1]): np.array(t.data, copy=True) for t in GGUFReader(path).tensors if t.name.startswith("direction.")}


def test_vllm_lens_gets_a_vector_per_layer_and_a_scale(tmp_path: Path) -> None:
    several = [direction(4), direction(0), direction(2)]
    path = export_vllm_lens(several, tmp_path / "v.json", strength=-0.5)
    (vector,) = json.loads(path.read_text())["apply_steering_vectors"]
    assert vector["layer_indices"] == [0, 2, 4] and vector["scale"] == -0.5 and vector["norm_match"] is False
    rows = as_vllm_lens_reads(vector)
    for row, one in zip(rows, sorted(several, key=lambda d: d.site), strict=True):
        torch.testing.assert_close(row, one.scaled(1.0))
    found, strength = import_vllm_lens(path)
    assert strength == -0.5 and [d.origin for d in found] == [d.origin for d in sorted(several, key=lambda d: d.site)]
    assert all(torch.allclose(d.scaled(1.0), row) and d.n == 9 for d, row in zip(found, rows, strict=True))
    foreign = {"apply_steering_vectors": [{**vector, "scale": 2.0}]}
    (tmp_path / "f.json").write_text(json.dumps(foreign))
    assert import_vllm_lens(tmp_path / "f.json")[0][1].residual_norm == pytest.approx(5.0), "its own norm stands for strength 1"
    for broken in ({}, {"apply_steering_vectors": [{**vector, "layer_indices": [1]}]},
                   {"apply_steering_vectors": [{**vector, "activations": {**vector["activations"], "data": "?"}}]}):  # fmt: skip
        (tmp_path / "b.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match="is not what vllm-lens takes"):
            import_vllm_lens(tmp_path / "b.json")


def test_easysteer_gets_its_gguf_and_a_request(tmp_path: Path) -> None:
    gguf, request = export_easysteer([direction(0), direction(3)], tmp_path / "v", model_hint="qwen2", strength=2.0)
    found = as_easysteer_reads(gguf)
    assert sorted(found) == [0, 3] and np.allclose(found[3], direction(3).scaled(1.0).numpy())
    (vector,) = json.loads(request.read_text())["steering"]["vectors"]
    assert vector["source"] == str(gguf.resolve()) and vector["source"].endswith(".gguf") and vector["algorithm"] == "direct"
    assert vector["scale"] == 2.0 and vector["layers"] == [0, 3] and vector["apply"]["phases"] == ["prompt", "generation"]
    assert set(vector) <= {"source", "data", "algorithm", "scale", "layers", "normalize", "apply", "params", "name"}, (
        "VectorSpec forbids more"
    )
    with pytest.raises(UsageError, match=r"resid_post\.0 and deeper"):
        export_easysteer([Direction.from_difference(np.ones(D), "x", origin=Origin(site="final_norm"))], tmp_path / "w", model_hint="x")
    with pytest.raises(UsageError, match="cannot be written"):
        export_vllm_lens([direction(1)], tmp_path / "w.json", strength=float("nan"))


def probe_at(site: str) -> tuple[DecodingProbe, np.ndarray]:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(40, D)) + np.repeat([[0.0], [2.0]], 20, axis=0)
    probe = DecodingProbe().fit(states, np.repeat([0, 1], 20))
    probe.origin_ = Origin(site=site, read="last_prompt", model="mini", fingerprint="f" * 64)
    return probe, states


def test_a_probe_reads_captured_states_as_it_does_here(tmp_path: Path) -> None:
    probe, states = probe_at("resid_post.5")
    layer, weight, bias = import_probe(export_probe(probe, tmp_path / "p.json"))
    assert layer == 5 and np.allclose(states @ weight + bias, probe.decision_function(states), atol=1e-4)
    along = probe_direction(probe, residual_norm=7.0)
    assert along.site.layer == 5 and along.scaled(1.0).norm() == pytest.approx(7.0) and float(along.vector @ torch.tensor(weight)) > 0
    with pytest.raises(UsageError, match=r"fit it at resid_post\.L"):
        export_probe(probe_at("final_norm")[0], tmp_path / "q.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="no exported probe"):
        import_probe(tmp_path / "x.json")


def test_the_command_writes_what_each_server_reads(safesteer: Run, tmp_path: Path) -> None:
    file = save_directions([direction(1), direction(2)], tmp_path / "d.safetensors")
    code, out, err = safesteer("deploy", str(file), "--to", "easysteer", "--out", str(tmp_path / "e"), "--sites", "resid_post.2")
    assert code == 0, err
    assert list(as_easysteer_reads(tmp_path / "e.gguf")) == [2] and str(tmp_path / "e.json") in out
    code, out, err = safesteer("deploy", str(file), "--to", "llama.cpp", "--out", str(tmp_path / "l"), "--strength", "3")
    assert code == 0 and "--control-vector-scaled" in err and ":3" in err
    probe = probe_at("resid_post.5")[0].save(tmp_path / "probe.safetensors")
    code, out, err = safesteer("deploy", str(probe), "--out", str(tmp_path / "p"), "--json")
    assert code == 0 and json.loads(out)["files"] == [str(tmp_path / "p.json")] and import_probe(tmp_path / "p.json")[0] == 5
    for kind, written in (("easysteer", ("n.v1.2.gguf", "n.v1.2.json")), ("llama.cpp", ("n.v1.2.gguf",)), ("vllm-lens", ("n.v1.2.json",))):
        for name in ("n.v1.2", written[0]):
            code, out, err = safesteer("deploy", str(file), "--to", kind, "--out", str(tmp_path / kind / name), "--json")
            assert code == 0 and json.loads(out)["files"] == [str(tmp_path / kind / each) for each in written], err
        assert sorted(path.name for path in (tmp_path / kind).iterdir()) == sorted(written)
    code, out, err = safesteer("deploy", str(probe), "--out", str(tmp_path / "p.v1.2"), "--json")
    assert code == 0 and json.loads(out)["files"] == [str(tmp_path / "p.v1.2.json")]
    code, _, err = safesteer("deploy", str(probe), "--out", ".")
    assert code == 2 and "names no file" in err
    for words, message in ((("refusal",), "give it with --model"), ((str(tmp_path / "none.safetensors"),), "does not exist"),
                           ((str(probe), "--to", "llama.cpp"), "gives out no states")):  # fmt: skip
        code, _, err = safesteer("deploy", *words)
        assert code in (2, 3) and message in err, words


def test_the_refusal_direction_of_a_model_is_estimated_and_exported(safesteer: Run, fresh_cache: Path, tmp_path: Path) -> None:
    asked = ("deploy", "refusal", "--model", "planted", "--data", "planted", "--sites", "resid_post.1", "--to", "vllm-lens")
    code, _, err = safesteer(*asked, "--out", str(tmp_path / "r"))
    assert code == 0, err
    (found,), strength = import_vllm_lens(tmp_path / "r.json")
    assert str(found.site) == "resid_post.1" and strength == 1.0 and found.name == "refusal" and found.origin.model == "planted"
